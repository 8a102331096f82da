//! The sizes that a GGUF's metadata give, and its embedding.

use super::file::GgufFile;
use super::rule::{Dim, Layers};
use crate::error::Error;
use serde_json::{Map, Value};

/// The sizes that shapes are made of.
pub(super) struct Sizes {
    pub layers: usize,
    /// Layers after these, which predict further tokens and are not read.
    pub further: usize,
    pub hidden: usize,
    pub heads: usize,
    /// Channels of a head of most layers.
    pub head: usize,
    /// Channels of each head that RoPE turns.
    pub rotated: usize,
    pub vocabulary: usize,
    pub context: usize,
    /// What differs from layer to layer.
    pub each: Vec<LayerSizes>,
    pub experts: Option<ExpertSizes>,
    pub delta: DeltaSizes,
    pub latent: LatentSizes,
    /// Positions that a convolution sees.
    pub kernel: usize,
    /// Channels of the input of each layer; 0 where there is none.
    pub layer_input: usize,
    /// Rows of the table of these.
    pub layer_vocabulary: usize,
}

/// The sizes of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerSizes {
    pub mixer: Mixer,
    /// Whether it sees only the last positions, where the heads of such layers have another width.
    pub slides: bool,
    pub head: usize,
    pub key_value_heads: usize,
    /// Of its MLP for all positions.
    pub intermediate: usize,
    pub has_experts: bool,
    /// Whether keys, and values, are its own.
    pub has_keys: bool,
    pub has_values: bool,
}

/// What brings a layer's positions together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mixer {
    Attention,
    DeltaNet,
    Convolution,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ExpertSizes {
    pub count: usize,
    pub intermediate: usize,
    /// Of the MLP beside them; 0 where there is none.
    pub shared: usize,
}

/// Of gated delta nets: how many heads, and how wide a query or key, and a value, of one is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeltaSizes {
    pub key_heads: usize,
    pub value_heads: usize,
    pub key: usize,
    pub value: usize,
}

/// Of latent attention.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LatentSizes {
    pub query: Option<usize>,
    pub key_value: usize,
    /// Channels of a head that RoPE does not turn.
    pub plain: usize,
    pub value: usize,
}

impl Sizes {
    /// The size of a dimension in a layer.
    pub fn of(&self, dim: Dim, layer: usize) -> usize {
        let Some(of_layer) = self.each.get(layer) else { return 0 };
        let (net, latent) = (self.delta, self.latent);
        let (query, key_value) = (self.heads * of_layer.head, of_layer.key_value_heads * of_layer.head);
        // Metadata can ask for more than there are numbers: no tensor has so many rows.
        let values = net.value_heads.saturating_mul(net.value);
        let mixed = net.key_heads.saturating_mul(net.key).saturating_mul(2).saturating_add(values);
        match dim {
            Dim::One => 1,
            Dim::Hidden => self.hidden,
            Dim::ThriceHidden => 3 * self.hidden,
            Dim::Vocabulary => self.vocabulary,
            Dim::Heads => self.heads,
            Dim::HeadSize => of_layer.head,
            Dim::Query => query,
            Dim::GatedQuery => 2 * query,
            Dim::KeyValue => key_value,
            Dim::QueryKeyValue => query + 2 * key_value,
            Dim::Intermediate => of_layer.intermediate,
            Dim::GateUp => 2 * of_layer.intermediate,
            Dim::Experts => self.experts.map_or(0, |experts| experts.count),
            Dim::ExpertIntermediate => self.experts.map_or(0, |experts| experts.intermediate),
            Dim::Shared => self.experts.map_or(0, |experts| experts.shared),
            Dim::Mixed => mixed,
            Dim::MixedAndGates => mixed.saturating_add(values),
            Dim::Values => values,
            Dim::Value => net.value,
            Dim::ValueHeads => net.value_heads,
            Dim::TwiceValueHeads => 2 * net.value_heads,
            Dim::Kernel => self.kernel,
            Dim::QueryLatent => latent.query.unwrap_or_default(),
            Dim::KeyValueLatent => latent.key_value,
            Dim::KeyValueLatentAndTurned => latent.key_value + self.rotated,
            Dim::KeysAndValues => self.heads.saturating_mul(latent.plain + latent.value),
            Dim::MixedValues => self.heads.saturating_mul(latent.value),
            Dim::LayerInput => self.layer_input,
            Dim::LayerInputs => self.layers * self.layer_input,
            Dim::LayerVocabulary => self.layer_vocabulary,
        }
    }

    /// Whether a layer is one of these.
    pub fn has(&self, layers: Layers, layer: usize) -> bool {
        let Some(of_layer) = self.each.get(layer) else { return false };
        match layers {
            Layers::All => true,
            Layers::Attention => of_layer.mixer == Mixer::Attention,
            Layers::DeltaNet => of_layer.mixer == Mixer::DeltaNet,
            Layers::Convolution => of_layer.mixer == Mixer::Convolution,
            Layers::Dense => !of_layer.has_experts,
            Layers::Experts => of_layer.has_experts,
            Layers::Shared => of_layer.has_experts && self.experts.is_some_and(|experts| experts.shared > 0),
            Layers::QueryLatent => self.latent.query.is_some(),
            Layers::PlainQuery => self.latent.query.is_none(),
            Layers::OwnKeys => of_layer.has_keys,
            Layers::OwnValues => of_layer.has_values,
            Layers::Inputs => self.layer_input > 0,
        }
    }

    /// How many layers there are before the first with experts.
    pub fn dense_layers(&self) -> usize {
        self.each.iter().take_while(|layer| !layer.has_experts).count()
    }

    /// The first layer with keys of its own that has a window, or has none.
    pub fn layer_where(&self, slides: bool) -> Option<&LayerSizes> {
        self.each.iter().find(|layer| layer.has_keys && layer.slides == slides)
    }

    /// Writes them as config.json has them.
    pub fn write(&self, config: &mut Map<String, Value>) {
        let most = |of: fn(&LayerSizes) -> usize| self.each.iter().map(of).max().unwrap_or_default();
        let sizes = [
            ("hidden_size", self.hidden),
            ("intermediate_size", most(|layer| layer.intermediate)),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", most(|layer| layer.key_value_heads)),
            ("head_dim", self.head),
            ("vocab_size", self.vocabulary),
            ("max_position_embeddings", self.context),
        ];
        // 0 where it is a size of nothing, such as an MLP beside experts in all layers.
        config.extend(sizes.into_iter().filter(|(_, n)| *n > 0).map(|(key, n)| (key.to_owned(), Value::from(n))));
    }
}

/// That a tensor is not there.
pub(super) fn missing(file: &GgufFile, tensor: &str) -> Error {
    Error::tensor(file.path(), tensor, "is missing; convert the model again")
}
