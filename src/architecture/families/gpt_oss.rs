//! gpt-oss.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::{Activation, ChannelMixer, Experts, GatedMlp, Routing, StackNames, Stacks};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{
    attention_bias, each_attention, experts, layer_types, plain, window, window_where,
};
use crate::architecture::module::StackOrder;
use crate::architecture::recipe::{NormStyle, Recipe};
use crate::architecture::rope_config::RopeClass;
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const GPT_OSS: Family =
    Family { model_type: "gpt_oss", architecture: "GptOssForCausalLM", inside: None, read };

const CLASS: Class = Class {
    vocab_size: 201_088,
    hidden_size: 2880,
    intermediate_size: 2880,
    layers: 36,
    heads: 64,
    kv_heads: Some(8),
    head_dim: Some(64),
    rms_norm_eps: 1e-5,
    window: Some(128),
    rope: RopeClass { theta: 150_000.0, positions: 131_072, ..llama::CLASS.rope },
    ..llama::CLASS
};

/// gpt-oss (OpenAI 2025): sinks beside the scores, a window in every other layer, biases everywhere, experts of a gated
/// product of their own.
fn read(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &CLASS)?;
    if c.get("rope_parameters").or(c.get("rope_scaling")).is_none() {
        return Err(c.wrong_or_left_out(
            "rope_parameters",
            "the scaling: where a config has none, loaders assume different ones",
        ));
    }
    if c.bool_or("attention_bias", true)? {
        each_attention(&mut recipe, |attention| (attention.qkv_bias, attention.o_bias) = (true, true));
    } else {
        attention_bias(c, &mut recipe)?;
    }
    recipe.norm.style = NormStyle::WeightThenRound;
    each_attention(&mut recipe, |attention| attention.sinks = true);
    let window = window(c, &CLASS)?;
    let slides = layer_types(c, &recipe)?.unwrap_or_else(|| (0..recipe.layers.len()).map(|i| i % 2 == 0).collect());
    window_where(c, &mut recipe, window, &slides)?;
    let (count, top_k) = experts(c, 128, 4)?;
    if c.usize_opt("experts_per_token")?.is_some_and(|other| other != top_k) {
        return Err(c.wrong("experts_per_token", &format!("{top_k}, as in num_experts_per_tok")));
    }
    c.get("initial_context_length"); // which the scaling has as the length that it starts from
    let limit = c.f64_or("swiglu_limit", 7.0)?;
    let activation = Activation::Swish(c.f64_or("swiglu_alpha", 1.702)?);
    for layer in &mut recipe.layers {
        if let ChannelMixer::Mlp(mlp) = layer.channel_mixer {
            layer.channel_mixer = ChannelMixer::Experts(Experts {
                module: "mlp",
                router: "router",
                router_bias: true,
                count,
                top_k,
                // A softmax of the chosen alone is that of all, divided by their sum.
                routing: Routing { normalize: Some(0.0), ..Routing::SOFTMAX },
                expert: GatedMlp { activation, bias: true, limit: Some(limit), ..mlp },
                stacks: Some(Stacks {
                    names: StackNames::USUAL,
                    order: StackOrder::InOutUnlessPacked,
                    interleaved: true,
                }),
                shared: None,
            });
        }
    }
    Ok(recipe)
}
