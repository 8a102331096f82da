//! Gemma 1 to 3, of the last the text model.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::Activation;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{
    activation_or, attention_bias, each_attention, each_attention_with, head_dim, layer_types, rope, softcap, window,
    window_where, without_rope,
};
use crate::architecture::recipe::Recipe;
use crate::architecture::recipe::{Around, Block, NormStyle};
use crate::architecture::rope_config::{self, RopeClass};
use crate::architecture::token_mixer::QkNorm;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const GEMMA: Family =
    Family { model_type: "gemma", architecture: "GemmaForCausalLM", inside: None, read: gemma };

pub(super) const GEMMA2: Family =
    Family { model_type: "gemma2", architecture: "Gemma2ForCausalLM", inside: None, read: gemma2 };

pub(super) const GEMMA3: Family =
    Family { model_type: "gemma3_text", architecture: "Gemma3ForCausalLM", inside: Some("gemma3"), read: gemma3 };

const GEMMA_CLASS: Class = Class {
    vocab_size: 256_000,
    hidden_size: 3072,
    intermediate_size: 24_576,
    layers: 28,
    heads: 16,
    kv_heads: Some(16),
    null_kv_heads: false,
    head_dim: Some(256),
    tied: true,
    rope: RopeClass { positions: 8192, ..llama::CLASS.rope },
    ..llama::CLASS
};

const GEMMA2_CLASS: Class = Class {
    hidden_size: 2304,
    intermediate_size: 9216,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    window: Some(4096),
    ..GEMMA_CLASS
};

/// With the rotary embedding of its full layers.
const GEMMA3_CLASS: Class = Class {
    vocab_size: 262_208,
    rope: RopeClass { theta: 1_000_000.0, positions: 131_072, ..llama::CLASS.rope },
    ..GEMMA2_CLASS
};

/// Gemma: the embedding times √hidden, norms that multiply by 1 + w.
fn gemma(c: &Reader) -> Result<Recipe> {
    // The first configs say `gelu`; their authors compute its tanh approximation.
    let act = match activation_or(c, "hidden_act", Activation::GeluTanh)? {
        Activation::Gelu => Activation::GeluTanh,
        other => other,
    };
    let mut recipe = gemma_like(c, &GEMMA_CLASS, act)?;
    recipe.ropes = vec![rope(c, &GEMMA_CLASS, &recipe)?];
    if c.get("hidden_activation").is_some() && activation_or(c, "hidden_activation", act)? != act {
        let expected = "null, or what hidden_act says: transformers 5 goes by hidden_act, in which gelu is \
                        gelu_pytorch_tanh, early versions of 4 by hidden_activation";
        return Err(c.wrong("hidden_activation", expected));
    }
    Ok(recipe)
}

/// Gemma 2: four norms a layer, caps on scores and logits, a window in every other layer.
fn gemma2(c: &Reader) -> Result<Recipe> {
    let mut recipe = gemma_with_four_norms(c, &GEMMA2_CLASS)?;
    recipe.ropes = vec![rope(c, &GEMMA2_CLASS, &recipe)?];
    let cap = softcap(c, "attn_logit_softcapping", Some(50.0))?;
    each_attention(&mut recipe, |attention| attention.softcap = cap);
    recipe.logit_softcap = softcap(c, "final_logit_softcapping", Some(30.0))?;
    let window = window(c, &GEMMA2_CLASS)?;
    // The first configs have it twice; the class reads the other.
    if c.usize_opt("sliding_window_size")?.is_some_and(|size| Some(size) != window) {
        return Err(c.wrong("sliding_window_size", "the same as sliding_window, which transformers goes by"));
    }
    let slides = layer_types(c, &recipe)?.unwrap_or_else(|| (0..recipe.layers.len()).map(|i| i % 2 == 0).collect());
    window_where(c, &mut recipe, window, &slides)?;
    Ok(recipe)
}

/// Gemma 3's text model: as Gemma 2 with q/k norms for the caps on scores, and with a rotary embedding of their own for
/// the layers with a window, five of six. Its authors keep `attn_logit_softcapping` in the config and do not apply it.
fn gemma3(c: &Reader) -> Result<Recipe> {
    let mut recipe = gemma_with_four_norms(c, &GEMMA3_CLASS)?;
    if c.get("attn_logit_softcapping").is_some() {
        return Err(c.wrong("attn_logit_softcapping", "null, as Gemma 3 has no cap on scores"));
    }
    each_attention(&mut recipe, |attention| attention.qk_norm = QkNorm::PerHead);
    let of_sliding = RopeClass { theta: 10_000.0, ..GEMMA3_CLASS.rope };
    recipe.ropes = rope_config::read_both(c, &GEMMA3_CLASS.rope, &of_sliding, head_dim(&recipe))?.into();
    recipe.logit_softcap = softcap(c, "final_logit_softcapping", None)?;
    let window = window(c, &GEMMA3_CLASS)?;
    let pattern = c.size_or("sliding_window_pattern", 6)?;
    let by_pattern = || (0..recipe.layers.len()).map(|i| (i + 1) % pattern != 0).collect();
    let slides = layer_types(c, &recipe)?.unwrap_or_else(by_pattern);
    window_where(c, &mut recipe, window, &slides)?;
    each_attention_with(&mut recipe, slides, |attention, slides| attention.rope = Some(usize::from(slides)));
    Ok(recipe)
}

/// What all Gemmas share.
fn gemma_like(c: &Reader, class: &Class, activation: Activation) -> Result<Recipe> {
    let mut recipe = without_rope(c, class, activation)?;
    recipe.norm.style = NormStyle::OnePlusWeightThenRound;
    recipe.embedding_multiplier = Some((recipe.hidden_size as f64).sqrt());
    attention_bias(c, &mut recipe)?;
    if c.bool_or("use_bidirectional_attention", false)? {
        return Err(c.wrong("use_bidirectional_attention", "false, as in a causal language model"));
    }
    Ok(recipe)
}

/// A norm before and one after each mixer, as Gemma 2 to 4 have them.
pub(super) fn four_norms(block: Block) -> Block {
    Block {
        token: Around {
            norm_before: Some("input_layernorm"),
            norm_after: Some("post_attention_layernorm"),
            ..Around::default()
        },
        channel: Around {
            norm_before: Some("pre_feedforward_layernorm"),
            norm_after: Some("post_feedforward_layernorm"),
            ..Around::default()
        },
        ..block
    }
}

/// What Gemma 2 and 3 share.
fn gemma_with_four_norms(c: &Reader, class: &Class) -> Result<Recipe> {
    c.get("hidden_act"); // which some of their configs have too, and no version of their classes goes by
    let activation = activation_or(c, "hidden_activation", Activation::GeluTanh)?;
    let mut recipe = gemma_like(c, class, activation)?;
    recipe.block = four_norms(Block::default());
    let scalar = c.f64_or("query_pre_attn_scalar", 256.0)?;
    if scalar <= 0.0 {
        return Err(c.wrong("query_pre_attn_scalar", "a number above 0"));
    }
    each_attention(&mut recipe, |attention| attention.scale = 1.0 / scalar.sqrt());
    Ok(recipe)
}
