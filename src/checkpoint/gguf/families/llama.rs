//! Llama and what is close to it.

use super::super::architecture::{Architecture, Constant, Rope, Setting, StackForm, When, Window};
use super::super::file::GgufFile;
use super::super::rule::Dim::{Experts, GateUp, HeadSize, Hidden, QueryKeyValue};
use super::super::rule::{Layers, Need, Rule, norm, rule};
use super::super::sizes::Sizes;
use super::USUAL;
use super::rules::{
    ATTENTION, BEFORE_ATTENTION, BEFORE_MLP, BEFORE_MLP_AS_POST, ENDS, MLP, MLP_BIAS, OUTPUT, QKV_BIAS, QKVO_BIAS,
    SPARSE_BLOCK, down, gate, up,
};
use crate::error::Result;
use serde_json::{Map, Value, json};

const GROUPS: &[(&[Rule], Need)] = &[
    (ENDS, Need::Always),
    (BEFORE_ATTENTION, Need::Always),
    (ATTENTION, Need::Always),
    (BEFORE_MLP, Need::Always),
    (MLP, Need::Always),
    (QKVO_BIAS, Need::Switch("attention_bias", Layers::All)),
    (MLP_BIAS, Need::Switch("mlp_bias", Layers::All)),
    (OUTPUT, Need::Untied),
];

pub const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    interleaves_heads: true,
    groups: GROUPS,
    ..USUAL
};

/// Mixtral.
pub const MIXTRAL: Architecture = Architecture {
    name: "llama",
    when: When::Set("expert_count"),
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    interleaves_heads: true,
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (BEFORE_MLP, Need::Always),
        (SPARSE_BLOCK, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    settings: &[
        ("expert_count", "num_local_experts", Setting::Count),
        ("expert_used_count", "num_experts_per_tok", Setting::Count),
    ],
    own: no_window,
    ..USUAL
};

/// Mistral Small 3.1 and 3.2: Mistral without a window.
pub const MISTRAL3: Architecture = Architecture {
    name: "mistral3",
    model_type: "mistral",
    class: "MistralForCausalLM",
    interleaves_heads: true,
    groups: GROUPS_WITHOUT_BIASES,
    own: no_window,
    ..USUAL
};

/// Ministral 3: Mistral whose queries grow with their position.
pub const MINISTRAL3: Architecture = Architecture {
    name: "mistral3",
    when: When::Set("attention.temperature_scale"),
    model_type: "ministral3",
    class: "Ministral3ForCausalLM",
    interleaves_heads: true,
    groups: GROUPS_WITHOUT_BIASES,
    rope: Rope { log_multiplier: Some(1.0), ..Rope::PLAIN },
    reads: &["attention.temperature_scale"],
    own: |file, _, config| {
        config.insert("sliding_window".into(), Value::Null);
        grow(file, "mistral3", config)
    },
    ..USUAL
};

const GROUPS_WITHOUT_BIASES: &[(&[Rule], Need)] = &[
    (ENDS, Need::Always),
    (BEFORE_ATTENTION, Need::Always),
    (ATTENTION, Need::Always),
    (BEFORE_MLP, Need::Always),
    (MLP, Need::Always),
    (OUTPUT, Need::Untied),
];

fn no_window(_: &GgufFile, _: &Sizes, config: &mut Map<String, Value>) -> Result<()> {
    config.insert("sliding_window".into(), Value::Null);
    Ok(())
}

/// Writes how queries grow, beside the scaling of RoPE that tells from which length on.
pub(super) fn grow(file: &GgufFile, name: &str, config: &mut Map<String, Value>) -> Result<()> {
    let key = format!("{name}.attention.temperature_scale");
    let beta = file.decimal(&key)?;
    match config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
        Some(scaling) => drop(scaling.insert("llama_4_scaling_beta".into(), json!(beta))),
        None => return Err(file.problem(&key, "is there without a scaling of RoPE by yarn, which tells the length")),
    }
    Ok(())
}

