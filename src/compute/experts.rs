//! Mixtures of experts.

use super::layer::Layer;
use super::mlp_of::{Among, Of};
use super::ops;
use crate::architecture::channel_mixer::{Experts, Scores};
use crate::architecture::module::Role;
use crate::error::Result;
use crate::neuron::{ModulePath, Side};
use candle_core::{D, DType, Device, Tensor};

/// Positions of a chunk, counted over groups, that go through one expert, and their weights.
struct Routed {
    positions: Vec<u32>,
    weights: Vec<f64>,
}

impl Layer<'_, '_, '_> {
    /// Every position through the experts that the router chooses for it, weighted, and through the MLP beside them
    /// where there is one; (groups, positions, hidden) in and out. The router reads `routed_by`.
    pub(super) fn experts(&mut self, e: &Experts, x: &Tensor, routed_by: &Tensor) -> Result<Tensor> {
        let (groups, positions, hidden) = x.dims3()?;
        let wide = ops::wide_dtype(x.dtype());
        let logits = self.router(e, routed_by)?.reshape((groups * positions, e.count))?.to_dtype(wide)?;
        let on_host: Vec<Vec<f64>> = logits.to_dtype(DType::F64)?.to_vec2()?;
        let correction = match e.routing.correction {
            Some(_) => self.numbers(Role::RouterCorrection)?,
            None => Vec::new(),
        };
        let factors = if e.routing.is_normed { self.numbers(Role::ExpertScale)? } else { Vec::new() };
        let flat = x.reshape((groups * positions, hidden))?;
        let mut sum = flat.zeros_like()?;
        let routed = route(&on_host, &correction, e);
        let followed = logits.track_op().then(|| followed_weights(&logits, &routed, e)).transpose()?;
        for (expert, routed) in routed.into_iter().enumerate() {
            if routed.positions.is_empty() {
                self.show_unrouted(expert, x)?;
                continue;
            }
            let count = routed.positions.len();
            let index = Tensor::from_vec(routed.positions, count, x.device())?;
            let chosen = flat.index_select(&index, 0)?.unsqueeze(0)?;
            let among = Among { expert, groups, positions, index: index.clone() };
            let y = self.gated_mlp(&e.expert, &chosen, &Of::Expert(among))?.squeeze(0)?;
            let factor = factors.get(expert).copied().unwrap_or(1.0);
            let weights = match &followed {
                Some(all) => (all.narrow(1, expert, 1)?.contiguous()?.index_select(&index, 0)? * factor)?,
                None => {
                    let weights = routed.weights.iter().map(|weight| weight * factor).collect();
                    Tensor::from_vec(weights, (count, 1), &Device::Cpu)?.to_dtype(wide)?.to_device(x.device())?
                }
            };
            let rounding = if e.routing.round_weights { x.dtype() } else { wide };
            let weights = weights.to_dtype(rounding)?;
            let y = y.to_dtype(rounding)?.broadcast_mul(&weights)?.to_dtype(x.dtype())?;
            sum = sum.index_add(&index, &y, 0)?;
        }
        let sum = sum.reshape((groups, positions, hidden))?;
        match &e.shared {
            Some(shared) => {
                let mut beside = self.gated_mlp(&shared.mlp, x, &Of::Shared)?;
                if shared.gate.is_some() {
                    beside = beside.broadcast_mul(&ops::sigmoid(&self.linear(Role::SharedGate, x)?)?)?;
                }
                Ok((sum + beside)?)
            }
            None => Ok(sum),
        }
    }

    /// The router's logits, in at least f32 where the family computes them so.
    fn router(&mut self, e: &Experts, x: &Tensor) -> Result<Tensor> {
        if e.routing.is_normed {
            let width = x.dim(D::Minus1)?;
            let x = self.norm_without_weights(Role::RouterNorm, x.clone(), width)?;
            let x = x.broadcast_mul(self.weights.module(Role::RouterScale)?.vector()?)?;
            return self.linear(Role::Router, &ops::scaled(&x, (width as f64).powf(-0.5))?);
        }
        if !e.routing.wide {
            return self.linear(Role::Router, x);
        }
        let module = self.weights.module(Role::Router)?;
        let x = self.tap.at(&module.path, Side::In, x.clone())?;
        self.tap.at(&module.path, Side::Out, module.linear(&x.to_dtype(ops::wide_dtype(x.dtype()))?)?)
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

/// For every expert, the positions routed to it. Of equal scores the first expert wins.
fn route(logits: &[Vec<f64>], correction: &[f64], e: &Experts) -> Vec<Routed> {
    let mut routed: Vec<Routed> = (0..e.count).map(|_| Routed { positions: Vec::new(), weights: Vec::new() }).collect();
    for (position, logits) in logits.iter().enumerate() {
        let scores = scores(logits, e.routing.scores);
        let chosen = choose(logits, &scores, correction, e);
        let over = e.routing.normalize.map_or(1.0, |epsilon| chosen.iter().map(|i| scores[*i]).sum::<f64>() + epsilon);
        for expert in chosen {
            routed[expert].positions.push(position as u32);
            routed[expert].weights.push(scores[expert] / over * e.routing.scale);
        }
    }
    routed
}

/// The weights of every position (positions, experts), 0 of those that it is not routed to, so that their gradient can be
/// followed to the router's logits. Which experts are chosen is taken as given: it changes by jumps.
fn followed_weights(logits: &Tensor, routed: &[Routed], e: &Experts) -> Result<Tensor> {
    let scores = match e.routing.scores {
        Scores::Softmax => candle_nn::ops::softmax(logits, D::Minus1)?,
        Scores::Sigmoid => candle_nn::ops::sigmoid(logits)?,
    };
    let mut chosen = vec![0f32; logits.elem_count()];
    for (expert, routed) in routed.iter().enumerate() {
        routed.positions.iter().for_each(|position| chosen[*position as usize * e.count + expert] = 1.0);
    }
    let chosen = Tensor::from_vec(chosen, logits.shape(), logits.device())?.to_dtype(logits.dtype())?;
    let chosen = (scores * chosen)?;
    let weights = match e.routing.normalize {
        Some(epsilon) => chosen.broadcast_div(&(chosen.sum_keepdim(D::Minus1)? + epsilon)?)?,
        None => chosen,
    };
    Ok((weights * e.routing.scale)?)
}

fn scores(logits: &[f64], kind: Scores) -> Vec<f64> {
    match kind {
        Scores::Softmax => {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exp: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
            let sum: f64 = exp.iter().sum();
            exp.into_iter().map(|exp| exp / sum).collect()
        }
        Scores::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
    }
}

/// The experts of one position, the best first.
fn choose(logits: &[f64], scores: &[f64], correction: &[f64], e: &Experts) -> Vec<usize> {
    // Logits, which are in the same order, do not run together where scores round to 0 or 1.
    let ranks: Vec<f64> = match correction {
        [] if e.routing.groups.is_none() => logits.to_vec(),
        [] => scores.to_vec(),
        correction => scores.iter().zip(correction).map(|(score, correction)| score + correction).collect(),
    };
    let mut order: Vec<usize> = (0..e.count).collect();
    if let Some(groups) = e.routing.groups {
        let size = e.count / groups.count;
        let judged: Vec<f64> = ranks
            .chunks(size)
            .map(|ranks| best(ranks, ranks.len()).iter().take(groups.judged_by).map(|i| ranks[*i]).sum())
            .collect();
        let kept = best(&judged, groups.kept);
        order.retain(|expert| kept.contains(&(expert / size)));
    }
    order.sort_by(|a, b| ranks[*b].total_cmp(&ranks[*a]).then(a.cmp(b)));
    order.truncate(e.top_k);
    order
}

/// Where the largest `count` of these stand, the largest first.
fn best(ranks: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by(|a, b| ranks[*b].total_cmp(&ranks[*a]).then(a.cmp(b)));
    order.truncate(count);
    order
}
