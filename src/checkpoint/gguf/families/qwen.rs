//! Qwen 2 and 3, their mixtures, and the text models of their kin that see: M-RoPE is plain RoPE on text alone, so these
//! are what they grew from.

use super::super::architecture::{Architecture, Constant, Setting};
use super::super::rule::{Layers, Need, Rule};
use super::USUAL;
use super::rules::{ATTENTION, BEFORE_ATTENTION, BEFORE_MLP, ENDS, EXPERTS, MLP, OUTPUT, QK_NORM, QKV_BIAS, QKVO_BIAS};

const NO_WINDOW: &[(&str, Constant)] = &[("use_sliding_window", Constant::Flag(false))];

pub const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (BEFORE_MLP, Need::Always),
        (MLP, Need::Always),
        (QKV_BIAS, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    constants: NO_WINDOW,
    ..USUAL
};

pub const QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (BEFORE_MLP, Need::Always),
        (MLP, Need::Always),
        (QK_NORM, Need::Always),
        (QKVO_BIAS, Need::Switch("attention_bias", Layers::All)),
        (OUTPUT, Need::Untied),
    ],
    constants: NO_WINDOW,
    ..USUAL
};

const MIXTURE: &[(&[Rule], Need)] = &[
    (ENDS, Need::Always),
    (BEFORE_ATTENTION, Need::Always),
    (ATTENTION, Need::Always),
    (BEFORE_MLP, Need::Always),
    (EXPERTS, Need::Always),
    (QK_NORM, Need::Always),
    (QKVO_BIAS, Need::Switch("attention_bias", Layers::All)),
    (OUTPUT, Need::Untied),
];

pub const QWEN3_MOE: Architecture = Architecture {
    name: "qwen3moe",
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    has_experts: true,
    groups: MIXTURE,
    // llama.cpp computes so, and no key says otherwise.
    constants: &[("use_sliding_window", Constant::Flag(false)), ("norm_topk_prob", Constant::Flag(true))],
    settings: EXPERT_SETTINGS,
    ..USUAL
};

/// How many experts there are, and are used, and how wide each is, as Qwen's configs call it.
pub(super) const EXPERT_SETTINGS: &[(&str, &str, Setting)] = &[
    ("expert_count", "num_experts", Setting::Count),
    ("expert_used_count", "num_experts_per_tok", Setting::Count),
    ("expert_feed_forward_length", "moe_intermediate_size", Setting::Count),
];

pub const QWEN2_VL: Architecture = Architecture { name: "qwen2vl", ..QWEN2 };
pub const QWEN3_VL: Architecture = Architecture { name: "qwen3vl", ..QWEN3 };
pub const QWEN3_VL_MOE: Architecture = Architecture { name: "qwen3vlmoe", ..QWEN3_MOE };
