//! Hooks: what sees, and may change, the activations on the way through the decoder.

use crate::error::Result;
use crate::neuron::{Action, Intervention, ModulePath, Side, Site};
use candle_core::Tensor;

/// Sees activations as they flow; see [`Model::trace`](super::Model::trace).
pub trait Hook {
    /// Whether this hook wants to see `site`. Asked before a tensor is prepared for it.
    fn wants(&self, site: &Site) -> bool;

    /// `x` is (groups, positions, channels), in the arithmetic's dtype, after interventions. `rows[g]` are the rows of
    /// the batch that share `x[g]`: rows that no intervention has told apart yet are computed once. All groups of one
    /// layer pass before any of the next, in one or more calls. To change what flows on, return the changed tensor.
    ///
    /// # Errors
    /// Whatever the hook cannot do.
    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>>;

    /// Every row has passed decoder layer `layer`.
    ///
    /// # Errors
    /// Whatever the hook cannot do.
    fn layer_done(&mut self, layer: usize) -> Result<()> {
        let _ = layer;
        Ok(())
    }
}

/// The hook that wants nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHook;

impl Hook for NoHook {
    fn wants(&self, _: &Site) -> bool {
        false
    }

    fn on(&mut self, _: &Site, _: &[Vec<usize>], _: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// Interventions and hooks at the sites of one layer, for the groups of one chunk.
pub(crate) struct Tap<'a> {
    /// For every group of the chunk, its rows.
    pub rows: &'a [Vec<usize>],
    /// For every group of the chunk, its interventions in this layer.
    pub interventions: &'a [Vec<Intervention>],
    /// The caller's hook.
    pub hook: &'a mut dyn Hook,
}

impl Tap<'_> {
    /// Whether an intervention or the hook waits at `side` of a module.
    pub fn is_watched(&self, module: &ModulePath, side: Side) -> bool {
        let site = Site { module: module.clone(), side };
        let intervened = self.interventions.iter().flatten().any(|i| i.neuron.site == site);
        intervened || self.hook.wants(&site)
    }

    /// What flows on at `side` of a module when `x`, (groups, positions, channels), arrives.
    pub fn at(&mut self, module: &ModulePath, side: Side, x: Tensor) -> Result<Tensor> {
        let site = Site { module: module.clone(), side };
        let x = self.intervene(&site, x)?;
        if !self.hook.wants(&site) {
            return Ok(x);
        }
        Ok(self.hook.on(&site, self.rows, &x)?.unwrap_or(x))
    }

    fn intervene(&self, site: &Site, x: Tensor) -> Result<Tensor> {
        let mine = |of: &Vec<Intervention>| of.iter().any(|i| i.neuron.site == *site);
        if !self.interventions.iter().any(mine) {
            return Ok(x);
        }
        let (groups, _, channels) = x.dims3()?;
        let mut keep = vec![1u8; groups * channels];
        let mut factor = vec![0f64; groups * channels];
        let mut value = vec![0f64; groups * channels];
        for (group, interventions) in self.interventions.iter().enumerate() {
            for Intervention { neuron, action } in interventions.iter().filter(|i| i.neuron.site == *site) {
                let at = group * channels + neuron.channel;
                keep[at] = 0;
                (factor[at], value[at]) = match *action {
                    Action::Zero => (0.0, 0.0),
                    Action::Scale(beta) => (beta, 0.0),
                    Action::Set(value) => (0.0, value),
                };
            }
        }
        let device = x.device();
        let shape = (groups, 1, channels);
        let tensor =
            |v: Vec<f64>| Tensor::from_vec(v, shape, &candle_core::Device::Cpu)?.to_dtype(x.dtype())?.to_device(device);
        // A zeroed or set value must not see what was there: infinity times 0 would be NaN.
        let scaled: Vec<u8> = factor.iter().map(|f| u8::from(*f != 0.0)).collect();
        let scaled = Tensor::from_vec(scaled, shape, device)?.broadcast_as(x.shape())?;
        let keep = Tensor::from_vec(keep, shape, device)?.broadcast_as(x.shape())?;
        let (factor, value) = (tensor(factor)?, tensor(value)?.broadcast_as(x.shape())?);
        let changed = scaled.where_cond(&x.broadcast_mul(&factor)?, &value)?;
        Ok(keep.where_cond(&x, &changed)?)
    }
}
