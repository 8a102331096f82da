//! Leaf modules: what a decoder is made of, and what its hooks can see.

pub use super::role::{
    AttentionRole, ConvolutionRole, DeltaRole, ExpertsNorm, LayerInputRole, MixerKind, MlpOf, MlpRole, Role,
};
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
