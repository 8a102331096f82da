//! Gemma 4's text model.

use super::gemma::four_norms;
use super::{Family, llama};
use crate::architecture::channel_mixer::{Activation, ChannelMixer, Experts, GatedMlp, Routing, StackNames, Stacks};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{
    activation_or, attention_bias, each_attention, kinds_of_layers, softcap, window, window_where, without_rope,
};
use crate::architecture::module::StackOrder;
use crate::architecture::recipe::{LayerInputs, NormStyle, Recipe};
use crate::architecture::rope_config::{self, RopeClass};
use crate::architecture::token_mixer::{QkNorm, TokenMixer};
use crate::checkpoint::config::Reader;
use crate::error::Result;

pub(super) const GEMMA4: Family =
    Family { model_type: "gemma4_text", architecture: "Gemma4ForCausalLM", inside: Some("gemma4"), read };

/// With the rotary embedding of its full layers.
const CLASS: Class = Class {
    vocab_size: 262_144,
    hidden_size: 2304,
    intermediate_size: 9216,
    layers: 30,
    heads: 8,
    kv_heads: Some(4),
    null_kv_heads: false,
    head_dim: Some(256),
    tied: true,
    window: Some(512),
    rope: RopeClass { theta: 1_000_000.0, positions: 131_072, ..llama::CLASS.rope },
    ..llama::CLASS
};

/// Gemma 4: layers with a window and layers without, of other head widths; keys and values that later layers borrow;
/// inputs for each layer; perhaps experts beside the MLP.
fn read(c: &Reader) -> Result<Recipe> {
    let mut recipe = without_rope(c, &CLASS, activation_or(c, "hidden_activation", Activation::GeluTanh)?)?;
    recipe.norm.style = NormStyle::WeightThenRound;
    recipe.embedding_multiplier = Some((recipe.hidden_size as f64).sqrt());
    recipe.logit_softcap = softcap(c, "final_logit_softcapping", None)?;
    recipe.block = four_norms(recipe.block);
    attention_bias(c, &mut recipe)?;
    // Of images alone: in a text each position sees those before it.
    if c.str_opt("use_bidirectional_attention")?.is_some_and(|what| what != "vision") {
        return Err(c.wrong("use_bidirectional_attention", "null or vision, as in a causal language model"));
    }
    let slides = sliding_layers(c, recipe.layers.len())?;
    each_attention(&mut recipe, |attention| {
        (attention.scale, attention.qk_norm, attention.value_norm) = (1.0, QkNorm::PerHead, true);
    });
    let window = window(c, &CLASS)?;
    window_where(c, &mut recipe, window, &slides)?;
    full_layers(c, &mut recipe, &slides)?;
    share(c, &mut recipe, &slides)?;
    layer_inputs(c, &mut recipe)?;
    recipe.layer_scale = true;
    if c.bool_or("enable_moe_block", false)? {
        add_experts(c, &mut recipe)?;
    } else {
        for key in ["num_experts", "top_k_experts", "moe_intermediate_size"] {
            c.get(key);
        }
    }
    Ok(recipe)
}

/// By `layer_types`, else five of six; the last layer never slides.
fn sliding_layers(c: &Reader, layers: usize) -> Result<Vec<bool>> {
    let Some(slides) = kinds_of_layers(c, layers, "sliding_attention", "full_attention")? else {
        return Ok((1..=layers).map(|layer| layer % 6 != 0 && layer != layers).collect());
    };
    if slides.last() == Some(&true) {
        return Err(c.wrong("layer_types", "full_attention last: transformers makes it so, other loaders may not"));
    }
    Ok(slides)
}

/// Heads of layers without a window are wider, have perhaps fewer keys, which are perhaps the values, too.
fn full_layers(c: &Reader, recipe: &mut Recipe, slides: &[bool]) -> Result<()> {
    let keys_are_values = c.bool_or("attention_k_eq_v", false)?;
    let (head_dim, kv_heads) = match c.object_opt("per_layer_config")? {
        Some(own) => of_each_layer(c, &own, recipe, slides)?,
        None => {
            let kv_heads = c.usize_opt("num_global_key_value_heads")?;
            (c.size_or("global_head_dim", 512)?, kv_heads.filter(|_| keys_are_values))
        }
    };
    let mut own_head_dim = head_dim;
    for (layer, slides) in recipe.layers.iter_mut().zip(slides) {
        let TokenMixer::Attention(attention) = &mut layer.token_mixer else { continue };
        attention.rope = Some(usize::from(*slides));
        if *slides {
            own_head_dim = attention.head_dim;
            continue;
        }
        (attention.head_dim, attention.keys_are_values) = (head_dim, keys_are_values);
        if let Some(kv_heads) = kv_heads {
            if kv_heads == 0 || attention.heads % kv_heads != 0 {
                let expected = format!("a divisor of the {} attention heads", attention.heads);
                return Err(c.wrong("num_global_key_value_heads", &expected));
            }
            attention.kv_heads = kv_heads;
        }
    }
    let of_sliding = RopeClass { theta: 10_000.0, ..CLASS.rope };
    recipe.ropes = rope_config::read_gemma4(c, [&CLASS.rope, &of_sliding], [head_dim, own_head_dim])?.into();
    Ok(())
}

