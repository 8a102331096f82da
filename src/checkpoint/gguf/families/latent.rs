//! Latent attention: DeepSeek V2 and V3 and what was built on them.

use super::super::architecture::{Architecture, Constant, Form, Rope, Setting, StackForm, When};
use super::super::file::GgufFile;
use super::super::rule::Dim::{
    Hidden, KeyValueLatent, KeyValueLatentAndTurned, KeysAndValues, MixedValues, Query, QueryLatent,
};
use super::super::rule::{Layers, Need, Role, Rule, norm, rule};
use super::super::sizes::Sizes;
use super::USUAL;
use super::llama::grow;
use super::rules::{BEFORE_ATTENTION, BEFORE_MLP, CORRECTION, ENDS, EXPERTS, MLP, OUTPUT, SHARED_EXPERTS};
use crate::error::Result;
use serde_json::{Map, Value, json};

const LATENT: &[Rule] = &[
    rule(
        "blk.{}.attn_kv_a_mqa.weight",
        "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight",
        &[KeyValueLatentAndTurned, Hidden],
    ),
    norm("blk.{}.attn_kv_a_norm.weight", "model.layers.{}.self_attn.kv_a_layernorm.weight", &[KeyValueLatent]),
    Rule {
        gguf: "blk.{}.attn_k_b.weight",
        hf: "model.layers.{}.self_attn.kv_b_proj.weight",
        shape: &[KeysAndValues, KeyValueLatent],
        role: Role::KeysAndValues,
    },
    rule("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight", &[Hidden, MixedValues]),
];

const QUERY_LATENT: &[Rule] = &[
    rule("blk.{}.attn_q_a.weight", "model.layers.{}.self_attn.q_a_proj.weight", &[QueryLatent, Hidden]),
    norm("blk.{}.attn_q_a_norm.weight", "model.layers.{}.self_attn.q_a_layernorm.weight", &[QueryLatent]),
    rule("blk.{}.attn_q_b.weight", "model.layers.{}.self_attn.q_b_proj.weight", &[Query, QueryLatent]),
];

const PLAIN_QUERY: &[Rule] =
    &[rule("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", &[Query, Hidden])];

const SETTINGS: &[(&str, &str, Setting)] = &[
    ("expert_count", "n_routed_experts", Setting::Count),
    ("expert_used_count", "num_experts_per_tok", Setting::Count),
    ("expert_feed_forward_length", "moe_intermediate_size", Setting::Count),
    ("expert_shared_count", "n_shared_experts", Setting::Count),
    ("expert_weights_scale", "routed_scaling_factor", Setting::Number(Some(1.0))),
    ("expert_weights_norm", "norm_topk_prob", Setting::Flag(false)),
];

const NO_BIAS: (&str, Constant) = ("attention_bias", Constant::Flag(false));

/// What llama.cpp makes of sigmoid scores.
const SIGMOID: When = When::Is("expert_gating_func", 2);

/// DeepSeek V3, and what computes as it: Kimi K2, GLM 4.7 Flash.
pub const DEEPSEEK_V3: Architecture = Architecture {
    when: SIGMOID,
    model_type: "deepseek_v3",
    class: "DeepseekV3ForCausalLM",
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (LATENT, Need::Always),
        (QUERY_LATENT, Need::In(Layers::QueryLatent)),
        (PLAIN_QUERY, Need::In(Layers::PlainQuery)),
        (BEFORE_MLP, Need::Always),
        (MLP, Need::In(Layers::Dense)),
        (EXPERTS, Need::In(Layers::Experts)),
        (SHARED_EXPERTS, Need::In(Layers::Shared)),
        (CORRECTION, Need::In(Layers::Experts)),
        (OUTPUT, Need::Untied),
    ],
    constants: &[NO_BIAS, ("scoring_func", Constant::Text("sigmoid")), ("topk_method", Constant::Text("noaux_tc"))],
    scores: 2,
    own: |file, sizes, config| {
        latent(sizes, config);
        groups(file, "deepseek2", config)
    },
    ..DEEPSEEK_V2
};

