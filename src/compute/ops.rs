//! The element-wise and row-wise steps of a decoder. On the CPU each is one fused parallel pass; elsewhere it is
//! composed of tensor operations. Both round where the models' authors' code rounds: a sum of squares or a softmax is
//! taken in f32 (in f64 for f64), and a result returns to the arithmetic's dtype before it meets the next operation.

use crate::architecture::recipe::{Activation, Norm, NormStyle};
use crate::architecture::rope::Table;
use candle_core::cpu::erf::erf_f64;
use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, WithDType};
use half::{bf16, f16};
use num_traits::Float;
use rayon::prelude::*;

/// A dtype of the arithmetic, and the wider one in which sums are taken.
trait Element: WithDType {
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
trait RowKernel: Sync {
    const NAME: &'static str;
    /// `index` counts rows from the first; `x` and `out` have the row's length.
    fn row<T: Element>(&self, index: usize, x: &[T], out: &mut [T]);
}

struct Rows<K>(K);

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

fn contiguous<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((from, to)) = layout.contiguous_offsets() else { candle_core::bail!("expected a contiguous tensor") };
    Ok(&T::cpu_storage_as_slice(storage)?[from..to])
}

/// f32, or f64 for f64: what sums are taken in.
pub(crate) fn wide_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// One operation in f32 or wider, rounded once. In half precision candle would round the scalar and every step of a
/// function as well.
fn in_wide(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&x.to_dtype(wide_dtype(x.dtype()))?)?.to_dtype(x.dtype())
}

/// The weight of a norm: on the host for the fused pass, on the device for the composed one.
#[derive(Debug, Clone)]
pub(crate) struct NormWeight {
    pub host: Vec<f64>,
    pub tensor: Tensor,
}

struct RmsNorm<'a> {
    weight: &'a [f64],
    norm: Norm,
}

impl RowKernel for RmsNorm<'_> {
    const NAME: &'static str = "rms-norm";

    fn row<T: Element>(&self, _: usize, x: &[T], out: &mut [T]) {
        // Eight partial sums, so that the compiler can keep them in one register.
        let mut sums = [T::wide(0.0); 8];
        let (eights, rest) = x.as_chunks::<8>();
        for eight in eights {
            for (sum, &v) in sums.iter_mut().zip(eight) {
                *sum = *sum + v.widen() * v.widen();
            }
        }
        let mut sum = sums.into_iter().fold(T::wide(0.0), |a, b| a + b);
        for &v in rest {
            sum = sum + v.widen() * v.widen();
        }
        let mean = sum / T::wide(x.len() as f64);
        let inverse = (mean + T::wide(self.norm.epsilon)).sqrt().recip();
        for ((out, &v), &w) in out.iter_mut().zip(x).zip(self.weight) {
            let (normed, w) = (v.widen() * inverse, T::wide(w));
            *out = T::narrow(match self.norm.style {
                NormStyle::RoundThenWeight => w * T::narrow(normed).widen(),
                NormStyle::WeightThenRound => w * normed,
                NormStyle::OnePlusWeightThenRound => normed * (T::wide(1.0) + w),
            });
        }
    }
}

/// x / sqrt(mean(x²) + ε) · w over the last dimension.
pub(crate) fn rms_norm(x: &Tensor, weight: &NormWeight, norm: Norm) -> Result<Tensor> {
    if x.device().is_cpu() {
        let kernel = RmsNorm { weight: &weight.host, norm };
        return x.contiguous()?.apply_op1_no_bwd(&Rows(kernel));
    }
    rms_norm_composed(x, weight, norm)
}

fn rms_norm_composed(x: &Tensor, weight: &NormWeight, norm: Norm) -> Result<Tensor> {
    let wide = x.to_dtype(wide_dtype(x.dtype()))?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = wide.broadcast_div(&(mean + norm.epsilon)?.sqrt()?)?;
    let weight = &weight.tensor;
    match norm.style {
        NormStyle::RoundThenWeight => normed.to_dtype(x.dtype())?.broadcast_mul(weight),
        NormStyle::WeightThenRound => normed.broadcast_mul(&weight.to_dtype(wide.dtype())?)?.to_dtype(x.dtype()),
        NormStyle::OnePlusWeightThenRound => {
            normed.broadcast_mul(&(weight.to_dtype(wide.dtype())? + 1.0)?)?.to_dtype(x.dtype())
        }
    }
}

impl RowKernel for Activation {
    const NAME: &'static str = "activation";

