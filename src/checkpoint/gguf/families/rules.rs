//! Tensors that several families have.

use super::super::rule::Dim::{
    ExpertIntermediate, Experts, HeadSize, Hidden, Intermediate, KeyValue, One, Query, Shared, Vocabulary,
};
use super::super::rule::{Expert, Role, Rule, norm, rotary, rule};

/// The GGUF name of the token embedding, whose rows are the vocabulary.
pub const EMBEDDING: &str = "token_embd.weight";

/// What stands around the layers.
pub const ENDS: &[Rule] = &[
    rule(EMBEDDING, "model.embed_tokens.weight", &[Vocabulary, Hidden]),
    norm("output_norm.weight", "model.norm.weight", &[Hidden]),
];

pub const OUTPUT: &[Rule] = &[rule("output.weight", "lm_head.weight", &[Vocabulary, Hidden])];

/// The norm before attention.
pub const BEFORE_ATTENTION: &[Rule] =
    &[norm("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight", &[Hidden])];

/// The norm before the MLP, as Llama calls it.
pub const BEFORE_MLP: &[Rule] =
    &[norm("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight", &[Hidden])];

/// The same norm in files of families that llama.cpp took up with a norm after attention in mind.
pub const BEFORE_MLP_AS_POST: &[Rule] =
    &[norm("blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight", &[Hidden])];

/// Norms on what attention and MLP add.
pub const AFTER_BOTH: &[Rule] = &[
    norm("blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight", &[Hidden]),
    norm("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight", &[Hidden]),
];

pub const ATTENTION: &[Rule] = &[
    rotary("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", &[Query, Hidden]),
    rotary("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", &[KeyValue, Hidden]),
    rule("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight", &[KeyValue, Hidden]),
    rule("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight", &[Hidden, Query]),
];

pub const QKV_BIAS: &[Rule] = &[
    rotary("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", &[Query]),
    rotary("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", &[KeyValue]),
    rule("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", &[KeyValue]),
];

pub const QKVO_BIAS: &[Rule] = &[
    QKV_BIAS[0],
    QKV_BIAS[1],
    QKV_BIAS[2],
    rule("blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias", &[Hidden]),
];

/// Norms of each head's queries and keys.
pub const QK_NORM: &[Rule] = &[
    norm("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight", &[HeadSize]),
    norm("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight", &[HeadSize]),
];

/// Norms over the queries and keys of all heads.
pub const QK_NORM_OF_ALL: &[Rule] = &[
    norm("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight", &[Query]),
    norm("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight", &[KeyValue]),
];

pub const MLP: &[Rule] = &[
    rule("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight", &[Intermediate, Hidden]),
    rule("blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", &[Intermediate, Hidden]),
    rule("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight", &[Hidden, Intermediate]),
];

pub const MLP_BIAS: &[Rule] = &[
    rule("blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias", &[Intermediate]),
    rule("blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias", &[Intermediate]),
    rule("blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias", &[Hidden]),
];

const fn expert(gguf: &'static str, hf: &'static str, shape: &'static [Dim], part: Expert) -> Rule {
    Rule { gguf, hf, shape, role: Role::Expert(part) }
}

/// The experts of a layer and their router.
pub const EXPERTS: &[Rule] = &[
    rule("blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.gate.weight", &[Experts, Hidden]),
    gate("model.layers.{}.mlp.experts.{e}.gate_proj.weight"),
    up("model.layers.{}.mlp.experts.{e}.up_proj.weight"),
    down("model.layers.{}.mlp.experts.{e}.down_proj.weight"),
];

/// As [`EXPERTS`], under Mixtral's names.
pub const SPARSE_BLOCK: &[Rule] = &[
    rule("blk.{}.ffn_gate_inp.weight", "model.layers.{}.block_sparse_moe.gate.weight", &[Experts, Hidden]),
    gate("model.layers.{}.block_sparse_moe.experts.{e}.w1.weight"),
    up("model.layers.{}.block_sparse_moe.experts.{e}.w3.weight"),
    down("model.layers.{}.block_sparse_moe.experts.{e}.w2.weight"),
];

/// The gates of a layer's experts, all in one tensor.
pub const fn gate(hf: &'static str) -> Rule {
    expert("blk.{}.ffn_gate_exps.weight", hf, &[ExpertIntermediate, Hidden], Expert::Gate)
}

/// Likewise what stands beside the gates.
pub const fn up(hf: &'static str) -> Rule {
    expert("blk.{}.ffn_up_exps.weight", hf, &[ExpertIntermediate, Hidden], Expert::Up)
}

/// Likewise the projections back.
pub const fn down(hf: &'static str) -> Rule {
    expert("blk.{}.ffn_down_exps.weight", hf, &[Hidden, ExpertIntermediate], Expert::Own)
}

/// Likewise their biases.
pub const EXPERT_BIASES: &[Rule] = &[
    expert(
        "blk.{}.ffn_gate_exps.bias",
        "model.layers.{}.mlp.experts.{e}.gate_proj.bias",
        &[ExpertIntermediate],
        Expert::Own,
    ),
    expert(
        "blk.{}.ffn_up_exps.bias",
        "model.layers.{}.mlp.experts.{e}.up_proj.bias",
        &[ExpertIntermediate],
        Expert::Own,
    ),
    expert("blk.{}.ffn_down_exps.bias", "model.layers.{}.mlp.experts.{e}.down_proj.bias", &[Hidden], Expert::Own),
];

/// An expert for all positions beside the others, with its gate (Qwen).
pub const SHARED_EXPERT: &[Rule] = &[
    rule("blk.{}.ffn_gate_shexp.weight", "model.layers.{}.mlp.shared_expert.gate_proj.weight", &[Shared, Hidden]),
    rule("blk.{}.ffn_up_shexp.weight", "model.layers.{}.mlp.shared_expert.up_proj.weight", &[Shared, Hidden]),
    rule("blk.{}.ffn_down_shexp.weight", "model.layers.{}.mlp.shared_expert.down_proj.weight", &[Hidden, Shared]),
    Rule {
        gguf: "blk.{}.ffn_gate_inp_shexp.weight",
        hf: "model.layers.{}.mlp.shared_expert_gate.weight",
        shape: &[One, Hidden],
        role: Role::WithoutOnes,
    },
];

/// The same without a gate (DeepSeek).
pub const SHARED_EXPERTS: &[Rule] = &[
    rule("blk.{}.ffn_gate_shexp.weight", "model.layers.{}.mlp.shared_experts.gate_proj.weight", &[Shared, Hidden]),
    rule("blk.{}.ffn_up_shexp.weight", "model.layers.{}.mlp.shared_experts.up_proj.weight", &[Shared, Hidden]),
    rule("blk.{}.ffn_down_shexp.weight", "model.layers.{}.mlp.shared_experts.down_proj.weight", &[Hidden, Shared]),
];

/// What corrects scores where experts are chosen.
pub const CORRECTION: &[Rule] =
    &[rule("blk.{}.exp_probs_b.bias", "model.layers.{}.mlp.gate.e_score_correction_bias", &[Experts])];

use super::super::rule::Dim;
