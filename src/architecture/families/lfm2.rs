//! LFM2.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::GatedNames;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{each_attention, each_mlp, kinds_of_layers, plain};
use crate::architecture::recipe::{Around, Block, Recipe};
use crate::architecture::rope_config::RopeClass;
use crate::architecture::short_convolution::ShortConvolution;
use crate::architecture::token_mixer::{AttentionNames, QkNorm, TokenMixer};
use crate::checkpoint::config::Reader;
use crate::error::Result;
use serde_json::Value;

pub(super) const LFM2: Family = Family { model_type: "lfm2", architecture: "Lfm2ForCausalLM", inside: None, read };

const CLASS: Class = Class {
    vocab_size: 65_536,
    hidden_size: 2560,
    intermediate_size: 12_288,
    kv_heads: Some(8),
    null_kv_heads: false,
    norm_eps_key: "norm_eps",
    rms_norm_eps: 1e-5,
    tied: true,
    rope: RopeClass { theta: 1_000_000.0, positions: 128_000, ..llama::CLASS.rope },
    ..llama::CLASS
};

/// LFM2: short convolutions, and attention with normed queries and keys in some layers.
fn read(c: &Reader) -> Result<Recipe> {
    same(c, "tie_embedding", "tie_word_embeddings")?;
    same(c, "block_ff_dim", "intermediate_size")?;
    let mut recipe = plain(c, &CLASS)?;
    recipe.tied = c.bool_or("tie_embedding", recipe.tied)?;
    recipe.final_norm = "model.embedding_norm";
    recipe.block = Block {
        token: Around { norm_before: Some("operator_norm"), ..Around::default() },
        channel: Around { norm_before: Some("ffn_norm"), ..Around::default() },
        ..recipe.block
    };
    let intermediate_size = intermediate_size(c)?;
    each_mlp(&mut recipe, |mlp| {
        mlp.names = GatedNames { module: "feed_forward", gate_up: ("w1", Some("w3")), activation: None, down: "w2" };
        mlp.intermediate_size = intermediate_size;
    });
    each_attention(&mut recipe, |attention| {
        attention.qk_norm = QkNorm::PerHead;
        attention.names = AttentionNames { output: "out_proj", query_norm: "q_layernorm", key_norm: "k_layernorm" };
    });
    original(c, &recipe)?;
    let kernel = c.size_or("conv_L_cache", 3)?;
    if kernel < 2 {
        return Err(c.wrong("conv_L_cache", "2 or more"));
    }
    let mixer = ShortConvolution { channels: recipe.hidden_size, kernel, bias: c.bool_or("conv_bias", false)? };
    let full = attention_layers(c, recipe.layers.len())?;
    for (layer, is_full) in recipe.layers.iter_mut().zip(full) {
        if !is_full {
            layer.token_mixer = TokenMixer::ShortConvolution(mixer);
        }
    }
    Ok(recipe)
}

/// `intermediate_size`, which the class makes smaller unless told otherwise.
fn intermediate_size(c: &Reader) -> Result<usize> {
    let given = c.size_or("intermediate_size", CLASS.intermediate_size)?;
    let given = c.size_or("block_ff_dim", given)?;
    let (multiple, factor) = (c.size_or("block_multiple_of", 256)?, c.f64_opt("block_ffn_dim_multiplier")?);
    if !c.bool_or("block_auto_adjust_ff_dim", true)? {
        return Ok(given);
    }
    let adjusted = (2.0 * given as f64 / 3.0) as usize;
    let factor = match factor {
        None if c.has("block_ffn_dim_multiplier") => return Ok(adjusted),
        factor => factor.unwrap_or(1.0),
    };
    let size = ((factor * adjusted as f64) as usize).div_ceil(multiple) * multiple;
    if size == 0 { Err(c.wrong("block_ffn_dim_multiplier", "a number that leaves a size")) } else { Ok(size) }
}

/// Two names of one setting, of which the class takes the first.
fn same(c: &Reader, first: &str, second: &str) -> Result<()> {
    match (c.get(first), c.get(second)) {
        (Some(a), Some(b)) if a != b => Err(c.wrong(second, &format!("{a}, as {first} has it"))),
        _ => Ok(()),
    }
}

/// Keys of the first configs that the class does not read: they have to say what it computes.
fn original(c: &Reader, recipe: &Recipe) -> Result<()> {
    let heads = recipe.attention(0).map_or(0, |attention| attention.heads);
    let hidden = Value::from(recipe.hidden_size);
    let epsilon = Value::from(recipe.norm.epsilon);
    let expected = [
        ("block_dim", &hidden),
        ("conv_dim", &hidden),
        ("conv_dim_out", &hidden),
        ("num_heads", &Value::from(heads)),
        ("block_norm_eps", &epsilon),
        ("block_use_swiglu", &Value::Bool(true)),
        ("use_pos_enc", &Value::Bool(true)),
    ];
    for (key, expected) in expected {
        if c.get(key).is_some_and(|value| value != expected) {
            return Err(c.wrong(key, &format!("{expected}, as the class computes")));
        }
    }
    for key in ["block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init"] {
        c.get(key);
    }
    Ok(())
}

/// Which layers have attention: by `layer_types`, else those that `full_attn_idxs` lists, else all.
fn attention_layers(c: &Reader, layers: usize) -> Result<Vec<bool>> {
    let listed = c.f64s_opt("full_attn_idxs")?;
    if let Some(kinds) = kinds_of_layers(c, layers, "full_attention", "conv")? {
        return Ok(kinds);
    }
    Ok((0..layers).map(|layer| listed.as_ref().is_none_or(|listed| listed.contains(&(layer as f64)))).collect())
}
