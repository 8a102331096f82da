//! One decoder layer, from top to bottom.

use super::hook::Tap;
use super::ops::{self, RopeTable, Softmax};
use super::recipe::Recipe;
use super::weights::LayerWeights;
use crate::error::Result;
use crate::neuron::Side;
use candle_core::Tensor;

/// What a layer computes with, for one chunk of groups.
pub(crate) struct Layer<'a, 'b> {
    pub recipe: &'a Recipe,
    pub index: usize,
    pub weights: &'a LayerWeights,
    pub ropes: &'a [RopeTable],
    pub tap: Tap<'b>,
}

impl Layer<'_, '_> {
    /// The residual stream (groups, positions, hidden) after this layer.
    pub fn forward(&mut self, x: Tensor) -> Result<Tensor> {
        let block = self.recipe.block;
        let h = self.norm(block.before_attention, &x)?;
        let x = (&x + self.attention(&h)?)?;
        let h = self.norm(block.before_mlp, &x)?;
        Ok((&x + self.mlp(&h)?)?)
    }

    /// Multi-head attention with grouped keys and values, causal; (groups, positions, hidden) in and out.
    fn attention(&mut self, x: &Tensor) -> Result<Tensor> {
        let a = &self.recipe.attention;
        let (groups, positions, _) = x.dims3()?;
        let (heads, kv_heads, width) = (a.heads, a.kv_heads, a.head_dim);
        let q = self.linear("self_attn.q_proj", x)?;
        let k = self.linear("self_attn.k_proj", x)?;
        let v = self.linear("self_attn.v_proj", x)?;
        let rope = &self.ropes[self.recipe.layers[self.index].rope];
        // Query heads that share a key head lie beside each other, so they become more queries of that key head.
        let q = ops::to_heads(&q, heads, Some(rope))?;
        let q = q.reshape((groups * kv_heads, heads / kv_heads * positions, width))?;
        let k = ops::to_heads(&k, kv_heads, Some(rope))?.reshape((groups * kv_heads, positions, width))?;
        let v = ops::to_heads(&v, kv_heads, None)?.reshape((groups * kv_heads, positions, width))?;
        let scores = q.matmul(&k.t()?)?;
        let weights = ops::causal_softmax(&scores, Softmax { scale: a.scale })?;
        let mixed = weights.matmul(&v)?.reshape((groups, heads, positions, width))?;
        let mixed = mixed.transpose(1, 2)?.reshape((groups, positions, heads * width))?;
        self.linear("self_attn.o_proj", &mixed)
    }

    /// down(act(gate(x)) * up(x)); (groups, positions, hidden) in and out.
    fn mlp(&mut self, x: &Tensor) -> Result<Tensor> {
        let activation = self.recipe.layers[self.index].mlp.activation;
        let gate = self.linear("mlp.gate_proj", x)?;
        let gate = self.tap.at("mlp.act_fn", Side::In, gate)?;
        let gate = self.tap.at("mlp.act_fn", Side::Out, ops::activation(&gate, activation)?)?;
        let up = self.linear("mlp.up_proj", x)?;
        self.linear("mlp.down_proj", &(gate * up)?)
    }

    fn linear(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let x = self.tap.at(name, Side::In, x.clone())?;
        self.tap.at(name, Side::Out, self.weights.linear(name, &x)?)
    }

    fn norm(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let x = self.tap.at(name, Side::In, x.clone())?;
        let y = ops::rms_norm(&x, self.weights.norm(name)?, self.recipe.norm)?;
        self.tap.at(name, Side::Out, y)
    }
}
