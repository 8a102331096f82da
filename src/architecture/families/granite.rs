//! Granite 3 with its mixtures, and the attention-only models of Granite 4.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::{
    ChannelMixer, Experts, GatedMlp, GatedNames, Routing, Shared, StackNames, Stacks,
};
use crate::architecture::config_keys::{attention_bias, each_attention, each_mlp, experts, multipliers, plain};
use crate::architecture::module::StackOrder;
use crate::architecture::recipe::Recipe;
use crate::checkpoint::config::Reader;
use crate::error::Result;
use serde_json::Value;

pub(super) const GRANITE: Family =
    Family { model_type: "granite", architecture: "GraniteForCausalLM", inside: None, read: granite };

pub(super) const GRANITE_MOE: Family =
    Family { model_type: "granitemoe", architecture: "GraniteMoeForCausalLM", inside: None, read: granite_moe };

pub(super) const GRANITE_MOE_SHARED: Family = Family {
    model_type: "granitemoeshared",
    architecture: "GraniteMoeSharedForCausalLM",
    inside: None,
    read: granite_moe_shared,
};

pub(super) const GRANITE_HYBRID: Family = Family {
    model_type: "granitemoehybrid",
    architecture: "GraniteMoeHybridForCausalLM",
    inside: None,
    read: granite_hybrid,
};

/// Names of the MLP beside the experts, or without them.
const SHARED_MLP: GatedNames = GatedNames {
    module: "shared_mlp",
    gate_up: ("input_linear", None),
    activation: Some("activation"),
    down: "output_linear",
};

/// Llama with multipliers.
fn with_multipliers(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &llama::CLASS)?;
    attention_bias(c, &mut recipe)?;
    multipliers(c, &mut recipe)?;
    Ok(recipe)
}

fn granite(c: &Reader) -> Result<Recipe> {
    let mut recipe = with_multipliers(c)?;
    let bias = c.bool_or("mlp_bias", false)?;
    each_mlp(&mut recipe, |mlp| mlp.bias = bias);
    Ok(recipe)
}

/// Granite 3's mixtures.
fn granite_moe(c: &Reader) -> Result<Recipe> {
    let mut recipe = with_multipliers(c)?;
    add_experts(&mut recipe, experts(c, 8, 2)?, 0);
    Ok(recipe)
}

/// Granite 3's mixtures with an MLP beside the experts, perhaps.
fn granite_moe_shared(c: &Reader) -> Result<Recipe> {
    let mut recipe = with_multipliers(c)?;
    add_experts(&mut recipe, experts(c, 8, 2)?, c.usize_or("shared_intermediate_size", 0)?);
    Ok(recipe)
}

/// Makes the MLP of each layer an expert, with another of width `shared` beside it unless that is 0.
fn add_experts(recipe: &mut Recipe, (count, top_k): (usize, usize), shared: usize) {
    for layer in &mut recipe.layers {
        let ChannelMixer::Mlp(expert) = layer.channel_mixer else { continue };
        let beside = GatedMlp { intermediate_size: shared, names: SHARED_MLP, ..expert };
        layer.channel_mixer = ChannelMixer::Experts(Experts {
            module: "block_sparse_moe",
            router: "router.layer",
            router_bias: false,
            count,
            top_k,
            routing: Routing { normalize: Some(0.0), ..Routing::SOFTMAX },
            expert,
            stacks: Some(Stacks { names: StackNames::LINEAR, order: StackOrder::OutIn, interleaved: false }),
            shared: (shared > 0).then_some(Shared { module: SHARED_MLP.module, mlp: beside, gate: None }),
        });
    }
}

/// Whether a config of Granite 4 has Mamba layers, which its class makes unless told otherwise.
pub(super) fn has_mamba(c: &Reader) -> bool {
    let is_mamba = |kind: &Value| ["mamba", "linear_attention"].iter().any(|name| kind == name);
    kinds(c).1.is_none_or(|kinds| kinds.iter().any(is_mamba))
}

/// The key that tells what each layer is, and what it says.
fn kinds<'a>(c: &Reader<'a>) -> (&'static str, Option<&'a Vec<Value>>) {
    let key = if c.has("layers_block_type") { "layers_block_type" } else { "layer_types" };
    (key, c.get(key).and_then(|kinds| kinds.as_array()))
}

/// Granite 4: no Mamba layers, perhaps no experts beside the MLP, perhaps nothing that tells positions apart.
fn granite_hybrid(c: &Reader) -> Result<Recipe> {
    let mut recipe = with_multipliers(c)?;
    let (key, kinds) = kinds(c);
    let is_attention = |kind: &Value| ["attention", "full_attention"].iter().any(|name| kind == name);
    if !kinds.is_some_and(|kinds| kinds.len() == recipe.layers.len() && kinds.iter().all(is_attention)) {
        return Err(c.wrong(key, &format!("{} times attention or mamba", recipe.layers.len())));
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
    if c.usize_or("num_local_experts", 8)? == 0 {
        c.get("num_experts_per_tok");
        each_mlp(&mut recipe, |mlp| (mlp.intermediate_size, mlp.names) = (width, SHARED_MLP));
    } else {
        add_experts(&mut recipe, experts(c, 8, 2)?, width);
    }
    // Of Mamba layers, of which there are none.
    c.get("time_step_limit");
    for size in ["n_heads", "n_groups", "d_state", "d_head", "d_conv", "expand", "chunk_size", "conv_bias", "proj_bias"]
    {
        c.get(&format!("mamba_{size}"));
    }
    Ok(recipe)
}
