//! Tensors of a family as data: what llama.cpp calls each, what shape it has, and what became of it in the conversion.

/// When a group of tensors is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Need {
    /// In every layer of every file of the architecture.
    Always,
    /// In these layers.
    In(Layers),
    /// In all of these layers or in none; this key of config.json says which.
    Switch(&'static str, Layers),
    /// Where the output layer is not tied to the embedding.
    Untied,
}

/// Layers that have something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Layers {
    All,
    Attention,
    DeltaNet,
    Convolution,
    /// One MLP for all positions.
    Dense,
    Experts,
    /// An MLP for all positions beside the experts.
    Shared,
    /// Queries made of a narrow vector, or not.
    QueryLatent,
    PlainQuery,
    /// Keys, and values, of their own.
    OwnKeys,
    OwnValues,
    /// An input beside the residual.
    Inputs,
}

/// One tensor: its two names, `{}` standing for the layer and `{e}` for the expert, and its shape by the second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub gguf: &'static str,
    pub hf: &'static str,
    pub shape: &'static [Dim],
    pub role: Role,
}

/// What llama.cpp may have done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Role {
    Plain,
    /// Its rows are those of heads that RoPE turns.
    Rotary,
    Norm,
    /// It is one of a stack of all experts.
    Expert(Expert),
    /// It is stored without its dimensions of 1.
    WithoutOnes,
    /// Rows of delta nets' value heads: one of each head, or all of its channels.
    ValueHead,
    ValueHeads,
    /// These below the queries and keys, stored without dimensions of 1.
    KeysAndValueHeads,
    /// Columns of delta nets' value heads.
    FromValueHeads,
    /// Rows of value heads, of which the file has −eˣ.
    DecayRates,
    /// For each key head its query, its key, its values and their gates: the file has a tensor of all but the gates, kind
    /// by kind, and one of these.
    ByKeyHead,
    /// For each head its keys and its values: the file has a stack of each, the keys' turned.
    KeysAndValues,
}

/// Which of an expert's matrices, where it may be half of one with gate and up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Expert {
    Gate,
    Up,
    /// One that is never a half.
    Own,
}

/// A dimension by what it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Dim {
    One,
    Hidden,
    Intermediate,
    /// Query heads × head size.
    Query,
    /// As many gates beside.
    GatedQuery,
    /// Key or value heads × head size.
    KeyValue,
    /// Queries, keys and values, one below the other in one tensor.
    QueryKeyValue,
    HeadSize,
    /// One a query head.
    Heads,
    /// Gate and up projection in one.
    GateUp,
    Vocabulary,
    Experts,
    ExpertIntermediate,
    /// The MLP beside the experts.
    Shared,
    /// Of delta nets: queries, keys and values; these and the values' gates; values; one value; one a value head; two.
    Mixed,
    MixedAndGates,
    Values,
    Value,
    ValueHeads,
    TwiceValueHeads,
    /// Positions that a convolution sees.
    Kernel,
    /// The three that a short convolution reads.
    ThriceHidden,
    /// Of latent attention: the narrow vectors, the second with what RoPE turns; what all heads make of them; what they mix.
    QueryLatent,
    KeyValueLatent,
    KeyValueLatentAndTurned,
    KeysAndValues,
    MixedValues,
    /// Inputs of one layer, and of all.
    LayerInput,
    LayerInputs,
    LayerVocabulary,
}

pub(super) const fn rule(gguf: &'static str, hf: &'static str, shape: &'static [Dim]) -> Rule {
    Rule { gguf, hf, shape, role: Role::Plain }
}

pub(super) const fn rotary(gguf: &'static str, hf: &'static str, shape: &'static [Dim]) -> Rule {
    Rule { gguf, hf, shape, role: Role::Rotary }
}

pub(super) const fn norm(gguf: &'static str, hf: &'static str, shape: &'static [Dim]) -> Rule {
    Rule { gguf, hf, shape, role: Role::Norm }
}

impl Rule {
    /// The tensor in the file, of a layer.
    pub fn stored(&self, layer: usize) -> String {
        self.gguf.replace("{}", &layer.to_string())
    }

    /// The tensor, of a layer and an expert.
    pub fn named(&self, layer: usize, expert: usize) -> String {
        self.hf.replace("{}", &layer.to_string()).replace("{e}", &expert.to_string())
    }

    /// How many layers it is in, of so many.
    pub fn layers(&self, layers: usize) -> usize {
        if self.gguf.contains("{}") { layers } else { 1 }
    }
}
