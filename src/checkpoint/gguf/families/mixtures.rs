//! Mixtures of experts on grouped-query attention.

use super::super::architecture::{Architecture, Constant, Rope, Setting, StackForm, Window};
use super::super::rule::Dim::{Experts, Heads, Hidden};
use super::super::rule::{Layers, Need, rule};
use super::USUAL;
use super::rules::{
    ATTENTION, BEFORE_ATTENTION, BEFORE_MLP, BEFORE_MLP_AS_POST, CORRECTION, ENDS, EXPERT_BIASES, EXPERTS, MLP, OUTPUT,
    QK_NORM, QK_NORM_OF_ALL, QKV_BIAS, QKVO_BIAS, SHARED_EXPERTS, SPARSE_BLOCK,
};

/// gpt-oss.
pub const GPT_OSS: Architecture = Architecture {
    name: "gpt-oss",
    model_type: "gpt_oss",
    class: "GptOssForCausalLM",
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (QKVO_BIAS, Need::Always),
        (&[rule("blk.{}.attn_sinks.weight", "model.layers.{}.self_attn.sinks", &[Heads])], Need::Always),
        (BEFORE_MLP_AS_POST, Need::Always),
        (
            &[
                rule("blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.router.weight", &[Experts, Hidden]),
                rule("blk.{}.ffn_gate_inp.bias", "model.layers.{}.mlp.router.bias", &[Experts]),
                EXPERTS[1],
                EXPERTS[2],
                EXPERTS[3],
            ],
            Need::Always,
        ),
        (EXPERT_BIASES, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    constants: &[("attention_bias", Constant::Flag(true))],
    settings: &[
        ("expert_count", "num_local_experts", Setting::Count),
        ("expert_used_count", "num_experts_per_tok", Setting::Count),
    ],
    rope: Rope { theta: 150_000.0, ..Rope::PLAIN },
    window: Window::Periodic { period: 2, size: None },
    stacks: Some(StackForm::InOutAlternately),
    scores: 3,
    own: |_, _, config| {
        // YaRN's limits are not rounded in this family; no key of a file says so.
        if let Some(scaling) = config.get_mut("rope_scaling").and_then(|scaling| scaling.as_object_mut()) {
            scaling.insert("truncate".into(), false.into());
        }
        Ok(())
    },
    ..USUAL
};

/// GLM 4.5 to 4.7.
pub const GLM4_MOE: Architecture = Architecture {
    name: "glm4moe",
    model_type: "glm4_moe",
    class: "Glm4MoeForCausalLM",
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (QKV_BIAS, Need::Switch("attention_bias", Layers::All)),
        (QK_NORM, Need::Switch("use_qk_norm", Layers::All)),
        (BEFORE_MLP_AS_POST, Need::Always),
        (MLP, Need::In(Layers::Dense)),
        (EXPERTS, Need::In(Layers::Experts)),
        (CORRECTION, Need::In(Layers::Experts)),
        (SHARED_EXPERTS, Need::In(Layers::Shared)),
        (OUTPUT, Need::Untied),
    ],
    settings: &[
        ("expert_count", "n_routed_experts", Setting::Count),
        ("expert_used_count", "num_experts_per_tok", Setting::Count),
        ("expert_feed_forward_length", "moe_intermediate_size", Setting::Count),
        ("expert_shared_count", "n_shared_experts", Setting::Count),
        ("expert_weights_scale", "routed_scaling_factor", Setting::Number(Some(1.0))),
        ("expert_weights_norm", "norm_topk_prob", Setting::Flag(false)),
    ],
    rope: Rope::PARTIAL,
    scores: 2,
    reads: super::latent::GROUP_KEYS,
    own: |file, sizes, config| {
        config.insert("first_k_dense_replace".into(), sizes.dense_layers().into());
        super::latent::groups(file, "glm4moe", config)
    },
    ..USUAL
};

/// MiniMax M2.
pub const MINIMAX_M2: Architecture = Architecture {
    name: "minimax-m2",
    model_type: "minimax_m2",
    class: "MiniMaxM2ForCausalLM",
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (QK_NORM_OF_ALL, Need::Always),
        (BEFORE_MLP, Need::Always),
        (SPARSE_BLOCK, Need::Always),
        (
            &[rule("blk.{}.exp_probs_b.bias", "model.layers.{}.block_sparse_moe.e_score_correction_bias", &[Experts])],
            Need::Always,
        ),
        (OUTPUT, Need::Untied),
    ],
    settings: &[
        ("expert_count", "num_local_experts", Setting::Count),
        ("expert_used_count", "num_experts_per_tok", Setting::Count),
    ],
    rope: Rope::PARTIAL,
    scores: 2,
    ..USUAL
};
