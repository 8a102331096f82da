//! One decoder layer, from top to bottom.

use super::decoder::KeyValues;
use super::hook::Tap;
use super::ops::{self, RopeTable};
use super::weights::LayerWeights;
use crate::architecture::recipe::{LayerPlan, Recipe};
use crate::error::Result;
use crate::neuron::Side;
use candle_core::Tensor;

/// What a layer computes with, for one chunk of groups.
pub(crate) struct Layer<'a, 'b, 'c> {
    pub recipe: &'a Recipe,
    pub plan: &'a LayerPlan,
    pub weights: &'a LayerWeights,
    pub ropes: &'a [RopeTable],
    pub tap: Tap<'b>,
    /// What the layer keeps of the positions before those of the chunk, whose one group they are of.
    pub cache: Option<&'c mut KeyValues>,
}

impl Layer<'_, '_, '_> {
    /// The residual stream (groups, positions, hidden) after this layer.
    pub fn forward(&mut self, x: Tensor) -> Result<Tensor> {
        let block = self.recipe.block;
        let h = self.norm_if(block.before_attention, x.clone())?;
        let h = self.attention(&h)?;
        let h = self.pass_if(block.dropouts.map(|d| d.0), h)?;
        let h = self.norm_if(block.after_attention, h)?;
        let x = (x + h)?;
        let h = self.norm_if(block.before_mlp, x.clone())?;
        let h = self.mlp(&h)?;
        let h = self.pass_if(block.dropouts.map(|d| d.1), h)?;
        let h = self.norm_if(block.after_mlp, h)?;
        Ok((x + h)?)
    }

    /// A linear module with its hooks; (groups, positions, in) to (groups, positions, out).
    pub fn linear(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let x = self.tap.at(name, Side::In, x.clone())?;
        self.tap.at(name, Side::Out, self.weights.linear(name, &x)?)
    }

    /// A norm with its hooks, over as many channels at a time as it has weights.
    pub fn norm(&mut self, name: &str, x: Tensor) -> Result<Tensor> {
        let x = self.tap.at(name, Side::In, x)?;
        let weight = self.weights.norm(name)?;
        let (groups, positions, channels) = x.dims3()?;
        let parts = x.reshape((groups, positions, channels / weight.host.len(), weight.host.len()))?;
        let y = ops::rms_norm(&parts, weight, self.recipe.norm)?;
        self.tap.at(name, Side::Out, y.reshape((groups, positions, channels))?)
    }

    fn norm_if(&mut self, name: Option<&str>, x: Tensor) -> Result<Tensor> {
        match name {
            Some(name) => self.norm(name, x),
            None => Ok(x),
        }
    }

    /// A module that does nothing but be seen.
    fn pass_if(&mut self, name: Option<&str>, x: Tensor) -> Result<Tensor> {
        let Some(name) = name else { return Ok(x) };
        let x = self.tap.at(name, Side::In, x)?;
        self.tap.at(name, Side::Out, x)
    }
}
