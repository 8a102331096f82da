//! Mistral and Mixtral.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::{ChannelMixer, Experts, GatedMlp, GatedNames};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{experts, plain, window_everywhere};
use crate::architecture::recipe::Recipe;
use crate::architecture::rope_config::RopeClass;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const MISTRAL: Family =
    Family { model_type: "mistral", architecture: "MistralForCausalLM", inside: None, read: mistral };

pub(super) const MIXTRAL: Family =
    Family { model_type: "mixtral", architecture: "MixtralForCausalLM", inside: None, read: mixtral };

const MISTRAL_CLASS: Class = Class {
    intermediate_size: 14_336,
    kv_heads: Some(8),
    window: Some(4096),
    rope: RopeClass { positions: 131_072, ..llama::CLASS.rope },
    ..llama::CLASS
};

const MIXTRAL_CLASS: Class = Class {
    rms_norm_eps: 1e-5,
    window: None,
    rope: RopeClass { theta: 1_000_000.0, ..MISTRAL_CLASS.rope },
    ..MISTRAL_CLASS
};

/// Mistral 7B (Jiang et al. 2023): Llama with a window, in all layers or in none.
fn mistral(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &MISTRAL_CLASS)?;
    window_everywhere(c, &mut recipe, &MISTRAL_CLASS)?;
    Ok(recipe)
}

/// Mixtral (Jiang et al. 2024): Mistral with a mixture of experts.
fn mixtral(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &MIXTRAL_CLASS)?;
    window_everywhere(c, &mut recipe, &MIXTRAL_CLASS)?;
    let names = GatedNames { module: "mlp", gate_up: ("w1", Some("w3")), activation: Some("act_fn"), down: "w2" };
    let (count, top_k) = experts(c, 8, 2)?;
    for layer in &mut recipe.layers {
        if let ChannelMixer::Mlp(mlp) = layer.channel_mixer {
            layer.channel_mixer = ChannelMixer::Experts(Experts {
                module: "block_sparse_moe",
                count,
                top_k,
                normalize: true,
                round_weights: false,
                expert: GatedMlp { names, ..mlp },
            });
        }
    }
    Ok(recipe)
}
