//! Inputs of each layer beside the residual: made before the layers, brought in after a layer's mixers.

use super::hook::Tap;
use super::layer::Layer;
use super::ops::{self, NormWeight};
use super::weights::Loader;
use crate::architecture::module::{LayerInputRole, Role};
use crate::architecture::recipe::{LAYER_EMBEDDING, LAYER_PROJECTION, LAYER_PROJECTION_NORM, LayerInputs, Recipe};
use crate::error::Result;
use crate::neuron::Side;
use candle_core::Tensor;

/// The weights that make them; the table of tokens is read row by row.
#[derive(Debug)]
pub(super) struct LayerInputWeights {
    projection: Tensor,
    norm: NormWeight,
    settings: LayerInputs,
}

impl LayerInputWeights {
    pub fn load(settings: LayerInputs, loader: &Loader<'_>) -> Result<LayerInputWeights> {
        let projection = loader.tensor(&format!("{LAYER_PROJECTION}.weight"))?;
        Ok(LayerInputWeights { projection, norm: loader.norm(LAYER_PROJECTION_NORM)?, settings })
    }

    /// The inputs of all layers, (positions, layers · width), of one group: `x` is its embedding, (1, positions, hidden),
    /// `of_tokens` its tokens' rows of the table.
    pub fn inputs(&self, recipe: &Recipe, of_tokens: &Tensor, x: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        let (LayerInputs { width, .. }, layers) = (self.settings, recipe.layers.len());
        let (_, positions, hidden) = x.dims3()?;
        let of_tokens = (of_tokens.unsqueeze(0)? * (width as f64).sqrt())?;
        let of_tokens = tap.at(&LAYER_EMBEDDING.parse()?, Side::Out, of_tokens)?;
        let projection = LAYER_PROJECTION.parse()?;
        let x = tap.at(&projection, Side::In, x.clone())?;
        let projected = ops::times(&x.reshape((positions, hidden))?, &self.projection)?.unsqueeze(0)?;
        let projected = ops::scaled(&tap.at(&projection, Side::Out, projected)?, (hidden as f64).powf(-0.5))?;
        let norm = LAYER_PROJECTION_NORM.parse()?;
        let projected = tap.at(&norm, Side::In, projected)?.reshape((1, positions, layers, width))?;
        let normed = ops::rms_norm(&projected, &self.norm, recipe.norm)?.reshape((1, positions, layers * width))?;
        let normed = tap.at(&norm, Side::Out, normed)?;
        Ok(ops::scaled(&(normed + of_tokens)?, 0.5f64.sqrt())?.squeeze(0)?)
    }
}

impl Layer<'_, '_, '_> {
    /// The residual stream with the layer's inputs brought in; (groups, positions, hidden) in and out.
    pub(super) fn bring_in(&mut self, x: Tensor) -> Result<Tensor> {
        let Some(inputs) = self.beside.inputs.clone() else { return Ok(x) };
        let role = Role::LayerInput;
        let gate = self.linear(role(LayerInputRole::Gate), &x)?;
        let module = self.weights.module(role(LayerInputRole::Activation))?;
        let gate = self.tap.at(&module.path, Side::In, gate)?;
        let activation = self.plan.channel_mixer.mlp().activation;
        let gate = self.tap.at(&module.path, Side::Out, ops::activation(&gate, activation)?)?;
        let h = self.linear(role(LayerInputRole::Projection), &(gate * inputs)?)?;
        Ok((x + self.norm(role(LayerInputRole::Norm), h)?)?)
    }
}