/// Phi-3: q, k and v in one tensor, and gate and up.
pub const PHI3: Architecture = Architecture {
    name: "phi3",
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (
            &[
                rule("blk.{}.attn_qkv.weight", "model.layers.{}.self_attn.qkv_proj.weight", &[QueryKeyValue, Hidden]),
                ATTENTION[3],
            ],
            Need::Always,
        ),
        (BEFORE_MLP, Need::Always),
        (FUSED_MLP, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    rope: Rope { is_phi: true, ..Rope::PARTIAL },
    window: Window::EveryLayer,
    ..USUAL
};

/// Gate and up in one tensor.
pub(super) const FUSED_MLP: &[Rule] =
    &[rule("blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight", &[GateUp, Hidden]), MLP[2]];

/// Granite 3, and the models of Granite 4 with attention in all layers and no experts, which compute the same.
pub const GRANITE: Architecture = Architecture {
    name: "granite",
    model_type: "granite",
    class: "GraniteForCausalLM",
    interleaves_heads: true,
    groups: GROUPS,
    settings: GRANITE_SCALES,
    own: |file, _, _| is_turned(file, "granite.rope.scaling.finetuned"),
    ..USUAL
};

const GRANITE_SCALES: &[(&str, &str, Setting)] = &[
    ("logit_scale", "logits_scaling", Setting::Number(None)),
    ("residual_scale", "residual_multiplier", Setting::Number(Some(1.0))),
    ("embedding_scale", "embedding_multiplier", Setting::Number(Some(1.0))),
    ("attention.scale", "attention_multiplier", Setting::Number(None)),
];

/// Whether Granite's heads are turned, which `key` says.
fn is_turned(file: &GgufFile, key: &str) -> Result<()> {
    match file.bool_opt(key)? {
        Some(false) => Err(file.problem(key, "is false: without RoPE, which is not supported in a GGUF")),
        _ => Ok(()),
    }
}

/// Granite 3's mixtures.
pub const GRANITE_MOE: Architecture = Architecture {
    name: "granitemoe",
    model_type: "granitemoe",
    class: "GraniteMoeForCausalLM",
    interleaves_heads: true,
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (QKVO_BIAS, Need::Switch("attention_bias", Layers::All)),
        (BEFORE_MLP, Need::Always),
        (
            &[
                rule(
                    "blk.{}.ffn_gate_inp.weight",
                    "model.layers.{}.block_sparse_moe.router.layer.weight",
                    &[Experts, Hidden],
                ),
                gate("model.layers.{}.block_sparse_moe.experts.{e}.gate_proj.weight"),
                up("model.layers.{}.block_sparse_moe.experts.{e}.up_proj.weight"),
                down("model.layers.{}.block_sparse_moe.experts.{e}.down_proj.weight"),
            ],
            Need::Always,
        ),
        (OUTPUT, Need::Untied),
    ],
    settings: &[
        GRANITE_SCALES[0],
        GRANITE_SCALES[1],
        GRANITE_SCALES[2],
        GRANITE_SCALES[3],
        ("expert_count", "num_local_experts", Setting::Count),
        ("expert_used_count", "num_experts_per_tok", Setting::Count),
    ],
    stacks: Some(StackForm::Linear),
    own: |file, sizes, config| {
        is_turned(file, "granitemoe.rope.scaling.finetuned")?;
        let Some(experts) = sizes.experts else { return Ok(()) };
        if experts.shared > 0 {
            let problem = format!("is {}: an MLP beside the experts is not supported in a GGUF", experts.shared);
            return Err(file.problem("granitemoe.expert_shared_feed_forward_length", problem));
        }
        config.insert("intermediate_size".into(), experts.intermediate.into());
        Ok(())
    },
    ..USUAL
};

/// SmolLM3: every fourth layer without RoPE, which no key of a file says.
pub const SMOLLM3: Architecture = Architecture {
    name: "smollm3",
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    interleaves_heads: true,
    groups: GROUPS,
    constants: &[("no_rope_layer_interval", Constant::Count(4)), ("use_sliding_window", Constant::Flag(false))],
    ..USUAL
};

/// ERNIE 4.5, whose heads are turned by neighbours in transformers, too.
pub const ERNIE4_5: Architecture = Architecture {
    name: "ernie4_5",
    model_type: "ernie4_5",
    class: "Ernie4_5ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (BEFORE_MLP, Need::Always),
        (MLP, Need::Always),
        (
            &[QKVO_BIAS[0], QKVO_BIAS[1], QKVO_BIAS[2], QKVO_BIAS[3], MLP_BIAS[0], MLP_BIAS[1], MLP_BIAS[2]],
            Need::Switch("use_bias", Layers::All),
        ),
        (OUTPUT, Need::Untied),
    ],
    ..USUAL
};

/// Hunyuan: the base of frequencies comes stretched.
pub const HUNYUAN: Architecture = Architecture {
    name: "hunyuan-dense",
    model_type: "hunyuan_v1_dense",
    class: "HunYuanDenseV1ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (
            &[
                norm("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.query_layernorm.weight", &[HeadSize]),
                norm("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.key_layernorm.weight", &[HeadSize]),
            ],
            Need::Always,
        ),
        (BEFORE_MLP, Need::Always),
        (MLP, Need::Always),
        (QKVO_BIAS, Need::Switch("attention_bias", Layers::All)),
        (OUTPUT, Need::Untied),
    ],
    ..USUAL
};

/// Seed-OSS, of whose biases llama.cpp has those of queries, keys and values.
pub const SEED_OSS: Architecture = Architecture {
    name: "seed_oss",
    model_type: "seed_oss",
    class: "SeedOssForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (QKV_BIAS, Need::Switch("attention_bias", Layers::All)),
        (BEFORE_MLP_AS_POST, Need::Always),
        (MLP, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    ..USUAL
};
