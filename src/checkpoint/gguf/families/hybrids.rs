//! Families with attention in some layers and something else in the others: gated delta nets, short convolutions.

use super::super::architecture::{Architecture, Constant, Form, Rope, StackForm};
use super::super::file::GgufFile;
use super::super::rule::Dim::{
    GatedQuery, HeadSize, Hidden, Intermediate, Kernel, Mixed, MixedAndGates, One, Query, ThriceHidden,
    TwiceValueHeads, Value as OneValue, ValueHeads, Values, Vocabulary,
};
use super::super::rule::{Dim, Layers, Need, Role, Rule, norm, rotary, rule};
use super::super::sizes::{Mixer, Sizes};
use super::USUAL;
use super::qwen::EXPERT_SETTINGS;
use super::rules::{
    ATTENTION, BEFORE_ATTENTION, BEFORE_MLP_AS_POST, EMBEDDING, ENDS, EXPERTS, MLP, OUTPUT, QK_NORM, SHARED_EXPERT,
};
use crate::error::Result;
use serde_json::{Map, Value};

/// Attention whose projection to queries puts out gates, too.
const GATED_ATTENTION: &[Rule] = &[
    rotary("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", &[GatedQuery, Hidden]),
    ATTENTION[1],
    ATTENTION[2],
    ATTENTION[3],
    QK_NORM[0],
    QK_NORM[1],
];

const fn of_net(gguf: &'static str, hf: &'static str, shape: &'static [Dim], role: Role) -> Rule {
    Rule { gguf, hf, shape, role }
}

/// What delta nets have however their inputs are projected.
const NET: &[Rule] = &[
    of_net(
        "blk.{}.ssm_conv1d.weight",
        "model.layers.{}.linear_attn.conv1d.weight",
        &[Mixed, One, Kernel],
        Role::KeysAndValueHeads,
    ),
    of_net("blk.{}.ssm_dt.bias", "model.layers.{}.linear_attn.dt_bias", &[ValueHeads], Role::ValueHead),
    of_net("blk.{}.ssm_a", "model.layers.{}.linear_attn.A_log", &[ValueHeads], Role::DecayRates),
    rule("blk.{}.ssm_norm.weight", "model.layers.{}.linear_attn.norm.weight", &[OneValue]),
    of_net(
        "blk.{}.ssm_out.weight",
        "model.layers.{}.linear_attn.out_proj.weight",
        &[Hidden, Values],
        Role::FromValueHeads,
    ),
];

/// Their inputs, each by itself.
const APART: &[Rule] = &[
    of_net(
        "blk.{}.attn_qkv.weight",
        "model.layers.{}.linear_attn.in_proj_qkv.weight",
        &[Mixed, Hidden],
        Role::KeysAndValueHeads,
    ),
    of_net(
        "blk.{}.attn_gate.weight",
        "model.layers.{}.linear_attn.in_proj_z.weight",
        &[Values, Hidden],
        Role::ValueHeads,
    ),
    of_net(
        "blk.{}.ssm_beta.weight",
        "model.layers.{}.linear_attn.in_proj_b.weight",
        &[ValueHeads, Hidden],
        Role::ValueHead,
    ),
    of_net(
        "blk.{}.ssm_alpha.weight",
        "model.layers.{}.linear_attn.in_proj_a.weight",
        &[ValueHeads, Hidden],
        Role::ValueHead,
    ),
];

/// Their inputs in two tensors.
const TOGETHER: &[Rule] = &[
    of_net(
        "blk.{}.attn_qkv.weight",
        "model.layers.{}.linear_attn.in_proj_qkvz.weight",
        &[MixedAndGates, Hidden],
        Role::ByKeyHead,
    ),
    rule("blk.{}.ssm_ba.weight", "model.layers.{}.linear_attn.in_proj_ba.weight", &[TwiceValueHeads, Hidden]),
];

