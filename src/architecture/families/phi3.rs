//! Phi-3.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::GatedNames;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{each_attention, each_mlp, plain, window_everywhere};
use crate::architecture::recipe::Recipe;
use crate::architecture::rope_config::RopeClass;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const PHI3: Family = Family { model_type: "phi3", architecture: "Phi3ForCausalLM", inside: None, read };

const CLASS: Class = Class {
    vocab_size: 32_064,
    hidden_size: 3072,
    intermediate_size: 8192,
    rms_norm_eps: 1e-5,
    rope: RopeClass { positions: 4096, partial: Some(1.0), is_phi: true, ..llama::CLASS.rope },
    ..llama::CLASS
};

/// Phi-3, 3.5 and 4-mini: fused projections, longrope, perhaps a window, perhaps a part of each head rotated.
fn read(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &CLASS)?;
    each_attention(&mut recipe, |attention| attention.fused = true);
    recipe.block.token.dropout = Some("resid_attn_dropout");
    recipe.block.channel.dropout = Some("resid_mlp_dropout");
    each_mlp(&mut recipe, |mlp| mlp.names = GatedNames::FUSED);
    window_everywhere(c, &mut recipe, &CLASS)?;
    Ok(recipe)
}
