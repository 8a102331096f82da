//! Short causal convolutions, each channel by itself.

use super::layer::Layer;
use super::ops;
use crate::architecture::module::Role;
use crate::error::Result;
use candle_core::Tensor;

impl Layer<'_, '_, '_> {
    /// At each position what the last positions weigh, its own included; (groups, positions, channels) in and out.
    /// Before the first position there are zeros, or what the layer has kept.
    pub(super) fn convolve(&mut self, role: Role, x: &Tensor) -> Result<Tensor> {
        let (groups, positions, channels) = x.dims3()?;
        let (taps, bias) = self.weights.module(role)?.convolution()?;
        let before = taps.len() - 1;
        let kept = self.cache.as_ref().and_then(|cache| cache.inputs.clone());
        let earlier = match kept {
            Some(inputs) => inputs,
            None => Tensor::zeros((groups, before, channels), x.dtype(), x.device())?,
        };
        let x = Tensor::cat(&[&earlier, x], 1)?;
        if let Some(cache) = &mut self.cache {
            cache.inputs = Some(x.narrow(1, positions, before)?);
        }
        let wide = x.to_dtype(ops::wide_dtype(x.dtype()))?;
        let mut sum = wide.narrow(1, 0, positions)?.zeros_like()?;
        for (at, tap) in taps.iter().enumerate() {
            sum = (sum + wide.narrow(1, at, positions)?.broadcast_mul(tap)?)?;
        }
        if let Some(bias) = bias {
            sum = sum.broadcast_add(bias)?;
        }
        Ok(sum.to_dtype(x.dtype())?)
    }
}
