//! y = x Wᵀ in bfloat16 with sums in f32, by AVX512-BF16.
//!
//! candle has no such product on the CPU: it widens both sides to f32 first. One instruction multiplies 32 pairs and
//! adds them to 16 sums; a tile of 6 rows by 64 outputs keeps its 24 vectors of sums in registers over all inputs
//! (Goto & van de Geijn, ACM TOMS 34(3), 2008).
#![allow(unsafe_code)] // An instruction that not every CPU has, and vectors made of arrays of their size.

use super::times::times;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};

/// Rows of a tile.
const ROWS: usize = 6;
/// Numbers of a vector of sums.
const LANES: usize = 16;
/// Vectors of sums of a row of a tile.
const VECTORS: usize = 4;
/// Outputs of a tile.
const OUTPUTS: usize = VECTORS * LANES;
/// Tiles below each other that one thread computes with the same weights.
const TILES_AT_ONCE: usize = 8;

/// Two neighbouring inputs, the first in the lower half.
type Pair = u32;

/// The weight of a linear module.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// [out, in].
    Plain(Tensor),
    /// Where this CPU multiplies bfloat16 faster than what is widened first.
    Packed(PackedMatrix),
}

impl Matrix {
    /// W [out, in], as products are fastest.
    pub fn new(weight: Tensor) -> Result<Matrix> {
        match PackedMatrix::is_possible(weight.dtype(), weight.device()) {
            true => Ok(Matrix::Packed(PackedMatrix::new(&weight)?)),
            false => Ok(Matrix::Plain(weight)),
        }
    }

    /// x Wᵀ, (rows, in) to (rows, out), rounded once.
    pub fn times(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::Plain(weight) => times(x, weight),
            Matrix::Packed(weight) if x.track_op() => times(x, &weight.unpacked()?),
            Matrix::Packed(weight) => weight.times(x),
        }
    }
}

/// W [out, in], laid out for the product.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    /// Of each 64 outputs, pair by pair of inputs: one pair an output. Filled up with zeros.
    panels: Vec<Pair>,
    inputs: usize,
    outputs: usize,
}

fn pair(values: &[bf16], at: usize) -> Pair {
    let half = |at: usize| values.get(at).map_or(0, |v| Pair::from(v.to_bits()));
    half(2 * at) | half(2 * at + 1) << 16
}

impl PackedMatrix {
    /// Whether this CPU has the instruction.
    fn is_possible(dtype: DType, device: &Device) -> bool {
        #[cfg(target_arch = "x86_64")]
        return dtype == DType::BF16 && device.is_cpu() && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Of W [out, in] in bf16 on the CPU.
    fn new(weight: &Tensor) -> Result<PackedMatrix> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("expected a tensor on the CPU") };
        let values = super::kernel::contiguous::<bf16>(storage, layout)?;
        let pairs = inputs.div_ceil(2);
        let mut panels = vec![0; outputs.div_ceil(OUTPUTS) * pairs * OUTPUTS];
        panels.par_chunks_mut((pairs * OUTPUTS).max(1)).enumerate().for_each(|(panel, packed)| {
            for output in 0..OUTPUTS.min(outputs - panel * OUTPUTS) {
                let row = &values[(panel * OUTPUTS + output) * inputs..][..inputs];
                packed.iter_mut().skip(output).step_by(OUTPUTS).enumerate().for_each(|(at, out)| *out = pair(row, at));
            }
        });
        Ok(PackedMatrix { panels, inputs, outputs })
    }

    /// W [out, in] again.
    fn unpacked(&self) -> Result<Tensor> {
        let pairs = self.inputs.div_ceil(2);
        let mut values = vec![bf16::ZERO; self.outputs * self.inputs];
        values.par_chunks_mut(self.inputs.max(1)).enumerate().for_each(|(output, row)| {
            let panel = &self.panels[output / OUTPUTS * pairs * OUTPUTS..];
            for (at, value) in row.iter_mut().enumerate() {
                let pair = panel[at / 2 * OUTPUTS + output % OUTPUTS];
                *value = bf16::from_bits((pair >> (16 * (at % 2))) as u16);
            }
        });
        Tensor::from_vec(values, (self.outputs, self.inputs), &Device::Cpu)
    }

    fn times(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(&self)
    }

    fn product(&self, x: &[bf16], rows: usize) -> Vec<bf16> {
        let pairs = self.inputs.div_ceil(2);
        let tiles = rows.div_ceil(ROWS);
        // Of each tile, pair by pair of inputs: one pair a row.
        let mut packed = vec![0; tiles * pairs * ROWS];
        packed.par_chunks_mut((pairs * ROWS).max(1)).enumerate().for_each(|(tile, packed)| {
            for row in 0..ROWS.min(rows - tile * ROWS) {
                let values = &x[(tile * ROWS + row) * self.inputs..][..self.inputs];
                packed.iter_mut().skip(row).step_by(ROWS).enumerate().for_each(|(at, out)| *out = pair(values, at));
            }
        });
        // By panels first, so that what each thread writes lies together.
        let panels = self.outputs.div_ceil(OUTPUTS);
        let at_once = TILES_AT_ONCE.min(tiles.max(1));
        let blocks = tiles.div_ceil(at_once);
        let mut by_panel = vec![bf16::ZERO; panels * blocks * at_once * ROWS * OUTPUTS];
        by_panel.par_chunks_mut(at_once * ROWS * OUTPUTS).enumerate().for_each(|(block, out)| {
            let (panel, first) = (block / blocks, block % blocks * at_once);
            let weights = &self.panels[panel * pairs * OUTPUTS..][..pairs * OUTPUTS];
            for (at, out) in out.chunks_exact_mut(ROWS * OUTPUTS).enumerate().take(tiles - first) {
                let x = &packed[(first + at) * pairs * ROWS..][..pairs * ROWS];
                let sums = tile(x, weights);
                out.iter_mut().zip(sums.as_flattened()).for_each(|(out, sum)| *out = bf16::from_f32(*sum));
            }
        });
        let mut out = vec![bf16::ZERO; rows * self.outputs];
        out.par_chunks_mut(self.outputs.max(1)).enumerate().for_each(|(row, out)| {
            for (panel, out) in out.chunks_mut(OUTPUTS).enumerate() {
                let at = (panel * blocks * at_once * ROWS + row) * OUTPUTS;
                out.copy_from_slice(&by_panel[at..][..out.len()]);
            }
        });
        out
    }
}

