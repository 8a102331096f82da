//! Families of one model each that differ from Llama in a thing or two: SmolLM3, ERNIE 4.5, Hunyuan, EXAONE 4,
//! Command R7B, Seed-OSS.

use super::Family;
use super::llama;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{
    attention_bias, each_attention, each_attention_with, each_mlp, expect, layer_types, plain, window, window_where,
};
use crate::architecture::recipe::{Around, Block, NormStyle, Recipe};
use crate::architecture::rope::{Rope, RopeSettings, Scaling};
use crate::architecture::rope_config::{self, RopeClass};
use crate::architecture::token_mixer::{AttentionNames, QkNorm};
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const SMOLLM3: Family =
    Family { model_type: "smollm3", architecture: "SmolLM3ForCausalLM", inside: None, read: smollm3 };

pub(super) const ERNIE4_5: Family =
    Family { model_type: "ernie4_5", architecture: "Ernie4_5ForCausalLM", inside: None, read: ernie };

pub(super) const HUNYUAN: Family =
    Family { model_type: "hunyuan_v1_dense", architecture: "HunYuanDenseV1ForCausalLM", inside: None, read: hunyuan };

pub(super) const EXAONE4: Family =
    Family { model_type: "exaone4", architecture: "Exaone4ForCausalLM", inside: None, read: exaone };

pub(super) const COHERE2: Family =
    Family { model_type: "cohere2", architecture: "Cohere2ForCausalLM", inside: None, read: cohere };

pub(super) const SEED_OSS: Family =
    Family { model_type: "seed_oss", architecture: "SeedOssForCausalLM", inside: None, read: seed_oss };

const SMOLLM3_CLASS: Class = Class {
    vocab_size: 128_256,
    hidden_size: 2048,
    layers: 36,
    heads: 16,
    kv_heads: Some(4),
    tied: true,
    rope: RopeClass { theta: 2_000_000.0, positions: 32_768, ..llama::CLASS.rope },
    ..llama::CLASS
};

const ERNIE_CLASS: Class = Class {
    vocab_size: 103_424,
    hidden_size: 1024,
    intermediate_size: 3072,
    layers: 18,
    heads: 16,
    kv_heads: Some(2),
    head_dim: Some(128),
    rms_norm_eps: 1e-5,
    tied: true,
    rope: RopeClass { theta: 500_000.0, positions: 131_072, ..llama::CLASS.rope },
    ..llama::CLASS
};

const HUNYUAN_CLASS: Class = Class {
    vocab_size: 290_943,
    rms_norm_eps: 1e-5,
    rope: RopeClass { known: &["alpha", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"], ..llama::CLASS.rope },
    ..llama::CLASS
};

const EXAONE_CLASS: Class = Class {
    vocab_size: 102_400,
    intermediate_size: 16_384,
    kv_heads: Some(32),
    null_kv_heads: false,
    rms_norm_eps: 1e-5,
    window: Some(4096),
    ..llama::CLASS
};

const COHERE_CLASS: Class = Class {
    vocab_size: 256_000,
    hidden_size: 8192,
    intermediate_size: 22_528,
    layers: 40,
    heads: 64,
    rms_norm_eps: 1e-5,
    norm_eps_key: "layer_norm_eps",
    tied: true,
    window: Some(4096),
    rope: RopeClass { positions: 8192, ..llama::CLASS.rope },
    ..llama::CLASS
};

const SEED_OSS_CLASS: Class = Class {
    vocab_size: 155_136,
    intermediate_size: 27_648,
    layers: 64,
    heads: 80,
    kv_heads: Some(8),
    head_dim: Some(128),
    rope: RopeClass { positions: 524_288, ..llama::CLASS.rope },
    ..llama::CLASS
};

/// SmolLM3: every fourth layer without rotary embedding.
fn smollm3(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &SMOLLM3_CLASS)?;
    attention_bias(c, &mut recipe)?;
    let bias = c.bool_or("mlp_bias", false)?;
    each_mlp(&mut recipe, |mlp| mlp.bias = bias);
    let (layers, interval) = (recipe.layers.len(), c.size_or("no_rope_layer_interval", 4)?);
    let turned: Vec<bool> = match c.f64s_opt("no_rope_layers")? {
        None => (1..=layers).map(|layer| layer % interval != 0).collect(),
        Some(flags) if flags.len() == layers && flags.iter().all(|flag| [0.0, 1.0].contains(flag)) => {
            flags.into_iter().map(|flag| flag == 1.0).collect()
        }
        Some(_) => return Err(c.wrong("no_rope_layers", &format!("{layers} times 0 or 1 (turned)"))),
    };
    let slides = c.bool_or("use_sliding_window", false)?;
    let window = window(c, &SMOLLM3_CLASS)?.filter(|_| slides);
    let by_rope = || turned.iter().map(|turned| window.is_some() && !turned).collect();
    let slides = layer_types(c, &recipe)?.unwrap_or_else(by_rope);
    window_where(c, &mut recipe, window, &slides)?;
    each_attention_with(&mut recipe, turned, |attention, turned| attention.rope = turned.then_some(0));
    Ok(recipe)
}

/// ERNIE 4.5: neighbours turn together, in f32.
fn ernie(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &ERNIE_CLASS)?;
    let bias = c.bool_or("use_bias", false)?;
    each_attention(&mut recipe, |attention| (attention.qkv_bias, attention.o_bias) = (bias, bias));
    each_mlp(&mut recipe, |mlp| mlp.bias = bias);
    recipe.ropes.iter_mut().for_each(|rope| (rope.turns_neighbours, rope.turns_wide) = (true, true));
    Ok(recipe)
}

