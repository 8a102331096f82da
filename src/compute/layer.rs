//! One decoder layer, from top to bottom.

use super::batch::Group;
use super::cache::Kept;
use super::hook::Tap;
use super::mlp_of::Of;
use super::ops::{self, Masks, NormWeight, RopeTable};
use super::weights::LayerWeights;
use crate::architecture::channel_mixer::ChannelMixer;
use crate::architecture::module::{ExpertsNorm, MixerKind, Role};
use crate::architecture::recipe::{self, LayerInputs, Norm, Recipe};
use crate::architecture::token_mixer::TokenMixer;
use crate::error::Result;
use crate::neuron::Side;
use candle_core::{DType, Tensor};

/// What a layer computes with, for one chunk of groups.
pub(crate) struct Layer<'a, 'b, 'c> {
    pub recipe: &'a Recipe,
    pub plan: &'a recipe::Layer,
    pub weights: &'a LayerWeights,
    pub ropes: &'a [RopeTable],
    pub masks: &'a Masks,
    /// Of the text, up to the last of the chunk.
    pub positions: usize,
    pub tap: Tap<'b>,
    /// What the layer keeps of the positions before those of the chunk, whose one group they are of.
    pub cache: Option<&'c mut Kept>,
    /// What the groups have taken along for this layer.
    pub beside: Beside,
    /// Keys and values for later layers, where it lends them.
    pub lent: Option<(Tensor, Tensor)>,
}

/// What the groups of a chunk have taken along for a layer.
#[derive(Default)]
pub(super) struct Beside {
    /// The layer's inputs, (groups, positions, width).
    pub inputs: Option<Tensor>,
    /// Keys and values of an earlier layer, each (groups · key heads, positions, width).
    pub borrowed: Option<(Tensor, Tensor)>,
}

impl Beside {
    /// Of these groups, for this layer.
    pub fn of(recipe: &Recipe, index: usize, groups: &[Group]) -> Result<Beside> {
        let of_layer = |inputs: &Tensor, width| inputs.narrow(1, index * width, width);
        let inputs = recipe.layer_inputs.map(|LayerInputs { width, .. }| {
            let all = groups.iter().filter_map(|group| group.carried.inputs.as_ref());
            Tensor::stack(&all.map(|inputs| of_layer(inputs, width)).collect::<candle_core::Result<Vec<_>>>()?, 0)
        });
        let lender = recipe.attention(index).and_then(|attention| attention.borrows);
        let borrowed = lender.map(|lender| {
            let lent = || groups.iter().filter_map(|group| group.carried.lent.get(&lender));
            let (keys, values): (Vec<_>, Vec<_>) = lent().map(|(keys, values)| (keys, values)).unzip();
            Ok::<_, candle_core::Error>((Tensor::cat(&keys, 0)?, Tensor::cat(&values, 0)?))
        });
        Ok(Beside { inputs: inputs.transpose()?, borrowed: borrowed.transpose()? })
    }
}

