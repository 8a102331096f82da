//! What a layer computes at each position alone.

use super::module::{ExpertsNorm, MlpOf, MlpRole, Modules, Role, Stack, StackOrder};

/// A layer's channel mixer.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // There is one a layer, and it is copied.
pub enum ChannelMixer {
    /// One gated MLP for all positions.
    Mlp(GatedMlp),
    /// Several gated MLPs of which a router picks some for each position.
    Experts(Experts),
    /// Both: the experts and their router read the residual, and each side has norms of its own (Gemma 4).
    MlpAndExperts(GatedMlp, Experts),
}

impl ChannelMixer {
    /// Channels of gated product that a position has.
    pub fn width(&self) -> usize {
        match self {
            ChannelMixer::Mlp(mlp) => mlp.intermediate_size,
            ChannelMixer::MlpAndExperts(mlp, experts) => {
                mlp.intermediate_size + experts.top_k * experts.expert.intermediate_size
            }
            ChannelMixer::Experts(experts) => {
                let shared = experts.shared.map_or(0, |shared| shared.mlp.intermediate_size);
                experts.top_k * experts.expert.intermediate_size + shared
            }
        }
    }

    /// Its gated MLP, or that of each expert.
    pub fn mlp(&self) -> &GatedMlp {
        match self {
            ChannelMixer::Mlp(mlp) | ChannelMixer::MlpAndExperts(mlp, _) => mlp,
            ChannelMixer::Experts(experts) => &experts.expert,
        }
    }

    /// Its experts, if it has any.
    pub fn experts(&self) -> Option<&Experts> {
        match self {
            ChannelMixer::Mlp(_) => None,
            ChannelMixer::Experts(experts) | ChannelMixer::MlpAndExperts(_, experts) => Some(experts),
        }
    }

    /// Adds its leaf modules, in the order in which they compute; the router last.
    pub(super) fn modules(&self, hidden: usize, to: &mut Modules) {
        match self {
            ChannelMixer::Mlp(mlp) => mlp.modules(mlp.names.module, MlpOf::Layer, None, hidden, to),
            ChannelMixer::Experts(experts) => experts.modules(hidden, to),
            ChannelMixer::MlpAndExperts(mlp, experts) => {
                mlp.modules(mlp.names.module, MlpOf::Layer, None, hidden, to);
                let mut norm = |name, at| to.norm(name, Role::AroundExperts(at), hidden, hidden);
                norm("post_feedforward_layernorm_1", ExpertsNorm::AfterMlp);
                norm("pre_feedforward_layernorm_2", ExpertsNorm::Before);
                norm("post_feedforward_layernorm_2", ExpertsNorm::After);
                experts.modules(hidden, to);
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
    /// The gate is cut off above this, up beyond this on both sides, and 1 is added to up (gpt-oss).
    pub limit: Option<f64>,
}

impl GatedMlp {
    /// Gate and up are one projection, the gate's rows first.
    pub fn is_fused(&self) -> bool {
        self.names.gate_up.1.is_none()
    }

    fn modules(&self, module: &str, of: MlpOf, stacks: Option<(&Experts, usize)>, hidden: usize, to: &mut Modules) {
        let wide = self.intermediate_size;
        let name = |name: &str| format!("{module}.{name}");
        let role = |part| Role::Mlp { part, of };
        let stack = |part, to: &Modules| stacks.and_then(|(experts, number)| experts.stack(part, number, hidden, to));
        let (first, up) = self.names.gate_up;
        match up {
            Some(_) => to.linear(&name(first), role(MlpRole::Gate), self.bias, hidden, wide),
            None => to.linear(&name(first), role(MlpRole::GateUp), self.bias, hidden, 2 * wide),
        }
        to.stacked(stack(MlpRole::Gate, to));
        if let Some(activation) = self.names.activation {
            to.function(&name(activation), role(MlpRole::Activation), wide);
        }
        if let Some(up) = up {
            to.linear(&name(up), role(MlpRole::Up), self.bias, hidden, wide);
            to.stacked(stack(MlpRole::Up, to));
        }
        to.linear(&name(self.names.down), role(MlpRole::Down), self.bias, wide, hidden);
        to.stacked(stack(MlpRole::Down, to));
    }
}

/// Module names of a gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedNames {
    /// The MLP's own, where it is its layer's only one.
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
    pub const USUAL: GatedNames = GatedNames {
        module: "mlp",
        gate_up: ("gate_proj", Some("up_proj")),
        activation: Some("act_fn"),
        down: "down_proj",
    };
    /// The usual ones where gate and up are one projection.
    pub const FUSED: GatedNames =
        GatedNames { gate_up: ("gate_up_proj", None), activation: Some("activation_fn"), ..GatedNames::USUAL };
    /// Those of Mixtral's experts.
    pub const NUMBERED: GatedNames = GatedNames { gate_up: ("w1", Some("w3")), down: "w2", ..GatedNames::USUAL };
}

/// The activation functions of gated MLPs.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// x · σ(α x), with this α.
    Swish(f64),
    /// x · Φ(x).
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// A mixture of experts: each position goes through the `top_k` experts that the router chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// The module that holds the router and the `experts`; nothing where the layer itself does.
    pub module: &'static str,
    /// The router's name in it.
    pub router: &'static str,
    /// Whether the router has a bias.
    pub router_bias: bool,
    /// How many experts a layer has.
    pub count: usize,
    /// How many of them the router sends each position through.
    pub top_k: usize,
    /// How experts are chosen and weighed.
    pub routing: Routing,
    /// The form of each expert; all have the same.
    pub expert: GatedMlp,
    /// How a file can hold all experts in one tensor; none where no loader takes that.
    pub stacks: Option<Stacks>,
    /// What all positions go through beside.
    pub shared: Option<Shared>,
}

/// An MLP beside the experts whose output is added to theirs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shared {
    /// Its module's path within the layer.
    pub module: &'static str,
    /// Its form.
    pub mlp: GatedMlp,
    /// The projection to one number, the sigmoid of which its output is multiplied by; its path within the layer.
    pub gate: Option<&'static str>,
}

