//! The families this tool knows: how each one's config.json becomes a [`Recipe`].
//!
//! To add one: write its function, list it in [`FAMILIES`], and make its fixture (fixtures/families.py). A function
//! starts from [`plain`] and changes what differs; a config key that nothing asks for is refused unless it cannot
//! change anything, so every key that changes the arithmetic has to be read or checked.

use super::config_class::{
    Class, GEMMA, GEMMA2, GEMMA3, LLAMA, MISTRAL, MIXTRAL, OLMO2, PHI3, QWEN2, QWEN3, QWEN3_MOE,
};
use super::config_keys::{
    activation_or, attention_bias, each_dense, experts, layer_types, plain, softcap, window, window_by_layer_types,
    window_everywhere, window_where, without_rope,
};
use super::known_keys;
use super::recipe::{Activation, Block, Experts, Gated, GatedNames, Mlp, NormStyle, QkNorm, Recipe};
use super::rope_config::{self, RopeClass};
use crate::checkpoint::ConfigFile;
use crate::checkpoint::config::Reader;
use crate::error::{Error, Result};

/// A family: what its configs call it, and the function that reads them.
struct Family {
    /// `model_type`.
    model_type: &'static str,
    /// The architecture beside it.
    architecture: &'static str,
    read: fn(&Reader) -> Result<Recipe>,
}

/// All families.
const FAMILIES: &[Family] = &[
    Family { model_type: "llama", architecture: "LlamaForCausalLM", read: llama },
    Family { model_type: "mistral", architecture: "MistralForCausalLM", read: mistral },
    Family { model_type: "qwen2", architecture: "Qwen2ForCausalLM", read: qwen2 },
    Family { model_type: "qwen3", architecture: "Qwen3ForCausalLM", read: qwen3 },
    Family { model_type: "gemma", architecture: "GemmaForCausalLM", read: gemma },
    Family { model_type: "gemma2", architecture: "Gemma2ForCausalLM", read: gemma2 },
    Family { model_type: "gemma3_text", architecture: "Gemma3ForCausalLM", read: gemma3 },
    Family { model_type: "phi3", architecture: "Phi3ForCausalLM", read: phi3 },
    Family { model_type: "olmo2", architecture: "Olmo2ForCausalLM", read: olmo2 },
    Family { model_type: "mixtral", architecture: "MixtralForCausalLM", read: mixtral },
    Family { model_type: "qwen3_moe", architecture: "Qwen3MoeForCausalLM", read: qwen3_moe },
];

/// Configs whose `text_config` is a family's: `model_type` of the whole and of the text, whether that says it or not.
/// Its text model is named as if it stood alone (see [`Tensors::named`](crate::checkpoint::Tensors::named)).
const NESTED: &[(&str, &str)] = &[("gemma3", "gemma3_text")];

