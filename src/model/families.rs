//! The families this tool knows: how each one's config.json becomes a [`Recipe`].
//!
//! To add one: write its function, list it in [`FAMILIES`], and make its fixture (fixtures/families.py). A function
//! starts from [`plain`] and changes what differs; a config key that nothing asks for is refused, so every key that
//! changes the arithmetic has to be read or checked.

use super::recipe::{
    Activation, Attention, Block, Experts, GATED, Gated, GatedNames, LayerPlan, Mlp, Norm, NormStyle, QkNorm, Recipe,
};
use super::rope::{self, Rope};
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

/// Configs whose `text_config` is a family's: `model_type` and architecture of the whole. Its text model is named as if
/// it stood alone (see [`Tensors::named`](crate::checkpoint::Tensors::named)).
const NESTED: &[(&str, &str)] = &[("gemma3", "Gemma3ForConditionalGeneration")];

/// Keys of a whole config that concern what is not its text model.
const NOT_TEXT: &[&str] =
    &["boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "text_config", "vision_config"];

/// Keys that say nothing about the arithmetic of a forward pass without dropout; nor do those that begin with `_`.
const HARMLESS: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "max_position_embeddings",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Reads the config with its family's function; see [`Recipe::read`].
pub(super) fn read(config: &ConfigFile) -> Result<Recipe> {
    let whole = config.reader();
    let text = match whole.str_opt("model_type")? {
        Some(model_type) if NESTED.iter().any(|n| n.0 == model_type) => whole.object_opt("text_config")?,
        _ => None,
    };
    if let Some(text) = text {
        if !whole.bool_or("tie_word_embeddings", true)? {
            return Err(whole.wrong("tie_word_embeddings", "true, as in the text model"));
        }
        refuse_unknown(config, &whole, NOT_TEXT)?;
        return read_text(config, &text);
    }
    read_text(config, &whole)
}

fn read_text(config: &ConfigFile, c: &Reader) -> Result<Recipe> {
    let architectures = c.get("architectures").and_then(|v| v.as_array());
    let architecture = architectures.and_then(|a| a.first()).and_then(|v| v.as_str());
    let model_type = c.str_opt("model_type")?;
    let Some(model_type) = model_type else {
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
    if let Some(quantization) = c.object_opt("quantization_config")? {
        let method = quantization.str_opt("quant_method")?.unwrap_or("an unknown method");
        let problem = format!("the weights are quantized with {method}, which is not supported; use the original");
        return Err(Error::file(config.path(), problem));
    }
    let recipe = Recipe { architecture: family.architecture, model_type: family.model_type, ..(family.read)(c)? };
    if !recipe.ropes.iter().all(Rope::is_sound) {
        return Err(c.wrong("rope_scaling", "as many short_factor and long_factor as there are rotated channel pairs"));
    }
    refuse_unknown(config, c, &[])?;
    Ok(recipe)
}

/// Refuses keys that have a value, are not known to be harmless, and that nobody has asked for.
fn refuse_unknown(config: &ConfigFile, c: &Reader, known: &[&str]) -> Result<()> {
    let harmless = |key: &str| key.starts_with('_') || HARMLESS.contains(&key) || known.contains(&key);
    let unknown: Vec<&str> = c.unused().into_iter().filter(|key| !harmless(key)).collect();
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
    let mut recipe = plain(c, Defaults::default())?;
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    let bias = c.bool_or("mlp_bias", false)?;
    each_dense(&mut recipe, |mlp| mlp.bias = bias);
    Ok(recipe)
}

/// Mistral 7B (Jiang et al. 2023): Llama with a window, in all layers or in none.
fn mistral(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, Defaults::default())?;
    window_everywhere(c, &mut recipe, Some(4096))?;
    Ok(recipe)
}

/// Qwen 2 and 2.5: biases on q, k and v only; a window from some layer on, where the config asks for it.
fn qwen2(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, Defaults::default())?;
    recipe.attention.qkv_bias = true;
    window_by_layer_types(c, &mut recipe)?;
    Ok(recipe)
}

/// Qwen 3: queries and keys are normed head by head.
fn qwen3(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, Defaults { head_dim: Some(128), ..Defaults::default() })?;
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    recipe.attention.qk_norm = QkNorm::PerHead;
    window_by_layer_types(c, &mut recipe)?;
    Ok(recipe)
}

/// Gemma: the embedding times √hidden, norms that multiply by 1 + w.
fn gemma(c: &Reader) -> Result<Recipe> {
    gemma_like(c, Some(10_000.0))
}

