//! Gradient: the first-order effect of zeroing a channel at a position.
//!
//! NLL(a = 0) − NLL(a) ≈ −a · ∂NLL/∂a: the criterion of Molchanov et al. (2017, "Pruning Convolutional Neural Networks for
//! Resource Efficient Inference", § 2.2), and attribution patching (Nanda 2023; Syed et al. 2023) with zero as what is
//! patched in.

use super::stage::Stage;
use super::tally::Tally;
use crate::compute::{GradientHook, Row};
use crate::error::Result;
use crate::neuron::Site;
use candle_core::{DType, Tensor};

/// |a · ∂NLL/∂a|.
pub(super) fn rank(stage: Stage) -> Result<Tally> {
    let mut hook = Effect::of(stage);
    let layers = stage.model.recipe().layers.len();
    stage.progress.begin("importance", 2 * layers as u64, "layers");
    stage.model.gradients(&Row::clean(stage.tokens.clone()), &mut hook, stage.progress)?;
    stage.progress.end();
    Ok(hook.0)
}

/// What sees gradients on their way back.
pub(super) struct Effect(Tally);

impl Effect {
    pub fn of(stage: Stage) -> Effect {
        Effect(stage.tally())
    }
}

impl GradientHook for Effect {
    fn wants(&self, site: &Site) -> bool {
        self.0.order.contains_key(site)
    }

    fn on(&mut self, site: &Site, x: &Tensor, gradient: &Tensor) -> Result<()> {
        let effect = (x.to_dtype(DType::F32)? * gradient.to_dtype(DType::F32)?)?.abs()?;
        self.0.take(site, &effect)
    }
}
