//! Keys that families share, read into a recipe or parts of it; where one is absent, the family's class says what it
//! is.

use super::channel_mixer::{Activation, ChannelMixer, GatedMlp, GatedNames};
use super::config_class::Class;
use super::recipe::{Around, Block, FINAL_NORM, Layer, Norm, NormStyle, Recipe};
use super::rope::{QueryGrowth, Rope};
use super::rope_config;
use super::token_mixer::{AttentionNames, GroupedQueryAttention, QkNorm, TokenMixer};
use crate::checkpoint::config::Reader;
use crate::error::Result;
use serde_json::Value;

/// The common case: norms before attention and gated MLP, separate projections without biases, one rotary embedding.
pub(super) fn plain(c: &Reader, class: &Class) -> Result<Recipe> {
    let mut recipe = without_rope(c, class, activation_or(c, "hidden_act", Activation::Silu)?)?;
    recipe.ropes = vec![rope(c, class, &recipe)?];
    Ok(recipe)
}

/// The one rotary embedding of all layers.
pub(super) fn rope(c: &Reader, class: &Class, recipe: &Recipe) -> Result<Rope> {
    rope_config::read(c, &class.rope, head_dim(recipe))
}

/// The width of heads, which is one in all layers.
pub(super) fn head_dim(recipe: &Recipe) -> usize {
    recipe.attention(0).map_or(0, |attention| attention.head_dim)
}

/// [`plain`] with this activation, and with no rotary embedding yet.
pub(super) fn without_rope(c: &Reader, class: &Class, activation: Activation) -> Result<Recipe> {
    let hidden_size = c.size_or("hidden_size", class.hidden_size)?;
    let heads = c.size_or("num_attention_heads", class.heads)?;
    let kv_heads = match c.usize_opt("num_key_value_heads")? {
        Some(n) => n,
        None if !c.has("num_key_value_heads") => class.kv_heads.unwrap_or(heads),
        None if class.null_kv_heads => heads,
        None => 0,
    };
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(c.wrong("num_key_value_heads", &format!("a divisor of the {heads} attention heads")));
    }
    let head_dim = match c.usize_opt("head_dim")? {
        Some(n) => Some(n),
        None if c.has("head_dim") && class.head_dim.is_some() => Some(0),
        None => class.head_dim,
    };
    let head_dim = match head_dim {
        Some(n) if n > 0 => n,
        Some(_) => return Err(c.wrong("head_dim", "a positive whole number")),
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => return Err(c.wrong("hidden_size", &format!("a multiple of the {heads} attention heads"))),
    };
    let intermediate_size = c.size_or("intermediate_size", class.intermediate_size)?;
    let mlp = GatedMlp { names: GatedNames::USUAL, intermediate_size, activation, bias: false, limit: None };
    let attention = GroupedQueryAttention {
        heads,
        kv_heads,
        head_dim,
        fused: false,
        gated: false,
        keys_are_values: false,
        value_norm: false,
        borrows: None,
        lends: false,
        names: AttentionNames::USUAL,
        qkv_bias: false,
        o_bias: false,
        qk_norm: QkNorm::None,
        norm_after_rope: false,
        scale: 1.0 / (head_dim as f64).sqrt(),
        softcap: None,
        window: None,
        sinks: false,
        rope: Some(0),
        query_growth: None,
    };
    let layer = Layer { token_mixer: TokenMixer::Attention(attention), channel_mixer: ChannelMixer::Mlp(mlp) };
    let layers = c.size_or("num_hidden_layers", class.layers)?;
    const MOST_LAYERS: usize = 10_000;
    if layers > MOST_LAYERS {
        return Err(c.wrong("num_hidden_layers", &format!("at most {MOST_LAYERS}")));
    }
    Ok(Recipe {
        architecture: "",
        model_type: "",
        vocab_size: c.size_or("vocab_size", class.vocab_size)?,
        hidden_size,
        embedding_multiplier: None,
        final_norm: FINAL_NORM,
        stream_multiplier: None,
        norm: Norm {
            epsilon: c.f64_or(class.norm_eps_key, class.rms_norm_eps)?,
            style: NormStyle::RoundThenWeight,
            is_centred: false,
        },
        block: Block {
            token: Around { norm_before: Some("input_layernorm"), ..Around::default() },
            channel: Around { norm_before: Some("post_attention_layernorm"), ..Around::default() },
            ..Block::default()
        },
        layer_inputs: None,
        layer_scale: false,
        layers: vec![layer; layers],
        ropes: Vec::new(),
        logit_multiplier: None,
        logit_softcap: None,
        tied: c.bool_or("tie_word_embeddings", class.tied)?,
    })
}