/// Hunyuan: queries and keys are normed after they are turned; the base of frequencies may be stretched once for all.
fn hunyuan(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &HUNYUAN_CLASS)?;
    attention_bias(c, &mut recipe)?;
    each_attention(&mut recipe, |attention| {
        attention.qk_norm = QkNorm::PerHead;
        attention.names =
            AttentionNames { query_norm: "query_layernorm", key_norm: "key_layernorm", ..AttentionNames::USUAL };
        attention.norm_after_rope = true;
    });
    let alpha = rope_config::own_number(c, "alpha")?.filter(|alpha| *alpha != 0.0);
    let settings = recipe.ropes[0].settings().clone();
    if let (Scaling::Dynamic { .. }, Some(alpha)) = (&settings.scaling, alpha) {
        let dim = recipe.ropes[0].rotated() as f64;
        let theta = settings.theta * alpha.powf(dim / (dim - 2.0));
        let settings = RopeSettings { theta, scaling: Scaling::Default, ..settings };
        recipe.ropes = vec![Rope::new(settings, recipe.ropes[0].rotated())];
    } else if alpha.is_some() {
        return Err(c.wrong("rope_scaling", "type dynamic where it has an alpha"));
    }
    // Tokens that mean something to its tokenizer.
    for key in
        ["eod_token_id", "im_start_id", "im_end_id", "im_newline_id", "text_start_id", "text_end_id", "sep_token_id"]
    {
        c.get(key);
    }
    Ok(recipe)
}

/// EXAONE 4: norms only on what is added; where some layers have a window, only these are turned.
fn exaone(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &EXAONE_CLASS)?;
    each_attention(&mut recipe, |attention| attention.qk_norm = QkNorm::PerHead);
    recipe.block = Block {
        token: Around { norm_after: Some("post_attention_layernorm"), ..Around::default() },
        channel: Around { norm_after: Some("post_feedforward_layernorm"), ..Around::default() },
        ..Block::default()
    };
    let window = window(c, &EXAONE_CLASS)?;
    let slides = match layer_types(c, &recipe)? {
        Some(types) => {
            c.get("sliding_window_pattern");
            types
        }
        None => {
            let pattern = c.size_or("sliding_window_pattern", 4)?;
            (1..=recipe.layers.len()).map(|layer| window.is_some() && layer % pattern != 0).collect()
        }
    };
    window_where(c, &mut recipe, window, &slides)?;
    let turned = slides.iter().map(|slides| window.is_none() || *slides);
    each_attention_with(&mut recipe, turned, |attention, turned| attention.rope = turned.then_some(0));
    Ok(recipe)
}

/// Command R7B and A: attention and MLP side by side, LayerNorms, rotary embeddings where there is a window.
fn cohere(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &COHERE_CLASS)?;
    attention_bias(c, &mut recipe)?;
    recipe.norm.style = NormStyle::WeightThenRound;
    recipe.norm.is_centred = true;
    recipe.block.channel = Around::default();
    recipe.block.is_parallel = true;
    recipe.logit_multiplier = Some(c.f64_or("logit_scale", 0.0625)?).filter(|scale| *scale != 1.0);
    recipe.ropes.iter_mut().for_each(|rope| (rope.turns_neighbours, rope.turns_wide) = (true, true));
    let window = window(c, &COHERE_CLASS)?;
    let pattern = c.size_or("sliding_window_pattern", 4)?;
    let by_pattern = || (1..=recipe.layers.len()).map(|layer| layer % pattern != 0).collect();
    let slides = layer_types(c, &recipe)?.unwrap_or_else(by_pattern);
    window_where(c, &mut recipe, window, &slides)?;
    each_attention_with(&mut recipe, slides, |attention, slides| attention.rope = slides.then_some(0));
    for (key, expected) in
        [("use_parallel_block", true), ("use_gated_activation", true), ("use_embedding_sharing", true)]
    {
        expect(c, key, &expected.into())?;
    }
    for key in ["order_of_interleaved_layers", "rotary_pct", "position_embedding_type", "layer_switch"] {
        c.get(key);
    }
    Ok(recipe)
}

/// Seed-OSS: biases on queries, keys and values, and a switch of its own for that of what attention puts out.
fn seed_oss(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &SEED_OSS_CLASS)?;
    let biases = (c.bool_or("attention_bias", true)?, c.bool_or("attention_out_bias", false)?);
    each_attention(&mut recipe, |attention| (attention.qkv_bias, attention.o_bias) = biases);
    let bias = c.bool_or("mlp_bias", false)?;
    each_mlp(&mut recipe, |mlp| mlp.bias = bias);
    Ok(recipe)
}