/// Gemma 2: four norms a layer, caps on scores and logits, a window in every other layer.
fn gemma2(c: &Reader) -> Result<Recipe> {
    let mut recipe = gemma_with_four_norms(c, Some(10_000.0))?;
    recipe.attention.softcap = softcap(c, "attn_logit_softcapping", 50.0)?;
    recipe.logit_softcap = softcap(c, "final_logit_softcapping", 30.0)?;
    let window = window(c, Some(4096))?;
    let slides = layer_types(c, &recipe)?.unwrap_or_else(|| (0..recipe.layers.len()).map(|i| i % 2 == 0).collect());
    for (layer, slides) in recipe.layers.iter_mut().zip(slides) {
        layer.window = window.filter(|_| slides);
    }
    Ok(recipe)
}

/// Gemma 3's text model: as Gemma 2 with q/k norms for the caps on scores, and with a rotary embedding of their own for
/// the layers with a window, five of six. Its authors keep `attn_logit_softcapping` in the config and do not apply it.
fn gemma3(c: &Reader) -> Result<Recipe> {
    let mut recipe = gemma_with_four_norms(c, None)?;
    if c.get("attn_logit_softcapping").is_some() {
        return Err(c.wrong("attn_logit_softcapping", "null, as Gemma 3 has no cap on scores"));
    }
    recipe.attention.qk_norm = QkNorm::PerHead;
    let (full, sliding) = rope::settings_of_both(c, 1_000_000.0, 10_000.0)?;
    let dim = recipe.attention.head_dim;
    recipe.ropes = vec![Rope::new(full, dim), Rope::new(sliding, dim)];
    recipe.logit_softcap = c.f64_opt("final_logit_softcapping")?;
    let window = window(c, Some(4096))?;
    let pattern = c.usize_opt("sliding_window_pattern")?.unwrap_or(6).max(1);
    let by_pattern = || (0..recipe.layers.len()).map(|i| (i + 1) % pattern != 0).collect();
    let slides = layer_types(c, &recipe)?.unwrap_or_else(by_pattern);
    for (layer, slides) in recipe.layers.iter_mut().zip(slides) {
        layer.window = window.filter(|_| slides);
        layer.rope = usize::from(slides);
    }
    Ok(recipe)
}

/// Phi-3 and 3.5: fused projections, longrope, perhaps a window, perhaps a part of each head rotated.
fn phi3(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, Defaults { partial_rotary: true, ..Defaults::default() })?;
    recipe.attention.fused = true;
    recipe.block.dropouts = Some(("resid_attn_dropout", "resid_mlp_dropout"));
    each_dense(&mut recipe, |mlp| {
        mlp.names = GatedNames { gate_up: ("gate_up_proj", None), activation: "activation_fn", down: "down_proj" };
    });
    window_everywhere(c, &mut recipe, None)?;
    c.get("original_max_position_embeddings"); // of use to longrope only, and present without it
    Ok(recipe)
}

/// OLMo 2: norms only on what attention and MLP add, and over all heads of queries and keys.
fn olmo2(c: &Reader) -> Result<Recipe> {
    let mut recipe = plain(c, Defaults::default())?;
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
    let mut recipe = plain(c, Defaults { rope_theta: Some(1_000_000.0), ..Defaults::default() })?;
    window_everywhere(c, &mut recipe, None)?;
    let names = GatedNames { gate_up: ("w1", Some("w3")), activation: "act_fn", down: "w2" };
    let (count, top_k) = experts(c, &["num_local_experts"])?;
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
    let mut recipe = plain(c, Defaults::default())?;
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    recipe.attention.qk_norm = QkNorm::PerHead;
    if c.bool_or("use_sliding_window", false)? {
        window_everywhere(c, &mut recipe, Some(4096))?;
    } else {
        c.get("sliding_window");
    }
    c.get("max_window_layers");
    let (count, top_k) = experts(c, &["num_experts", "num_local_experts"])?;
    let normalize = c.bool_or("norm_topk_prob", false)?;
    let step = c.usize_opt("decoder_sparse_step")?.unwrap_or(1).max(1);
    let dense: Vec<f64> = c.f64s_opt("mlp_only_layers")?.unwrap_or_default();
    let intermediate_size = c.size("moe_intermediate_size")?;
    for (index, layer) in recipe.layers.iter_mut().enumerate() {
        let sparse = !dense.contains(&(index as f64)) && (index + 1) % step == 0;
        if let (true, Mlp::Dense(mlp)) = (sparse, layer.mlp) {
            let expert = Gated { intermediate_size, ..mlp };
            layer.mlp = Mlp::Experts(Experts { module: "mlp", count, top_k, normalize, round_weights: true, expert });
        }
    }
    Ok(recipe)
}

