//! Super weights: spikes of what goes into and comes out of the MLPs' last projections.
//!
//! Yu et al. (2024, "The Super Weight in Large Language Models", arXiv 2411.07191, § 3) find a super weight from one pass,
//! by the largest activations that go into each layer's `down_proj` (which tells its column) and come out of it (which
//! tells its row): where W[j, k] is far larger than others and meets a spike x[k], y[j] ≈ x[k] W[j, k] is a spike as well.

use super::stage::Stage;
use super::tally::Tally;
use crate::compute::Hook;
use crate::error::Result;
use crate::neuron::Site;
use candle_core::Tensor;

/// |a|, of the sites of these projections.
pub(super) fn rank(stage: Stage) -> Result<Tally> {
    let mut hook = Spikes::of(stage);
    stage.trace_first(0..0, &mut hook)?;
    Ok(hook.0)
}

/// What sees the clean row pass.
pub(super) struct Spikes(Tally);

impl Spikes {
    pub fn of(stage: Stage) -> Spikes {
        Spikes(stage.tally())
    }
}

impl Hook for Spikes {
    fn wants(&self, site: &Site) -> bool {
        self.0.order.contains_key(site)
    }

    fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        self.0.take(site, &x.get(0)?.abs()?)?;
        Ok(None)
    }
}
