//! OLMo 2 and 3.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::Activation;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{
    activation_or, attention_bias, each_attention, each_attention_with, head_dim, layer_types, plain, window,
    window_where, without_rope,
};
use crate::architecture::recipe::Recipe;
use crate::architecture::recipe::{Around, Block, NormStyle};
use crate::architecture::rope_config::{self, RopeClass};
use crate::architecture::token_mixer::QkNorm;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const OLMO2: Family = Family { model_type: "olmo2", architecture: "Olmo2ForCausalLM", inside: None, read };

const CLASS: Class = Class { vocab_size: 50_304, rms_norm_eps: 1e-5, ..llama::CLASS };

pub(super) const OLMO3: Family =
    Family { model_type: "olmo3", architecture: "Olmo3ForCausalLM", inside: None, read: olmo3 };

const OLMO3_CLASS: Class = Class { window: Some(4096), rope: RopeClass { theta: 500_000.0, ..CLASS.rope }, ..CLASS };

/// OLMo 2: norms only on what attention and MLP add, and over all heads of queries and keys.
fn read(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &CLASS)?;
    olmo(c, &mut recipe)?;
    Ok(recipe)
}

/// OLMo 3: OLMo 2 with a window in three of four layers, whose rotary embedding is never scaled.
fn olmo3(c: &Reader) -> Result<Recipe> {
    let mut recipe = without_rope(c, &OLMO3_CLASS, activation_or(c, "hidden_act", Activation::Silu)?)?;
    recipe.ropes = rope_config::read_both(c, &OLMO3_CLASS.rope, &OLMO3_CLASS.rope, head_dim(&recipe))?.into();
    let [full, sliding] = [0, 1].map(|rope| recipe.ropes[rope].settings().theta);
    if full != sliding && !c.has("rope_parameters") {
        let expected = format!("{sliding}: transformers 5 goes by it in full layers only, transformers 4 in all");
        return Err(c.wrong("rope_theta", &expected));
    }
    olmo(c, &mut recipe)?;
    let window = window(c, &OLMO3_CLASS)?;
    let slides = layer_types(c, &recipe)?.unwrap_or_else(|| (1..=recipe.layers.len()).map(|i| i % 4 != 0).collect());
    window_where(c, &mut recipe, window, &slides)?;
    each_attention_with(&mut recipe, slides, |attention, slides| attention.rope = Some(usize::from(slides)));
    Ok(recipe)
}

/// What they share.
fn olmo(c: &Reader, recipe: &mut Recipe) -> Result<()> {
    attention_bias(c, recipe)?;
    each_attention(recipe, |attention| attention.qk_norm = QkNorm::AllHeads);
    recipe.norm.style = NormStyle::WeightThenRound;
    recipe.block = Block {
        token: Around { norm_after: Some("post_attention_layernorm"), ..Around::default() },
        channel: Around { norm_after: Some("post_feedforward_layernorm"), ..Around::default() },
        ..Block::default()
    };
    recipe.ropes.iter_mut().for_each(|rope| rope.turns_wide = true);
    Ok(())
}
