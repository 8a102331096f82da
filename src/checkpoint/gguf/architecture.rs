//! The model families a GGUF can hold, as data: how llama.cpp names their tensors, what shape each has and what it
//! changed when it converted them. A further family is a further entry of [`ARCHITECTURES`].
//!
//! Source: llama.cpp's `convert_hf_to_gguf.py` and gguf-py's `tensor_mapping.py`.

use super::Checked;
use serde_json::{Map, Value, json};

/// A family of models.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
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
    /// The tensors, in groups that are there or not together.
    pub groups: &'static [(&'static [Rule], Need)],
    /// What else config.json has to say.
    pub constants: &'static [(&'static str, bool)],
    pub rope: Rope,
    pub window: Window,
    /// Soft caps by their key, which is the same in the file and in config.json, and their values where the file has
    /// none: the family's defaults in llama.cpp and in transformers.
    pub caps: &'static [(&'static str, Option<f64>)],
    /// Whether config.json has a `query_pre_attn_scalar`, which no GGUF holds: it is the head size, except in the
    /// model of this many layers, where it is hidden size / heads (llama.cpp, `f_attention_scale`).
    pub scalar_exception: Option<usize>,
}

/// Rotary embeddings of a family.
#[derive(Debug)]
pub(super) struct Rope {
    /// θ, where the file does not say.
    pub theta: f64,
    /// θ of the layers with a window, where that is another one and the file does not say.
    pub local_theta: Option<f64>,
    /// Whether it can turn a part of each head only, and have the factors of longrope.
    pub is_phi: bool,
}

const ROPE: Rope = Rope { theta: 10_000.0, local_theta: None, is_phi: false };

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

/// When a group of tensors is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Need {
    /// In every file of the architecture.
    Always,
    /// In all layers or in none; this key of config.json says which.
    Switch(&'static str),
    /// Where the output layer is not tied to the embedding.
    Untied,
}

/// One tensor: its two names, `{}` standing for the layer, and its shape.
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
}

/// A dimension by what it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Dim {
    Hidden,
    Intermediate,
    /// Query heads × head size.
    Query,
    /// Key or value heads × head size.
    KeyValue,
    /// Queries, keys and values, one below the other in one tensor.
    QueryKeyValue,
    HeadSize,
    /// Gate and up projection in one.
    GateUp,
    Vocabulary,
}

use Dim::{GateUp, HeadSize, Hidden, Intermediate, KeyValue, Query, QueryKeyValue, Vocabulary};

const fn rule(gguf: &'static str, hf: &'static str, shape: &'static [Dim]) -> Rule {
    Rule { gguf, hf, shape, role: Role::Plain }
}

const fn rotary(gguf: &'static str, hf: &'static str, shape: &'static [Dim]) -> Rule {
    Rule { gguf, hf, shape, role: Role::Rotary }
}

const fn norm(gguf: &'static str, hf: &'static str, shape: &'static [Dim]) -> Rule {
    Rule { gguf, hf, shape, role: Role::Norm }
}

/// The GGUF name of the token embedding, whose rows are the vocabulary.
pub(super) const EMBEDDING: &str = "token_embd.weight";

/// RMSNorm before attention and before the MLP; gated MLP; no biases.
const DECODER: &[Rule] = &[
    rule(EMBEDDING, "model.embed_tokens.weight", &[Vocabulary, Hidden]),
    norm("output_norm.weight", "model.norm.weight", &[Hidden]),
    norm("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight", &[Hidden]),
    rotary("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", &[Query, Hidden]),
    rotary("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", &[KeyValue, Hidden]),
    rule("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight", &[KeyValue, Hidden]),
    rule("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight", &[Hidden, Query]),
    norm("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight", &[Hidden]),
    rule("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight", &[Intermediate, Hidden]),
    rule("blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", &[Intermediate, Hidden]),
    rule("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight", &[Hidden, Intermediate]),
];

/// Gemma 2 and 3: as [`DECODER`], with norms on what attention and MLP add, too.
const FOUR_NORMS: &[Rule] = &[
    DECODER[0],
    DECODER[1],
    DECODER[2],
    DECODER[3],
    DECODER[4],
    DECODER[5],
    DECODER[6],
    DECODER[8],
    DECODER[9],
    DECODER[10],
    norm("blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight", &[Hidden]),
    norm("blk.{}.ffn_norm.weight", "model.layers.{}.pre_feedforward_layernorm.weight", &[Hidden]),
    norm("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight", &[Hidden]),
];

/// Phi-3: as [`DECODER`], with q, k and v in one, and gate and up.
const FUSED: &[Rule] = &[
    DECODER[0],
    DECODER[1],
    DECODER[2],
    rule("blk.{}.attn_qkv.weight", "model.layers.{}.self_attn.qkv_proj.weight", &[QueryKeyValue, Hidden]),
    DECODER[6],
    DECODER[7],
    rule("blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight", &[GateUp, Hidden]),
    DECODER[10],
];

const OUTPUT: &[Rule] = &[rule("output.weight", "lm_head.weight", &[Vocabulary, Hidden])];

const QKV_BIAS: &[Rule] = &[
    rotary("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", &[Query]),
    rotary("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", &[KeyValue]),
    rule("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", &[KeyValue]),
];

const QKVO_BIAS: &[Rule] = &[
    rotary("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", &[Query]),
    rotary("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", &[KeyValue]),
    rule("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", &[KeyValue]),
    rule("blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias", &[Hidden]),
];

const QK_NORM: &[Rule] = &[
    norm("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight", &[HeadSize]),
    norm("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight", &[HeadSize]),
];

const MLP_BIAS: &[Rule] = &[
    rule("blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias", &[Intermediate]),
    rule("blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias", &[Intermediate]),
    rule("blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias", &[Hidden]),
];

