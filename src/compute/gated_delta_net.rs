//! Gated delta nets.

use super::layer::Layer;
use super::ops::{self, DeltaRule};
use crate::architecture::channel_mixer::Activation;
use crate::architecture::gated_delta_net::{DeltaInputs, GatedDeltaNet};
use crate::architecture::module::{DeltaRole, Role};
use crate::architecture::recipe::{Norm, NormStyle};
use crate::error::Result;
use crate::neuron::Side;
use candle_core::{D, Tensor};

/// What a position is projected to, each (groups, positions, channels).
struct Projected {
    /// Queries, keys and values, one after the other.
    mixed: Tensor,
    gate: Tensor,
    strength: Tensor,
    decay: Tensor,
}

impl Layer<'_, '_, '_> {
    /// (groups, positions, hidden) in and out. With a cache, what comes in are the positions after those whose memory it
    /// holds.
    pub(super) fn gated_delta_net(&mut self, net: &GatedDeltaNet, x: &Tensor) -> Result<Tensor> {
        let (groups, positions, _) = x.dims3()?;
        let Projected { mixed, gate, strength, decay } = self.projected(net, x)?;
        let mixed = self.convolve(Role::DeltaNet(DeltaRole::Convolution), &mixed)?;
        let wide = ops::wide_dtype(x.dtype());
        let mixed = ops::activation(&mixed, net.activation)?.to_dtype(wide)?;
        let heads = |from, heads, width| {
            mixed.narrow(D::Minus1, from, heads * width)?.reshape((groups, positions, heads, width))
        };
        let (keys, values) = (net.key_width(), net.value_width());
        let rule = DeltaRule {
            queries: (ops::unit_length(&heads(0, net.key_heads, net.key_dim)?)? * (net.key_dim as f64).powf(-0.5))?,
            keys: ops::unit_length(&heads(keys, net.key_heads, net.key_dim)?)?,
            values: heads(2 * keys, net.value_heads, net.value_dim)?,
            strengths: ops::sigmoid(&strength)?.to_dtype(wide)?,
            decays: self.decays(&decay)?,
        };
        let read = match &mut self.cache {
            None if mixed.track_op() => rule.followed()?,
            None => rule.apply(None)?.0,
            Some(cache) => {
                let (read, memory) = rule.apply(cache.memory.as_ref())?;
                cache.memory = Some(memory);
                read
            }
        };
        let read = read.to_dtype(x.dtype())?.reshape((groups, positions, values))?;
        let normed = self.gated_norm(read, &gate, net.value_dim)?;
        self.linear(Role::DeltaNet(DeltaRole::Output), &normed)
    }

    fn projected(&mut self, net: &GatedDeltaNet, x: &Tensor) -> Result<Projected> {
        let mut linear = |role| self.linear(Role::DeltaNet(role), x);
        if net.inputs == DeltaInputs::Apart {
            return Ok(Projected {
                mixed: linear(DeltaRole::QueryKeyValue)?,
                gate: linear(DeltaRole::Gate)?,
                strength: linear(DeltaRole::Strength)?,
                decay: linear(DeltaRole::Decay)?,
            });
        }
        let (first, second) = (linear(DeltaRole::QueryKeyValueGate)?, linear(DeltaRole::StrengthDecay)?);
        let (groups, positions, _) = x.dims3()?;
        let part = |of: &Tensor, from, width| {
            let by_head = of.reshape((groups, positions, net.key_heads, ()))?;
            by_head.narrow(D::Minus1, from, width)?.reshape((groups, positions, net.key_heads * width))
        };
        let (key, shared) = (net.key_dim, net.value_heads / net.key_heads);
        let value = shared * net.value_dim;
        let mixed = [part(&first, 0, key)?, part(&first, key, key)?, part(&first, 2 * key, value)?];
        Ok(Projected {
            mixed: Tensor::cat(&mixed, D::Minus1)?,
            gate: part(&first, 2 * key + value, value)?,
            strength: part(&second, 0, shared)?,
            decay: part(&second, shared, shared)?,
        })
    }

    /// The share of its memory that each head keeps at each position, (groups, positions, heads), in f32 or wider:
    /// exp(−exp(rate) · softplus(decay + bias)).
    fn decays(&self, decay: &Tensor) -> Result<Tensor> {
        let wide = ops::wide_dtype(decay.dtype());
        let vector = |role| self.weights.module(Role::DeltaNet(role))?.vector();
        let bias = vector(DeltaRole::DecayBias)?.to_dtype(wide)?;
        let rate = vector(DeltaRole::DecayRate)?.to_dtype(wide)?;
        let step = ops::softplus(&decay.to_dtype(wide)?.broadcast_add(&bias)?)?;
        Ok(step.broadcast_mul(&rate.exp()?.neg()?)?.exp()?)
    }

    /// Each head normed by itself, times w, times silu(gate).
    fn gated_norm(&mut self, x: Tensor, gate: &Tensor, width: usize) -> Result<Tensor> {
        let module = self.weights.module(Role::DeltaNet(DeltaRole::Norm))?;
        let x = self.tap.at(&module.path, Side::In, x)?;
        let (groups, positions, channels) = x.dims3()?;
        let norm = Norm { style: NormStyle::RoundThenWeight, ..self.recipe.norm };
        let heads = x.reshape((groups, positions, channels / width, width))?;
        let normed = ops::rms_norm(&heads, module.norm()?, norm)?.reshape(x.shape())?;
        let wide = ops::wide_dtype(x.dtype());
        let gate = ops::activation(&gate.to_dtype(wide)?, Activation::Silu)?;
        let y = (normed.to_dtype(wide)? * gate)?.to_dtype(x.dtype())?;
        self.tap.at(&module.path, Side::Out, y)
    }
}
