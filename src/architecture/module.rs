//! Leaf modules: what a decoder is made of, and what its hooks can see.

use crate::neuron::{Side, Site};
use std::ops::Range;

/// A leaf of the module tree: what a hook sees the input and the output of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The checkpoint's own path.
    pub path: String,
    /// The layer that it is in; none outside of them.
    pub layer: Option<usize>,
    /// What it is in its layer, or in the model.
    pub role: Role,
    /// What it is made of.
    pub kind: ModuleKind,
    /// Channels of a position that go in.
    pub inputs: usize,
    /// Channels of a position that come out.
    pub outputs: usize,
    /// Where it lies in a file that holds all experts of a layer in one tensor.
    pub stack: Option<Stack>,
}

/// The part of a tensor of all experts that is one module's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The tensor, of a matrix an expert. That of the biases is called the same with `_bias` after it.
    pub tensor: String,
    /// How many matrices there are.
    pub experts: usize,
    /// Which of them it is.
    pub expert: usize,
    /// Outputs of the whole matrix.
    pub outputs: usize,
    /// Which of them are the module's: the first, and how far it is from one to the next.
    pub first: usize,
    /// See `first`.
    pub step: usize,
    /// How a matrix is stored.
    pub order: StackOrder,
}

/// How the matrices of a stack are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackOrder {
    /// [out, in].
    OutIn,
    /// [in, out] where elements are stored as themselves, [out, in] where they are packed (gpt-oss).
    InOutUnlessPacked,
    /// [out, in] where the shape is that, else [in, out] (Qwen3-VL, as transformers 5 reads it).
    ByShape,
}

impl Stack {
    /// The shape that the tensor is to have, and whether its matrices are [in, out]; `found` is the shape that it has.
    pub(crate) fn shape(&self, inputs: usize, found: &[usize], is_packed: bool) -> (Vec<usize>, bool) {
        let straight = vec![self.experts, self.outputs, inputs];
        let is_straight = match self.order {
            StackOrder::OutIn => true,
            StackOrder::InOutUnlessPacked => is_packed,
            StackOrder::ByShape => found == straight,
        };
        if is_straight { (straight, false) } else { (vec![self.experts, inputs, self.outputs], true) }
    }

    /// The tensor of its biases.
    pub fn bias(&self) -> String {
        format!("{}_bias", self.tensor)
    }

    /// The output of the matrix that is the module's `channel`-th.
    pub fn output(&self, channel: usize) -> usize {
        self.first + self.step * channel
    }
}

/// What a module is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleKind {
    /// y = W x (+ b), W stored [outputs, inputs].
    Linear {
        /// Whether a bias b is stored beside the weight and added.
        bias: bool,
    },
    /// An RMSNorm over `width` channels at a time, with a weight for each of them.
    Norm {
        /// Channels normed together; all, but in q/k norms per head.
        width: usize,
    },
    /// No tensors: an activation, or a dropout.
    Function,
    /// A table of `inputs` rows; it has an output side only.
    Embedding,
    /// Each channel by itself over the last `kernel` positions, W stored [channels, 1, kernel]. The authors' code
    /// computes with its weight without calling it: hooks do not see it.
    Convolution {
        /// Positions that it sees, its own included.
        kernel: usize,
        /// Whether a bias is stored beside the weight and added.
        bias: bool,
    },
    /// No module but a parameter of one, a number a channel, stored under the path itself. Hooks do not see it.
    Vector,
}