/// How a file holds the experts of a layer in two tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stacks {
    /// What the two are called.
    pub names: StackNames,
    /// How their matrices are stored.
    pub order: StackOrder,
    /// Gate and up take turns among the outputs; else the gate's are the first half.
    pub interleaved: bool,
}

/// What two tensors of all experts are called, after the module that holds the experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackNames {
    /// The projections to gate and up.
    pub gate_up: &'static str,
    /// Those back to the residual's width.
    pub down: &'static str,
}

impl StackNames {
    /// The usual names.
    pub const USUAL: StackNames = StackNames { gate_up: "experts.gate_up_proj", down: "experts.down_proj" };
    /// Granite's.
    pub const LINEAR: StackNames = StackNames { gate_up: "input_linear.weight", down: "output_linear.weight" };
    /// All of them.
    pub const ALL: [StackNames; 2] = [StackNames::USUAL, StackNames::LINEAR];
}

/// From a router's logits to experts and their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// What makes scores of logits.
    pub scores: Scores,
    /// The vector that is added to scores where experts are chosen, by its name in the experts' module.
    pub correction: Option<&'static str>,
    /// Only experts of the best groups can be chosen.
    pub groups: Option<Groups>,
    /// The weights of the chosen are divided by their sum plus this.
    pub normalize: Option<f64>,
    /// Weights are then multiplied by this.
    pub scale: f64,
    /// The router's input is normed without weights, multiplied by a number a channel and divided by the root of their
    /// number; weights are multiplied by a number of each expert. Both lie beside the router (Gemma 4).
    pub is_normed: bool,
    /// The logits are computed in at least f32, with the router's weights as they are stored.
    pub wide: bool,
    /// The weights are rounded to the arithmetic's dtype before they multiply; else the product is taken in f32.
    pub round_weights: bool,
}

impl Routing {
    /// A softmax over all logits, of which the highest are chosen.
    pub const SOFTMAX: Routing = Routing {
        scores: Scores::Softmax,
        correction: None,
        groups: None,
        normalize: None,
        scale: 1.0,
        is_normed: false,
        wide: false,
        round_weights: true,
    };
}

/// What makes scores of a router's logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scores {
    /// A softmax over all experts.
    Softmax,
    /// σ of each.
    Sigmoid,
}

/// Groups of experts that follow each other, all of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: usize,
    /// How many of them experts are chosen from.
    pub kept: usize,
    /// A group is judged by the sum of its best so many scores.
    pub judged_by: usize,
}

impl Experts {
    /// What the names of tensors that belong to the experts of a layer begin with, after the layer's own.
    pub(super) fn prefix(&self) -> String {
        self.within("experts.")
    }

    /// The path within the layer of the tensor that holds this part of all experts, where a file can have one.
    pub(super) fn stack_path(&self, part: MlpRole) -> Option<String> {
        let StackNames { gate_up, down } = self.stacks?.names;
        Some(self.within(if part == MlpRole::Down { down } else { gate_up }))
    }

    /// The path within the layer of what has this name in the module.
    fn within(&self, name: &str) -> String {
        if self.module.is_empty() { name.to_owned() } else { format!("{}.{name}", self.module) }
    }

    /// The number of the expert that a path within the layer leads into.
    pub(super) fn number(&self, in_layer: &str) -> Option<usize> {
        in_layer.strip_prefix(&self.prefix())?.split_once('.')?.0.parse().ok()
    }

    fn modules(&self, hidden: usize, to: &mut Modules) {
        for number in to.experts(self.count) {
            let module = format!("{}{number}", self.prefix());
            self.expert.modules(&module, MlpOf::Expert(number), Some((self, number)), hidden, to);
        }
        if let Some(shared) = self.shared {
            shared.mlp.modules(shared.module, MlpOf::Shared, None, hidden, to);
            if let Some(gate) = shared.gate {
                to.linear(gate, Role::SharedGate, false, hidden, 1);
            }
        }
        if let Some(correction) = self.routing.correction {
            to.vector(&self.within(correction), Role::RouterCorrection, self.count);
        }
        if self.routing.is_normed {
            let module = self.within(self.router.split('.').next().unwrap_or_default());
            to.function(&format!("{module}.norm"), Role::RouterNorm, hidden);
            to.vector(&format!("{module}.scale"), Role::RouterScale, hidden);
            to.vector(&format!("{module}.per_expert_scale"), Role::ExpertScale, self.count);
        }
        to.linear(&self.within(self.router), Role::Router, self.router_bias, hidden, self.count);
    }

    /// Where a part of an expert lies in a tensor of all.
    fn stack(&self, part: MlpRole, expert: usize, hidden: usize, to: &Modules) -> Option<Stack> {
        let (stacks, wide) = (self.stacks?, self.expert.intermediate_size);
        let outputs = if part == MlpRole::Down { hidden } else { 2 * wide };
        let (first, step) = match (part, stacks.interleaved) {
            (MlpRole::Up, true) => (1, 2),
            (MlpRole::Up, false) => (wide, 1),
            (MlpRole::Gate, true) => (0, 2),
            _ => (0, 1),
        };
        let tensor = to.path(&self.stack_path(part)?);
        Some(Stack { tensor, experts: self.count, expert, outputs, first, step, order: stacks.order })
    }
}
