//! Activation functions.

use super::kernel::{Element, RowKernel, Rows, in_wide, may_fuse};
use crate::architecture::channel_mixer::Activation;
use candle_core::cpu::erf::erf_f64;
use candle_core::{Result, Tensor};
use num_traits::Float;

impl RowKernel for Activation {
    const NAME: &'static str = "activation";

    fn row<T: Element>(&self, _: usize, x: &[T], out: &mut [T]) {
        let one = T::wide(1.0);
        let half = T::wide(0.5);
        for (out, &v) in out.iter_mut().zip(x) {
            let v = v.widen();
            *out = T::narrow(match self {
                Activation::Silu => v / (one + (-v).exp()),
                Activation::Swish(alpha) => v / (one + (-v * T::wide(*alpha)).exp()),
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
    if may_fuse(x) {
        return x.contiguous()?.apply_op1_no_bwd(&Rows(activation));
    }
    activation_composed(x, activation)
}

fn activation_composed(x: &Tensor, activation: Activation) -> Result<Tensor> {
    in_wide(x, |x| match activation {
        Activation::Silu => x.silu(),
        Activation::Swish(alpha) => x * candle_nn::ops::sigmoid(&(x * alpha)?)?,
        // candle's own gradients of these have constants of six digits.
        Activation::Gelu if x.track_op() => (x * 0.5)? * ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?,
        Activation::GeluTanh if x.track_op() => {
            let inner = ((x + (x.sqr()? * x)? * 0.044715)? * std::f64::consts::FRAC_2_PI.sqrt())?;
            (x * 0.5)? * (inner.tanh()? + 1.0)?
        }
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
    })
}

/// 1 / (1 + exp(−x)).
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    in_wide(x, candle_nn::ops::sigmoid)
}

/// ln(1 + exp(x)); x itself above 20, as PyTorch has it. In f32 or wider.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    x.gt(20.0)?.where_cond(x, &(x.minimum(20.0)?.exp()? + 1.0)?.log()?)
}

#[cfg(test)]
mod tests {
    use super::super::closeness::{DTYPES, assert_close, random};
    use super::*;

    #[test]
    fn a_composed_activation_is_the_fused_one() {
        for dtype in DTYPES {
            for kind in [Activation::Silu, Activation::Swish(1.702), Activation::Gelu, Activation::GeluTanh] {
                let x = random(6, &[7, 41], 3.0, dtype);
                let fused = activation(&x, kind).unwrap();
                assert_close(&format!("{kind:?}"), &fused, &activation_composed(&x, kind).unwrap());
            }
        }
    }
}
