//! Multi-head attention with grouped keys and values.

use super::layer::Layer;
use super::ops::{self, Softmax};
use crate::architecture::module::{AttentionRole, Role};
use crate::architecture::rope::QueryGrowth;
use crate::architecture::token_mixer::{GroupedQueryAttention, QkNorm};
use crate::error::{Error, Result};
use candle_core::{D, Device, Tensor};

/// What positions are projected to, each (groups, positions, heads · width).
struct Projected {
    queries: Tensor,
    /// None where they are another layer's.
    keys_values: Option<(Tensor, Tensor)>,
    /// What is mixed is multiplied by the sigmoid of this.
    gate: Option<Tensor>,
}

impl Layer<'_, '_, '_> {
    /// Causal attention; (groups, positions, hidden) in and out. With a cache, what comes in are the positions after
    /// those it holds.
    pub(super) fn attention(&mut self, a: &GroupedQueryAttention, x: &Tensor) -> Result<Tensor> {
        let (groups, positions, _) = x.dims3()?;
        let (heads, kv_heads, width) = (a.heads, a.kv_heads, a.head_dim);
        let Projected { queries, keys_values, gate } = self.queries_keys_values(a, x)?;
        let rope = a.rope.map(|rope| &self.ropes[rope]);
        // Query heads that share a key head lie beside each other, so they become more queries of that key head.
        let mut q = ops::to_heads(&queries, heads, rope)?;
        if a.norm_after_rope {
            q = self.norm_heads(AttentionRole::QueryNorm, q)?;
        }
        let q = self.grown(a.query_growth, q)?;
        let q = q.reshape((groups * kv_heads, heads / kv_heads * positions, width))?;
        let (k, v) = match keys_values {
            Some((keys, values)) => {
                let mut k = ops::to_heads(&keys, kv_heads, rope)?;
                if a.norm_after_rope {
                    k = self.norm_heads(AttentionRole::KeyNorm, k)?;
                }
                let k = k.reshape((groups * kv_heads, positions, width))?;
                let v = ops::to_heads(&values, kv_heads, None)?.reshape((groups * kv_heads, positions, width))?;
                match &mut self.cache {
                    Some(cache) => cache.extend(k, v)?,
                    None => (k, v),
                }
            }
            None => self
                .beside
                .borrowed
                .clone()
                .ok_or_else(|| Error::Compute("no layer has lent keys and values".into()))?,
        };
        if a.lends {
            self.lent = Some((k.clone(), v.clone()));
        }
        let scores = q.matmul(&k.t()?)?;
        let sinks = if a.sinks { self.numbers(Role::Attention(AttentionRole::Sinks))? } else { Vec::new() };
        let softmax = Softmax { scale: a.scale, softcap: a.softcap, window: a.window, positions, sinks: &sinks };
        let mixed = ops::causal_softmax(&scores, softmax, self.masks)?.matmul(&v)?;
        let mixed = mixed.reshape((groups, heads, positions, width))?.transpose(1, 2)?;
        let mut mixed = mixed.reshape((groups, positions, heads * width))?;
        if let Some(gate) = gate {
            mixed = (mixed * ops::sigmoid(&gate)?)?;
        }
        self.linear(Role::Attention(AttentionRole::Output), &mixed)
    }

    /// The norm of queries or keys that are turned already; (groups, heads, positions, width) in and out.
    fn norm_heads(&mut self, role: AttentionRole, x: Tensor) -> Result<Tensor> {
        let (groups, heads, positions, width) = x.dims4()?;
        let flat = x.transpose(1, 2)?.reshape((groups, positions, heads * width))?;
        Ok(ops::to_heads(&self.norm(Role::Attention(role), flat)?, heads, None)?)
    }

    /// Queries (groups, heads, positions, width) of the last positions, times what they grow by.
    pub(super) fn grown(&self, growth: Option<QueryGrowth>, q: Tensor) -> Result<Tensor> {
        let Some(growth) = growth else { return Ok(q) };
        let (positions, all) = (q.dim(2)?, self.positions);
        let factors: Vec<f64> = (all - positions..all).map(|position| growth.factor(position)).collect();
        let factors = Tensor::from_vec(factors, (1, 1, positions, 1), &Device::Cpu)?;
        // As the authors' code does it: in f32, then rounded.
        let factors = factors.to_dtype(ops::wide_dtype(q.dtype()))?.to_dtype(q.dtype())?.to_device(q.device())?;
        Ok(q.broadcast_mul(&factors)?)
    }

    /// Normed where the family norms them before they are turned.
    fn queries_keys_values(&mut self, a: &GroupedQueryAttention, x: &Tensor) -> Result<Projected> {
        use AttentionRole::{Key, KeyNorm, Query, QueryKeyValue, QueryNorm, Value, ValueNorm};
        let (queries, keys_values) = if a.fused {
            let all = self.linear(Role::Attention(QueryKeyValue), x)?;
            let (q, kv) = (a.query_width(), a.key_width());
            let part = |from, width| all.narrow(D::Minus1, from, width);
            (part(0, q)?, Some((part(q, kv)?, part(q + kv, kv)?)))
        } else {
            let q = self.linear(Role::Attention(Query), x)?;
            if a.borrows.is_some() {
                (q, None)
            } else {
                let k = self.linear(Role::Attention(Key), x)?;
                let v = if a.keys_are_values { k.clone() } else { self.linear(Role::Attention(Value), x)? };
                (q, Some((k, v)))
            }
        };
        let (mut queries, gate) = if a.gated {
            let (groups, positions, _) = x.dims3()?;
            let both = queries.reshape((groups, positions, a.heads, 2 * a.head_dim))?;
            let half = |from| both.narrow(D::Minus1, from, a.head_dim)?.reshape((groups, positions, a.query_width()));
            (half(0)?, Some(half(a.head_dim)?))
        } else {
            (queries, None)
        };
        let is_normed = a.qk_norm != QkNorm::None && !a.norm_after_rope;
        if is_normed {
            queries = self.norm(Role::Attention(QueryNorm), queries)?;
        }
        let Some((mut keys, mut values)) = keys_values else { return Ok(Projected { queries, keys_values, gate }) };
        if is_normed {
            keys = self.norm(Role::Attention(KeyNorm), keys)?;
        }
        if a.value_norm {
            values = self.norm_without_weights(Role::Attention(ValueNorm), values, a.head_dim)?;
        }
        Ok(Projected { queries, keys_values: Some((keys, values)), gate })
    }
}
