//! Families whose norms stand elsewhere than Llama's.

use super::super::architecture::{Architecture, Constant, Rope, Setting, When, Window};
use super::super::rule::Dim::Hidden;
use super::super::rule::{Layers, Need, Rule, norm};
use super::USUAL;
use super::llama::FUSED_MLP;
use super::rules::{
    AFTER_BOTH, ATTENTION, BEFORE_ATTENTION, BEFORE_MLP, ENDS, MLP, OUTPUT, QK_NORM, QK_NORM_OF_ALL, QKV_BIAS,
};
use serde_json::{Value, json};

/// GLM 4 0414.
pub const GLM4: Architecture = Architecture {
    name: "glm4",
    model_type: "glm4",
    class: "Glm4ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (QKV_BIAS, Need::Switch("attention_bias", Layers::All)),
        (BEFORE_MLP, Need::Always),
        (FUSED_MLP, Need::Always),
        (
            &[
                norm("blk.{}.post_attention_norm.weight", "model.layers.{}.post_self_attn_layernorm.weight", &[Hidden]),
                norm("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_mlp_layernorm.weight", &[Hidden]),
            ],
            Need::Always,
        ),
        (OUTPUT, Need::Untied),
    ],
    rope: Rope::PARTIAL,
    ..USUAL
};

const OLMO: &[(&[Rule], Need)] = &[
    (ENDS, Need::Always),
    (ATTENTION, Need::Always),
    (QK_NORM_OF_ALL, Need::Always),
    (MLP, Need::Always),
    (AFTER_BOTH, Need::Always),
    (OUTPUT, Need::Untied),
];

pub const OLMO2: Architecture =
    Architecture { name: "olmo2", model_type: "olmo2", class: "Olmo2ForCausalLM", groups: OLMO, ..USUAL };

/// OLMo 3: windows in three of four layers, whose RoPE is never scaled.
pub const OLMO3: Architecture = Architecture {
    name: "olmo2",
    when: When::Set("attention.sliding_window"),
    model_type: "olmo3",
    class: "Olmo3ForCausalLM",
    groups: OLMO,
    window: Window::Periodic { period: 4, size: None },
    own: |_, _, config| {
        let theta = config.get("rope_theta").cloned().unwrap_or_default();
        if let Some(Value::Object(mut full)) = config.remove("rope_scaling") {
            full.insert("rope_theta".into(), theta.clone());
            let sliding = json!({"rope_type": "default", "rope_theta": theta});
            let both = json!({"full_attention": full, "sliding_attention": sliding});
            config.insert("rope_parameters".into(), both);
            config.remove("rope_theta");
        }
        Ok(())
    },
    ..USUAL
};

pub const EXAONE4: Architecture = Architecture {
    name: "exaone4",
    model_type: "exaone4",
    class: "Exaone4ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (ATTENTION, Need::Always),
        (QK_NORM, Need::Always),
        (MLP, Need::Always),
        (AFTER_BOTH, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    window: Window::Periodic { period: 4, size: None },
    own: |_, _, config| {
        config.entry("sliding_window").or_insert(Value::Null);
        Ok(())
    },
    ..USUAL
};

/// Command R7B and A.
pub const COHERE2: Architecture = Architecture {
    name: "cohere2",
    model_type: "cohere2",
    class: "Cohere2ForCausalLM",
    groups: &[(ENDS, Need::Always), (BEFORE_ATTENTION, Need::Always), (ATTENTION, Need::Always), (MLP, Need::Always)],
    constants: &[("tie_word_embeddings", Constant::Flag(true))],
    settings: &[("logit_scale", "logit_scale", Setting::Number(None))],
    epsilon: ("attention.layer_norm_epsilon", "layer_norm_eps"),
    window: Window::Periodic { period: 4, size: None },
    ..USUAL
};
