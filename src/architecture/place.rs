//! What a neuron is in the file: a row, a column or an element of a tensor; or why it is none, and what comes nearest.

use super::module::{AttentionRole, DeltaRole, LayerInputRole, MixerKind, MlpRole, Module, ModuleKind, Role, Stack};
pub use super::neuron_place::{Axis, NeuronPlace};
use super::recipe::Recipe;
use super::stacks;
use crate::checkpoint::Tensors;
use crate::neuron::{ModulePath, Neuron, Side};

impl Recipe {
    /// Finds what `neuron` is in the file; none where no single tensor holds it alone (the input of a norm, a q/k norm
    /// that all heads share, the embedding of a tied head).
    pub fn place(&self, neuron: &Neuron, tensors: &Tensors) -> Option<NeuronPlace> {
        self.parts(neuron, tensors).into_iter().next()
    }

    /// Everything that a factor on `neuron` multiplies: the part that [`Recipe::place`] finds, then the element of the
    /// bias where the module has one; of an expert, also where the file has a stack for all of a layer. Empty where there
    /// is no such part.
    pub fn parts(&self, neuron: &Neuron, tensors: &Tensors) -> Vec<NeuronPlace> {
        let Some(module) = self.module(&neuron.site.module) else { return Vec::new() };
        let part = |tensor: String, axis: Axis| {
            let shape = tensors.shape_of(&tensor)?;
            let length = match (axis, shape.as_slice()) {
                (Axis::Row, &[rows, _]) => rows,
                (Axis::Column, &[_, columns]) => columns,
                (Axis::Element, &[elements]) => elements,
                _ => return None,
            };
            (neuron.channel < length).then_some(NeuronPlace { tensor, shape, axis, index: neuron.channel })
        };
        let Some((holder, axis)) = self.holder(&module, neuron.site.side) else { return Vec::new() };
        if let Some(stack) = holder.stack.as_ref().filter(|stack| tensors.holds(&stack.tensor)) {
            return in_stack(stack, &holder, axis, neuron.channel, tensors);
        }
        let found = part(holder.weight(), axis);
        let has_bias = axis == Axis::Row && holder.kind == ModuleKind::Linear { bias: true };
        let bias = found.as_ref().filter(|_| has_bias).and_then(|_| part(holder.bias(), Axis::Element));
        if found.is_none() {
            return stacks::parts(neuron, &|name| tensors.shape_of(name));
        }
        found.into_iter().chain(bias).collect()
    }

    /// The module whose weight holds the channels of `module` on this side, each of them alone, and how they lie in it.
    pub(crate) fn holder(&self, module: &Module, side: Side) -> Option<(Module, Axis)> {
        let own = |axis| Some((module.clone(), axis));
        match (module.role, module.kind, side) {
            // The output of the activation enters the down projection after a product with the up projection's: a
            // factor on it is one on that column. Its input is the gate's output.
            (Role::Mlp { part: MlpRole::Activation, of }, _, Side::Out) => {
                let down = self.beside(module, Role::Mlp { part: MlpRole::Down, of })?;
                Some((down, Axis::Column))
            }
            (Role::LayerInput(LayerInputRole::Activation), _, Side::Out) => {
                Some((self.beside(module, Role::LayerInput(LayerInputRole::Projection))?, Axis::Column))
            }
            // What is normed without weights goes into a projection that holds a factor on it, if into nothing else.
            (Role::RouterNorm, _, Side::Out) => Some((self.beside(module, Role::Router)?, Axis::Column)),
            // One weight serves all heads, but what comes out goes into the output projection and nowhere else.
            (Role::DeltaNet(DeltaRole::Norm), _, Side::Out) => {
                Some((self.beside(module, Role::DeltaNet(DeltaRole::Output))?, Axis::Column))
            }
            // Without a head of its own the model reads logits from the embedding.
            (Role::Embedding | Role::Head, _, _) if self.tied => None,
            // Stored [vocabulary, hidden]: a channel is a column.
            (_, ModuleKind::Embedding, Side::Out) => own(Axis::Column),
            (_, ModuleKind::Linear { .. }, Side::Out) => own(Axis::Row),
            (_, ModuleKind::Linear { .. }, Side::In) => own(Axis::Column),
            (_, ModuleKind::Norm { width }, Side::Out) if width == module.outputs => own(Axis::Element),
            (_, ModuleKind::Norm { .. } | ModuleKind::Function | ModuleKind::Embedding, _) => None,
            (_, ModuleKind::Convolution { .. } | ModuleKind::Vector, _) => None,
        }
    }

