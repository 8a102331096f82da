//! Mistral and Mixtral.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::{ChannelMixer, Experts, GatedMlp, GatedNames, Routing};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{GROWTH_KEYS, each_attention, experts, plain, query_growth, window_everywhere};
use crate::architecture::recipe::Recipe;
use crate::architecture::rope_config::RopeClass;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const MISTRAL: Family =
    Family { model_type: "mistral", architecture: "MistralForCausalLM", inside: Some("mistral3"), read: mistral };

pub(super) const MINISTRAL3: Family = Family {
    model_type: "ministral3",
    architecture: "Ministral3ForCausalLM",
    inside: Some("mistral3"),
    read: ministral3,
};

pub(super) const MIXTRAL: Family =
    Family { model_type: "mixtral", architecture: "MixtralForCausalLM", inside: None, read: mixtral };

const MISTRAL_CLASS: Class = Class {
    intermediate_size: 14_336,
    kv_heads: Some(8),
    window: Some(4096),
    rope: RopeClass { positions: 131_072, ..llama::CLASS.rope },
    ..llama::CLASS
};

const MINISTRAL3_CLASS: Class = Class {
    vocab_size: 131_072,
    layers: 34,
    null_kv_heads: false,
    head_dim: Some(128),
    rms_norm_eps: 1e-5,
    window: None,
    rope: RopeClass { theta: 1_000_000.0, positions: 262_144, known: GROWTH_KEYS, ..llama::CLASS.rope },
    ..MISTRAL_CLASS
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

/// Ministral 3: Mistral whose queries grow with their position once that is beyond the first context.
fn ministral3(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &MINISTRAL3_CLASS)?;
    window_everywhere(c, &mut recipe, &MINISTRAL3_CLASS)?;
    let growth = query_growth(c)?;
    each_attention(&mut recipe, |attention| attention.query_growth = Some(growth));
    Ok(recipe)
}

/// Mixtral (Jiang et al. 2024): Mistral with a mixture of experts.
fn mixtral(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &MIXTRAL_CLASS)?;
    window_everywhere(c, &mut recipe, &MIXTRAL_CLASS)?;
    let routing = Routing { normalize: Some(0.0), round_weights: false, ..Routing::SOFTMAX };
    sparse_blocks(&mut recipe, experts(c, 8, 2)?, routing);
    Ok(recipe)
}

/// Makes the MLP of each layer an expert of `block_sparse_moe`.
pub(super) fn sparse_blocks(recipe: &mut Recipe, (count, top_k): (usize, usize), routing: Routing) {
    for layer in &mut recipe.layers {
        if let ChannelMixer::Mlp(mlp) = layer.channel_mixer {
            layer.channel_mixer = ChannelMixer::Experts(Experts {
                module: "block_sparse_moe",
                router: "gate",
                router_bias: false,
                count,
                top_k,
                routing,
                expert: GatedMlp { names: GatedNames::NUMBERED, ..mlp },
                stacks: None,
                shared: None,
            });
        }
    }
}