const SILU: (&[&str], &str) = (&["hidden_act"], "silu");

/// Every family that can be read.
pub(super) static ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        activation: SILU,
        interleaves_heads: true,
        adds_one_to_norms: false,
        groups: &[
            (DECODER, Need::Always),
            (QKVO_BIAS, Need::Switch("attention_bias")),
            (MLP_BIAS, Need::Switch("mlp_bias")),
            (OUTPUT, Need::Untied),
        ],
        constants: &[],
        rope: ROPE,
        window: Window::Never,
        caps: &[],
        scalar_exception: None,
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        activation: SILU,
        interleaves_heads: false,
        adds_one_to_norms: false,
        groups: &[(DECODER, Need::Always), (QKV_BIAS, Need::Always), (OUTPUT, Need::Untied)],
        constants: &[("use_sliding_window", false)],
        rope: ROPE,
        window: Window::Never,
        caps: &[],
        scalar_exception: None,
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        activation: SILU,
        interleaves_heads: false,
        adds_one_to_norms: false,
        groups: &[
            (DECODER, Need::Always),
            (QK_NORM, Need::Always),
            (QKVO_BIAS, Need::Switch("attention_bias")),
            (OUTPUT, Need::Untied),
        ],
        constants: &[("use_sliding_window", false)],
        rope: ROPE,
        window: Window::Never,
        caps: &[],
        scalar_exception: None,
    },
    Architecture {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        // transformers 4 reads the second key, 5 the first.
        activation: (&["hidden_act", "hidden_activation"], "gelu_pytorch_tanh"),
        interleaves_heads: false,
        adds_one_to_norms: true,
        groups: &[(DECODER, Need::Always)],
        constants: &[("attention_bias", false), ("tie_word_embeddings", true)],
        rope: ROPE,
        window: Window::Never,
        caps: &[],
        scalar_exception: None,
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        activation: (&["hidden_activation"], "gelu_pytorch_tanh"),
        interleaves_heads: false,
        adds_one_to_norms: true,
        groups: &[(FOUR_NORMS, Need::Always)],
        constants: &[("attention_bias", false), ("tie_word_embeddings", true)],
        rope: ROPE,
        window: Window::Periodic { period: 2, size: Some(4096) },
        caps: &[("attn_logit_softcapping", Some(50.0)), ("final_logit_softcapping", Some(30.0))],
        scalar_exception: Some(46),
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        activation: (&["hidden_activation"], "gelu_pytorch_tanh"),
        interleaves_heads: false,
        adds_one_to_norms: true,
        groups: &[(FOUR_NORMS, Need::Always), (QK_NORM, Need::Always), (OUTPUT, Need::Untied)],
        constants: &[("attention_bias", false)],
        rope: Rope { theta: 1_000_000.0, local_theta: Some(10_000.0), is_phi: false },
        window: Window::Periodic { period: 6, size: None },
        caps: &[("final_logit_softcapping", None)],
        scalar_exception: Some(62),
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        activation: SILU,
        interleaves_heads: false,
        adds_one_to_norms: false,
        groups: &[(FUSED, Need::Always), (OUTPUT, Need::Untied)],
        constants: &[],
        rope: Rope { theta: 10_000.0, local_theta: None, is_phi: true },
        window: Window::EveryLayer,
        caps: &[],
        scalar_exception: None,
    },
];

impl Architecture {
    /// The family of this name; the error is a text that lists those there are.
    pub fn find(name: &str) -> Checked<&'static Architecture> {
        ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
            let problem = format!("architecture {name} is not supported in a GGUF; supported are {}", known.join(", "));
            format!("{problem}; for others use the model's safetensors")
        })
    }

    /// The parts of config.json that the name of the family implies.
    pub fn config(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("architectures".into(), json!([self.class]));
        map.insert("model_type".into(), self.model_type.into());
        let (keys, activation) = self.activation;
        map.extend(keys.iter().map(|key| ((*key).to_owned(), activation.into())));
        map.extend(self.constants.iter().map(|(key, value)| ((*key).to_owned(), Value::Bool(*value))));
        map
    }
}

impl Rule {
    /// Both names in every layer, or once where the name has no layer.
    pub fn names(&self, layers: usize) -> impl Iterator<Item = (String, String)> {
        let count = if self.gguf.contains("{}") { layers } else { 1 };
        (0..count).map(|layer| {
            let layer = layer.to_string();
            (self.gguf.replace("{}", &layer), self.hf.replace("{}", &layer))
        })
    }
}

/// The row of the GGUF tensor that is row `row` of the Hugging Face tensor, where heads are interleaved: llama.cpp
/// turned each head's rows from (2, size / 2) into (size / 2, 2).
pub(super) fn interleaved_row(row: usize, head_size: usize) -> usize {
    let half = head_size / 2;
    let (head, within) = (row / head_size, row % head_size);
    head * head_size + 2 * (within % half) + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_of_one_head_of_four() {
        let rows: Vec<usize> = (0..8).map(|row| interleaved_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn unknown_families_are_named_with_those_there_are() {
        let error = Architecture::find("mamba").unwrap_err();
        assert!(error.contains("mamba") && error.contains("llama, qwen2, qwen3"), "{error}");
    }

    #[test]
    fn no_two_tensors_of_a_family_share_a_name() {
        for architecture in ARCHITECTURES {
            let rules: Vec<&Rule> = architecture.groups.iter().flat_map(|(rules, _)| *rules).collect();
            for (at, a) in rules.iter().enumerate() {
                assert!(rules[..at].iter().all(|b| a.gguf != b.gguf && a.hf != b.hf), "{}", a.gguf);
            }
        }
    }
}