/// Keys of a whole config that concern what is not its text model.
const NOT_TEXT: &[&str] =
    &["boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "text_config", "vision_config"];

/// Reads the config with its family's function; see [`Recipe::read`].
pub(super) fn read(config: &ConfigFile) -> Result<Recipe> {
    let whole = config.reader();
    let model_type = whole.str_opt("model_type")?;
    let nested = NESTED.iter().find(|n| model_type == Some(n.0));
    let text = nested.map(|n| whole.object_opt("text_config").map(|text| (n.1, text))).transpose()?;
    let Some((text_type, Some(text))) = text else { return read_text(config, &whole, None) };
    if !whole.bool_or("tie_word_embeddings", true)? {
        return Err(whole.wrong("tie_word_embeddings", "true, as in the text model"));
    }
    refuse_quantized(config, &whole)?;
    refuse_unknown(config, &whole, NOT_TEXT)?;
    let recipe = read_text(config, &text, Some(text_type))?;
    if !recipe.tied {
        let expected =
            "true: transformers 5 goes by the key outside of text_config and ties them, transformers 4 does not";
        return Err(text.wrong("tie_word_embeddings", expected));
    }
    if recipe.logit_softcap.is_some() {
        let expected = "null: transformers does not apply it in a model with images, other loaders do";
        return Err(text.wrong("final_logit_softcapping", expected));
    }
    Ok(recipe)
}

/// Reads the config of a text model; `default` is its `model_type` where it does not say.
fn read_text(config: &ConfigFile, c: &Reader, default: Option<&str>) -> Result<Recipe> {
    let architectures = c.get("architectures").and_then(|v| v.as_array());
    let architecture = architectures.and_then(|a| a.first()).and_then(|v| v.as_str());
    let Some(model_type) = c.str_opt("model_type")?.or(default) else {
        return Err(c.wrong("model_type", "the name of a family, such as llama"));
    };
    let known = |f: &&Family| model_type == f.model_type && architecture.is_none_or(|a| a == f.architecture);
    let Some(family) = FAMILIES.iter().find(known) else {
        let supported: Vec<&str> = FAMILIES.iter().map(|f| f.architecture).collect();
        let found = architecture.unwrap_or("(none)");
        let problem = format!(
            "architecture {found} (model_type {model_type}) is not supported; supported: {}",
            supported.join(", ")
        );
        return Err(Error::file(config.path(), problem));
    };
    refuse_quantized(config, c)?;
    let recipe = Recipe { architecture: family.architecture, model_type: family.model_type, ..(family.read)(c)? };
    // transformers looks for it whatever the family.
    if !c.bool_or("is_causal", true)? {
        return Err(c.wrong("is_causal", "true, as in a causal language model"));
    }
    refuse_unknown(config, c, &[])?;
    Ok(recipe)
}

fn refuse_quantized(config: &ConfigFile, c: &Reader) -> Result<()> {
    let Some(quantization) = c.object_opt("quantization_config")? else { return Ok(()) };
    let method = quantization.str_opt("quant_method")?.unwrap_or("an unknown method");
    let problem = format!("the weights are quantized with {method}, which is not supported; use the original");
    Err(Error::file(config.path(), problem))
}

/// Refuses keys that may change the arithmetic and that nobody has asked for.
fn refuse_unknown(config: &ConfigFile, c: &Reader, known: &[&str]) -> Result<()> {
    let unknown = known_keys::unknown(c, known);
    if unknown.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "{} may change the arithmetic and is not known for this architecture; refused rather than guessed",
        unknown.join(", ")
    );
    Err(Error::file(config.path(), problem))
}

/// Llama 2, 3, 3.1 to 3.3 and what was built on them (Touvron et al. 2023).
fn llama(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &LLAMA)?;
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    let bias = c.bool_or("mlp_bias", false)?;
    each_dense(&mut recipe, |mlp| mlp.bias = bias);
    Ok(recipe)
}

/// Mistral 7B (Jiang et al. 2023): Llama with a window, in all layers or in none.
fn mistral(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &MISTRAL)?;
    window_everywhere(c, &mut recipe, &MISTRAL)?;
    Ok(recipe)
}

/// Qwen 2 and 2.5: biases on q, k and v only; a window from some layer on, where the config asks for it.
fn qwen2(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &QWEN2)?;
    recipe.attention.qkv_bias = true;
    window_by_layer_types(c, &mut recipe, &QWEN2)?;
    Ok(recipe)
}

/// Qwen 3: queries and keys are normed head by head.
fn qwen3(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &QWEN3)?;
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    recipe.attention.qk_norm = QkNorm::PerHead;
    window_by_layer_types(c, &mut recipe, &QWEN3)?;
    Ok(recipe)
}