/// Keys of [`query_growth`] in the object of the rotary embedding's parameters, and one that says nothing of it.
pub(super) const GROWTH_KEYS: &[&str] = &["llama_4_scaling_beta", "max_position_embeddings"];

/// How queries grow with their position.
pub(super) fn query_growth(c: &Reader) -> Result<QueryGrowth> {
    let number = |key: &str| {
        let wrong = || c.wrong_or_left_out("rope_parameters", &format!("an object with {key}, which queries grow by"));
        rope_config::own_number(c, key)?.filter(|number| *number > 0.0).ok_or_else(wrong)
    };
    let (beta, original) = (number("llama_4_scaling_beta")?, number("original_max_position_embeddings")?);
    Ok(QueryGrowth { beta, original })
}

/// `attention_bias`: of q, k, v and o.
pub(super) fn attention_bias(c: &Reader, recipe: &mut Recipe) -> Result<()> {
    let bias = c.bool_or("attention_bias", false)?;
    each_attention(recipe, |attention| (attention.qkv_bias, attention.o_bias) = (bias, bias));
    Ok(())
}

/// Changes the attention of every layer.
pub(super) fn each_attention(recipe: &mut Recipe, change: impl Fn(&mut GroupedQueryAttention)) {
    each_attention_with(recipe, std::iter::repeat(()), |attention, ()| change(attention));
}

/// Changes the attention of every layer, each with what `with` has for it.
pub(super) fn each_attention_with<T>(
    recipe: &mut Recipe,
    with: impl IntoIterator<Item = T>,
    change: impl Fn(&mut GroupedQueryAttention, T),
) {
    for (layer, with) in recipe.layers.iter_mut().zip(with) {
        if let TokenMixer::Attention(attention) = &mut layer.token_mixer {
            change(attention, with);
        }
    }
}

/// Changes the MLP of every layer that has one for all positions.
pub(super) fn each_mlp(recipe: &mut Recipe, change: impl Fn(&mut GatedMlp)) {
    for layer in &mut recipe.layers {
        if let ChannelMixer::Mlp(mlp) = &mut layer.channel_mixer {
            change(mlp);
        }
    }
}

/// A cap on scores or logits: `default` where the key is absent, none where it is null.
pub(super) fn softcap(c: &Reader, key: &str, default: Option<f64>) -> Result<Option<f64>> {
    match c.f64_opt(key)? {
        Some(cap) if cap > 0.0 => Ok(Some(cap)),
        Some(_) => Err(c.wrong(key, "a number above 0, or null")),
        None => Ok(default.filter(|_| !c.has(key))),
    }
}

/// `sliding_window`: the class's where the key is absent, none where it is null.
pub(super) fn window(c: &Reader, class: &Class) -> Result<Option<usize>> {
    match c.usize_opt("sliding_window")? {
        Some(0) => Err(c.wrong("sliding_window", "a positive whole number, or null")),
        Some(window) => Ok(Some(window)),
        None => Ok(class.window.filter(|_| !c.has("sliding_window"))),
    }
}

/// Multipliers of Granite: of the embedding, of what mixers add, of attention's scores, and a divisor of logits.
pub(super) fn multipliers(c: &Reader, recipe: &mut Recipe) -> Result<()> {
    let number = |key| c.f64_or(key, 1.0);
    let [embedding, residual] = [number("embedding_multiplier")?, number("residual_multiplier")?];
    let [scale, divisor] = [number("attention_multiplier")?, number("logits_scaling")?];
    if divisor == 0.0 {
        return Err(c.wrong("logits_scaling", "a number other than 0"));
    }
    let unless_one = |number: f64| (number != 1.0).then_some(number);
    recipe.stream_multiplier = unless_one(embedding);
    recipe.block.residual_multiplier = unless_one(residual);
    recipe.logit_multiplier = unless_one(1.0 / divisor);
    each_attention(recipe, |attention| attention.scale = scale);
    Ok(())
}

