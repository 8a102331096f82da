//! Super weights: spikes of what goes into and comes out of the MLPs' last projections.
//!
//! Yu et al. (2024, "The Super Weight in Large Language Models", arXiv 2411.07191, § 3) find a super weight from one pass,
//! by the largest activations that go into each layer's `down_proj` (which tells its column) and come out of it (which
//! tells its row): where W[j, k] is far larger than others and meets a spike x[k], y[j] ≈ x[k] W[j, k] is a spike as well.

use crate::error::Result;
use candle_core::Tensor;

/// |x|, (positions, channels).
pub(super) fn importance(x: &Tensor) -> Result<Tensor> {
    Ok(x.abs()?)
}
