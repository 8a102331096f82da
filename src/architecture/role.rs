//! What modules do.

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
