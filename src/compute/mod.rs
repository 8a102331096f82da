//! The instrumented decoder: layers outside, rows inside. Weights are fetched once a pass, every row is pushed through
//! each layer in chunks that fit memory, and hooks reduce what they need on the way.
//!
//! [`Model`] is a checkpoint ready to compute; `passes` takes rows through it from the embedding to the logits, `layer`
//! through one layer, and each mixer has a file of its own.

mod ahead;
mod attention;
mod batch;
mod cache;
mod convolution;
mod decoder;
mod device;
mod experts;
#[cfg(test)]
pub(crate) mod fixture;
mod gated_delta_net;
mod gated_mlp;
mod gradients;
mod head;
mod hook;
mod latent_attention;
mod layer;
mod layer_inputs;
mod memory;
mod mlp_of;
mod model;
mod ops;
mod pace;
mod passes;
mod row_logits;
mod sample;
mod scored;
mod short_convolution;
pub mod speed;
mod trunk;
mod weights;
mod work;

pub use batch::{Noise, Row};
pub use decoder::Decoder;
pub use device::{Arithmetic, ComputeSettings, DeviceChoice};
pub use gradients::GradientHook;
pub use hook::{Hook, NoHook};
pub use memory::Footprint;
pub use model::Model;
pub use row_logits::RowLogits;
pub(crate) use sample::Sample;
pub use scored::Scored;
pub use trunk::Trunk;
pub use weights::Residency;
pub use work::Work;

use crate::error::Error;

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Error {
        Error::Compute(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}
