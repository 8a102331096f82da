//! What is common to the fused passes: dtypes, and kernels over rows.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType};
use half::{bf16, f16};
use num_traits::Float;
use rayon::prelude::*;

/// A dtype of the arithmetic, and the wider one in which sums are taken.
pub(super) trait Element: WithDType {
    type Wide: Float + Into<f64> + Send + Sync + 'static;
    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
    fn wide(x: f64) -> Self::Wide;
}

macro_rules! element {
    ($t:ty, $wide:ty, $widen:expr, $narrow:expr) => {
        impl Element for $t {
            type Wide = $wide;
            fn widen(self) -> $wide {
                $widen(self)
            }
            fn narrow(wide: $wide) -> $t {
                $narrow(wide)
            }
            fn wide(x: f64) -> $wide {
                x as $wide
            }
        }
    };
}
element!(f32, f32, |x| x, |x| x);
element!(f64, f64, |x| x, |x| x);
element!(f16, f32, f16::to_f32, f16::from_f32);
element!(bf16, f32, bf16::to_f32, bf16::from_f32);

/// What is done to each row along the last dimension.
pub(super) trait RowKernel: Sync {
    const NAME: &'static str;
    /// `index` counts rows from the first; `x` and `out` have the row's length.
    fn row<T: Element>(&self, index: usize, x: &[T], out: &mut [T]);
}

pub(super) struct Rows<K>(pub K);

impl<K: RowKernel> CustomOp1 for Rows<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(1);
        let storage = match storage {
            CpuStorage::F32(_) => self.run::<f32>(storage, layout, width)?,
            CpuStorage::F64(_) => self.run::<f64>(storage, layout, width)?,
            CpuStorage::F16(_) => self.run::<f16>(storage, layout, width)?,
            CpuStorage::BF16(_) => self.run::<bf16>(storage, layout, width)?,
            _ => candle_core::bail!("{}: expected a float dtype", K::NAME),
        };
        Ok((storage, layout.shape().clone()))
    }
}

impl<K: RowKernel> Rows<K> {
    fn run<T: Element>(&self, storage: &CpuStorage, layout: &Layout, width: usize) -> Result<CpuStorage> {
        let x = contiguous::<T>(storage, layout)?;
        let mut out = vec![T::zero(); x.len()];
        if width > 0 {
            out.par_chunks_mut(width)
                .zip(x.par_chunks(width))
                .enumerate()
                .with_min_len((16_384 / width).max(1))
                .for_each(|(index, (out, x))| self.0.row(index, x, out));
        }
        Ok(T::to_cpu_storage_owned(out))
    }
}

pub(super) fn contiguous<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((from, to)) = layout.contiguous_offsets() else { candle_core::bail!("expected a contiguous tensor") };
    Ok(&T::cpu_storage_as_slice(storage)?[from..to])
}

/// Whether a fused pass may compute this: on the CPU, where no gradient is followed, of which fused passes know nothing.
pub(super) fn may_fuse(x: &Tensor) -> bool {
    x.device().is_cpu() && !x.track_op()
}

/// f32, or f64 for f64: what sums are taken in.
pub(in crate::compute) fn wide_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// x · factor, rounded once.
pub(in crate::compute) fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    in_wide(x, |x| x * factor)
}

/// One operation in f32 or wider, rounded once. In half precision candle would round the scalar and every step of a
/// function as well.
pub(super) fn in_wide(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&x.to_dtype(wide_dtype(x.dtype()))?)?.to_dtype(x.dtype())
}
