//! The families this tool knows: how each one's config.json becomes a [`Recipe`]. To add one, write its function and
//! list it in [`FAMILIES`].

use super::recipe::{Activation, Attention, Block, LayerPlan, Mlp, Norm, Recipe};
use super::rope::{self, Rope};
use crate::checkpoint::ConfigFile;
use crate::checkpoint::config::Reader;
use crate::error::{Error, Result};

/// `model_type`, the architecture that config.json names beside it, and the function that reads the config.
type Family = (&'static str, &'static str, fn(&Reader) -> Result<Recipe>);

/// All families.
const FAMILIES: &[Family] = &[("llama", "LlamaForCausalLM", llama)];

/// Keys that say nothing about the arithmetic of a forward pass without dropout; nor do those that begin with `_`.
const HARMLESS: &[&str] = &[
    "attention_dropout",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
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
    let reader = config.reader();
    let architectures = reader.get("architectures").and_then(|v| v.as_array());
    let architecture = architectures.and_then(|a| a.first()).and_then(|v| v.as_str());
    let model_type = reader.str_opt("model_type")?;
    let known = |f: &&Family| model_type == Some(f.0) && architecture.is_none_or(|a| a == f.1);
    let Some((_, _, read)) = FAMILIES.iter().find(known) else {
        let found = architecture.or(model_type).unwrap_or("none");
        let supported: Vec<&str> = FAMILIES.iter().map(|f| f.1).collect();
        let problem = format!("architecture {found} is not supported; supported: {}", supported.join(", "));
        return Err(Error::file(config.path(), problem));
    };
    if let Some(quantization) = reader.object_opt("quantization_config")? {
        let method = quantization.str_opt("quant_method")?.unwrap_or("an unknown method");
        let problem = format!("the weights are quantized with {method}, which is not supported; use the original");
        return Err(Error::file(config.path(), problem));
    }
    let recipe = read(&reader)?;
    let unused = reader.unused();
    let unknown: Vec<&str> = unused.into_iter().filter(|k| !k.starts_with('_') && !HARMLESS.contains(k)).collect();
    if !unknown.is_empty() {
        let problem = format!(
            "{} asks for something this tool does not know for {}; it would have to guess, so it refuses",
            unknown.join(", "),
            recipe.model_type
        );
        return Err(Error::file(config.path(), problem));
    }
    Ok(recipe)
}

/// Llama 2, 3, 3.1 to 3.3 and what was built on them (Touvron et al. 2023).
fn llama(c: &Reader) -> Result<Recipe> {
    let attention_bias = c.bool_or("attention_bias", false)?;
    let mlp_bias = c.bool_or("mlp_bias", false)?;
    plain(c, "LlamaForCausalLM", "llama", attention_bias, attention_bias, mlp_bias)
}

/// The common case, in which later families differ by a little: two norms before attention and MLP, one RoPE.
fn plain(
    c: &Reader,
    architecture: &'static str,
    model_type: &'static str,
    qkv_bias: bool,
    o_bias: bool,
    mlp_bias: bool,
) -> Result<Recipe> {
    let hidden_size = c.size("hidden_size")?;
    let heads = c.size("num_attention_heads")?;
    let kv_heads = c.usize_opt("num_key_value_heads")?.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(c.wrong("num_key_value_heads", &format!("a divisor of the {heads} attention heads")));
    }
    let head_dim = match c.usize_opt("head_dim")? {
        Some(n) if n > 0 => n,
        Some(_) => return Err(c.wrong("head_dim", "a positive whole number")),
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => return Err(c.wrong("hidden_size", &format!("a multiple of the {heads} attention heads"))),
    };
    if head_dim % 2 != 0 {
        return Err(c.wrong("head_dim", "an even number, as rotary embeddings need"));
    }
    let mlp = Mlp {
        intermediate_size: c.size("intermediate_size")?,
        activation: activation(c, "hidden_act")?,
        bias: mlp_bias,
    };
    Ok(Recipe {
        architecture,
        model_type,
        vocab_size: c.size("vocab_size")?,
        hidden_size,
        embedding_multiplier: None,
        norm: Norm { epsilon: c.f64("rms_norm_eps")? },
        block: Block { before_attention: "input_layernorm", before_mlp: "post_attention_layernorm" },
        attention: Attention { heads, kv_heads, head_dim, qkv_bias, o_bias, scale: 1.0 / (head_dim as f64).sqrt() },
        layers: vec![LayerPlan { rope: 0, mlp }; c.size("num_hidden_layers")?],
        ropes: vec![Rope::new(rope::settings(c)?, head_dim)],
        tied: c.bool_or("tie_word_embeddings", false)?,
    })
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
