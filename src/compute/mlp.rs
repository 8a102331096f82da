//! Gated MLPs, alone and as a mixture of experts.

use super::layer::Layer;
use super::ops;
use crate::architecture::recipe::{Experts, Gated, MLP, Mlp};
use crate::error::Result;
use crate::neuron::Side;
use candle_core::{D, DType, Tensor};

/// Positions of a chunk, counted over groups, that go through one expert, and their weights.
struct Routed {
    positions: Vec<u32>,
    weights: Vec<f64>,
}

impl Layer<'_, '_, '_> {
    /// (groups, positions, hidden) in and out.
    pub(super) fn mlp(&mut self, x: &Tensor) -> Result<Tensor> {
        match self.plan.mlp {
            Mlp::Dense(mlp) => self.gated(MLP, mlp, x, None),
            Mlp::Experts(experts) => self.experts(experts, x),
        }
    }

    /// down(act(gate(x)) * up(x)). With `among`, x holds only some positions of the chunk: those it lists, as one
    /// group.
    fn gated(&mut self, module: &str, mlp: Gated, x: &Tensor, among: Option<&Among>) -> Result<Tensor> {
        let name = |name: &str| format!("{module}.{name}");
        let (gate, up) = match mlp.names.gate_up {
            (gate, Some(up)) => {
                let gate = self.linear_among(&name(gate), x, among)?;
                (gate, self.linear_among(&name(up), x, among)?)
            }
            (both, None) => {
                let both = self.linear_among(&name(both), x, among)?;
                let wide = mlp.intermediate_size;
                (both.narrow(D::Minus1, 0, wide)?, both.narrow(D::Minus1, wide, wide)?)
            }
        };
        let act = name(mlp.names.activation);
        let gate = self.at(&act, Side::In, gate, among)?;
        let gate = self.at(&act, Side::Out, ops::activation(&gate, mlp.activation)?, among)?;
        self.linear_among(&name(mlp.names.down), &(gate * up)?, among)
    }

    /// Every position through the experts that the router scores highest, weighted by a softmax over all scores.
    fn experts(&mut self, e: Experts, x: &Tensor) -> Result<Tensor> {
        let (groups, positions, hidden) = x.dims3()?;
        let scores = self.linear(&format!("{}.gate", e.module), x)?;
        let wide = ops::wide_dtype(x.dtype());
        let scores: Vec<Vec<f64>> =
            scores.reshape((groups * positions, e.count))?.to_dtype(wide)?.to_dtype(DType::F64)?.to_vec2()?;
        let flat = x.reshape((groups * positions, hidden))?;
        let mut sum = flat.zeros_like()?;
        for (number, routed) in route(&scores, e).into_iter().enumerate() {
            if routed.positions.is_empty() {
                self.show_unrouted(&format!("{}.experts.{number}", e.module), e.expert, x)?;
                continue;
            }
            let count = routed.positions.len();
            let index = Tensor::from_vec(routed.positions, count, x.device())?;
            let among = Among { groups, positions, index };
            let chosen = flat.index_select(&among.index, 0)?.unsqueeze(0)?;
            let module = format!("{}.experts.{number}", e.module);
            let y = self.gated(&module, e.expert, &chosen, Some(&among))?.squeeze(0)?;
            let weights = Tensor::from_vec(routed.weights, (count, 1), &candle_core::Device::Cpu)?;
            let rounding = if e.round_weights { x.dtype() } else { wide };
            let weights = weights.to_dtype(wide)?.to_dtype(rounding)?.to_device(x.device())?;
            let y = y.to_dtype(rounding)?.broadcast_mul(&weights)?.to_dtype(x.dtype())?;
            sum = sum.index_add(&among.index, &y, 0)?;
        }
        Ok(sum.reshape((groups, positions, hidden))?)
    }

    /// Shows zeros to the hooks of an expert that no position of the chunk is routed to.
    fn show_unrouted(&mut self, module: &str, expert: Gated, x: &Tensor) -> Result<()> {
        let (groups, positions, hidden) = x.dims3()?;
        let (wide, names) = (expert.intermediate_size, expert.names);
        let (gate, up) = names.gate_up;
        let gated = if up.is_some() { wide } else { 2 * wide };
        let sites = [
            Some((gate, hidden, gated)),
            Some((names.activation, wide, wide)),
            up.map(|up| (up, hidden, wide)),
            Some((names.down, wide, hidden)),
        ];
        for (name, inputs, outputs) in sites.into_iter().flatten() {
            for (side, channels) in [(Side::In, inputs), (Side::Out, outputs)] {
                let name = format!("{module}.{name}");
                if self.tap.is_watched(&name, side)? {
                    self.tap.at(&name, side, Tensor::zeros((groups, positions, channels), x.dtype(), x.device())?)?;
                }
            }
        }
        Ok(())
    }

    fn linear_among(&mut self, name: &str, x: &Tensor, among: Option<&Among>) -> Result<Tensor> {
        let x = self.at(name, Side::In, x.clone(), among)?;
        let y = self.weights.linear(name, &x)?;
        self.at(name, Side::Out, y, among)
    }

    /// A hook point. Hooks of an expert see all positions of all rows, with zeros where a position was not routed to
    /// it; what they change there is dropped.
    fn at(&mut self, name: &str, side: Side, x: Tensor, among: Option<&Among>) -> Result<Tensor> {
        let Some(among) = among else { return self.tap.at(name, side, x) };
        if !self.tap.is_watched(name, side)? {
            return Ok(x);
        }
        let channels = x.dim(D::Minus1)?;
        let all = Tensor::zeros((among.groups * among.positions, channels), x.dtype(), x.device())?;
        let all = all.index_add(&among.index, &x.squeeze(0)?, 0)?;
        let all = self.tap.at(name, side, all.reshape((among.groups, among.positions, channels))?)?;
        let all = all.reshape((among.groups * among.positions, channels))?;
        Ok(all.index_select(&among.index, 0)?.unsqueeze(0)?)
    }
}

/// Which positions of a chunk a tensor holds.
struct Among {
    groups: usize,
    positions: usize,
    index: Tensor,
}

/// For every expert, the positions routed to it. Of equal scores the first expert wins.
fn route(scores: &[Vec<f64>], e: Experts) -> Vec<Routed> {
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
