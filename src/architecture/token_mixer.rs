//! What brings a layer's positions together.

use super::gated_delta_net::GatedDeltaNet;
use super::latent_attention::LatentAttention;
use super::module::{AttentionRole, Modules, Role};
use super::rope::QueryGrowth;
use super::short_convolution::ShortConvolution;

/// A layer's token mixer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TokenMixer {
    /// Softmax attention whose query heads share the keys and values of a group.
    Attention(GroupedQueryAttention),
    /// A memory of fixed size that each position decays, corrects and reads.
    GatedDeltaNet(GatedDeltaNet),
    /// A convolution over the last few positions.
    ShortConvolution(ShortConvolution),
    /// Softmax attention whose keys and values are made of a narrow latent vector.
    Latent(LatentAttention),
}

impl TokenMixer {
    /// Numbers that it keeps of `positions` positions for those after them.
    pub fn kept(&self, positions: usize) -> usize {
        match self {
            TokenMixer::Attention(attention) if attention.borrows.is_some() => 0,
            TokenMixer::Attention(attention) => 2 * attention.key_width() * positions,
            TokenMixer::GatedDeltaNet(net) => net.kept(),
            TokenMixer::ShortConvolution(mixer) => (mixer.kernel - 1) * mixer.channels,
            TokenMixer::Latent(latent) => latent.kept_width() * positions,
        }
    }

    /// Numbers that it needs for each position of a text of `positions` at its widest point: queries, keys and values
    /// as they are projected, turned and mixed, and two matrices of scores.
    pub fn width(&self, positions: usize) -> usize {
        match self {
            TokenMixer::Attention(a) => 3 * (a.query_width() + a.key_width()) + 2 * a.heads * positions,
            TokenMixer::GatedDeltaNet(net) => net.width(),
            TokenMixer::ShortConvolution(mixer) => 8 * mixer.channels,
            TokenMixer::Latent(a) => 3 * a.heads * (a.head_dim() + a.value_dim) + 2 * a.heads * positions,
        }
    }

    /// Numbers of each position that it lends to later layers.
    pub(super) fn lent_width(&self) -> usize {
        match self {
            TokenMixer::Attention(attention) if attention.lends => 2 * attention.key_width(),
            _ => 0,
        }
    }

    /// Adds its leaf modules, in the order in which they compute.
    pub(super) fn modules(&self, hidden: usize, to: &mut Modules) {
        match self {
            TokenMixer::Attention(attention) => attention.modules(hidden, to),
            TokenMixer::GatedDeltaNet(net) => net.modules(hidden, to),
            TokenMixer::ShortConvolution(mixer) => mixer.modules(hidden, to),
            TokenMixer::Latent(latent) => latent.modules(hidden, to),
        }
    }
}

/// Multi-head attention with grouped keys and values (Ainslie et al. 2023).
#[derive(Debug, Clone, PartialEq)]
pub struct GroupedQueryAttention {
    /// What some of its modules are called.
    pub names: AttentionNames,
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
    /// The projection to queries puts out a gate after each head's query, which what the head mixes is multiplied by the
    /// sigmoid of.
    pub gated: bool,
    /// Values are keys before their norm and rotation, and have no projection.
    pub keys_are_values: bool,
    /// Each head's values are normed, without weights.
    pub value_norm: bool,
    /// Keys and values are those of this earlier layer, and have no projections.
    pub borrows: Option<usize>,
    /// Keys and values serve later layers, too.
    pub lends: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
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

/// Names of modules within `self_attn` that families differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionNames {
    /// The projection back to the residual's width.
    pub output: &'static str,
    /// The norm of queries.
    pub query_norm: &'static str,
    /// The norm of keys.
    pub key_norm: &'static str,
}

impl AttentionNames {
    /// The usual names.
    pub const USUAL: AttentionNames = AttentionNames { output: "o_proj", query_norm: "q_norm", key_norm: "k_norm" };
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
        use AttentionRole::{Key, KeyNorm, Output, Query, QueryKeyValue, QueryNorm, Sinks, Value, ValueNorm};
        let (q, kv) = (self.query_width(), self.key_width());
        let name = |name: &str| format!("self_attn.{name}");
        if self.fused {
            to.linear("self_attn.qkv_proj", Role::Attention(QueryKeyValue), self.qkv_bias, hidden, q + 2 * kv);
        } else {
            let with_gates = if self.gated { 2 * q } else { q };
            to.linear("self_attn.q_proj", Role::Attention(Query), self.qkv_bias, hidden, with_gates);
            if self.borrows.is_none() {
                to.linear("self_attn.k_proj", Role::Attention(Key), self.qkv_bias, hidden, kv);
            }
            if self.borrows.is_none() && !self.keys_are_values {
                to.linear("self_attn.v_proj", Role::Attention(Value), self.qkv_bias, hidden, kv);
            }
        }
        let widths = match self.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some((self.head_dim, self.head_dim)),
            QkNorm::AllHeads => Some((q, kv)),
        };
        if let Some((q_width, k_width)) = widths {
            to.norm(&name(self.names.query_norm), Role::Attention(QueryNorm), q_width, q);
            if self.borrows.is_none() {
                to.norm(&name(self.names.key_norm), Role::Attention(KeyNorm), k_width, kv);
            }
        }
        if self.value_norm && self.borrows.is_none() {
            to.function("self_attn.v_norm", Role::Attention(ValueNorm), kv);
        }
        if self.sinks {
            to.vector("self_attn.sinks", Role::Attention(Sinks), self.heads);
        }
        to.linear(&name(self.names.output), Role::Attention(Output), self.o_bias, q, hidden);
    }
}