/// Width of heads and number of key heads of full layers as transformers 5 writes them, layer by layer.
fn of_each_layer(c: &Reader, own: &Reader, recipe: &Recipe, slides: &[bool]) -> Result<(usize, Option<usize>)> {
    let plain = recipe.attention(0).map_or(0, |attention| attention.head_dim);
    let mut found = Vec::new();
    for layer in (0..slides.len()).filter(|layer| !slides[*layer]) {
        let of_layer = own.object_opt(&layer.to_string())?;
        let Some(of_layer) = of_layer else {
            found.push((plain, None));
            continue;
        };
        found.push((of_layer.size_or("head_dim", plain)?, of_layer.usize_opt("num_key_value_heads")?));
        if let Some((key, _)) = of_layer.unused().first() {
            return Err(of_layer.wrong(key, "head_dim and num_key_value_heads alone"));
        }
    }
    let of_sliding = own.unused().first().map(|(layer, _)| *layer);
    match (of_sliding, found.first()) {
        (None, Some(first)) if found.iter().all(|other| other == first) => Ok(*first),
        _ => Err(c.wrong("per_layer_config", "the same for all layers of full_attention, and nothing for others")),
    }
}

/// The last layers borrow keys and values of the last layer of their kind that has its own.
fn share(c: &Reader, recipe: &mut Recipe, slides: &[bool]) -> Result<()> {
    let layers = recipe.layers.len();
    let shared = c.usize_or("num_kv_shared_layers", 0)?;
    let own = layers.checked_sub(shared).filter(|own| *own > 0);
    let lender = |kind: bool| own.and_then(|own| slides[..own].iter().rposition(|slides| *slides == kind));
    let lenders = [lender(false), lender(true)];
    let (true, Some(own)) = (slides.iter().all(|slides| lenders[usize::from(*slides)].is_some()), own) else {
        let expected = "few enough that each kind of layers has one with keys and values of its own";
        return Err(c.wrong("num_kv_shared_layers", expected));
    };
    let is_double = c.bool_or("use_double_wide_mlp", false)?;
    for (index, layer) in recipe.layers.iter_mut().enumerate() {
        let TokenMixer::Attention(attention) = &mut layer.token_mixer else { continue };
        let lender = lenders[usize::from(slides[index])];
        attention.lends = shared > 0 && lender == Some(index);
        if index < own {
            continue;
        }
        attention.borrows = lender;
        if let (true, ChannelMixer::Mlp(mlp)) = (is_double, &mut layer.channel_mixer) {
            mlp.intermediate_size *= 2;
        }
    }
    Ok(())
}

fn layer_inputs(c: &Reader, recipe: &mut Recipe) -> Result<()> {
    let width = c.usize_or("hidden_size_per_layer_input", 256)?;
    let vocab_size = c.size_or("vocab_size_per_layer_input", 262_144)?;
    if width == 0 {
        return Ok(());
    }
    if vocab_size < recipe.vocab_size {
        let expected = format!("at least the {} of vocab_size", recipe.vocab_size);
        return Err(c.wrong("vocab_size_per_layer_input", &expected));
    }
    recipe.layer_inputs = Some(LayerInputs { vocab_size, width });
    Ok(())
}

fn add_experts(c: &Reader, recipe: &mut Recipe) -> Result<()> {
    let (count, top_k) = (c.usize_or("num_experts", 0)?, c.usize_or("top_k_experts", 0)?);
    if count == 0 || top_k == 0 || top_k > count {
        return Err(c.wrong("top_k_experts", &format!("1 up to the {count} experts")));
    }
    let intermediate_size = c.usize_or("moe_intermediate_size", 0)?;
    if intermediate_size == 0 {
        return Err(c.wrong("moe_intermediate_size", "a positive whole number"));
    }
    let routing = Routing { normalize: Some(0.0), is_normed: true, round_weights: false, ..Routing::SOFTMAX };
    for layer in &mut recipe.layers {
        let ChannelMixer::Mlp(mlp) = layer.channel_mixer else { continue };
        let experts = Experts {
            module: "",
            router: "router.proj",
            router_bias: false,
            count,
            top_k,
            routing,
            expert: GatedMlp { intermediate_size, ..mlp },
            stacks: Some(Stacks { names: StackNames::USUAL, order: StackOrder::OutIn, interleaved: false }),
            shared: None,
        };
        layer.channel_mixer = ChannelMixer::MlpAndExperts(mlp, experts);
    }
    Ok(())
}
