//! The text models within Qwen 2 to 3 VL. Of a text alone, the positions in time, height and width are the same: their
//! rotary embedding is the plain one, however `mrope_section` divides its channels.

use super::Family;
use super::llama;
use super::qwen::{Sparse, sparse};
use crate::architecture::channel_mixer::{Routing, StackNames, Stacks};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{attention_bias, each_attention, expect, plain, window_by_layer_types};
use crate::architecture::module::StackOrder;
use crate::architecture::recipe::Recipe;
use crate::architecture::rope_config::RopeClass;
use crate::architecture::token_mixer::QkNorm;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const QWEN2_VL: Family = Family {
    model_type: "qwen2_vl_text",
    architecture: "Qwen2VLForConditionalGeneration",
    inside: Some("qwen2_vl"),
    read: qwen2,
};

pub(super) const QWEN2_5_VL: Family = Family {
    model_type: "qwen2_5_vl_text",
    architecture: "Qwen2_5_VLForConditionalGeneration",
    inside: Some("qwen2_5_vl"),
    read: qwen2,
};

pub(super) const QWEN3_VL: Family = Family {
    model_type: "qwen3_vl_text",
    architecture: "Qwen3VLForConditionalGeneration",
    inside: Some("qwen3_vl"),
    read: qwen3,
};

pub(super) const QWEN3_VL_MOE: Family = Family {
    model_type: "qwen3_vl_moe_text",
    architecture: "Qwen3VLMoeForConditionalGeneration",
    inside: Some("qwen3_vl_moe"),
    read: qwen3_moe,
};

const QWEN2_CLASS: Class = Class {
    vocab_size: 152_064,
    hidden_size: 8192,
    intermediate_size: 29_568,
    layers: 80,
    heads: 64,
    kv_heads: Some(8),
    rms_norm_eps: 1e-5,
    window: Some(4096),
    rope: RopeClass { theta: 1_000_000.0, positions: 32_768, is_of_images: true, ..llama::CLASS.rope },
    ..llama::CLASS
};

const QWEN3_CLASS: Class = Class {
    vocab_size: 151_936,
    intermediate_size: 22_016,
    kv_heads: Some(32),
    head_dim: Some(128),
    rope: RopeClass { theta: 500_000.0, positions: 128_000, ..QWEN2_CLASS.rope },
    ..llama::CLASS
};

const QWEN3_MOE_CLASS: Class = Class {
    hidden_size: 2048,
    intermediate_size: 5632,
    layers: 24,
    heads: 16,
    kv_heads: Some(16),
    head_dim: None,
    ..QWEN3_CLASS
};

/// As Qwen 2 and 2.5.
fn qwen2(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &QWEN2_CLASS)?;
    each_attention(&mut recipe, |attention| attention.qkv_bias = true);
    window_by_layer_types(c, &mut recipe, &QWEN2_CLASS, 80)?;
    Ok(recipe)
}

/// As Qwen 3, without windows.
fn qwen3(c: &Reader) -> Result<Recipe> {
    qwen3_of(c, &QWEN3_CLASS)
}

/// As Qwen 3's mixtures, with the experts of a layer in two tensors.
fn qwen3_moe(c: &Reader) -> Result<Recipe> {
    let mut recipe = qwen3_of(c, &QWEN3_MOE_CLASS)?;
    // Published configs have it.
    expect(c, "norm_topk_prob", &true.into())?;
    let routing = Routing { normalize: Some(0.0), ..Routing::SOFTMAX };
    let stacks = Some(Stacks { names: StackNames::USUAL, order: StackOrder::ByShape, interleaved: false });
    sparse(
        c,
        &mut recipe,
        Sparse { count: 60, top_k: 4, width: 1408, everywhere: false, routing, stacks, shared: None },
    )?;
    Ok(recipe)
}

fn qwen3_of(c: &Reader, class: &Class) -> Result<Recipe> {
    let mut recipe = plain(c, class)?;
    attention_bias(c, &mut recipe)?;
    each_attention(&mut recipe, |attention| attention.qk_norm = QkNorm::PerHead);
    Ok(recipe)
}
