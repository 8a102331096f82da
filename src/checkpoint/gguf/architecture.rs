//! What a family of models is in a GGUF, as data: which tensors it has, and how its metadata become a config.json. The
//! families are in [`families`](super::families).
//!
//! Source: llama.cpp's `convert_hf_to_gguf.py` with its `conversion/`, and gguf-py's `tensor_mapping.py`.

use super::file::GgufFile;
use super::header::Value as Metadata;
use super::rule::{Need, Rule};
use super::sizes::Sizes;
use crate::error::Result;
use serde_json::{Map, Value, json};

/// A family of models.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// What tells it from others of this name that are listed after it.
    pub when: When,
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// The class in `architectures` of config.json.
    pub class: &'static str,
    /// The activation in config.json: its keys and its name.
    pub activation: (&'static [&'static str], &'static str),
    /// Whether llama.cpp interleaved the two halves of each head's rows in q and k, for its own kind of RoPE.
    pub interleaves_heads: bool,
    /// Whether llama.cpp added 1 to the norms, since the family multiplies by 1 + w.
    pub adds_one_to_norms: bool,
    /// Whether llama.cpp ordered the heads of delta nets' values by their place in a group, not by group.
    pub tiles_value_heads: bool,
    /// Which sizes it has beside those of all.
    pub form: Form,
    /// Whether layers have experts: in all files, or in those that say how many.
    pub has_experts: bool,
    /// The tensors, in groups that are there or not together.
    pub groups: &'static [(&'static [Rule], Need)],
    /// What else config.json has to say.
    pub constants: &'static [(&'static str, Constant)],
    /// Metadata that config.json has as they are: both keys.
    pub settings: &'static [(&'static str, &'static str, Setting)],
    /// What norms add to the mean square: both keys.
    pub epsilon: (&'static str, &'static str),
    pub rope: Rope,
    pub window: Window,
    /// Soft caps by their key, which is the same in the file and in config.json, and their values where the file has
    /// none: the family's defaults in llama.cpp and in transformers.
    pub caps: &'static [(&'static str, Option<f64>)],
    /// Whether config.json has a `query_pre_attn_scalar`, which no GGUF holds: it is the head size, except in the
    /// model of this many layers, where it is hidden size / heads (llama.cpp, `f_attention_scale`).
    pub scalar_exception: Option<usize>,
    /// In which form transformers has all experts of a layer in one tensor; none where it takes each by itself.
    pub stacks: Option<StackForm>,
    /// How experts' scores are made of logits, by llama.cpp's number: 1 a softmax, 2 σ, 3 a softmax of the chosen.
    pub scores: u64,
    /// Keys that would be foreign to other families.
    pub reads: &'static [&'static str],
    /// Writes what else of config.json follows from the metadata.
    pub own: fn(&GgufFile, &Sizes, &mut Map<String, Value>) -> Result<()>,
}

/// A condition on a key of the architecture.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    Always,
    /// It is there, and not 0.
    Set(&'static str),
    /// It is this number.
    Is(&'static str, u64),
}

/// Families that share a way in which sizes are told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Attention,
    /// Gated delta nets in most layers.
    DeltaNet,
    /// Short convolutions in most layers.
    Convolution,
    /// Latent attention.
    Latent,
    /// Heads of two widths, keys and values that later layers borrow, inputs of each layer.
    Gemma4,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Constant {
    Flag(bool),
    Count(u64),
    Text(&'static str),
}

/// What metadata are, and what they are taken for where a file does not say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting {
    /// A whole number, which has to be there.
    Count,
    Number(Option<f64>),
    Flag(bool),
}

/// The two tensors of a layer's experts as transformers stores them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StackForm {
    /// [experts, out, in], the gates' rows first.
    OutIn,
    /// [experts, in, out], gate and up alternately, with biases.
    InOutAlternately,
    /// As `OutIn`, called `input_linear.weight` and `output_linear.weight` beside the experts (Granite).
    Linear,
}

/// Rotary embeddings of a family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rope {
    /// θ, where the file does not say.
    pub theta: f64,
    /// θ of the layers with a window, where that is another one and the file does not say.
    pub local_theta: Option<f64>,
    /// Whether it can turn a part of each head only.
    pub is_partial: bool,
    /// Whether it can have the factors of longrope.
    pub is_phi: bool,
    /// What YaRN's multiplier of a logarithm is to be multiplied by to be `mscale_all_dim`.
    pub log_multiplier: Option<f64>,
}

impl Rope {
    pub const PLAIN: Rope =
        Rope { theta: 10_000.0, local_theta: None, is_partial: false, is_phi: false, log_multiplier: None };
    pub const PARTIAL: Rope = Rope { is_partial: true, ..Rope::PLAIN };
}

/// Which layers see only the last positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Window {
    /// None: the config of the family has no window that is always in use.
    Never,
    /// All, where the file has a window.
    EveryLayer,
    /// All but every `period`-th; `size` where the file does not say, else none.
    Periodic { period: usize, size: Option<usize> },
}

impl When {
    pub fn is_so(self, file: &GgufFile, name: &str) -> bool {
        let number = |key: &str| match file.get(&format!("{name}.{key}"))? {
            Metadata::Unsigned(n) => Some(*n as f64),
            Metadata::Signed(n) => Some(*n as f64),
            Metadata::Float(x) => Some(*x),
            _ => None,
        };
        match self {
            When::Always => true,
            When::Set(key) => number(key).is_some_and(|n| n != 0.0),
            When::Is(key, expected) => number(key) == Some(expected as f64),
        }
    }
}

impl Architecture {
    /// The parts of config.json that the name of the family implies.
    pub fn config(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("architectures".into(), json!([self.class]));
        map.insert("model_type".into(), self.model_type.into());
        let (keys, activation) = self.activation;
        map.extend(keys.iter().map(|key| ((*key).to_owned(), activation.into())));
        map.extend(self.constants.iter().map(|(key, value)| ((*key).to_owned(), value.json())));
        map
    }

    /// Every tensor that some file of the family has.
    pub fn rules(&self) -> impl Iterator<Item = &'static Rule> {
        self.groups.iter().flat_map(|(rules, _)| *rules)
    }
}

impl Constant {
    fn json(self) -> Value {
        match self {
            Constant::Flag(flag) => flag.into(),
            Constant::Count(count) => count.into(),
            Constant::Text(text) => text.into(),
        }
    }
}