impl Layer<'_, '_, '_> {
    /// The residual stream (groups, positions, hidden) after this layer.
    pub fn forward(&mut self, x: Tensor) -> Result<Tensor> {
        let read = self.norm_if(Role::NormBefore(MixerKind::Token), x.clone())?;
        let h = self.mix_tokens(&read)?;
        let x = (x + self.added(MixerKind::Token, h)?)?;
        let read = match self.recipe.block.is_parallel {
            true => read,
            false => self.norm_if(Role::NormBefore(MixerKind::Channel), x.clone())?,
        };
        let h = self.mix_channels(&read, &x)?;
        let x = (x + self.added(MixerKind::Channel, h)?)?;
        let x = self.bring_in(x)?;
        match self.weights.has(Role::LayerScale) {
            true => Ok(x.broadcast_mul(self.weights.module(Role::LayerScale)?.vector()?)?),
            false => Ok(x),
        }
    }

    /// (groups, positions, hidden) in and out.
    fn mix_tokens(&mut self, x: &Tensor) -> Result<Tensor> {
        match &self.plan.token_mixer {
            TokenMixer::Attention(attention) => self.attention(attention, x),
            TokenMixer::GatedDeltaNet(net) => self.gated_delta_net(net, x),
            TokenMixer::ShortConvolution(mixer) => self.short_convolution(mixer, x),
            TokenMixer::Latent(latent) => self.latent_attention(latent, x),
        }
    }

    /// (groups, positions, hidden) in and out; `residual` is what x was normed from.
    fn mix_channels(&mut self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.plan.channel_mixer {
            ChannelMixer::Mlp(mlp) => self.gated_mlp(mlp, x, &Of::Layer),
            ChannelMixer::Experts(experts) => self.experts(experts, x, x),
            ChannelMixer::MlpAndExperts(mlp, experts) => {
                let norm = Role::AroundExperts;
                let h = self.gated_mlp(mlp, x, &Of::Layer)?;
                let h = self.norm(norm(ExpertsNorm::AfterMlp), h)?;
                let x = self.norm(norm(ExpertsNorm::Before), residual.clone())?;
                let of_experts = self.experts(experts, &x, residual)?;
                Ok((h + self.norm(norm(ExpertsNorm::After), of_experts)?)?)
            }
        }
    }

    /// What a mixer adds to the residual, of what it puts out.
    fn added(&mut self, mixer: MixerKind, h: Tensor) -> Result<Tensor> {
        let h = self.pass_if(Role::Dropout(mixer), h)?;
        let h = self.norm_if(Role::NormAfter(mixer), h)?;
        match self.recipe.block.residual_multiplier {
            Some(multiplier) => Ok(ops::scaled(&h, multiplier)?),
            None => Ok(h),
        }
    }

    /// A linear module with its hooks; (groups, positions, in) to (groups, positions, out).
    pub fn linear(&mut self, role: Role, x: &Tensor) -> Result<Tensor> {
        let module = self.weights.module(role)?;
        let x = self.tap.at(&module.path, Side::In, x.clone())?;
        self.tap.at(&module.path, Side::Out, module.linear(&x)?)
    }

    /// The numbers of a vector, on the host.
    pub fn numbers(&self, role: Role) -> Result<Vec<f64>> {
        Ok(self.weights.module(role)?.vector()?.to_dtype(DType::F64)?.to_vec1()?)
    }

    /// A norm with its hooks, over as many channels at a time as it has weights.
    pub fn norm(&mut self, role: Role, x: Tensor) -> Result<Tensor> {
        self.norm_as(role, x, self.recipe.norm)
    }

    /// A norm of `width` channels at a time that has no weights, with its hooks.
    pub fn norm_without_weights(&mut self, role: Role, x: Tensor, width: usize) -> Result<Tensor> {
        let module = self.weights.module(role)?;
        let x = self.tap.at(&module.path, Side::In, x)?;
        let (groups, positions, channels) = x.dims3()?;
        let ones = NormWeight { host: vec![1.0; width], tensor: Tensor::ones(width, x.dtype(), x.device())? };
        let y = ops::rms_norm(&x.reshape((groups, positions, channels / width, width))?, &ones, self.recipe.norm)?;
        self.tap.at(&module.path, Side::Out, y.reshape((groups, positions, channels))?)
    }

    /// A norm that is computed otherwise than the others of the model.
    pub fn norm_as(&mut self, role: Role, x: Tensor, norm: Norm) -> Result<Tensor> {
        let module = self.weights.module(role)?;
        let x = self.tap.at(&module.path, Side::In, x)?;
        let weight = module.norm()?;
        let (groups, positions, channels) = x.dims3()?;
        let parts = x.reshape((groups, positions, channels / weight.host.len(), weight.host.len()))?;
        let y = ops::rms_norm(&parts, weight, norm)?;
        self.tap.at(&module.path, Side::Out, y.reshape((groups, positions, channels))?)
    }

    /// A norm, where the layer has it.
    fn norm_if(&mut self, role: Role, x: Tensor) -> Result<Tensor> {
        if self.weights.has(role) { self.norm(role, x) } else { Ok(x) }
    }

    /// A module that does nothing but be seen, where the layer has it.
    fn pass_if(&mut self, role: Role, x: Tensor) -> Result<Tensor> {
        if !self.weights.has(role) {
            return Ok(x);
        }
        let module = self.weights.module(role)?;
        let x = self.tap.at(&module.path, Side::In, x)?;
        self.tap.at(&module.path, Side::Out, x)
    }
}