/// Gemma: the embedding times √hidden, norms that multiply by 1 + w.
fn gemma(c: &Reader) -> Result<Recipe> {
    // The first configs say `gelu`; their authors compute its tanh approximation.
    let act = match activation_or(c, "hidden_act", Activation::GeluTanh)? {
        Activation::Gelu => Activation::GeluTanh,
        other => other,
    };
    let mut recipe = gemma_like(c, &GEMMA, act)?;
    recipe.ropes = vec![rope_config::read(c, &GEMMA.rope, recipe.attention.head_dim)?];
    if c.get("hidden_activation").is_some() && activation_or(c, "hidden_activation", act)? != act {
        let expected = "null, or what hidden_act says: transformers 5 goes by hidden_act, in which gelu is \
                        gelu_pytorch_tanh, early versions of 4 by hidden_activation";
        return Err(c.wrong("hidden_activation", expected));
    }
    Ok(recipe)
}

/// Gemma 2: four norms a layer, caps on scores and logits, a window in every other layer.
fn gemma2(c: &Reader) -> Result<Recipe> {
    let mut recipe = gemma_with_four_norms(c, &GEMMA2)?;
    recipe.ropes = vec![rope_config::read(c, &GEMMA2.rope, recipe.attention.head_dim)?];
    recipe.attention.softcap = softcap(c, "attn_logit_softcapping", Some(50.0))?;
    recipe.logit_softcap = softcap(c, "final_logit_softcapping", Some(30.0))?;
    let window = window(c, &GEMMA2)?;
    // The first configs have it twice; the class reads the other.
    if c.usize_opt("sliding_window_size")?.is_some_and(|size| Some(size) != window) {
        return Err(c.wrong("sliding_window_size", "the same as sliding_window, which transformers goes by"));
    }
    let slides = layer_types(c, &recipe)?.unwrap_or_else(|| (0..recipe.layers.len()).map(|i| i % 2 == 0).collect());
    window_where(c, &mut recipe, window, &slides)?;
    Ok(recipe)
}

/// Gemma 3's text model: as Gemma 2 with q/k norms for the caps on scores, and with a rotary embedding of their own for
/// the layers with a window, five of six. Its authors keep `attn_logit_softcapping` in the config and do not apply it.
fn gemma3(c: &Reader) -> Result<Recipe> {
    let mut recipe = gemma_with_four_norms(c, &GEMMA3)?;
    if c.get("attn_logit_softcapping").is_some() {
        return Err(c.wrong("attn_logit_softcapping", "null, as Gemma 3 has no cap on scores"));
    }
    recipe.attention.qk_norm = QkNorm::PerHead;
    let of_sliding = RopeClass { theta: 10_000.0, ..GEMMA3.rope };
    recipe.ropes = rope_config::read_both(c, &GEMMA3.rope, &of_sliding, recipe.attention.head_dim)?.into();
    recipe.logit_softcap = softcap(c, "final_logit_softcapping", None)?;
    let window = window(c, &GEMMA3)?;
    let pattern = c.size_or("sliding_window_pattern", 6)?;
    let by_pattern = || (0..recipe.layers.len()).map(|i| (i + 1) % pattern != 0).collect();
    let slides = layer_types(c, &recipe)?.unwrap_or_else(by_pattern);
    window_where(c, &mut recipe, window, &slides)?;
    for (layer, slides) in recipe.layers.iter_mut().zip(slides) {
        layer.rope = usize::from(slides);
    }
    Ok(recipe)
}

/// Phi-3, 3.5 and 4-mini: fused projections, longrope, perhaps a window, perhaps a part of each head rotated.
fn phi3(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &PHI3)?;
    recipe.attention.fused = true;
    recipe.block.dropouts = Some(("resid_attn_dropout", "resid_mlp_dropout"));
    each_dense(&mut recipe, |mlp| {
        mlp.names = GatedNames { gate_up: ("gate_up_proj", None), activation: "activation_fn", down: "down_proj" };
    });
    window_everywhere(c, &mut recipe, &PHI3)?;
    Ok(recipe)
}

