//! Mixtures of experts.

use super::layer::Layer;
use super::ops;
use crate::architecture::channel_mixer::Experts;
use crate::architecture::module::Role;
use crate::error::Result;
use crate::neuron::{ModulePath, Side};
use candle_core::{D, DType, Tensor};

/// Positions of a chunk, counted over groups, that go through one expert, and their weights.
struct Routed {
    positions: Vec<u32>,
    weights: Vec<f64>,
}

impl Layer<'_, '_, '_> {
    /// Every position through the experts that the router scores highest, weighted by a softmax over all scores;
    /// (groups, positions, hidden) in and out.
    pub(super) fn experts(&mut self, e: &Experts, x: &Tensor) -> Result<Tensor> {
        let (groups, positions, hidden) = x.dims3()?;
        let scores = self.linear(Role::Router, x)?;
        let wide = ops::wide_dtype(x.dtype());
        let scores: Vec<Vec<f64>> =
            scores.reshape((groups * positions, e.count))?.to_dtype(wide)?.to_dtype(DType::F64)?.to_vec2()?;
        let flat = x.reshape((groups * positions, hidden))?;
        let mut sum = flat.zeros_like()?;
        for (expert, routed) in route(&scores, e).into_iter().enumerate() {
            if routed.positions.is_empty() {
                self.show_unrouted(expert, x)?;
                continue;
            }
            let count = routed.positions.len();
            let index = Tensor::from_vec(routed.positions, count, x.device())?;
            let among = Among { expert, groups, positions, index };
            let chosen = flat.index_select(&among.index, 0)?.unsqueeze(0)?;
            let y = self.gated_mlp(&e.expert, &chosen, Some(&among))?.squeeze(0)?;
            let weights = Tensor::from_vec(routed.weights, (count, 1), &candle_core::Device::Cpu)?;
            let rounding = if e.round_weights { x.dtype() } else { wide };
            let weights = weights.to_dtype(wide)?.to_dtype(rounding)?.to_device(x.device())?;
            let y = y.to_dtype(rounding)?.broadcast_mul(&weights)?.to_dtype(x.dtype())?;
            sum = sum.index_add(&among.index, &y, 0)?;
        }
        Ok(sum.reshape((groups, positions, hidden))?)
    }

    /// Shows zeros to the hooks of an expert that no position of the chunk is routed to.
    fn show_unrouted(&mut self, expert: usize, x: &Tensor) -> Result<()> {
        let (groups, positions, _) = x.dims3()?;
        for module in self.weights.of_expert(expert) {
            for (side, channels) in [(Side::In, module.inputs), (Side::Out, module.outputs)] {
                if self.tap.is_watched(&module.path, side) {
                    let zeros = Tensor::zeros((groups, positions, channels), x.dtype(), x.device())?;
                    self.tap.at(&module.path, side, zeros)?;
                }
            }
        }
        Ok(())
    }

    /// A hook point. Hooks of an expert see all positions of all rows, with zeros where a position was not routed to
    /// it; what they change there is dropped.
    pub(super) fn at(&mut self, module: &ModulePath, side: Side, x: Tensor, among: Option<&Among>) -> Result<Tensor> {
        let Some(among) = among else { return self.tap.at(module, side, x) };
        if !self.tap.is_watched(module, side) {
            return Ok(x);
        }
        let channels = x.dim(D::Minus1)?;
        let all = Tensor::zeros((among.groups * among.positions, channels), x.dtype(), x.device())?;
        let all = all.index_add(&among.index, &x.squeeze(0)?, 0)?;
        let all = self.tap.at(module, side, all.reshape((among.groups, among.positions, channels))?)?;
        let all = all.reshape((among.groups * among.positions, channels))?;
        Ok(all.index_select(&among.index, 0)?.unsqueeze(0)?)
    }
}

/// Which positions of a chunk a tensor holds: those of one expert.
pub(super) struct Among {
    pub expert: usize,
    groups: usize,
    positions: usize,
    index: Tensor,
}

/// For every expert, the positions routed to it. Of equal scores the first expert wins.
fn route(scores: &[Vec<f64>], e: &Experts) -> Vec<Routed> {
    let mut routed: Vec<Routed> = (0..e.count).map(|_| Routed { positions: Vec::new(), weights: Vec::new() }).collect();
    for (position, scores) in scores.iter().enumerate() {
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exp: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let mut order: Vec<usize> = (0..e.count).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        order.truncate(e.top_k);
        let over: f64 = if e.normalize { order.iter().map(|i| exp[*i]).sum() } else { exp.iter().sum() };
        for expert in order {
            routed[expert].positions.push(position as u32);
            routed[expert].weights.push(exp[expert] / over);
        }
    }
    routed
}
