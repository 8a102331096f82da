//! What brings a layer's positions together.

use super::latent_attention::LatentAttention;
use super::module::{AttentionRole, Modules, Role};
use super::rope::QueryGrowth;

/// A layer's token mixer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TokenMixer {
    /// Softmax attention whose query heads share the keys and values of a group.
    Attention(GroupedQueryAttention),
    /// Softmax attention whose keys and values are made of a narrow latent vector.
    Latent(LatentAttention),
}

impl TokenMixer {
    /// Numbers that it keeps of `positions` positions for those after them.
    pub fn kept(&self, positions: usize) -> usize {
        match self {
            TokenMixer::Attention(attention) => 2 * attention.key_width() * positions,
            TokenMixer::Latent(latent) => latent.kept_width() * positions,
        }
    }

    /// Numbers that it needs for each position of a text of `positions` at its widest point: queries, keys and values
    /// as they are projected, turned and mixed, and two matrices of scores.
    pub fn width(&self, positions: usize) -> usize {
        match self {
            TokenMixer::Attention(a) => 3 * (a.query_width() + a.key_width()) + 2 * a.heads * positions,
            TokenMixer::Latent(a) => 3 * a.heads * (a.head_dim() + a.value_dim) + 2 * a.heads * positions,
        }
    }

    /// Adds its leaf modules, in the order in which they compute.
    pub(super) fn modules(&self, hidden: usize, to: &mut Modules) {
        match self {
            TokenMixer::Attention(attention) => attention.modules(hidden, to),
            TokenMixer::Latent(latent) => latent.modules(hidden, to),
        }
    }
}

/// Multi-head attention with grouped keys and values (Ainslie et al. 2023).
#[derive(Debug, Clone, PartialEq)]
pub struct GroupedQueryAttention {
    /// How many query heads there are.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of one query, key or value.
    pub head_dim: usize,
    /// q, k and v are one projection, `qkv_proj`, with their rows in this order.
    pub fused: bool,
    /// Whether the projections to queries, keys and values have a bias each.
    pub qkv_bias: bool,
    /// Whether the projection back has a bias.
    pub o_bias: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The names of these.
    pub qk_norm_names: [&'static str; 2],
    /// They come after the rotary embedding.
    pub norm_after_rope: bool,
    /// What q · k is multiplied by before the softmax.
    pub scale: f64,
    /// Scores then become c · tanh(scores / c).
    pub softcap: Option<f64>,
    /// A position sees this many, itself included; all before it where none.
    pub window: Option<usize>,
    /// Each head has a sink: a score of its own beside those of the positions, for nothing.
    pub sinks: bool,
    /// Index into [`Recipe::ropes`](super::Recipe::ropes); none where nothing tells positions apart but the mask.
    pub rope: Option<usize>,
    /// Queries grow with their position.
    pub query_growth: Option<QueryGrowth>,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// Each head by itself, one weight for all heads.
    PerHead,
    /// One norm over the channels of all heads together.
    AllHeads,
}

impl GroupedQueryAttention {
    /// Channels of all queries.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of all keys, and of all values.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn modules(&self, hidden: usize, to: &mut Modules) {
        use AttentionRole::{Key, KeyNorm, Output, Query, QueryKeyValue, QueryNorm, Sinks, Value};
        let (q, kv) = (self.query_width(), self.key_width());
        if self.fused {
            to.linear("self_attn.qkv_proj", Role::Attention(QueryKeyValue), self.qkv_bias, hidden, q + 2 * kv);
        } else {
            to.linear("self_attn.q_proj", Role::Attention(Query), self.qkv_bias, hidden, q);
            to.linear("self_attn.k_proj", Role::Attention(Key), self.qkv_bias, hidden, kv);
            to.linear("self_attn.v_proj", Role::Attention(Value), self.qkv_bias, hidden, kv);
        }
        let widths = match self.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some((self.head_dim, self.head_dim)),
            QkNorm::AllHeads => Some((q, kv)),
        };
        if let Some((q_width, k_width)) = widths {
            let [q_name, k_name] = self.qk_norm_names.map(|name| format!("self_attn.{name}"));
            to.norm(&q_name, Role::Attention(QueryNorm), q_width, q);
            to.norm(&k_name, Role::Attention(KeyNorm), k_width, kv);
        }
        if self.sinks {
            to.vector("self_attn.sinks", Role::Attention(Sinks), self.heads);
        }
        to.linear("self_attn.o_proj", Role::Attention(Output), self.o_bias, q, hidden);
    }
}
