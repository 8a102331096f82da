//! Multi-head latent attention.

use super::layer::Layer;
use super::ops::{self, Softmax};
use crate::architecture::latent_attention::LatentAttention;
use crate::architecture::module::{AttentionRole, Role};
use crate::architecture::recipe::Norm;
use crate::error::Result;
use candle_core::{D, Tensor};

impl Layer<'_, '_, '_> {
    /// Causal attention over keys and values that are projected from latent vectors; (groups, positions, hidden) in and
    /// out. What is kept are the latent vectors: keys and values are projected anew, so that hooks see those of all
    /// positions.
    pub(super) fn latent_attention(&mut self, a: &LatentAttention, x: &Tensor) -> Result<Tensor> {
        use AttentionRole::{KeyValue, KeyValueLatent, KeyValueLatentNorm, Output};
        let (groups, positions, _) = x.dims3()?;
        let (heads, plain, turned) = (a.heads, a.plain_dim, a.turned_dim);
        let q = self.latent_queries(a, x)?;
        let both = self.linear(Role::Attention(KeyValueLatent), x)?;
        let latent = both.narrow(D::Minus1, 0, a.key_value_latent)?;
        let latent = self.norm_as(Role::Attention(KeyValueLatentNorm), latent, self.latent_norm(a))?;
        let k_turned = both.narrow(D::Minus1, a.key_value_latent, turned)?;
        let k_turned = ops::to_heads(&k_turned, 1, Some(&self.ropes[a.rope]))?.squeeze(1)?;
        let (latent, k_turned) = match &mut self.cache {
            Some(cache) => cache.extend(latent, k_turned)?,
            None => (latent, k_turned),
        };
        let all = latent.dim(1)?;
        let keys_values = self.linear(Role::Attention(KeyValue), &latent)?;
        let keys_values = ops::to_heads(&keys_values, heads, None)?;
        let k_turned = k_turned.unsqueeze(1)?.broadcast_as((groups, heads, all, turned))?;
        let k = Tensor::cat(&[&keys_values.narrow(D::Minus1, 0, plain)?, &k_turned], D::Minus1)?;
        let v = keys_values.narrow(D::Minus1, plain, a.value_dim)?.contiguous()?;
        let (k, v) = (k.reshape((groups * heads, all, ()))?, v.reshape((groups * heads, all, a.value_dim))?);
        let scores = q.reshape((groups * heads, positions, a.head_dim()))?.matmul(&k.t()?)?;
        let softmax = Softmax { scale: a.scale, softcap: None, window: None, positions, sinks: &[] };
        let mixed = ops::causal_softmax(&scores, softmax, self.masks)?.matmul(&v)?;
        let mixed = mixed.reshape((groups, heads, positions, a.value_dim))?.transpose(1, 2)?;
        self.linear(Role::Attention(Output), &mixed.reshape((groups, positions, heads * a.value_dim))?)
    }

    /// (groups, heads, positions, width), turned.
    fn latent_queries(&mut self, a: &LatentAttention, x: &Tensor) -> Result<Tensor> {
        use AttentionRole::{Query, QueryLatent, QueryLatentNorm};
        let q = match a.query_latent {
            None => self.linear(Role::Attention(Query), x)?,
            Some(_) => {
                let latent = self.linear(Role::Attention(QueryLatent), x)?;
                let latent = self.norm_as(Role::Attention(QueryLatentNorm), latent, self.latent_norm(a))?;
                self.linear(Role::Attention(Query), &latent)?
            }
        };
        let (groups, positions, _) = q.dims3()?;
        let q = ops::to_heads(&q, a.heads, None)?;
        let last = q.narrow(D::Minus1, a.plain_dim, a.turned_dim)?.transpose(1, 2)?;
        let last = last.reshape((groups, positions, a.heads * a.turned_dim))?;
        let turned = ops::to_heads(&last, a.heads, Some(&self.ropes[a.rope]))?;
        let q = Tensor::cat(&[&q.narrow(D::Minus1, 0, a.plain_dim)?, &turned], D::Minus1)?;
        self.grown(a.query_growth, q)
    }

    fn latent_norm(&self, a: &LatentAttention) -> Norm {
        Norm { epsilon: a.norm_epsilon, ..self.recipe.norm }
    }
}
