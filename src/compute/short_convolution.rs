//! Short convolutions between gates.

use super::layer::Layer;
use crate::architecture::module::{ConvolutionRole, Role};
use crate::architecture::short_convolution::ShortConvolution;
use crate::error::Result;
use candle_core::{D, Tensor};

impl Layer<'_, '_, '_> {
    /// (groups, positions, hidden) in and out. With a cache, what comes in are the positions after those whose last it
    /// holds.
    pub(super) fn short_convolution(&mut self, mixer: &ShortConvolution, x: &Tensor) -> Result<Tensor> {
        let all = self.linear(Role::Convolution(ConvolutionRole::Input), x)?;
        let part = |at| all.narrow(D::Minus1, at * mixer.channels, mixer.channels);
        let (before, after, x) = (part(0)?, part(1)?, part(2)?);
        let mixed = self.convolve(Role::Convolution(ConvolutionRole::Convolution), &(before * x)?)?;
        self.linear(Role::Convolution(ConvolutionRole::Output), &(after * mixed)?)
    }
}
