//! Heads, turned by rotary embeddings.

use super::kernel::{Element, contiguous, may_fuse, wide_dtype};
use crate::architecture::rope::Table;
use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

/// A rotary table on the host and on the device.
#[derive(Debug, Clone)]
pub(crate) struct RopeTable {
    table: Table,
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// Puts a table of `positions` positions onto `device`, rounded to `dtype`.
    pub fn new(table: Table, positions: usize, dtype: DType, device: &Device) -> Result<RopeTable> {
        let dtype = if table.turns_wide { wide_dtype(dtype) } else { dtype };
        let tensor = |values: &[f64]| {
            Tensor::from_slice(values, (1, 1, positions, table.dim / 2), &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)
        };
        let (cos, sin) = (tensor(&table.cos)?, tensor(&table.sin)?);
        Ok(RopeTable { table, cos, sin })
    }
}

struct Heads<'a> {
    heads: usize,
    rope: Option<&'a Table>,
}

impl CustomOp1 for Heads<'_> {
    fn name(&self) -> &'static str {
        "heads"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, positions, channels) = layout.shape().dims3()?;
        let storage = match storage {
            CpuStorage::F32(_) => self.run::<f32>(storage, layout, positions, channels)?,
            CpuStorage::F64(_) => self.run::<f64>(storage, layout, positions, channels)?,
            CpuStorage::F16(_) => self.run::<f16>(storage, layout, positions, channels)?,
            CpuStorage::BF16(_) => self.run::<bf16>(storage, layout, positions, channels)?,
            _ => candle_core::bail!("heads: expected a float dtype"),
        };
        Ok((storage, (batch, self.heads, positions, channels / self.heads).into()))
    }
}

impl Heads<'_> {
    fn run<T: Element>(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        positions: usize,
        channels: usize,
    ) -> Result<CpuStorage> {
        let x = contiguous::<T>(storage, layout)?;
        let width = channels / self.heads;
        let tables = self.rope.map(|t| {
            let round = |v: f64| if t.turns_wide { T::wide(v) } else { T::narrow(T::wide(v)).widen() };
            let rounded = |v: &[f64]| v.iter().map(|&v| round(v)).collect::<Vec<_>>();
            let first = t.cos.len() - positions * t.dim / 2;
            (rounded(&t.cos[first..]), rounded(&t.sin[first..]), t)
        });
        let mut out = vec![T::zero(); x.len()];
        out.par_chunks_mut(positions * width).enumerate().for_each(|(plane, out)| {
            let (row, head) = (plane / self.heads, plane % self.heads);
            for (position, out) in out.chunks_mut(width).enumerate() {
                let from = (row * positions + position) * channels + head * width;
                let x = &x[from..from + width];
                out.copy_from_slice(x);
                let Some((cos, sin, table)) = &tables else { continue };
                let half = table.dim / 2;
                for i in 0..half {
                    let (cos, sin) = (cos[position * half + i], sin[position * half + i]);
                    let (at_a, at_b) = table.pair(i);
                    let (a, b) = (x[at_a].widen(), x[at_b].widen());
                    let product =
                        |x: T::Wide, y: T::Wide| if table.turns_wide { x * y } else { T::narrow(x * y).widen() };
                    out[at_a] = T::narrow(product(a, cos) - product(b, sin));
                    out[at_b] = T::narrow(product(b, cos) + product(a, sin));
                }
            }
        });
        Ok(T::to_cpu_storage_owned(out))
    }
}

/// (rows, positions, heads · width) to (rows, heads, positions, width), turned by `rope` where there is one. The
/// positions are the last ones of its table.
pub(crate) fn to_heads(x: &Tensor, heads: usize, rope: Option<&RopeTable>) -> Result<Tensor> {
    if may_fuse(x) {
        return x.contiguous()?.apply_op1_no_bwd(&Heads { heads, rope: rope.map(|r| &r.table) });
    }
    to_heads_by_kernel(x, heads, rope)
}