    fn row<T: Element>(&self, _: usize, x: &[T], out: &mut [T]) {
        let one = T::wide(1.0);
        let half = T::wide(0.5);
        for (out, &v) in out.iter_mut().zip(x) {
            let v = v.widen();
            *out = T::narrow(match self {
                Activation::Silu => v / (one + (-v).exp()),
                Activation::Gelu => {
                    let x: f64 = v.into();
                    <T as Element>::wide(0.5 * x * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2)))
                }
                Activation::GeluTanh => {
                    let inner = T::wide(std::f64::consts::FRAC_2_PI.sqrt()) * (v + T::wide(0.044715) * v * v * v);
                    half * v * (one + inner.tanh())
                }
            });
        }
    }
}

/// The activation, element by element.
pub(crate) fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1_no_bwd(&Rows(activation));
    }
    activation_composed(x, activation)
}

fn activation_composed(x: &Tensor, activation: Activation) -> Result<Tensor> {
    in_wide(x, |x| match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
    })
}

/// What turns attention scores into weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Softmax {
    /// Scores are multiplied by this first.
    pub scale: f64,
    /// They then become c · tanh(scores / c).
    pub softcap: Option<f64>,
    /// A query sees this many keys, the one at its own position included.
    pub window: Option<usize>,
    /// Each head's queries sit at this many last positions of the keys.
    pub positions: usize,
}

impl RowKernel for Softmax {
    const NAME: &'static str = "causal-softmax";

    fn row<T: Element>(&self, index: usize, x: &[T], out: &mut [T]) {
        let position = x.len() - self.positions + index % self.positions;
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let (x, out) = (&x[first..=position], &mut out[first..=position]);
        let score = |v: T| {
            let scaled = T::narrow(v.widen() * T::wide(self.scale));
            match self.softcap {
                Some(cap) => capped(scaled, cap).widen(),
                None => scaled.widen(),
            }
        };
        let max = x.iter().fold(T::Wide::neg_infinity(), |m, &v| if m >= score(v) { m } else { score(v) });
        let mut sum = T::wide(0.0);
        for (out, &v) in out.iter_mut().zip(x) {
            let weight = (score(v) - max).exp();
            sum = sum + weight;
            *out = T::narrow(weight);
        }
        if T::DTYPE == wide_dtype(T::DTYPE) {
            let inverse = sum.recip();
            out.iter_mut().for_each(|out| *out = T::narrow(out.widen() * inverse));
        } else {
            // A weight that was rounded already must not be rounded again.
            for (out, &v) in out.iter_mut().zip(x) {
                *out = T::narrow((score(v) - max).exp() / sum);
            }
        }
    }
}

/// c · tanh(x / c), rounded after each operation.
fn capped<T: Element>(x: T, cap: f64) -> T {
    let ratio = T::narrow(x.widen() / T::wide(cap));
    T::narrow(T::narrow(ratio.widen().tanh()).widen() * T::wide(cap))
}

struct Softcap(f64);

impl RowKernel for Softcap {
    const NAME: &'static str = "softcap";

    fn row<T: Element>(&self, _: usize, x: &[T], out: &mut [T]) {
        for (out, &v) in out.iter_mut().zip(x) {
            *out = capped(v, self.0);
        }
    }
}

/// c · tanh(x / c), element by element.
pub(crate) fn softcap(x: &Tensor, cap: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1_no_bwd(&Rows(Softcap(cap)));
    }
    softcap_composed(x, cap)
}

fn softcap_composed(x: &Tensor, cap: f64) -> Result<Tensor> {
    let ratio = in_wide(x, |x| x / cap)?;
    in_wide(&in_wide(&ratio, Tensor::tanh)?, |x| x * cap)
}

/// Attention weights from scores (n, queries, keys), where `queries` is a multiple of [`Softmax::positions`], and query
/// q sits at the (q mod positions)-th of the last `positions` keys: it sees the keys up to its own, within the window.
pub(crate) fn causal_softmax(scores: &Tensor, softmax: Softmax) -> Result<Tensor> {
    if scores.device().is_cpu() {
        return scores.contiguous()?.apply_op1_no_bwd(&Rows(softmax));
    }
    causal_softmax_composed(scores, softmax)
}

fn causal_softmax_composed(scores: &Tensor, softmax: Softmax) -> Result<Tensor> {
    let (_, queries, keys) = scores.dims3()?;
    let window = softmax.window.unwrap_or(keys);
    let position = |q: usize| keys - softmax.positions + q % softmax.positions;
    let sees = |q: usize, k: usize| k <= position(q) && k + window > position(q);
    let value = |q, k| if sees(q, k) { 0f32 } else { f32::NEG_INFINITY };
    let mask: Vec<f32> = (0..queries).flat_map(|q| (0..keys).map(move |k| value(q, k))).collect();
    let wide = wide_dtype(scores.dtype());
    let mask = Tensor::from_vec(mask, (1, queries, keys), scores.device())?.to_dtype(wide)?;
    let mut scaled = in_wide(scores, |x| x * softmax.scale)?;
    if let Some(cap) = softmax.softcap {
        scaled = softcap_composed(&scaled, cap)?;
    }
    let masked = scaled.to_dtype(wide)?.broadcast_add(&mask)?;
    candle_nn::ops::softmax_last_dim(&masked)?.to_dtype(scores.dtype())
}

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
                    let (a, b) = (x[i].widen(), x[i + half].widen());
                    let product =
                        |x: T::Wide, y: T::Wide| if table.turns_wide { x * y } else { T::narrow(x * y).widen() };
                    out[i] = T::narrow(product(a, cos) - product(b, sin));
                    out[i + half] = T::narrow(product(b, cos) + product(a, sin));
                }
            }
        });
        Ok(T::to_cpu_storage_owned(out))
    }
}

