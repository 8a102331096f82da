//! Gemma 1 to 4.

use super::super::architecture::{Architecture, Constant, Form, Rope, StackForm, Window};
use super::super::file::GgufFile;
use super::super::rule::Dim::{Experts, Hidden, LayerInput, LayerInputs, LayerVocabulary, One};
use super::super::rule::{Layers, Need, Rule, norm, rule};
use super::super::sizes::Sizes;
use super::USUAL;
use super::rules::{AFTER_BOTH, ATTENTION, BEFORE_ATTENTION, BEFORE_MLP, ENDS, MLP, OUTPUT, QK_NORM, down, gate, up};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

const TANH: (&[&str], &str) = (&["hidden_activation"], "gelu_pytorch_tanh");
const NO_BIAS: (&str, Constant) = ("attention_bias", Constant::Flag(false));
const TIED: (&str, Constant) = ("tie_word_embeddings", Constant::Flag(true));

pub const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_type: "gemma",
    class: "GemmaForCausalLM",
    // transformers 4 reads the second key, 5 the first.
    activation: (&["hidden_act", "hidden_activation"], "gelu_pytorch_tanh"),
    adds_one_to_norms: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (BEFORE_MLP, Need::Always),
        (MLP, Need::Always),
    ],
    constants: &[NO_BIAS, TIED],
    ..USUAL
};

/// The norm before the MLP, where there is one after attention, too.
const BEFORE_MLP_OF_FOUR: &[Rule] =
    &[norm("blk.{}.ffn_norm.weight", "model.layers.{}.pre_feedforward_layernorm.weight", &[Hidden])];

pub const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    activation: TANH,
    adds_one_to_norms: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (BEFORE_MLP_OF_FOUR, Need::Always),
        (MLP, Need::Always),
        (AFTER_BOTH, Need::Always),
    ],
    constants: &[NO_BIAS, TIED],
    window: Window::Periodic { period: 2, size: Some(4096) },
    caps: &[("attn_logit_softcapping", Some(50.0)), ("final_logit_softcapping", Some(30.0))],
    scalar_exception: Some(46),
    ..USUAL
};

pub const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    activation: TANH,
    adds_one_to_norms: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (ATTENTION, Need::Always),
        (BEFORE_MLP_OF_FOUR, Need::Always),
        (MLP, Need::Always),
        (AFTER_BOTH, Need::Always),
        (QK_NORM, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    constants: &[NO_BIAS],
    rope: Rope { theta: 1_000_000.0, local_theta: Some(10_000.0), ..Rope::PLAIN },
    window: Window::Periodic { period: 6, size: None },
    caps: &[("final_logit_softcapping", None)],
    scalar_exception: Some(62),
    ..USUAL
};

pub const GEMMA4: Architecture = Architecture {
    name: "gemma4",
    model_type: "gemma4_text",
    class: "Gemma4ForCausalLM",
    activation: TANH,
    form: Form::Gemma4,
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (&[ATTENTION[0], ATTENTION[3], QK_NORM[0]], Need::Always),
        (&[ATTENTION[1], QK_NORM[1]], Need::In(Layers::OwnKeys)),
        (&[ATTENTION[2]], Need::In(Layers::OwnValues)),
        (BEFORE_MLP_OF_FOUR, Need::Always),
        (MLP, Need::Always),
        (AFTER_BOTH, Need::Always),
        (&[rule("blk.{}.layer_output_scale.weight", "model.layers.{}.layer_scalar", &[One])], Need::Always),
        (EXPERTS, Need::In(Layers::Experts)),
        (INPUTS, Need::In(Layers::Inputs)),
        (OUTPUT, Need::Untied),
    ],
    constants: &[NO_BIAS],
    rope: Rope { theta: 1_000_000.0, local_theta: Some(10_000.0), ..Rope::PLAIN },
    window: Window::Periodic { period: 6, size: None },
    caps: &[("final_logit_softcapping", None)],
    stacks: Some(StackForm::OutIn),
    reads: &["attention.shared_kv_layers"],
    own: gemma4,
    ..USUAL
};

const EXPERTS: &[Rule] = &[
    rule("blk.{}.ffn_gate_inp.weight", "model.layers.{}.router.proj.weight", &[Experts, Hidden]),
    rule("blk.{}.ffn_gate_inp.scale", "model.layers.{}.router.scale", &[Hidden]),
    rule("blk.{}.ffn_down_exps.scale", "model.layers.{}.router.per_expert_scale", &[Experts]),
    gate("model.layers.{}.experts.{e}.gate_proj.weight"),
    up("model.layers.{}.experts.{e}.up_proj.weight"),
    down("model.layers.{}.experts.{e}.down_proj.weight"),
    norm("blk.{}.post_ffw_norm_1.weight", "model.layers.{}.post_feedforward_layernorm_1.weight", &[Hidden]),
    norm("blk.{}.pre_ffw_norm_2.weight", "model.layers.{}.pre_feedforward_layernorm_2.weight", &[Hidden]),
    norm("blk.{}.post_ffw_norm_2.weight", "model.layers.{}.post_feedforward_layernorm_2.weight", &[Hidden]),
];