pub const QWEN3_NEXT: Architecture = Architecture {
    name: "qwen3next",
    model_type: "qwen3_next",
    class: "Qwen3NextForCausalLM",
    adds_one_to_norms: true,
    form: Form::DeltaNet,
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (GATED_ATTENTION, Need::In(Layers::Attention)),
        (NET, Need::In(Layers::DeltaNet)),
        (TOGETHER, Need::In(Layers::DeltaNet)),
        (BEFORE_MLP_AS_POST, Need::Always),
        (EXPERTS, Need::Always),
        (SHARED_EXPERT, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    constants: &[("norm_topk_prob", Constant::Flag(true))],
    settings: EXPERT_SETTINGS,
    rope: Rope::PARTIAL,
    own: delta_nets,
    ..USUAL
};

/// Qwen 3.5's dense models.
pub const QWEN3_5: Architecture = Architecture {
    name: "qwen35",
    model_type: "qwen3_5_text",
    class: "Qwen3_5ForCausalLM",
    adds_one_to_norms: true,
    tiles_value_heads: true,
    form: Form::DeltaNet,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (GATED_ATTENTION, Need::In(Layers::Attention)),
        (NET, Need::In(Layers::DeltaNet)),
        (APART, Need::In(Layers::DeltaNet)),
        (BEFORE_MLP_AS_POST, Need::Always),
        (MLP, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    rope: Rope::PARTIAL,
    own: delta_nets,
    ..USUAL
};

pub const QWEN3_5_MOE: Architecture = Architecture {
    name: "qwen35moe",
    model_type: "qwen3_5_moe_text",
    class: "Qwen3_5MoeForCausalLM",
    has_experts: true,
    groups: &[
        (ENDS, Need::Always),
        (BEFORE_ATTENTION, Need::Always),
        (GATED_ATTENTION, Need::In(Layers::Attention)),
        (NET, Need::In(Layers::DeltaNet)),
        (APART, Need::In(Layers::DeltaNet)),
        (BEFORE_MLP_AS_POST, Need::Always),
        (EXPERTS, Need::Always),
        (SHARED_EXPERT, Need::Always),
        (OUTPUT, Need::Untied),
    ],
    settings: EXPERT_SETTINGS,
    stacks: Some(StackForm::OutIn),
    ..QWEN3_5
};

fn delta_nets(_: &GgufFile, sizes: &Sizes, config: &mut Map<String, Value>) -> Result<()> {
    let net = sizes.delta;
    let numbers = [
        ("linear_conv_kernel_dim", sizes.kernel),
        ("linear_num_key_heads", net.key_heads),
        ("linear_num_value_heads", net.value_heads),
        ("linear_key_head_dim", net.key),
        ("linear_value_head_dim", net.value),
    ];
    config.extend(numbers.map(|(key, n)| (key.to_owned(), n.into())));
    if let Some(experts) = sizes.experts {
        config.insert("shared_expert_intermediate_size".into(), experts.shared.into());
    }
    layer_types(sizes, "linear_attention", config);
    Ok(())
}

/// Which layers have attention, and what the others have.
fn layer_types(sizes: &Sizes, other: &str, config: &mut Map<String, Value>) {
    let kind = |mixer| if mixer == Mixer::Attention { "full_attention" } else { other };
    config.insert("layer_types".into(), sizes.each.iter().map(|layer| kind(layer.mixer)).collect());
}

pub const LFM2: Architecture = Architecture {
    name: "lfm2",
    model_type: "lfm2",
    class: "Lfm2ForCausalLM",
    activation: (&[], ""),
    form: Form::Convolution,
    groups: &[
        (
            &[
                rule(EMBEDDING, "model.embed_tokens.weight", &[Vocabulary, Hidden]),
                norm("token_embd_norm.weight", "model.embedding_norm.weight", &[Hidden]),
                norm("blk.{}.attn_norm.weight", "model.layers.{}.operator_norm.weight", &[Hidden]),
                norm("blk.{}.ffn_norm.weight", "model.layers.{}.ffn_norm.weight", &[Hidden]),
                rule("blk.{}.ffn_gate.weight", "model.layers.{}.feed_forward.w1.weight", &[Intermediate, Hidden]),
                rule("blk.{}.ffn_up.weight", "model.layers.{}.feed_forward.w3.weight", &[Intermediate, Hidden]),
                rule("blk.{}.ffn_down.weight", "model.layers.{}.feed_forward.w2.weight", &[Hidden, Intermediate]),
            ],
            Need::Always,
        ),
        (
            &[
                ATTENTION[0],
                ATTENTION[1],
                ATTENTION[2],
                rule("blk.{}.attn_output.weight", "model.layers.{}.self_attn.out_proj.weight", &[Hidden, Query]),
                norm("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_layernorm.weight", &[HeadSize]),
                norm("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_layernorm.weight", &[HeadSize]),
            ],
            Need::In(Layers::Attention),
        ),
        (
            &[
                Rule {
                    gguf: "blk.{}.shortconv.conv.weight",
                    hf: "model.layers.{}.conv.conv.weight",
                    shape: &[Hidden, One, Kernel],
                    role: Role::WithoutOnes,
                },
                rule("blk.{}.shortconv.in_proj.weight", "model.layers.{}.conv.in_proj.weight", &[ThriceHidden, Hidden]),
                rule("blk.{}.shortconv.out_proj.weight", "model.layers.{}.conv.out_proj.weight", &[Hidden, Hidden]),
            ],
            Need::In(Layers::Convolution),
        ),
        (
            &[
                rule("blk.{}.shortconv.conv.bias", "model.layers.{}.conv.conv.bias", &[Hidden]),
                rule("blk.{}.shortconv.in_proj.bias", "model.layers.{}.conv.in_proj.bias", &[ThriceHidden]),
                rule("blk.{}.shortconv.out_proj.bias", "model.layers.{}.conv.out_proj.bias", &[Hidden]),
            ],
            Need::Switch("conv_bias", Layers::Convolution),
        ),
        (OUTPUT, Need::Untied),
    ],
    constants: &[("block_auto_adjust_ff_dim", Constant::Flag(false))],
    epsilon: ("attention.layer_norm_rms_epsilon", "norm_eps"),
    own: |_, sizes, config| {
        config.insert("conv_L_cache".into(), sizes.kernel.into());
        layer_types(sizes, "conv", config);
        Ok(())
    },
    ..USUAL
};