/// OLMo 2: norms only on what attention and MLP add, and over all heads of queries and keys.
fn olmo2(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &OLMO2)?;
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    recipe.attention.qk_norm = QkNorm::AllHeads;
    recipe.norm.style = NormStyle::WeightThenRound;
    recipe.block = Block {
        after_attention: Some("post_attention_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
        ..Block::default()
    };
    recipe.ropes.iter_mut().for_each(|rope| rope.turns_wide = true);
    Ok(recipe)
}

/// Mixtral (Jiang et al. 2024): Mistral with a mixture of experts.
fn mixtral(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &MIXTRAL)?;
    window_everywhere(c, &mut recipe, &MIXTRAL)?;
    let names = GatedNames { gate_up: ("w1", Some("w3")), activation: "act_fn", down: "w2" };
    let (count, top_k) = experts(c, 8, 2)?;
    for layer in &mut recipe.layers {
        if let Mlp::Dense(mlp) = layer.mlp {
            layer.mlp = Mlp::Experts(Experts {
                module: "block_sparse_moe",
                count,
                top_k,
                normalize: true,
                round_weights: false,
                expert: Gated { names, ..mlp },
            });
        }
    }
    Ok(recipe)
}

/// Qwen 3 mixtures: Qwen 3's attention; some layers stay dense.
fn qwen3_moe(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, &QWEN3_MOE)?;
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    recipe.attention.qk_norm = QkNorm::PerHead;
    if c.bool_or("use_sliding_window", false)? {
        window_everywhere(c, &mut recipe, &QWEN3_MOE)?;
    } else {
        c.get("sliding_window");
    }
    c.get("max_window_layers");
    let (count, top_k) = experts(c, 128, 8)?;
    let normalize = c.bool_or("norm_topk_prob", false)?;
    let step = c.size_or("decoder_sparse_step", 1)?;
    let dense: Vec<f64> = c.f64s_opt("mlp_only_layers")?.unwrap_or_default();
    let intermediate_size = c.size_or("moe_intermediate_size", 768)?;
    for (index, layer) in recipe.layers.iter_mut().enumerate() {
        let sparse = !dense.contains(&(index as f64)) && (index + 1) % step == 0;
        if let (true, Mlp::Dense(mlp)) = (sparse, layer.mlp) {
            let expert = Gated { intermediate_size, ..mlp };
            layer.mlp = Mlp::Experts(Experts { module: "mlp", count, top_k, normalize, round_weights: true, expert });
        }
    }
    Ok(recipe)
}

/// What all Gemmas share.
fn gemma_like(c: &Reader, class: &Class, activation: Activation) -> Result<Recipe> {
    let mut recipe = without_rope(c, class, activation)?;
    recipe.norm.style = NormStyle::OnePlusWeightThenRound;
    recipe.embedding_multiplier = Some((recipe.hidden_size as f64).sqrt());
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    if c.bool_or("use_bidirectional_attention", false)? {
        return Err(c.wrong("use_bidirectional_attention", "false, as in a causal language model"));
    }
    Ok(recipe)
}

/// What Gemma 2 and 3 share.
fn gemma_with_four_norms(c: &Reader, class: &Class) -> Result<Recipe> {
    c.get("hidden_act"); // which some of their configs have too, and no version of their classes goes by
    let activation = activation_or(c, "hidden_activation", Activation::GeluTanh)?;
    let mut recipe = gemma_like(c, class, activation)?;
    recipe.block = Block {
        before_attention: Some("input_layernorm"),
        after_attention: Some("post_attention_layernorm"),
        before_mlp: Some("pre_feedforward_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
        dropouts: None,
    };
    let scalar = c.f64_or("query_pre_attn_scalar", 256.0)?;
    if scalar <= 0.0 {
        return Err(c.wrong("query_pre_attn_scalar", "a number above 0"));
    }
    recipe.attention.scale = 1.0 / scalar.sqrt();
    Ok(recipe)
}

#[cfg(test)]
mod tests;