/// What a module does. Within a layer, no two modules have the same role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// The token embedding, before the layers.
    Embedding,
    /// The norm of what a mixer reads from the residual.
    NormBefore(MixerKind),
    /// The norm of what a mixer adds to the residual.
    NormAfter(MixerKind),
    /// What does nothing outside of training, on what a mixer puts out.
    Dropout(MixerKind),
    /// A part of a layer's attention, or its whole.
    Attention(AttentionRole),
    /// A part of a gated delta net.
    DeltaNet(DeltaRole),
    /// A part of a short convolution between gates.
    Convolution(ConvolutionRole),
    /// A part of a gated MLP.
    Mlp {
        /// Which part.
        part: MlpRole,
        /// Which of the layer's MLPs.
        of: MlpOf,
    },
    /// Says how much the MLP beside the experts counts.
    SharedGate,
    /// A norm around the experts of a layer that has an MLP of its own beside them.
    AroundExperts(ExpertsNorm),
    /// The norm of what the router reads, without weights.
    RouterNorm,
    /// What the router's input is multiplied by, a number a channel.
    RouterScale,
    /// What the experts' weights are multiplied by, a number each.
    ExpertScale,
    /// A part of what brings the inputs of its own into a layer.
    LayerInput(LayerInputRole),
    /// What a layer's output is multiplied by, one number.
    LayerScale,
    /// The embeddings of tokens for each layer, before the layers.
    LayerEmbedding,
    /// The projection of the token embedding to inputs of each layer.
    LayerProjection,
    /// The norm of that, each layer's inputs by themselves.
    LayerProjectionNorm,
    /// Scores the experts for each position.
    Router,
    /// What is added to the experts' scores where they are chosen, not where they are weighed.
    RouterCorrection,
    /// The norm after the layers.
    FinalNorm,
    /// Makes logits, one a token of the vocabulary, of the residual.
    Head,
}

/// A layer's two mixers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MixerKind {
    /// What brings positions together, such as attention.
    Token,
    /// What computes at each position alone, such as an MLP.
    Channel,
}

/// The parts of multi-head attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttentionRole {
    /// The projection to queries.
    Query,
    /// The projection to keys.
    Key,
    /// The projection to values.
    Value,
    /// One projection to queries, keys and values, in this order.
    QueryKeyValue,
    /// The norm of the queries.
    QueryNorm,
    /// The norm of the keys.
    KeyNorm,
    /// A score of each head that takes its share of the softmax and brings no value.
    Sinks,
    /// The norm of the values, without weights.
    ValueNorm,
    /// The projection of the heads' outputs back to the residual's width.
    Output,
    /// The projection to what queries are made of.
    QueryLatent,
    /// The norm of that.
    QueryLatentNorm,
    /// The projection to what keys and values are made of, and to the turned channels that all heads' keys share.
    KeyValueLatent,
    /// The norm of what keys and values are made of.
    KeyValueLatentNorm,
    /// The projection of that to keys and values.
    KeyValue,
}

/// Whose part of a gated MLP it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MlpOf {
    /// The layer's only MLP.
    Layer,
    /// The one beside the experts that all positions go through.
    Shared,
    /// An expert, by its number.
    Expert(usize),
}

/// The parts of a gated delta net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeltaRole {
    /// The projection to queries, keys and values, in this order.
    QueryKeyValue,
    /// The projection to the gates of what comes out.
    Gate,
    /// The projection to the strengths of corrections.
    Strength,
    /// The projection to what decays follow from.
    Decay,
    /// Queries, keys, values and gates in one, for each key head.
    QueryKeyValueGate,
    /// Strengths and decays in one, for each key head.
    StrengthDecay,
    /// The convolution of queries, keys and values over positions.
    Convolution,
    /// What is added to the decay's projection, `dt_bias`.
    DecayBias,
    /// The logarithm of each head's rate of decay, `A_log`.
    DecayRate,
    /// The norm of what each head reads.
    Norm,
    /// The projection of the heads' outputs back to the residual's width.
    Output,
}

/// Norms around experts beside an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExpertsNorm {
    /// Of what the MLP puts out.
    AfterMlp,
    /// Of what the experts read.
    Before,
    /// Of what the experts put out.
    After,
}

/// The parts of what brings the inputs of its own into a layer: norm(projection(act(gate(x)) * input)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerInputRole {
    /// The projection of the residual that goes through the activation.
    Gate,
    /// The activation.
    Activation,
    /// The projection back to the residual's width.
    Projection,
    /// The norm of what is added to the residual.
    Norm,
}

/// The parts of a short convolution between gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConvolutionRole {
    /// The projection to both gates and what is between them.
    Input,
    /// The convolution over positions.
    Convolution,
    /// The projection back to the residual's width.
    Output,
}

/// The parts of a gated MLP: down(act(gate(x)) * up(x)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MlpRole {
    /// The projection that goes through the activation.
    Gate,
    /// The projection that meets it.
    Up,
    /// Both in one, the gate's rows first.
    GateUp,
    /// The activation.
    Activation,
    /// The projection of the gated product back to the residual's width.
    Down,
}

