//! What a layer computes at each position alone.

use super::module::{MlpRole, Modules, Role};

/// A layer's channel mixer.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ChannelMixer {
    /// One gated MLP for all positions.
    Mlp(GatedMlp),
    /// Several gated MLPs of which a router picks some for each position.
    Experts(Experts),
}

impl ChannelMixer {
    /// Channels of gated product that a position has.
    pub fn width(&self) -> usize {
        match self {
            ChannelMixer::Mlp(mlp) => mlp.intermediate_size,
            ChannelMixer::Experts(experts) => experts.top_k * experts.expert.intermediate_size,
        }
    }

    /// Its gated MLP, or that of each expert.
    pub fn mlp(&self) -> &GatedMlp {
        match self {
            ChannelMixer::Mlp(mlp) => mlp,
            ChannelMixer::Experts(experts) => &experts.expert,
        }
    }

    /// Adds its leaf modules, in the order in which they compute; the router last.
    pub(super) fn modules(&self, hidden: usize, to: &mut Modules) {
        match self {
            ChannelMixer::Mlp(mlp) => mlp.modules(mlp.names.module, None, hidden, to),
            ChannelMixer::Experts(e) => {
                for number in to.experts(e.count) {
                    e.expert.modules(&format!("{}.experts.{number}", e.module), Some(number), hidden, to);
                }
                to.linear(&format!("{}.gate", e.module), Role::Router, false, hidden, e.count);
            }
        }
    }
}

/// A gated MLP: down(act(gate(x)) * up(x)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatedMlp {
    /// Its modules' names, after the MLP's own.
    pub names: GatedNames,
    /// Width of the gated product.
    pub intermediate_size: usize,
    /// The gate's activation.
    pub activation: Activation,
    /// Whether gate, up and down each have a bias.
    pub bias: bool,
}

impl GatedMlp {
    /// Gate and up are one projection, the gate's rows first.
    pub fn is_fused(&self) -> bool {
        self.names.gate_up.1.is_none()
    }

    fn modules(&self, module: &str, expert: Option<usize>, hidden: usize, to: &mut Modules) {
        let wide = self.intermediate_size;
        let name = |name: &str| format!("{module}.{name}");
        let role = |part| Role::Mlp { part, expert };
        let (first, up) = self.names.gate_up;
        match up {
            Some(_) => to.linear(&name(first), role(MlpRole::Gate), self.bias, hidden, wide),
            None => to.linear(&name(first), role(MlpRole::GateUp), self.bias, hidden, 2 * wide),
        }
        if let Some(activation) = self.names.activation {
            to.function(&name(activation), role(MlpRole::Activation), wide);
        }
        if let Some(up) = up {
            to.linear(&name(up), role(MlpRole::Up), self.bias, hidden, wide);
        }
        to.linear(&name(self.names.down), role(MlpRole::Down), self.bias, wide, hidden);
    }
}

/// Module names of a gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedNames {
    /// The MLP's own, of an MLP that is its layer's only one.
    pub module: &'static str,
    /// The gate and the projection beside it; where the second is none, the first holds both, the gate's rows first.
    pub gate_up: (&'static str, Option<&'static str>),
    /// The activation's own module, which has a site but no weights; none where it is no module.
    pub activation: Option<&'static str>,
    /// The projection back to the residual's width.
    pub down: &'static str,
}

impl GatedNames {
    /// The usual names.
    pub const USUAL: GatedNames =
        GatedNames { module: "mlp", gate_up: ("gate_proj", Some("up_proj")), activation: Some("act_fn"), down: "down_proj" };
}

/// The activation functions of gated MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// x · Φ(x).
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// A mixture of experts: each position goes through the `top_k` experts that the router scores highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// The module that holds the router (`gate`) and the `experts`.
    pub module: &'static str,
    /// How many experts a layer has.
    pub count: usize,
    /// How many of them the router sends each position through.
    pub top_k: usize,
    /// The weights of the chosen are divided by their sum.
    pub normalize: bool,
    /// The weights are rounded to the arithmetic's dtype before they multiply; else the product is taken in f32.
    pub round_weights: bool,
    /// The form of each expert; all have the same.
    pub expert: GatedMlp,
}

impl Experts {
    /// What the names of tensors that belong to the experts of a layer begin with, after the layer's own.
    pub(super) fn prefix(&self) -> String {
        format!("{}.experts.", self.module)
    }

    /// The number of the expert that a path within the layer leads into.
    pub(super) fn number(&self, in_layer: &str) -> Option<usize> {
        in_layer.strip_prefix(&self.prefix())?.split_once('.')?.0.parse().ok()
    }
}