/// (rows, positions, heads · width) to (rows, heads, positions, width), turned by `rope` where there is one. The
/// positions are the last ones of its table.
pub(crate) fn to_heads(x: &Tensor, heads: usize, rope: Option<&RopeTable>) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1_no_bwd(&Heads { heads, rope: rope.map(|r| &r.table) });
    }
    to_heads_composed(x, heads, rope)
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
    let (a, b) = (x.narrow(D::Minus1, 0, half)?.to_dtype(dtype)?, x.narrow(D::Minus1, half, half)?.to_dtype(dtype)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?.to_dtype(x.dtype())?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?.to_dtype(x.dtype())?;
    if 2 * half == width {
        return Tensor::cat(&[first, second], D::Minus1);
    }
    Tensor::cat(&[first, second, x.narrow(D::Minus1, 2 * half, width - 2 * half)?], D::Minus1)
}

/// ln P(target) of each row of `logits` (targets, vocabulary), taken in f32 or wider.
pub(crate) fn log_probs_of(logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
    let wide = logits.to_dtype(wide_dtype(logits.dtype()))?;
    if !wide.device().is_cpu() {
        return log_probs_composed(&wide, targets);
    }
    let wide = wide.contiguous()?;
    let (storage, layout) = wide.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("expected a tensor on the CPU") };
    let vocabulary = logits.dim(D::Minus1)?;
    match storage {
        CpuStorage::F64(_) => Ok(log_probs_in(contiguous::<f64>(storage, layout)?, vocabulary, targets)),
        _ => Ok(log_probs_in(contiguous::<f32>(storage, layout)?, vocabulary, targets)),
    }
}

fn log_probs_composed(wide: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
    let max = wide.max_keepdim(D::Minus1)?;
    let sum = wide.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let chosen = wide.gather(&Tensor::new(targets, wide.device())?.unsqueeze(1)?, D::Minus1)?;
    let ln = chosen.broadcast_sub(&max)?.broadcast_sub(&sum.log()?)?;
    ln.squeeze(1)?.to_dtype(DType::F64)?.to_vec1()
}

