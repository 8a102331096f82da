//! Gated delta nets (Yang et al. 2025), as Qwen3-Next and Qwen3.5 have them.

use super::channel_mixer::Activation;
use super::module::{DeltaRole, Modules, Role};

/// A token mixer whose heads each keep a matrix S: a position decays it, corrects what it holds for the position's key
/// and reads it with the position's query. Queries, keys and values go through a short convolution first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatedDeltaNet {
    /// How many heads queries and keys have.
    pub key_heads: usize,
    /// Heads of values; a multiple of `key_heads`, so that neighbouring ones share a query and a key.
    pub value_heads: usize,
    /// Channels of one query or key.
    pub key_dim: usize,
    /// Channels of one value.
    pub value_dim: usize,
    /// Positions that the convolution sees, its own included.
    pub kernel: usize,
    /// What the convolution puts out goes through this.
    pub activation: Activation,
    /// How its inputs are projected.
    pub inputs: DeltaInputs,
}

/// The projections into a gated delta net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaInputs {
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b` and `in_proj_a`: all heads of one kind after those of another.
    Apart,
    /// `in_proj_qkvz` and `in_proj_ba`: for each key head what is its, kind by kind.
    ByKeyHead,
}

impl GatedDeltaNet {
    /// Channels of all queries, and of all keys.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Channels of all values.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Channels of queries, keys and values together.
    pub fn mixed_width(&self) -> usize {
        2 * self.key_width() + self.value_width()
    }

    /// Numbers that it keeps of all earlier positions: the convolution's last inputs, and S of each head.
    pub(super) fn kept(&self) -> usize {
        (self.kernel - 1) * self.mixed_width() + self.value_heads * self.key_dim * self.value_dim
    }

    /// Numbers that it needs for each position at its widest point.
    pub(super) fn width(&self) -> usize {
        4 * self.mixed_width() + 4 * self.value_width()
    }

    pub(super) fn modules(&self, hidden: usize, to: &mut Modules) {
        let (heads, values, mixed) = (self.value_heads, self.value_width(), self.mixed_width());
        let mut linear = |name: &str, role, inputs, outputs| {
            to.linear(&format!("linear_attn.{name}"), Role::DeltaNet(role), false, inputs, outputs);
        };
        match self.inputs {
            DeltaInputs::Apart => {
                linear("in_proj_qkv", DeltaRole::QueryKeyValue, hidden, mixed);
                linear("in_proj_z", DeltaRole::Gate, hidden, values);
                linear("in_proj_b", DeltaRole::Strength, hidden, heads);
                linear("in_proj_a", DeltaRole::Decay, hidden, heads);
            }
            DeltaInputs::ByKeyHead => {
                linear("in_proj_qkvz", DeltaRole::QueryKeyValueGate, hidden, mixed + values);
                linear("in_proj_ba", DeltaRole::StrengthDecay, hidden, 2 * heads);
            }
        }
        to.convolution("linear_attn.conv1d", Role::DeltaNet(DeltaRole::Convolution), mixed, self.kernel, false);
        to.vector("linear_attn.dt_bias", Role::DeltaNet(DeltaRole::DecayBias), heads);
        to.vector("linear_attn.A_log", Role::DeltaNet(DeltaRole::DecayRate), heads);
        to.norm("linear_attn.norm", Role::DeltaNet(DeltaRole::Norm), self.value_dim, values);
        to.linear("linear_attn.out_proj", Role::DeltaNet(DeltaRole::Output), false, values, hidden);
    }
}