/// What a family's config class assumes where a key is absent.
struct Defaults {
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    /// None where the family reads its rotary embeddings itself.
    rope_theta: Option<f64>,
    /// `partial_rotary_factor` is one of its keys.
    partial_rotary: bool,
    tied: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults { head_dim: None, rms_norm_eps: None, rope_theta: Some(10_000.0), partial_rotary: false, tied: false }
    }
}

/// The common case: norms before attention and MLP, separate projections without biases, one rotary embedding.
fn plain(c: &Reader, defaults: Defaults) -> Result<Recipe> {
    let hidden_size = c.size("hidden_size")?;
    let heads = c.size("num_attention_heads")?;
    let kv_heads = c.usize_opt("num_key_value_heads")?.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(c.wrong("num_key_value_heads", &format!("a divisor of the {heads} attention heads")));
    }
    let head_dim = match c.usize_opt("head_dim")?.or(defaults.head_dim) {
        Some(n) if n > 0 => n,
        Some(_) => return Err(c.wrong("head_dim", "a positive whole number")),
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => return Err(c.wrong("hidden_size", &format!("a multiple of the {heads} attention heads"))),
    };
    let epsilon = match (c.f64_opt("rms_norm_eps")?, defaults.rms_norm_eps) {
        (Some(epsilon), _) | (None, Some(epsilon)) => epsilon,
        (None, None) => return Err(c.wrong("rms_norm_eps", "a number")),
    };
    let rotated = rope::rotated_channels(c, head_dim, defaults.partial_rotary)?;
    let activation = if c.get("hidden_act").is_some() { activation(c, "hidden_act")? } else { Activation::Silu };
    let mlp = Gated { names: GATED, intermediate_size: c.size("intermediate_size")?, activation, bias: false };
    let layers = c.size("num_hidden_layers")?;
    const MOST_LAYERS: usize = 10_000;
    if layers > MOST_LAYERS {
        return Err(c.wrong("num_hidden_layers", &format!("at most {MOST_LAYERS}")));
    }
    Ok(Recipe {
        architecture: "",
        model_type: "",
        vocab_size: c.size("vocab_size")?,
        hidden_size,
        embedding_multiplier: None,
        norm: Norm { epsilon, style: NormStyle::RoundThenWeight },
        block: Block {
            before_attention: Some("input_layernorm"),
            before_mlp: Some("post_attention_layernorm"),
            ..Block::default()
        },
        attention: Attention {
            heads,
            kv_heads,
            head_dim,
            fused: false,
            qkv_bias: false,
            o_bias: false,
            qk_norm: QkNorm::None,
            scale: 1.0 / (head_dim as f64).sqrt(),
            softcap: None,
        },
        layers: vec![LayerPlan { window: None, rope: 0, mlp: Mlp::Dense(mlp) }; layers],
        ropes: match defaults.rope_theta {
            Some(theta) => vec![Rope::new(rope::settings(c, theta, defaults.partial_rotary)?, rotated)],
            None => Vec::new(),
        },
        logit_softcap: None,
        tied: c.bool_or("tie_word_embeddings", defaults.tied)?,
    })
}

/// What all Gemmas share.
fn gemma_like(c: &Reader, rope_theta: Option<f64>) -> Result<Recipe> {
    let defaults =
        Defaults { head_dim: Some(256), rms_norm_eps: Some(1e-6), rope_theta, tied: true, ..Defaults::default() };
    let mut recipe = plain(c, defaults)?;
    recipe.norm.style = NormStyle::OnePlusWeightThenRound;
    recipe.embedding_multiplier = Some((recipe.hidden_size as f64).sqrt());
    (recipe.attention.qkv_bias, recipe.attention.o_bias) = attention_bias(c)?;
    // The first Gemma configs say `gelu`; their authors compute its tanh approximation.
    let activation = match (c.str_opt("hidden_activation")?, c.str_opt("hidden_act")?) {
        (Some(_), _) => activation(c, "hidden_activation")?,
        (None, None | Some("gelu" | "gelu_pytorch_tanh")) => Activation::GeluTanh,
        (None, Some(_)) => return Err(c.wrong("hidden_act", "gelu_pytorch_tanh")),
    };
    each_dense(&mut recipe, |mlp| mlp.activation = activation);
    if c.bool_or("use_bidirectional_attention", false)? {
        return Err(c.wrong("use_bidirectional_attention", "false, as in a causal language model"));
    }
    Ok(recipe)
}