impl Role {
    /// The part of an MLP that is its layer's only one.
    pub const fn mlp(part: MlpRole) -> Role {
        Role::Mlp { part, of: MlpOf::Layer }
    }

    /// The expert whose part it is.
    pub fn expert(self) -> Option<usize> {
        match self {
            Role::Mlp { of: MlpOf::Expert(number), .. } => Some(number),
            _ => None,
        }
    }
}

impl Module {
    /// Channels of one side.
    pub fn channels(&self, side: Side) -> usize {
        match side {
            Side::In => self.inputs,
            Side::Out => self.outputs,
        }
    }

    /// Whether hooks see what goes in and comes out: not of what is no module, or is never called.
    pub fn is_hooked(&self) -> bool {
        !matches!(self.kind, ModuleKind::Convolution { .. } | ModuleKind::Vector)
    }

    /// Name and shape of the module's tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let weight = |shape| (self.weight(), shape);
        match self.kind {
            ModuleKind::Linear { bias } => {
                let mut tensors = vec![weight(vec![self.outputs, self.inputs])];
                if bias {
                    tensors.push((self.bias(), vec![self.outputs]));
                }
                tensors
            }
            ModuleKind::Norm { width } => vec![weight(vec![width])],
            ModuleKind::Embedding => vec![weight(vec![self.inputs, self.outputs])],
            ModuleKind::Function => vec![],
            ModuleKind::Convolution { kernel, bias } => {
                let mut tensors = vec![weight(vec![self.outputs, 1, kernel])];
                if bias {
                    tensors.push((self.bias(), vec![self.outputs]));
                }
                tensors
            }
            ModuleKind::Vector => vec![(self.path.clone(), vec![self.outputs])],
        }
    }

    /// The name of its weight's tensor.
    pub(crate) fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }

    /// The name of its bias's tensor.
    pub(crate) fn bias(&self) -> String {
        format!("{}.bias", self.path)
    }
}

/// A site that hooks can see, and its width.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteInfo {
    /// The module, and which side of it.
    pub site: Site,
    /// The module it is a side of.
    pub module: Module,
    /// How many channels this side has, and so neurons.
    pub channels: usize,
}

/// Collects the modules of one layer.
pub(super) struct Modules {
    layer: usize,
    /// Those of other experts are left out: a hostile config can claim billions.
    experts: Range<usize>,
    list: Vec<Module>,
}

impl Modules {
    pub fn of_layer(layer: usize, experts: Range<usize>) -> Modules {
        Modules { layer, experts, list: Vec::new() }
    }

    /// Which of `count` experts are wanted.
    pub fn experts(&self, count: usize) -> Range<usize> {
        self.experts.start..self.experts.end.min(count)
    }

    /// `name` is the path within the layer.
    pub fn add(&mut self, name: &str, role: Role, kind: ModuleKind, inputs: usize, outputs: usize) {
        let path = self.path(name);
        self.list.push(Module { path, layer: Some(self.layer), role, kind, inputs, outputs, stack: None });
    }

    /// The whole path of what has the path `name` within the layer.
    pub fn path(&self, name: &str) -> String {
        format!("model.layers.{}.{name}", self.layer)
    }

    /// Says where the module that was added last lies among all experts.
    pub fn stacked(&mut self, stack: Option<Stack>) {
        if let Some(module) = self.list.last_mut() {
            module.stack = stack;
        }
    }

    pub fn linear(&mut self, name: &str, role: Role, bias: bool, inputs: usize, outputs: usize) {
        self.add(name, role, ModuleKind::Linear { bias }, inputs, outputs);
    }

    /// A norm over `width` of its `channels` at a time.
    pub fn norm(&mut self, name: &str, role: Role, width: usize, channels: usize) {
        self.add(name, role, ModuleKind::Norm { width }, channels, channels);
    }

    pub fn function(&mut self, name: &str, role: Role, channels: usize) {
        self.add(name, role, ModuleKind::Function, channels, channels);
    }

    pub fn convolution(&mut self, name: &str, role: Role, channels: usize, kernel: usize, bias: bool) {
        self.add(name, role, ModuleKind::Convolution { kernel, bias }, channels, channels);
    }

    pub fn vector(&mut self, name: &str, role: Role, channels: usize) {
        self.add(name, role, ModuleKind::Vector, channels, channels);
    }

    pub fn into_list(self) -> Vec<Module> {
        self.list
    }
}
