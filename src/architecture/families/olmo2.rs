//! OLMo 2.

use super::Family;
use super::llama;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{attention_bias, each_attention, plain};
use crate::architecture::recipe::Recipe;
use crate::architecture::recipe::{Around, Block, NormStyle};
use crate::architecture::token_mixer::QkNorm;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const OLMO2: Family = Family { model_type: "olmo2", architecture: "Olmo2ForCausalLM", inside: None, read };

const CLASS: Class = Class { vocab_size: 50_304, rms_norm_eps: 1e-5, ..llama::CLASS };

/// OLMo 2: norms only on what attention and MLP add, and over all heads of queries and keys.
fn read(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &CLASS)?;
    attention_bias(c, &mut recipe)?;
    each_attention(&mut recipe, |attention| attention.qk_norm = QkNorm::AllHeads);
    recipe.norm.style = NormStyle::WeightThenRound;
    recipe.block = Block {
        token: Around { norm_after: Some("post_attention_layernorm"), ..Around::default() },
        channel: Around { norm_after: Some("post_feedforward_layernorm"), ..Around::default() },
        ..Block::default()
    };
    recipe.ropes.iter_mut().for_each(|rope| rope.turns_wide = true);
    Ok(recipe)
}
