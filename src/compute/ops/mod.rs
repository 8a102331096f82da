//! The element-wise and row-wise steps of a decoder. On the CPU each is one fused parallel pass; elsewhere it is
//! composed of tensor operations, or one of candle's kernels, and composed wherever a gradient is followed (of a tensor
//! that comes of a candle `Var`). All round where the models' authors' code rounds: a sum of squares or a softmax is
//! taken in f32 (in f64 for f64), and a result returns to the arithmetic's dtype before it meets the next operation.

mod activation;
#[cfg(test)]
mod closeness;
mod delta_heads;
mod delta_rule;
mod heads;
mod kernel;
mod log_probs;
mod norm;
mod softmax;
mod times;

pub(super) use activation::{activation, sigmoid, softplus};
pub(super) use delta_rule::{DeltaRule, unit_length};
pub(super) use heads::{RopeTable, to_heads};
pub(super) use kernel::{scaled, wide_dtype};
pub(super) use log_probs::LogProbs;
pub(super) use norm::{NormWeight, rms_norm};
pub(super) use softmax::{Masks, Softmax, causal_softmax, softcap};
pub(super) use times::times;