    /// Why weights cannot express a factor on `neuron`, a channel of `module` that has no [`Recipe::holder`], and what
    /// comes nearest.
    pub(crate) fn why_no_place(&self, module: &Module, neuron: &Neuron) -> String {
        let (side, channel) = (neuron.site.side, neuron.channel);
        let source = self.source(module, channel).map(|(source, channel)| output(&source, channel));
        match (module.role, module.kind, side) {
            (_, ModuleKind::Embedding, Side::In) => "an embedding has an output side only".into(),
            (_, ModuleKind::Embedding, Side::Out) => {
                let first = self.layers.first().and(self.block.token.norm_before);
                let nearest =
                    first.map(|norm| format!("; what the first layer reads of it is L0.{norm}:out:{channel}"));
                let reason = "the head is tied to the embedding, so its weights are the logits' too";
                format!("{reason}{}", nearest.unwrap_or_default())
            }
            (Role::Head, _, Side::In) => {
                let nearest = format!("{}:out:{channel}", self.final_norm);
                format!("the head is tied: its weights are the embedding's; patch {nearest} instead")
            }
            (Role::Head, _, Side::Out) => "the head is tied: its weights are the embedding's; give the model a head \
                                           of its own (tie_word_embeddings false, lm_head.weight) first"
                .into(),
            (_, ModuleKind::Norm { .. }, Side::In) => match source.filter(|_| !self.is_after_rope(module)) {
                Some(projection) => format!("it is what {projection} puts out: patch that"),
                None => format!(
                    "a norm's input is no weight, and it acts on all channels through the mean square; the nearest is \
                     its output, {}",
                    output(module, channel)
                ),
            },
            (Role::LayerProjectionNorm, _, Side::Out) => format!(
                "one weight serves this channel of all layers; the nearest is {}, the same channel of this layer before \
                 the norm",
                source.unwrap_or_default()
            ),
            (Role::Attention(AttentionRole::ValueNorm) | Role::RouterNorm, ..) => format!(
                "it is normed without weights; the nearest is {}, the same channel before the norm",
                source.unwrap_or_else(|| format!("the residual's channel {channel}"))
            ),
            (_, ModuleKind::Norm { .. }, Side::Out) => format!(
                "one weight serves this channel of all heads; the nearest is {}, the same channel of this head before \
                 the norm",
                source.unwrap_or_default()
            ),
            (Role::Dropout(_), ..) => {
                let same = source.unwrap_or_else(|| "the mixer before it".into());
                format!("a dropout has no weights; it passes on what {same} puts out: patch that")
            }
            _ => {
                let gate = source.unwrap_or_else(|| "the gate".into());
                format!("an activation has no weights; its input is what {gate} puts out: patch that")
            }
        }
    }

    /// Whether it norms queries or keys that are turned already.
    fn is_after_rope(&self, module: &Module) -> bool {
        let of_attention = matches!(module.role, Role::Attention(AttentionRole::QueryNorm | AttentionRole::KeyNorm));
        let attention = module.layer.and_then(|layer| self.attention(layer));
        of_attention && attention.is_some_and(|attention| attention.norm_after_rope)
    }