/// What Gemma 2 and 3 share.
fn gemma_with_four_norms(c: &Reader, rope_theta: Option<f64>) -> Result<Recipe> {
    let mut recipe = gemma_like(c, rope_theta)?;
    recipe.block = Block {
        before_attention: Some("input_layernorm"),
        after_attention: Some("post_attention_layernorm"),
        before_mlp: Some("pre_feedforward_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
        dropouts: None,
    };
    let scalar = c.f64_opt("query_pre_attn_scalar")?.unwrap_or(256.0);
    if scalar <= 0.0 {
        return Err(c.wrong("query_pre_attn_scalar", "a number above 0"));
    }
    recipe.attention.scale = 1.0 / scalar.sqrt();
    Ok(recipe)
}

/// `attention_bias`: q, k and v, and o.
fn attention_bias(c: &Reader) -> Result<(bool, bool)> {
    let bias = c.bool_or("attention_bias", false)?;
    Ok((bias, bias))
}

fn each_dense(recipe: &mut Recipe, change: impl Fn(&mut Gated)) {
    for layer in &mut recipe.layers {
        if let Mlp::Dense(mlp) = &mut layer.mlp {
            change(mlp);
        }
    }
}

/// A cap on scores or logits: `default` where the key is absent, none where it is null.
fn softcap(c: &Reader, key: &str, default: f64) -> Result<Option<f64>> {
    match c.f64_opt(key)? {
        Some(cap) if cap > 0.0 => Ok(Some(cap)),
        Some(_) => Err(c.wrong(key, "a number above 0, or null")),
        None => Ok((!c.has(key)).then_some(default)),
    }
}

/// `sliding_window`: `default` where the key is absent, none where it is null.
fn window(c: &Reader, default: Option<usize>) -> Result<Option<usize>> {
    match c.usize_opt("sliding_window")? {
        Some(0) => Err(c.wrong("sliding_window", "a positive whole number, or null")),
        Some(window) => Ok(Some(window)),
        None => Ok(default.filter(|_| !c.has("sliding_window"))),
    }
}

/// `sliding_window` for all layers, or for none.
fn window_everywhere(c: &Reader, recipe: &mut Recipe, default: Option<usize>) -> Result<()> {
    let window = window(c, default)?;
    recipe.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(())
}

/// Qwen's rule: `layer_types` where given, else layers from `max_window_layers` on, and none unless
/// `use_sliding_window`.
fn window_by_layer_types(c: &Reader, recipe: &mut Recipe) -> Result<()> {
    let window = window(c, Some(4096))?;
    let from = c.usize_opt("max_window_layers")?.unwrap_or(28);
    let types = layer_types(c, recipe)?;
    let used = c.bool_or("use_sliding_window", false)?;
    for (index, layer) in recipe.layers.iter_mut().enumerate() {
        let slides = types.as_ref().map_or(index >= from, |types| types[index]);
        layer.window = window.filter(|_| used && slides);
    }
    Ok(())
}

/// Which layers have a window, by `layer_types` where that is given.
fn layer_types(c: &Reader, recipe: &Recipe) -> Result<Option<Vec<bool>>> {
    let Some(value) = c.get("layer_types") else { return Ok(None) };
    let slides = |v: &serde_json::Value| match v.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let types: Option<Vec<bool>> = value.as_array().and_then(|types| types.iter().map(slides).collect());
    match types {
        Some(types) if types.len() == recipe.layers.len() => Ok(Some(types)),
        _ => {
            let layers = recipe.layers.len();
            Err(c.wrong("layer_types", &format!("{layers} times full_attention or sliding_attention")))
        }
    }
}

/// How many experts there are, and how many a position goes through.
fn experts(c: &Reader, keys: &[&str]) -> Result<(usize, usize)> {
    let mut count = None;
    for key in keys {
        count = count.or(c.usize_opt(key)?);
    }
    let count = count.filter(|n| *n > 0).ok_or_else(|| c.wrong(keys[0], "a positive whole number"))?;
    let top_k = c.size("num_experts_per_tok")?;
    if top_k > count {
        return Err(c.wrong("num_experts_per_tok", &format!("at most the {count} experts")));
    }
    Ok((count, top_k))
}

/// The activation named by `key`.
fn activation(c: &Reader, key: &str) -> Result<Activation> {
    match c.str_opt(key)? {
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        _ => Err(c.wrong(key, "silu, gelu or gelu_pytorch_tanh")),
    }
}
