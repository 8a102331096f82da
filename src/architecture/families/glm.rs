//! GLM 4 to 4.6, dense and mixtures.

use super::Family;
use super::deepseek::{Mixture, SIGMOID, mixture};
use super::llama;
use crate::architecture::channel_mixer::GatedNames;
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{each_attention, each_mlp, expect, plain};
use crate::architecture::recipe::{Around, Block, Recipe};
use crate::architecture::rope_config::RopeClass;
use crate::architecture::token_mixer::QkNorm;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const GLM4: Family =
    Family { model_type: "glm4", architecture: "Glm4ForCausalLM", inside: None, read: glm4 };

pub(super) const GLM4_MOE: Family =
    Family { model_type: "glm4_moe", architecture: "Glm4MoeForCausalLM", inside: None, read: glm4_moe };

const GLM4_CLASS: Class = Class {
    vocab_size: 151_552,
    intermediate_size: 13_696,
    layers: 40,
    kv_heads: Some(2),
    null_kv_heads: false,
    head_dim: Some(128),
    rms_norm_eps: 0.000_000_156_25,
    rope: RopeClass { positions: 131_072, partial: Some(0.5), ..llama::CLASS.rope },
    ..llama::CLASS
};

const GLM4_MOE_CLASS: Class = Class {
    intermediate_size: 10_944,
    layers: 46,
    heads: 96,
    kv_heads: Some(8),
    head_dim: None,
    rms_norm_eps: 1e-5,
    ..GLM4_CLASS
};

/// GLM 4 0414: four norms a layer, half of each head turned, neighbours together.
fn glm4(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &GLM4_CLASS)?;
    let bias = c.bool_or("attention_bias", true)?;
    each_attention(&mut recipe, |attention| attention.qkv_bias = bias);
    recipe.ropes.iter_mut().for_each(|rope| rope.turns_neighbours = true);
    each_mlp(&mut recipe, |mlp| mlp.names = GatedNames::FUSED);
    recipe.block = Block {
        token: Around { norm_after: Some("post_self_attn_layernorm"), ..recipe.block.token },
        channel: Around { norm_after: Some("post_mlp_layernorm"), ..recipe.block.channel },
        ..Block::default()
    };
    Ok(recipe)
}

/// GLM 4.5 and 4.6: DeepSeek-V3's experts on grouped-query attention.
fn glm4_moe(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &GLM4_MOE_CLASS)?;
    let bias = c.bool_or("attention_bias", false)?;
    let norm = if c.bool_or("use_qk_norm", false)? { QkNorm::PerHead } else { QkNorm::None };
    each_attention(&mut recipe, |attention| (attention.qkv_bias, attention.qk_norm) = (bias, norm));
    expect(c, "scoring_func", &"sigmoid".into())?;
    expect(c, "topk_method", &"noaux_tc".into())?;
    // Of the layers that predict further tokens, which no loader runs for text.
    for key in ["num_nextn_predict_layers", "num_mtp_layers"] {
        c.get(key);
    }
    let dense = c.usize_or("first_k_dense_replace", 1)?;
    let class = Mixture {
        count: 128,
        top_k: 8,
        width: 1408,
        shared: 1,
        groups: Some((1, 1)),
        scale: 1.0,
        judged_by: 2,
        normalizes: true,
    };
    mixture(c, &mut recipe, class, &SIGMOID, |layer| layer >= dense)?;
    Ok(recipe)
}
