//! Short convolutions, as LFM2 has them.

use super::module::{ConvolutionRole, Modules, Role};

/// A token mixer of the last few positions: out(C · convolution(B · x)), where B, C and x are parts of one projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortConvolution {
    /// Channels of B, of C and of x.
    pub channels: usize,
    /// Positions that it sees, its own included.
    pub kernel: usize,
    /// Whether both projections and the convolution have a bias.
    pub bias: bool,
}

impl ShortConvolution {
    pub(super) fn modules(&self, hidden: usize, to: &mut Modules) {
        let ShortConvolution { channels, kernel, bias } = *self;
        let role = Role::Convolution;
        to.linear("conv.in_proj", role(ConvolutionRole::Input), bias, hidden, 3 * channels);
        to.convolution("conv.conv", role(ConvolutionRole::Convolution), channels, kernel, bias);
        to.linear("conv.out_proj", role(ConvolutionRole::Output), bias, channels, hidden);
    }
}
