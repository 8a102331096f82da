//! Granite 3 and the attention-only models of Granite 4.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::GatedNames;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{attention_bias, each_attention, each_mlp, multipliers, plain};
use crate::architecture::recipe::Recipe;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const GRANITE: Family =
    Family { model_type: "granite", architecture: "GraniteForCausalLM", inside: None, read: granite };

pub(super) const GRANITE_HYBRID: Family = Family {
    model_type: "granitemoehybrid",
    architecture: "GraniteMoeHybridForCausalLM",
    inside: None,
    read: granite_hybrid,
};

/// Llama with multipliers.
fn granite(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &llama::CLASS)?;
    attention_bias(c, &mut recipe)?;
    multipliers(c, &mut recipe)?;
    let bias = c.bool_or("mlp_bias", false)?;
    each_mlp(&mut recipe, |mlp| mlp.bias = bias);
    Ok(recipe)
}

/// Granite 4: no Mamba layers, no experts, perhaps nothing that tells positions apart.
fn granite_hybrid(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &Class { ..llama::CLASS })?;
    attention_bias(c, &mut recipe)?;
    multipliers(c, &mut recipe)?;
    let key = if c.has("layers_block_type") { "layers_block_type" } else { "layer_types" };
    let kinds = c.get(key).and_then(|kinds| kinds.as_array());
    let is_attention = |kind: &serde_json::Value| ["attention", "full_attention"].iter().any(|name| kind == name);
    if !kinds.is_some_and(|kinds| kinds.len() == recipe.layers.len() && kinds.iter().all(is_attention)) {
        let expected = format!("{} times attention: of Mamba layers there is a static audit only", recipe.layers.len());
        return Err(c.wrong(key, &expected));
    }
    if c.usize_or("num_local_experts", 8)? != 0 {
        return Err(c.wrong("num_local_experts", "0: of mixtures of this architecture there is a static audit only"));
    }
    match c.str_opt("position_embedding_type")? {
        Some("rope") => {}
        None | Some("nope") => {
            recipe.ropes = Vec::new();
            each_attention(&mut recipe, |attention| attention.rope = None);
        }
        Some(_) => return Err(c.wrong("position_embedding_type", "rope, nope or null")),
    }
    let width = c.size_or("shared_intermediate_size", 1024)?;
    each_mlp(&mut recipe, |mlp| {
        mlp.intermediate_size = width;
        mlp.names = GatedNames {
            module: "shared_mlp",
            gate_up: ("input_linear", None),
            activation: Some("activation"),
            down: "output_linear",
        };
    });
    // Of experts and of Mamba layers, of which there are none.
    for key in ["num_experts_per_tok", "time_step_limit"] {
        c.get(key);
    }
    for size in ["n_heads", "n_groups", "d_state", "d_head", "d_conv", "expand", "chunk_size", "conv_bias", "proj_bias"]
    {
        c.get(&format!("mamba_{size}"));
    }
    Ok(recipe)
}
