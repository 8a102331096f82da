//! Qwen 2 to 3.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::{ChannelMixer, Experts, GatedMlp, Routing, Shared, Stacks};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{
    attention_bias, each_attention, experts, plain, window_by_layer_types, window_everywhere,
};
use crate::architecture::recipe::Recipe;
use crate::architecture::rope_config::RopeClass;
use crate::architecture::token_mixer::QkNorm;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const QWEN2: Family =
    Family { model_type: "qwen2", architecture: "Qwen2ForCausalLM", inside: None, read: qwen2 };

pub(super) const QWEN3: Family =
    Family { model_type: "qwen3", architecture: "Qwen3ForCausalLM", inside: None, read: qwen3 };

pub(super) const QWEN3_MOE: Family =
    Family { model_type: "qwen3_moe", architecture: "Qwen3MoeForCausalLM", inside: None, read: qwen3_moe };

const QWEN2_CLASS: Class = Class {
    vocab_size: 151_936,
    intermediate_size: 22_016,
    kv_heads: Some(32),
    window: Some(4096),
    rope: RopeClass { positions: 32_768, ..llama::CLASS.rope },
    ..llama::CLASS
};

const QWEN3_CLASS: Class = Class { head_dim: Some(128), ..QWEN2_CLASS };

const QWEN3_MOE_CLASS: Class = Class {
    hidden_size: 2048,
    intermediate_size: 6144,
    layers: 24,
    kv_heads: Some(4),
    null_kv_heads: false,
    ..QWEN2_CLASS
};

/// Qwen 2 and 2.5: biases on q, k and v only; a window from some layer on, where the config asks for it.
fn qwen2(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &QWEN2_CLASS)?;
    each_attention(&mut recipe, |attention| attention.qkv_bias = true);
    window_by_layer_types(c, &mut recipe, &QWEN2_CLASS, 28)?;
    Ok(recipe)
}

/// Qwen 3: queries and keys are normed head by head.
fn qwen3(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &QWEN3_CLASS)?;
    attention_bias(c, &mut recipe)?;
    each_attention(&mut recipe, |attention| attention.qk_norm = QkNorm::PerHead);
    window_by_layer_types(c, &mut recipe, &QWEN3_CLASS, 28)?;
    Ok(recipe)
}

/// Qwen 3 mixtures: Qwen 3's attention; some layers stay dense.
fn qwen3_moe(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &QWEN3_MOE_CLASS)?;
    attention_bias(c, &mut recipe)?;
    each_attention(&mut recipe, |attention| attention.qk_norm = QkNorm::PerHead);
    if c.bool_or("use_sliding_window", false)? {
        window_everywhere(c, &mut recipe, &QWEN3_MOE_CLASS)?;
    } else {
        c.get("sliding_window");
    }
    c.get("max_window_layers");
    let normalize = c.bool_or("norm_topk_prob", false)?.then_some(0.0);
    let routing = Routing { normalize, ..Routing::SOFTMAX };
    sparse(
        c,
        &mut recipe,
        Sparse { count: 128, top_k: 8, width: 768, everywhere: false, routing, stacks: None, shared: None },
    )?;
    Ok(recipe)
}

/// What a class assumes of a mixture of experts, and how its experts are chosen and stored.
pub(super) struct Sparse {
    pub count: usize,
    pub top_k: usize,
    /// Of an expert.
    pub width: usize,
    /// Whether all layers have experts.
    pub everywhere: bool,
    pub routing: Routing,
    pub stacks: Option<Stacks>,
    /// The width of an MLP beside them, whose output a gate of its own multiplies.
    pub shared: Option<usize>,
}

/// Experts in the layers that `decoder_sparse_step` and `mlp_only_layers` leave them, where the class reads those.
pub(super) fn sparse(c: &Reader, recipe: &mut Recipe, class: Sparse) -> Result<()> {
    let (count, top_k) = experts(c, class.count, class.top_k)?;
    let (step, dense) = match class.everywhere {
        true => (1, Vec::new()),
        false => (c.size_or("decoder_sparse_step", 1)?, c.f64s_opt("mlp_only_layers")?.unwrap_or_default()),
    };
    let intermediate_size = c.size_or("moe_intermediate_size", class.width)?;
    let beside = class.shared.map(|width| c.size_or("shared_expert_intermediate_size", width)).transpose()?;
    for (index, layer) in recipe.layers.iter_mut().enumerate() {
        let sparse = !dense.contains(&(index as f64)) && (index + 1) % step == 0;
        if let (true, ChannelMixer::Mlp(mlp)) = (sparse, layer.channel_mixer) {
            layer.channel_mixer = ChannelMixer::Experts(Experts {
                module: "mlp",
                router: "gate",
                router_bias: false,
                count,
                top_k,
                routing: class.routing,
                expert: GatedMlp { intermediate_size, ..mlp },
                stacks: class.stacks,
                shared: beside.map(|intermediate_size| Shared {
                    module: "mlp.shared_expert",
                    mlp: GatedMlp { intermediate_size, ..mlp },
                    gate: Some("mlp.shared_expert_gate"),
                }),
            });
        }
    }
    Ok(())
}