/// `sliding_window` for all layers, or for none.
pub(super) fn window_everywhere(c: &Reader, recipe: &mut Recipe, class: &Class) -> Result<()> {
    let window = window(c, class)?;
    each_attention(recipe, |attention| attention.window = window);
    Ok(())
}

/// Qwen's rule: `layer_types` where given, else layers from `max_window_layers` on, which is `first` where absent, and
/// none unless `use_sliding_window`.
pub(super) fn window_by_layer_types(c: &Reader, recipe: &mut Recipe, class: &Class, first: usize) -> Result<()> {
    let window = window(c, class)?;
    let from = c.usize_or("max_window_layers", first)?;
    let types = layer_types(c, recipe)?;
    let used = c.bool_or("use_sliding_window", false)?;
    let window = window.filter(|_| used);
    let slides =
        types.unwrap_or_else(|| (0..recipe.layers.len()).map(|index| window.is_some() && index >= from).collect());
    window_where(c, recipe, window, &slides)
}

/// The window in the layers that slide.
pub(super) fn window_where(c: &Reader, recipe: &mut Recipe, window: Option<usize>, slides: &[bool]) -> Result<()> {
    if window.is_none() && slides.contains(&true) {
        let key = if c.get("sliding_window").is_some() { "use_sliding_window" } else { "sliding_window" };
        return Err(c.wrong(key, "a window in use, as layers of sliding_attention need one"));
    }
    each_attention_with(recipe, slides, |attention, slides| attention.window = window.filter(|_| *slides));
    Ok(())
}

/// Which layers are of the first of two kinds, by `layer_types` where that is given.
pub(super) fn kinds_of_layers(c: &Reader, layers: usize, first: &str, second: &str) -> Result<Option<Vec<bool>>> {
    let Some(value) = c.get("layer_types") else { return Ok(None) };
    let is_first = |v: &serde_json::Value| match v.as_str() {
        Some(kind) if kind == first => Some(true),
        Some(kind) if kind == second => Some(false),
        _ => None,
    };
    let types: Option<Vec<bool>> = value.as_array().and_then(|types| types.iter().map(is_first).collect());
    match types {
        Some(types) if types.len() == layers => Ok(Some(types)),
        _ => Err(c.wrong("layer_types", &format!("{layers} times {second} or {first}"))),
    }
}

/// Which layers have a window, by `layer_types` where that is given.
pub(super) fn layer_types(c: &Reader, recipe: &Recipe) -> Result<Option<Vec<bool>>> {
    kinds_of_layers(c, recipe.layers.len(), "sliding_attention", "full_attention")
}

/// How many experts there are, and how many a position goes through; with what the class assumes of both.
pub(super) fn experts(c: &Reader, default_count: usize, default_top_k: usize) -> Result<(usize, usize)> {
    // Two names of one number.
    let keys = ["num_local_experts", "num_experts"];
    let given = keys.into_iter().find(|key| c.has(key)).unwrap_or(keys[0]);
    let count = c.size_or(given, default_count)?;
    if c.size_or(keys[1], count)? != count {
        return Err(c.wrong(keys[1], &format!("{count}, as in {}", keys[0])));
    }
    let top_k = c.size_or("num_experts_per_tok", default_top_k)?;
    if top_k > count {
        return Err(c.wrong("num_experts_per_tok", &format!("at most the {count} experts")));
    }
    Ok((count, top_k))
}

/// The activation named by `key`, or `default` where the key is absent.
pub(super) fn activation_or(c: &Reader, key: &str, default: Activation) -> Result<Activation> {
    match c.str_opt(key)? {
        None if !c.has(key) => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        _ => Err(c.wrong(key, "silu, gelu or gelu_pytorch_tanh")),
    }
}

/// Refuses another value of a key that transformers does not go by.
pub(super) fn expect(c: &Reader, key: &str, expected: &Value) -> Result<()> {
    match c.get(key) {
        Some(value) if value != expected => {
            Err(c.wrong(key, &format!("{expected}, which transformers computes whatever it says")))
        }
        _ => Ok(()),
    }
}
