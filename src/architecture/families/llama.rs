//! Llama.

use super::Family;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{attention_bias, each_mlp, plain};
use crate::architecture::recipe::Recipe;
use crate::architecture::rope_config::RopeClass;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const LLAMA: Family = Family { model_type: "llama", architecture: "LlamaForCausalLM", inside: None, read };

/// What later families start from, too.
pub(super) const CLASS: Class = Class {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    null_kv_heads: true,
    head_dim: None,
    rms_norm_eps: 1e-6,
    norm_eps_key: "rms_norm_eps",
    tied: false,
    window: None,
    rope: RopeClass { theta: 10_000.0, positions: 2048, partial: None, is_of_images: false, is_phi: false, known: &[] },
};

/// Llama 2, 3, 3.1 to 3.3 and what was built on them (Touvron et al. 2023).
fn read(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &CLASS)?;
    attention_bias(c, &mut recipe)?;
    let bias = c.bool_or("mlp_bias", false)?;
    each_mlp(&mut recipe, |mlp| mlp.bias = bias);
    Ok(recipe)
}
