//! Qwen3-Next and Qwen3.5 (which later releases call themselves, too): gated delta nets, and attention with output gates
//! in every fourth layer.

use super::Family;
use super::llama;
use super::qwen::{Sparse, sparse};
use crate::architecture::channel_mixer::{Routing, StackNames, Stacks};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{attention_bias, each_attention, kinds_of_layers, plain};
use crate::architecture::gated_delta_net::{DeltaInputs, GatedDeltaNet};
use crate::architecture::module::StackOrder;
use crate::architecture::recipe::{NormStyle, Recipe};
use crate::architecture::rope_config::RopeClass;
use crate::architecture::token_mixer::{QkNorm, TokenMixer};
use crate::checkpoint::config::Reader;
use crate::error::Result;
use serde_json::Value;

pub(super) const QWEN3_5: Family =
    Family { model_type: "qwen3_5_text", architecture: "Qwen3_5ForCausalLM", inside: Some("qwen3_5"), read: qwen3_5 };

pub(super) const QWEN3_5_MOE: Family = Family {
    model_type: "qwen3_5_moe_text",
    architecture: "Qwen3_5MoeForCausalLM",
    inside: Some("qwen3_5_moe"),
    read: qwen3_5_moe,
};

pub(super) const QWEN3_NEXT: Family =
    Family { model_type: "qwen3_next", architecture: "Qwen3NextForCausalLM", inside: None, read: qwen3_next };

const QWEN3_5_CLASS: Class = Class {
    vocab_size: 248_320,
    intermediate_size: 12_288,
    heads: 16,
    kv_heads: Some(4),
    null_kv_heads: false,
    head_dim: Some(256),
    rope: RopeClass { positions: 32_768, partial: Some(0.25), is_of_images: true, ..llama::CLASS.rope },
    ..llama::CLASS
};

/// Qwen 3.5's dense models.
fn qwen3_5(c: &Reader) -> Result<Recipe> {
    hybrid(c, &QWEN3_5_CLASS, DeltaInputs::Apart)
}

const QWEN3_5_MOE_CLASS: Class = Class { hidden_size: 2048, layers: 40, kv_heads: Some(2), ..QWEN3_5_CLASS };

const QWEN3_NEXT_CLASS: Class = Class {
    vocab_size: 151_936,
    hidden_size: 2048,
    intermediate_size: 5632,
    layers: 48,
    kv_heads: Some(2),
    rope: RopeClass { is_of_images: false, ..QWEN3_5_CLASS.rope },
    ..QWEN3_5_CLASS
};

/// Qwen 3.5's mixtures: experts in all layers.
fn qwen3_5_moe(c: &Reader) -> Result<Recipe> {
    let mut recipe = hybrid(c, &QWEN3_5_MOE_CLASS, DeltaInputs::Apart)?;
    let routing = Routing { normalize: Some(0.0), ..Routing::SOFTMAX };
    let class = Sparse { count: 256, top_k: 8, everywhere: true, routing, ..EXPERTS };
    sparse(c, &mut recipe, class)?;
    Ok(recipe)
}

/// Qwen3-Next: as Qwen 3.5's mixtures, with other projections into its delta nets.
fn qwen3_next(c: &Reader) -> Result<Recipe> {
    let mut recipe = hybrid(c, &QWEN3_NEXT_CLASS, DeltaInputs::ByKeyHead)?;
    let normalize = c.bool_or("norm_topk_prob", true)?.then_some(0.0);
    sparse(c, &mut recipe, Sparse { routing: Routing { normalize, ..Routing::SOFTMAX }, ..EXPERTS })?;
    Ok(recipe)
}

const EXPERTS: Sparse = Sparse {
    count: 512,
    top_k: 10,
    width: 512,
    everywhere: false,
    routing: Routing::SOFTMAX,
    stacks: Some(Stacks { names: StackNames::USUAL, order: StackOrder::OutIn, interleaved: false }),
    shared: Some(512),
};

/// What they share: Qwen 3's block with norms that multiply by 1 + w, and two kinds of token mixers.
fn hybrid(c: &Reader, class: &Class, inputs: DeltaInputs) -> Result<Recipe> {
    let mut recipe = plain(c, class)?;
    attention_bias(c, &mut recipe)?;
    recipe.norm.style = NormStyle::OnePlusWeightThenRound;
    each_attention(&mut recipe, |attention| (attention.gated, attention.qk_norm) = (true, QkNorm::PerHead));
    for (key, expected) in [("attn_output_gate", Value::Bool(true)), ("mamba_ssm_dtype", "float32".into())] {
        if c.get(key).is_some_and(|value| *value != expected) {
            return Err(c.wrong(key, &format!("{expected}, which transformers computes whatever it says")));
        }
    }
    // Of the layers that predict further tokens, which no loader runs for text.
    for key in ["mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mtp_loss_scaling_factor"] {
        c.get(key);
    }
    let net = delta_net(c, &recipe, inputs)?;
    let full = full_layers(c, recipe.layers.len())?;
    for (layer, is_full) in recipe.layers.iter_mut().zip(full) {
        if !is_full {
            layer.token_mixer = TokenMixer::GatedDeltaNet(net);
        }
    }
    Ok(recipe)
}

fn delta_net(c: &Reader, recipe: &Recipe, inputs: DeltaInputs) -> Result<GatedDeltaNet> {
    let key_heads = c.size_or("linear_num_key_heads", 16)?;
    let value_heads = c.size_or("linear_num_value_heads", 32)?;
    if value_heads % key_heads != 0 {
        return Err(c.wrong("linear_num_value_heads", &format!("a multiple of the {key_heads} heads of keys")));
    }
    let kernel = c.size_or("linear_conv_kernel_dim", 4)?;
    if kernel < 2 {
        return Err(c.wrong("linear_conv_kernel_dim", "2 or more"));
    }
    Ok(GatedDeltaNet {
        key_heads,
        value_heads,
        key_dim: c.size_or("linear_key_head_dim", 128)?,
        value_dim: c.size_or("linear_value_head_dim", 128)?,
        kernel,
        activation: recipe.layers[0].channel_mixer.mlp().activation,
        inputs,
    })
}

/// Which layers have attention: by `layer_types`, else the last of as many as `full_attention_interval` says.
fn full_layers(c: &Reader, layers: usize) -> Result<Vec<bool>> {
    let interval = c.size_or("full_attention_interval", 4)?;
    let kinds = kinds_of_layers(c, layers, "full_attention", "linear_attention")?;
    Ok(kinds.unwrap_or_else(|| (1..=layers).map(|layer| layer % interval == 0).collect()))
}
