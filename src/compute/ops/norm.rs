//! RMSNorm.

use super::kernel::{Element, RowKernel, Rows, may_fuse, wide_dtype};
use crate::architecture::recipe::{Norm, NormStyle};
use candle_core::{D, DType, Result, Tensor};
use num_traits::Float;

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
        let off = match self.norm.is_centred {
            true => x.iter().fold(T::wide(0.0), |sum, v| sum + v.widen()) / T::wide(x.len() as f64),
            false => T::wide(0.0),
        };
        // Eight partial sums, so that the compiler can keep them in one register.
        let mut sums = [T::wide(0.0); 8];
        let (eights, rest) = x.as_chunks::<8>();
        for eight in eights {
            for (sum, &v) in sums.iter_mut().zip(eight) {
                *sum = *sum + (v.widen() - off) * (v.widen() - off);
            }
        }
        let mut sum = sums.into_iter().fold(T::wide(0.0), |a, b| a + b);
        for &v in rest {
            sum = sum + (v.widen() - off) * (v.widen() - off);
        }
        let mean = sum / T::wide(x.len() as f64);
        let inverse = (mean + T::wide(self.norm.epsilon)).sqrt().recip();
        for ((out, &v), &w) in out.iter_mut().zip(x).zip(self.weight) {
            let (normed, w) = ((v.widen() - off) * inverse, T::wide(w));
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
    if may_fuse(x) {
        let kernel = RmsNorm { weight: &weight.host, norm };
        return x.contiguous()?.apply_op1_no_bwd(&Rows(kernel));
    }
    rms_norm_by_kernel(x, weight, norm)
}

/// By candle's kernel, which GPUs have and of which no gradient is known, where it can do it: sums in f32, weights before
/// it rounds.
fn rms_norm_by_kernel(x: &Tensor, weight: &NormWeight, norm: Norm) -> Result<Tensor> {
    if norm.is_centred || x.dtype() == DType::F64 || x.track_op() {
        return rms_norm_composed(x, weight, norm);
    }
    let (x, w) = (x.contiguous()?, &weight.tensor);
    let kernel = |x: &Tensor, w: &Tensor| candle_nn::ops::rms_norm(x, w, norm.epsilon as f32);
    match norm.style {
        NormStyle::RoundThenWeight => kernel(&x, &w.ones_like()?)?.broadcast_mul(w),
        NormStyle::WeightThenRound => kernel(&x, w),
        NormStyle::OnePlusWeightThenRound => {
            let wide = wide_dtype(x.dtype());
            kernel(&x.to_dtype(wide)?, &(w.to_dtype(wide)? + 1.0)?)?.to_dtype(x.dtype())
        }
    }
}

fn rms_norm_composed(x: &Tensor, weight: &NormWeight, norm: Norm) -> Result<Tensor> {
    let mut wide = x.to_dtype(wide_dtype(x.dtype()))?;
    if norm.is_centred {
        wide = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    }
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

#[cfg(test)]
mod tests {
    use super::super::closeness::{DTYPES, assert_close, random};
    use super::*;

    #[test]
    fn a_composed_norm_is_the_fused_one() {
        for dtype in DTYPES {
            let styles = [NormStyle::RoundThenWeight, NormStyle::WeightThenRound, NormStyle::OnePlusWeightThenRound];
            for (style, is_centred) in styles.into_iter().flat_map(|style| [(style, false), (style, true)]) {
                let x = random(1, &[3, 7, 43], 2.0, dtype);
                let tensor = random(2, &[43], 0.7, dtype);
                let host = tensor.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
                let (weight, norm) = (NormWeight { host, tensor }, Norm { epsilon: 1e-2, style, is_centred });
                let fused = rms_norm(&x, &weight, norm).unwrap();
                assert_close(&format!("{style:?}"), &fused, &rms_norm_composed(&x, &weight, norm).unwrap());
                // On the CPU candle's rounds more often in half precision than on GPUs.
                if !matches!(dtype, DType::F16 | DType::BF16) {
                    let by_kernel = rms_norm_by_kernel(&x, &weight, norm).unwrap();
                    assert_close(&format!("{style:?} by the kernel"), &fused, &by_kernel);
                }
            }
        }
    }
}