pub const DEEPSEEK_V2: Architecture = Architecture {
    name: "deepseek2",
    model_type: "deepseek_v2",
    class: "DeepseekV2ForCausalLM",
    form: Form::Latent,
    has_experts: true,
    groups: WITHOUT_CORRECTION,
    constants: &[NO_BIAS, ("scoring_func", Constant::Text("softmax"))],
    settings: SETTINGS,
    rope: Rope { log_multiplier: Some(10.0), ..Rope::PLAIN },
    reads: GROUP_KEYS,
    own: |file, sizes, config| {
        latent(sizes, config);
        groups(file, "deepseek2", config)?;
        let by_group = config.get("n_group").and_then(Value::as_u64).is_some_and(|groups| groups > 1);
        config.insert("topk_method".into(), if by_group { "group_limited_greedy" } else { "greedy" }.into());
        Ok(())
    },
    ..USUAL
};

const WITHOUT_CORRECTION: &[(&[Rule], Need)] = &[
    (ENDS, Need::Always),
    (BEFORE_ATTENTION, Need::Always),
    (LATENT, Need::Always),
    (QUERY_LATENT, Need::In(Layers::QueryLatent)),
    (PLAIN_QUERY, Need::In(Layers::PlainQuery)),
    (BEFORE_MLP, Need::Always),
    (MLP, Need::In(Layers::Dense)),
    (EXPERTS, Need::In(Layers::Experts)),
    (SHARED_EXPERTS, Need::In(Layers::Shared)),
    (OUTPUT, Need::Untied),
];

/// Mistral Small 4: softmax scores, queries that grow with their position.
pub const MISTRAL4: Architecture = Architecture {
    name: "mistral4",
    model_type: "mistral4",
    class: "Mistral4ForCausalLM",
    constants: &[NO_BIAS],
    stacks: Some(StackForm::OutIn),
    reads: &[GROUP_KEYS[0], GROUP_KEYS[1], "attention.temperature_scale"],
    own: |file, sizes, config| {
        latent(sizes, config);
        // A share of the whole head, of which the class makes as many channels as are turned.
        config.insert("head_dim".into(), sizes.head.into());
        config.insert("partial_rotary_factor".into(), json!(sizes.rotated as f64 / sizes.head as f64));
        groups(file, "mistral4", config)?;
        grow(file, "mistral4", config)
    },
    ..DEEPSEEK_V2
};

fn latent(sizes: &Sizes, config: &mut Map<String, Value>) {
    let of = sizes.latent;
    let numbers = [
        ("kv_lora_rank", of.key_value),
        ("qk_nope_head_dim", of.plain),
        ("qk_rope_head_dim", sizes.rotated),
        ("v_head_dim", of.value),
        ("num_key_value_heads", sizes.heads),
        ("head_dim", sizes.rotated),
        ("first_k_dense_replace", sizes.dense_layers()),
    ];
    config.extend(numbers.map(|(key, n)| (key.to_owned(), n.into())));
    config.insert("q_lora_rank".into(), json!(of.query));
}

pub(super) const GROUP_KEYS: &[&str] = &["expert_group_count", "expert_group_used_count"];

/// The groups that experts are chosen by. Files of DeepSeek's own models from before llama.cpp wrote them are refused, as
/// these have groups.
pub(super) fn groups(file: &GgufFile, name: &str, config: &mut Map<String, Value>) -> Result<()> {
    let key = |key: &str| format!("{name}.{key}");
    let count = file.u64_opt(&key("expert_group_count"))?;
    if count.is_none() && [160, 256].contains(&file.size(&key("expert_count"))?) {
        let problem = "is missing, and a model of so many experts has groups; convert the model again";
        return Err(file.problem(&key("expert_group_count"), problem));
    }
    let kept = file.u64_opt(&key("expert_group_used_count"))?;
    config.insert("n_group".into(), count.unwrap_or(1).into());
    config.insert("topk_group".into(), kept.unwrap_or(1).into());
    Ok(())
}
