//! Which of a layer's MLPs computes, and for which positions.

use crate::architecture::module::{MlpOf, MlpRole, Role};
use candle_core::Tensor;

/// Which of a layer's MLPs computes.
pub(super) enum Of {
    /// Its only one.
    Layer,
    /// The one beside its experts.
    Shared,
    /// An expert, for some positions of the chunk, as one group.
    Expert(Among),
}

impl Of {
    /// What its part does in the layer.
    pub fn role(&self, part: MlpRole) -> Role {
        let of = match self {
            Of::Layer => MlpOf::Layer,
            Of::Shared => MlpOf::Shared,
            Of::Expert(among) => MlpOf::Expert(among.expert),
        };
        Role::Mlp { part, of }
    }

    /// The positions that are computed, where these are not all.
    pub fn among(&self) -> Option<&Among> {
        match self {
            Of::Expert(among) => Some(among),
            Of::Layer | Of::Shared => None,
        }
    }
}

/// Which positions of a chunk a tensor holds: those of one expert.
pub(super) struct Among {
    pub expert: usize,
    pub groups: usize,
    pub positions: usize,
    pub index: Tensor,
}
