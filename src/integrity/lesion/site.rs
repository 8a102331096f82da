//! The sides of a decoder layer's linear modules, and what their channels are.

use crate::architecture::module::{AttentionRole, MlpRole, Role};
use crate::architecture::names;
use crate::neuron::Side;

/// A linear module of a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Kind {
    pub const ALL: [Kind; 7] = [Kind::Q, Kind::K, Kind::V, Kind::O, Kind::Gate, Kind::Up, Kind::Down];

    fn role(self) -> Role {
        match self {
            Kind::Q => Role::Attention(AttentionRole::Query),
            Kind::K => Role::Attention(AttentionRole::Key),
            Kind::V => Role::Attention(AttentionRole::Value),
            Kind::O => Role::Attention(AttentionRole::Output),
            Kind::Gate => Role::mlp(MlpRole::Gate),
            Kind::Up => Role::mlp(MlpRole::Up),
            Kind::Down => Role::mlp(MlpRole::Down),
        }
    }

    /// Its path within the layer: indicators are looked for in checkpoints of unknown families too, so it is the usual
    /// one.
    pub fn module(self) -> &'static str {
        names::usual(self.role()).unwrap_or_default()
    }
}

/// One side of it: rows (out) or columns (in).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Site {
    pub kind: Kind,
    pub side: Side,
}

/// Those whose channels are the residual stream's.
pub(super) const RESIDUAL: [Site; 7] = [
    Site { kind: Kind::O, side: Side::Out },
    Site { kind: Kind::Down, side: Side::Out },
    Site { kind: Kind::Q, side: Side::In },
    Site { kind: Kind::K, side: Side::In },
    Site { kind: Kind::V, side: Side::In },
    Site { kind: Kind::Gate, side: Side::In },
    Site { kind: Kind::Up, side: Side::In },
];

/// Those whose channels are the MLP's intermediate neurons.
pub(super) const INTERMEDIATE: [Site; 3] = [
    Site { kind: Kind::Gate, side: Side::Out },
    Site { kind: Kind::Up, side: Side::Out },
    Site { kind: Kind::Down, side: Side::In },
];

/// All: rows of each kind, then columns of each kind.
pub(super) const SITES: [Site; 14] = {
    let mut sites = [Site { kind: Kind::Q, side: Side::Out }; 14];
    let mut at = 0;
    while at < 7 {
        sites[at] = Site { kind: Kind::ALL[at], side: Side::Out };
        sites[at + 7] = Site { kind: Kind::ALL[at], side: Side::In };
        at += 1;
    }
    sites
};

/// Whose channels a site has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// The residual stream's, in all layers the same.
    Residual,
    /// The MLP's intermediate neurons, of one layer.
    Intermediate,
    /// Those of attention heads, of one layer.
    Heads,
}

impl Site {
    /// Where it stands in [`SITES`].
    pub fn index(self) -> usize {
        self.kind as usize + if self.side == Side::In { Kind::ALL.len() } else { 0 }
    }

    pub fn space(self) -> Space {
        if RESIDUAL.contains(&self) {
            Space::Residual
        } else if INTERMEDIATE.contains(&self) {
            Space::Intermediate
        } else {
            Space::Heads
        }
    }
}

/// How attention heads share keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    /// Of queries.
    pub queries: usize,
    /// Of keys and of values.
    pub keys: usize,
    /// Channels of a head, an even number.
    pub channels: usize,
}

impl Heads {
    /// The channel of `other` that belongs to channel `at` of `kind`: the same one of the head that shares it (the
    /// first of them).
    pub fn partner(self, kind: Kind, other: Kind, at: usize) -> usize {
        let share = self.queries / self.keys;
        let (head, channel) = (at / self.channels, at % self.channels);
        let per_query = |kind| matches!(kind, Kind::Q | Kind::O);
        let head = match (per_query(kind), per_query(other)) {
            (true, false) => head / share,
            (false, true) => head * share,
            _ => head,
        };
        head * self.channels + channel
    }
}