/// The table of inputs of all layers. Its rows need not be as many as the embedding's.
pub(in super::super) const LAYER_TABLE: &str = "per_layer_token_embd.weight";

const INPUTS: &[Rule] = &[
    rule(LAYER_TABLE, "model.embed_tokens_per_layer.weight", &[LayerVocabulary, LayerInputs]),
    rule("per_layer_model_proj.weight", "model.per_layer_model_projection.weight", &[LayerInputs, Hidden]),
    norm("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight", &[LayerInput]),
    rule("blk.{}.inp_gate.weight", "model.layers.{}.per_layer_input_gate.weight", &[LayerInput, Hidden]),
    rule("blk.{}.proj.weight", "model.layers.{}.per_layer_projection.weight", &[Hidden, LayerInput]),
    norm("blk.{}.post_norm.weight", "model.layers.{}.post_per_layer_input_norm.weight", &[Hidden]),
];

/// Divisors of frequencies: 1 where a channel is turned, this where not.
const UNTURNED: f32 = 1e30;

fn gemma4(file: &GgufFile, sizes: &Sizes, config: &mut Map<String, Value>) -> Result<()> {
    let key = |name: &str| format!("gemma4.{name}");
    let (Some(full), Some(sliding)) = (sizes.layer_where(false), sizes.layer_where(true)) else {
        let problem = "has to name layers of both kinds";
        return Err(file.problem(&key("attention.sliding_window_pattern"), problem));
    };
    let keys_are_values = sizes.each.iter().any(|layer| layer.has_keys && !layer.has_values);
    if full.key_value_heads != sliding.key_value_heads && !keys_are_values {
        let problem = "differs between layers that have values of their own, which transformers does not read";
        return Err(file.problem(&key("attention.head_count_kv"), problem));
    }
    config.insert("head_dim".into(), sliding.head.into());
    config.insert("num_key_value_heads".into(), sliding.key_value_heads.into());
    config.insert("global_head_dim".into(), full.head.into());
    config.insert("num_global_key_value_heads".into(), full.key_value_heads.into());
    config.insert("attention_k_eq_v".into(), keys_are_values.into());
    let borrowing = sizes.each.iter().filter(|layer| !layer.has_keys).count();
    config.insert("num_kv_shared_layers".into(), borrowing.into());
    let first = sizes.each.first().map_or(0, |layer| layer.intermediate);
    config.insert("intermediate_size".into(), first.into());
    let is_double = borrowing > 0 && sizes.each.iter().any(|layer| layer.intermediate != first);
    if sizes.each.iter().any(|layer| layer.intermediate != first * (1 + usize::from(is_double && !layer.has_keys))) {
        let problem = "is not the same in all layers, nor twice that in those that borrow keys";
        return Err(file.problem(&key("feed_forward_length"), problem));
    }
    config.insert("use_double_wide_mlp".into(), is_double.into());
    config.insert("hidden_size_per_layer_input".into(), sizes.layer_input.into());
    if sizes.layer_input > 0 {
        config.insert("vocab_size_per_layer_input".into(), sizes.layer_vocabulary.into());
    }
    config.insert("enable_moe_block".into(), sizes.experts.is_some().into());
    if let Some(experts) = sizes.experts {
        config.insert("num_experts".into(), experts.count.into());
        config.insert("moe_intermediate_size".into(), experts.intermediate.into());
        config.insert("top_k_experts".into(), file.size(&key("expert_used_count"))?.into());
    }
    let thetas = ["rope_theta", "rope_local_base_freq"].map(|key| config.remove(key).unwrap_or_default());
    let [theta, local] = thetas;
    let share = turned_share(file, full.head)?;
    config.insert(
        "rope_parameters".into(),
        json!({
            "full_attention":
                {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": share},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }),
    );
    Ok(())
}

/// How much of a head is turned in layers without a window.
fn turned_share(file: &GgufFile, head: usize) -> Result<f64> {
    let factors = file.rows(super::super::rope::FACTORS, 0..head / 2)?;
    let turned = factors.iter().take_while(|factor| **factor == 1.0).count();
    if factors.iter().skip(turned).any(|factor| *factor != UNTURNED) {
        let problem = format!("holds other factors than 1, then {UNTURNED:e}");
        return Err(Error::tensor(file.path(), super::super::rope::FACTORS, problem));
    }
    Ok(turned as f64 / factors.len().max(1) as f64)
}