impl CustomOp1 for &PackedMatrix {
    fn name(&self) -> &'static str {
        "bf16-product"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        if inputs != self.inputs {
            candle_core::bail!("{inputs} inputs, expected {}", self.inputs);
        }
        let x = super::kernel::contiguous::<bf16>(storage, layout)?;
        Ok((CpuStorage::BF16(self.product(x, rows)), (rows, self.outputs).into()))
    }
}

/// The sums of 6 rows and 64 outputs.
#[cfg(target_arch = "x86_64")]
fn tile(x: &[Pair], weights: &[Pair]) -> [[f32; OUTPUTS]; ROWS] {
    // SAFETY: a PackedMatrix is only made where `is_possible` found the instruction.
    unsafe { tile_by_avx512(x, weights) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn tile_by_avx512(x: &[Pair], weights: &[Pair]) -> [[f32; OUTPUTS]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (x, _) = x.as_chunks::<ROWS>();
    let (weights, _) = weights.as_chunks::<OUTPUTS>();
    for (x, weights) in x.iter().zip(weights) {
        let (vectors, _) = weights.as_chunks::<LANES>();
        // SAFETY: 16 numbers of 32 bits and 32 of 16 are the same 64 bytes, and all bits are numbers.
        let weights: [__m512bh; VECTORS] =
            std::array::from_fn(|at| unsafe { std::mem::transmute::<[Pair; LANES], __m512bh>(vectors[at]) });
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = _mm512_set1_epi32(x.cast_signed());
            // SAFETY: as above.
            let x: __m512bh = unsafe { std::mem::transmute(x) };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm512_dpbf16_ps(*sum, x, weights);
            }
        }
    }
    // SAFETY: a vector is 16 numbers.
    unsafe { std::mem::transmute::<[[__m512; VECTORS]; ROWS], [[f32; OUTPUTS]; ROWS]>(sums) }
}

#[cfg(not(target_arch = "x86_64"))]
fn tile(_: &[Pair], _: &[Pair]) -> [[f32; OUTPUTS]; ROWS] {
    [[f32::NAN; OUTPUTS]; ROWS]
}

#[cfg(test)]
mod tests {
    use super::super::closeness::random;
    use super::*;

    /// Against f64, within what rounding the result and sums in f32 in another order may differ.
    #[test]
    fn a_product_is_that_of_wider_numbers() {
        if !PackedMatrix::is_possible(DType::BF16, &Device::Cpu) {
            return;
        }
        for (rows, inputs, outputs) in [(1, 2, 1), (1, 576, 64), (7, 33, 65), (113, 584, 100), (50, 1536, 576)] {
            let x = random(1, &[rows, inputs], 1.0, DType::BF16);
            let weight = random(2, &[outputs, inputs], 1.0, DType::BF16);
            let product = PackedMatrix::new(&weight).unwrap().times(&x).unwrap();
            let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
            let expected = wide(&x).matmul(&wide(&weight).t().unwrap()).unwrap();
            assert_eq!(product.dims(), [rows, outputs]);
            let pairs = wide(&product).flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let expected = expected.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (got, expected) in pairs.into_iter().zip(expected) {
                let allowed = expected.abs() / 256.0 + 1e-5 * (inputs as f64);
                assert!((got - expected).abs() <= allowed, "{rows}×{inputs}×{outputs}: {got}, expected {expected}");
            }
        }
    }
}
