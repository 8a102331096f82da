//! MiniMax M2.

use super::Family;
use super::deepseek::SIGMOID;
use super::llama;
use super::mistral::sparse_blocks;
use crate::architecture::channel_mixer::Routing;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{each_attention, expect, experts, plain};
use crate::architecture::recipe::Recipe;
use crate::architecture::rope_config::RopeClass;
use crate::architecture::token_mixer::QkNorm;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const MINIMAX_M2: Family =
    Family { model_type: "minimax_m2", architecture: "MiniMaxM2ForCausalLM", inside: None, read };

const CLASS: Class = Class {
    vocab_size: 200_064,
    hidden_size: 3072,
    intermediate_size: 1536,
    layers: 62,
    heads: 48,
    kv_heads: Some(8),
    null_kv_heads: false,
    head_dim: Some(128),
    rope: RopeClass { theta: 5_000_000.0, positions: 196_608, partial: Some(1.0), ..llama::CLASS.rope },
    ..llama::CLASS
};

/// MiniMax M2: grouped-query attention with norms over all heads, experts chosen by sigmoid scores.
fn read(c: &Reader) -> Result<Recipe> {
    let head_dim = c.size_or("head_dim", 128)?;
    let rotated = c.usize_opt("rotary_dim")?.unwrap_or(head_dim);
    let partial = Some(rotated as f64 / head_dim as f64);
    let mut recipe = plain(c, &Class { rope: RopeClass { partial, ..CLASS.rope }, ..CLASS })?;
    each_attention(&mut recipe, |attention| attention.qk_norm = QkNorm::AllHeads);
    for (key, expected) in [
        ("use_qk_norm", true.into()),
        ("qk_norm_type", "per_layer".into()),
        ("use_routing_bias", true.into()),
        ("scoring_func", "sigmoid".into()),
        ("shared_intermediate_size", 0.into()),
    ] {
        expect(c, key, &expected)?;
    }
    if c.get("attn_type_list").and_then(|list| list.as_array()).is_some_and(|list| list.iter().any(|kind| *kind != 1)) {
        return Err(c.wrong("attn_type_list", "1 for every layer, which is full attention"));
    }
    // Of the layers that predict further tokens, which no loader runs for text, and of classes of no effect.
    for key in ["use_mtp", "num_mtp_modules", "mtp_transformer_layers", "mlp_intermediate_size", "max_model_len"] {
        c.get(key);
    }
    let correction = Some("e_score_correction_bias");
    let routing = Routing { correction, wide: false, normalize: Some(0.0), ..SIGMOID };
    sparse_blocks(&mut recipe, experts(c, 256, 8)?, routing);
    Ok(recipe)
}