fn log_probs_in<T: Element>(logits: &[T], vocabulary: usize, targets: &[u32]) -> Vec<f64> {
    let rows = logits.par_chunks(vocabulary).zip(targets);
    rows.map(|(logits, &target)| {
        let max = logits.iter().fold(T::Wide::neg_infinity(), |m, v| if m >= v.widen() { m } else { v.widen() });
        let sum: f64 = logits.iter().map(|v| Into::<f64>::into((v.widen() - max).exp())).sum();
        let chosen = logits.get(target as usize).map_or(f64::NAN, |v| (v.widen() - max).into());
        chosen - sum.ln()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    //! What GPUs compute, composed of tensor operations, is what the fused passes compute: checked on the CPU.

    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

    /// `spread` times normal noise, rounded to `dtype`.
    fn random(seed: u64, shape: &[usize], spread: f64, dtype: DType) -> Tensor {
        let normal = StandardNormal.sample_iter(ChaCha20Rng::seed_from_u64(seed));
        let values: Vec<f64> = normal.take(shape.iter().product()).map(|v: f64| spread * v).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    /// The step between neighbouring values in f16 and bf16, as a part of the value; for wider dtypes what sums in
    /// another order may differ.
    fn step(dtype: DType) -> f64 {
        match dtype {
            DType::F64 => 1e-13,
            DType::F32 => 1e-6,
            DType::F16 => 2f64.powi(-10),
            _ => 2f64.powi(-7),
        }
    }

    /// Every value within `step` of itself; in f32 and f64 of at least 1, since sums can cancel; in f16 of at least the
    /// smallest normal number.
    fn assert_close(what: &str, fused: &Tensor, composed: &Tensor) {
        assert_eq!((fused.dtype(), fused.shape()), (composed.dtype(), composed.shape()), "{what}");
        let values =
            |t: &Tensor| -> Vec<f64> { t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap() };
        let (step, least) = match fused.dtype() {
            dtype @ (DType::F32 | DType::F64) => (step(dtype), 1.0),
            dtype => (step(dtype), 2f64.powi(-14)),
        };
        let mut steps = 0f64;
        for (a, b) in values(fused).into_iter().zip(values(composed)) {
            let off = (a - b).abs() / (step * a.abs().max(b.abs()).max(least));
            assert!(off.is_finite(), "{what}: {a} and {b}");
            steps = steps.max(off);
        }
        println!("{what} {:?}: {steps:.3} steps", fused.dtype());
        assert!(steps <= 1.0, "{what} {:?}: off by {steps} rounding steps", fused.dtype());
    }

    #[test]
    fn a_composed_norm_is_the_fused_one() {
        for dtype in DTYPES {
            for style in [NormStyle::RoundThenWeight, NormStyle::WeightThenRound, NormStyle::OnePlusWeightThenRound] {
                let x = random(1, &[3, 7, 43], 2.0, dtype);
                let tensor = random(2, &[43], 0.7, dtype);
                let host = tensor.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
                let (weight, norm) = (NormWeight { host, tensor }, Norm { epsilon: 1e-2, style });
                let fused = rms_norm(&x, &weight, norm).unwrap();
                assert_close(&format!("{style:?}"), &fused, &rms_norm_composed(&x, &weight, norm).unwrap());
            }
        }
    }

    #[test]
    fn a_composed_softmax_is_the_fused_one() {
        for dtype in DTYPES {
            for (softcap, window) in [(None, None), (Some(3.7), None), (None, Some(4)), (Some(3.7), Some(1))] {
                for positions in [11, 4, 1] {
                    let scores = random(3, &[5, 3 * positions, 11], 9.0, dtype);
                    let softmax = Softmax { scale: 1.0 / 13f64.sqrt(), softcap, window, positions };
                    let fused = causal_softmax(&scores, softmax).unwrap();
                    assert_close(&format!("{softmax:?}"), &fused, &causal_softmax_composed(&scores, softmax).unwrap());
                }
            }
        }
    }

    #[test]
    fn composed_heads_are_the_fused_ones() {
        let (positions, heads, width) = (9, 3, 14);
        for dtype in DTYPES {
            let x = random(4, &[2, positions, heads * width], 2.0, dtype);
            let plain = to_heads(&x, heads, None).unwrap();
            assert_close("heads", &plain, &to_heads_composed(&x, heads, None).unwrap());
            for (dim, turns_wide) in [(width, false), (width, true), (6, false), (6, true)] {
                let angles = (0..positions).flat_map(|p| (0..dim / 2).map(move |i| p as f64 * 0.3f64.powi(i as i32)));
                let (cos, sin) = angles.map(|a| (1.2 * a.cos(), 1.2 * a.sin())).unzip();
                let table = Table { cos, sin, dim, turns_wide };
                let rope = RopeTable::new(table, positions, dtype, &Device::Cpu).unwrap();
                for last in [positions, 2] {
                    let x = x.narrow(1, positions - last, last).unwrap();
                    let fused = to_heads(&x, heads, Some(&rope)).unwrap();
                    let composed = to_heads_composed(&x, heads, Some(&rope)).unwrap();
                    assert_close(&format!("{dim} channels turned, wide {turns_wide}, {last} last"), &fused, &composed);
                }
            }
        }
    }

    #[test]
    fn a_composed_softcap_is_the_fused_one() {
        for dtype in DTYPES {
            let x = random(5, &[7, 41], 9.0, dtype);
            assert_close("softcap", &softcap(&x, 6.7).unwrap(), &softcap_composed(&x, 6.7).unwrap());
        }
    }

    #[test]
    fn a_composed_activation_is_the_fused_one() {
        for dtype in DTYPES {
            for kind in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
                let x = random(6, &[7, 41], 3.0, dtype);
                let fused = activation(&x, kind).unwrap();
                assert_close(&format!("{kind:?}"), &fused, &activation_composed(&x, kind).unwrap());
            }
        }
    }

    #[test]
    fn composed_log_probabilities_are_the_fused_ones() {
        for dtype in DTYPES {
            let logits = random(7, &[9, 101], 4.0, dtype);
            let targets: Vec<u32> = (0..9).map(|t| (t * 37) % 101).collect();
            let wide = logits.to_dtype(wide_dtype(dtype)).unwrap();
            let tensor = |v: Vec<f64>| Tensor::new(v, &Device::Cpu).unwrap().to_dtype(wide.dtype()).unwrap();
            let fused = tensor(log_probs_of(&logits, &targets).unwrap());
            assert_close("ln P", &fused, &tensor(log_probs_composed(&wide, &targets).unwrap()));
        }
    }
}