/// By candle's kernel, which GPUs have and of which no gradient is known, where all of a head is turned in the
/// arithmetic's dtype.
fn to_heads_by_kernel(x: &Tensor, heads: usize, rope: Option<&RopeTable>) -> Result<Tensor> {
    let (_, positions, channels) = x.dims3()?;
    let whole = |rope: &&RopeTable| rope.table.dim == channels / heads && rope.cos.dtype() == x.dtype();
    let Some(rope) = rope.filter(whole).filter(|_| !x.track_op()) else { return to_heads_composed(x, heads, rope) };
    let x = to_heads_composed(x, heads, None)?;
    let last = |table: &Tensor| {
        let first = table.dim(2)? - positions;
        table.narrow(2, first, positions)?.reshape((positions, rope.table.dim / 2))
    };
    let (cos, sin) = (last(&rope.cos)?, last(&rope.sin)?);
    match rope.table.turns_neighbours {
        true => candle_nn::rotary_emb::rope_i(&x, &cos, &sin),
        false => candle_nn::rotary_emb::rope(&x, &cos, &sin),
    }
}

fn to_heads_composed(x: &Tensor, heads: usize, rope: Option<&RopeTable>) -> Result<Tensor> {
    let (batch, positions, channels) = x.dims3()?;
    let width = channels / heads;
    let x = x.reshape((batch, positions, heads, width))?.transpose(1, 2)?.contiguous()?;
    let Some(rope) = rope else { return Ok(x) };
    let half = rope.table.dim / 2;
    let first = rope.cos.dim(2)? - positions;
    let (cos, sin) = (rope.cos.narrow(2, first, positions)?, rope.sin.narrow(2, first, positions)?);
    let dtype = cos.dtype();
    let turned = x.narrow(D::Minus1, 0, 2 * half)?.to_dtype(dtype)?;
    // Neighbours lie along the last of (…, pairs, 2), halves along the last but one of (…, 2, pairs).
    let (shape, along) = match rope.table.turns_neighbours {
        true => ((batch, heads, positions, half, 2), 4),
        false => ((batch, heads, positions, 2, half), 3),
    };
    let pairs = turned.reshape(shape)?;
    let (a, b) = (pairs.narrow(along, 0, 1)?.squeeze(along)?, pairs.narrow(along, 1, 1)?.squeeze(along)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?.to_dtype(x.dtype())?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?.to_dtype(x.dtype())?;
    let turned = Tensor::stack(&[first, second], along)?.reshape((batch, heads, positions, 2 * half))?;
    if 2 * half == width {
        return Ok(turned);
    }
    Tensor::cat(&[turned, x.narrow(D::Minus1, 2 * half, width - 2 * half)?], D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::super::closeness::{DTYPES, assert_close, random};
    use super::*;

    #[test]
    fn composed_heads_are_the_fused_ones() {
        let (positions, heads, width) = (9, 3, 14);
        for dtype in DTYPES {
            let x = random(4, &[2, positions, heads * width], 2.0, dtype);
            let plain = to_heads(&x, heads, None).unwrap();
            assert_close("heads", &plain, &to_heads_composed(&x, heads, None).unwrap());
            let kinds =
                [(width, false, false), (width, true, false), (6, false, false), (6, true, true), (width, false, true)];
            for (dim, turns_wide, turns_neighbours) in kinds {
                let angles = (0..positions).flat_map(|p| (0..dim / 2).map(move |i| p as f64 * 0.3f64.powi(i as i32)));
                let (cos, sin) = angles.map(|a| (1.2 * a.cos(), 1.2 * a.sin())).unzip();
                let table = Table { cos, sin, dim, turns_wide, turns_neighbours };
                let rope = RopeTable::new(table, positions, dtype, &Device::Cpu).unwrap();
                for last in [positions, 2] {
                    let x = x.narrow(1, positions - last, last).unwrap();
                    let fused = to_heads(&x, heads, Some(&rope)).unwrap();
                    let composed = to_heads_composed(&x, heads, Some(&rope)).unwrap();
                    let what =
                        format!("{dim} channels turned, wide {turns_wide}, neighbours {turns_neighbours}, {last} last");
                    assert_close(&what, &fused, &composed);
                    assert_close(&what, &fused, &to_heads_by_kernel(&x, heads, Some(&rope)).unwrap());
                }
            }
        }
    }
}
