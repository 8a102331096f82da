//! Multi-head latent attention (DeepSeek-V2, 2024) as data.

use super::module::{AttentionRole, Modules, Role};
use super::rope::QueryGrowth;

/// Attention whose keys and values are projected from a narrow latent vector of each position. Only some channels of
/// queries and keys are turned by the rotary embedding; those of the keys are the same in all heads.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentAttention {
    /// How many heads there are.
    pub heads: usize,
    /// Width of the latent vector that queries are made of; none where they are projected at once.
    pub query_latent: Option<usize>,
    /// Width of the latent vector that keys and values are made of.
    pub key_value_latent: usize,
    /// Channels of a query or key that are not turned: the first.
    pub plain_dim: usize,
    /// Channels of a query or key that are turned: the last.
    pub turned_dim: usize,
    /// Channels of a value.
    pub value_dim: usize,
    /// Whether the projections to latent vectors, and the one back, have a bias each.
    pub bias: bool,
    /// ε of the latent vectors' norms.
    pub norm_epsilon: f64,
    /// What q · k is multiplied by before the softmax.
    pub scale: f64,
    /// Index into [`Recipe::ropes`](super::Recipe::ropes).
    pub rope: usize,
    /// Queries grow with their position.
    pub query_growth: Option<QueryGrowth>,
}

impl LatentAttention {
    /// Channels of one query or key.
    pub fn head_dim(&self) -> usize {
        self.plain_dim + self.turned_dim
    }

    /// Numbers that are kept of each position for those after it: the latent vector, normed, and the turned channels.
    pub(super) fn kept_width(&self) -> usize {
        self.key_value_latent + self.turned_dim
    }

    pub(super) fn modules(&self, hidden: usize, to: &mut Modules) {
        use AttentionRole::{
            KeyValue, KeyValueLatent, KeyValueLatentNorm, Output, Query, QueryLatent, QueryLatentNorm,
        };
        let queries = self.heads * self.head_dim();
        match self.query_latent {
            None => to.linear("self_attn.q_proj", Role::Attention(Query), false, hidden, queries),
            Some(latent) => {
                to.linear("self_attn.q_a_proj", Role::Attention(QueryLatent), self.bias, hidden, latent);
                to.norm("self_attn.q_a_layernorm", Role::Attention(QueryLatentNorm), latent, latent);
                to.linear("self_attn.q_b_proj", Role::Attention(Query), false, latent, queries);
            }
        }
        let (latent, kept) = (self.key_value_latent, self.kept_width());
        to.linear("self_attn.kv_a_proj_with_mqa", Role::Attention(KeyValueLatent), self.bias, hidden, kept);
        to.norm("self_attn.kv_a_layernorm", Role::Attention(KeyValueLatentNorm), latent, latent);
        let keys_values = self.heads * (self.plain_dim + self.value_dim);
        to.linear("self_attn.kv_b_proj", Role::Attention(KeyValue), false, latent, keys_values);
        to.linear("self_attn.o_proj", Role::Attention(Output), self.bias, self.heads * self.value_dim, hidden);
    }
}