    /// The projection that puts out what goes into `channel` of `module` and nowhere else, and its channel.
    fn source(&self, module: &Module, channel: usize) -> Option<(Module, usize)> {
        use AttentionRole::{
            Key, KeyNorm, KeyValueLatent, KeyValueLatentNorm, Output, Query, QueryKeyValue, QueryLatent,
            QueryLatentNorm, QueryNorm,
        };
        let of = |role| self.beside(module, role).map(|source| (source, channel));
        match module.role {
            Role::Attention(QueryNorm) => {
                let attention = self.attention(module.layer?)?;
                let (head, within) = (channel / attention.head_dim, channel % attention.head_dim);
                let gates = if attention.gated { head * attention.head_dim } else { 0 };
                let query = self.beside(module, Role::Attention(Query));
                query
                    .map(|query| (query, head * attention.head_dim + gates + within))
                    .or_else(|| of(Role::Attention(QueryKeyValue)))
            }
            Role::Attention(KeyNorm) => of(Role::Attention(Key)).or_else(|| {
                let queries = self.attention(module.layer?)?.query_width();
                of(Role::Attention(QueryKeyValue)).map(|(fused, channel)| (fused, queries + channel))
            }),
            Role::Mlp { part: MlpRole::Activation, of: whose } => of(Role::Mlp { part: MlpRole::Gate, of: whose })
                .or_else(|| of(Role::Mlp { part: MlpRole::GateUp, of: whose })),
            Role::Attention(QueryLatentNorm) => of(Role::Attention(QueryLatent)),
            Role::Attention(KeyValueLatentNorm) => of(Role::Attention(KeyValueLatent)),
            Role::LayerInput(LayerInputRole::Activation) => of(Role::LayerInput(LayerInputRole::Gate)),
            Role::Attention(AttentionRole::ValueNorm) => {
                of(Role::Attention(AttentionRole::Value)).or_else(|| of(Role::Attention(Key)))
            }
            Role::LayerProjectionNorm => {
                let projection = self.of_layer_inputs().into_iter().find(|m| m.role == Role::LayerProjection);
                projection.map(|projection| (projection, channel))
            }
            Role::Dropout(MixerKind::Token) => of(Role::Attention(Output)),
            Role::Dropout(MixerKind::Channel) => of(Role::mlp(MlpRole::Down)),
            _ => None,
        }
    }
}

/// As [`Recipe::parts`], of a module whose weight lies in a tensor of all experts. Rows and columns count through all
/// matrices of the stack, elements through all of the tensor.
fn in_stack(stack: &Stack, module: &Module, axis: Axis, channel: usize, tensors: &Tensors) -> Vec<NeuronPlace> {
    let Ok(weight) = tensors.weight(&stack.tensor) else { return Vec::new() };
    let (shape, is_transposed) = stack.shape(module.inputs, weight.shape(), weight.is_packed());
    let channels = if axis == Axis::Row { module.outputs } else { module.inputs };
    // A column of gate and up in one is what both read.
    let is_alone = axis == Axis::Row || module.outputs == stack.outputs;
    if weight.shape() != shape || channel >= channels || !is_alone {
        return Vec::new();
    }
    let line = if axis == Axis::Row { stack.output(channel) } else { channel };
    let axis_stored = match (axis, is_transposed) {
        (Axis::Row, true) => Axis::Column,
        (Axis::Column, true) => Axis::Row,
        (axis, _) => axis,
    };
    let length = if axis_stored == Axis::Row { shape[1] } else { shape[2] };
    let index = stack.expert * length + line;
    let mut parts = vec![NeuronPlace { tensor: stack.tensor.clone(), shape, axis: axis_stored, index }];
    if axis == Axis::Row && module.kind == (ModuleKind::Linear { bias: true }) {
        let shape = vec![stack.experts, stack.outputs];
        let index = stack.expert * stack.outputs + line;
        parts.push(NeuronPlace { tensor: stack.bias(), shape, axis: Axis::Element, index });
    }
    parts
}

/// `L3.self_attn.q_proj:out:7`.
fn output(module: &Module, channel: usize) -> String {
    let short = module.path.parse().map(|path: ModulePath| path.short());
    format!("{}:out:{channel}", short.unwrap_or_else(|_| module.path.clone()))
}
