//! The families this tool knows: how each one's config.json becomes a [`Recipe`].
//!
//! To add one: give it a file here, or a place in that of its close kin; list it in [`FAMILIES`]; make its fixture
//! (fixtures/families.py). Its function starts from [`plain`](super::config_keys::plain) and changes what differs; a
//! config key that nothing asks for is refused unless it cannot change anything, so every key that changes the
//! arithmetic has to be read or checked.

mod close_to_llama;
mod deepseek;
mod gemma;
mod gemma4;
mod glm;
mod gpt_oss;
mod granite;
mod lfm2;
mod llama;
mod minimax;
mod mistral;
mod olmo2;
mod phi3;
mod qwen;
mod qwen_hybrid;
mod qwen_vl;

use super::known_keys;
use super::recipe::Recipe;
use crate::checkpoint::ConfigFile;
use crate::checkpoint::config::Reader;
use crate::checkpoint::names;
use crate::checkpoint::quantization::Quantization;
use crate::error::{Error, Result};

/// A family: what its configs call it, and the function that reads them.
struct Family {
    /// `model_type`.
    model_type: &'static str,
    /// The architecture beside it.
    architecture: &'static str,
    /// `model_type` of configs whose `text_config` is this family's; of several such families, the first where that does
    /// not say. The text model is named as if it stood alone (see [`Tensors::named`](crate::checkpoint::Tensors::named)).
    inside: Option<&'static str>,
    read: fn(&Reader) -> Result<Recipe>,
}

/// Every family, in the order in which messages list them.
const FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma4::GEMMA4,
    &phi3::PHI3,
    &olmo2::OLMO2,
    &mistral::MIXTRAL,
    &qwen::QWEN3_MOE,
    &qwen_hybrid::QWEN3_NEXT,
    &qwen_hybrid::QWEN3_5,
    &qwen_hybrid::QWEN3_5_MOE,
    &lfm2::LFM2,
    &qwen_vl::QWEN2_VL,
    &qwen_vl::QWEN2_5_VL,
    &qwen_vl::QWEN3_VL,
    &qwen_vl::QWEN3_VL_MOE,
    &mistral::MINISTRAL3,
    &gpt_oss::GPT_OSS,
    &deepseek::DEEPSEEK_V3,
    &deepseek::KIMI_K2,
    &deepseek::DEEPSEEK_V2,
    &deepseek::GLM4_MOE_LITE,
    &deepseek::MISTRAL4,
    &glm::GLM4,
    &glm::GLM4_MOE,
    &minimax::MINIMAX_M2,
    &granite::GRANITE,
    &granite::GRANITE_MOE,
    &granite::GRANITE_MOE_SHARED,
    &granite::GRANITE_HYBRID,
    &close_to_llama::SMOLLM3,
    &olmo2::OLMO3,
    &close_to_llama::ERNIE4_5,
    &close_to_llama::HUNYUAN,
    &close_to_llama::EXAONE4,
    &close_to_llama::COHERE2,
    &close_to_llama::SEED_OSS,
];

/// `model_type` of what is known and not computed: state space models and their hybrids, sparse attention.
const STATIC_ONLY: &[&str] = &[
    "bamba",
    "deepseek_v32",
    "deepseek_v4",
    "falcon_h1",
    "falcon_mamba",
    "gemma3n",
    "glm_moe_dsa",
    "jamba",
    "kimi_k3",
    "kimi_linear",
    "lfm2_moe",
    "mamba",
    "mamba2",
    "minimax",
    "minimax_m3_vl",
    "nemotron_h",
    "olmo_hybrid",
    "recurrent_gemma",
    "zamba2",
];

/// Keys of a whole config that concern what is not its text model.
const NOT_TEXT: &[&str] = &[
    "audio_config",
    "audio_token_id",
    "boa_token_id",
    "boi_token_id",
    "boi_token_index",
    "eoa_token_id",
    "eoa_token_index",
    "eoi_token_id",
    "eoi_token_index",
    "ignore_index",
    "image_token_id",
    "image_token_index",
    "media_placeholder_token_id",
    "mm_tokens_per_image",
    "multimodal_projector_bias",
    "projection_hidden_size",
    "projection_layer_norm_eps",
    "projector_hidden_act",
    "spatial_merge_size",
    "text_config",
    "use_unified_vision_chunk",
    "video_placeholder",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_feature_layer",
    "vision_start_token_id",
    "vision_token_id",
];

impl Recipe {
    /// The recipe that `config` describes, which is worked out when it is first asked for.
    ///
    /// # Errors
    /// The architecture is not supported (the message names those that are), a key is missing or contradicts another,
    /// or the config asks for arithmetic that is not implemented.
    pub fn read(config: &ConfigFile) -> Result<Recipe> {
        config.once(read)
    }

    /// As [`Recipe::read`]; none where the architecture is not known here, so that only what its files call their tensors
    /// tells which neurons it has.
    ///
    /// # Errors
    /// As [`Recipe::read`], where it is known; the weights are quantized by a method that is not.
    pub fn of_known(config: &ConfigFile) -> Result<Option<Recipe>> {
        let c = config.reader();
        let Some(model_type) = c.str_opt("model_type")? else { return Recipe::read(config).map(Some) };
        let architecture = architecture(&c);
        let is_known = |f: &&Family| f.inside == Some(model_type) || f.is(model_type, architecture);
        if FAMILIES.iter().any(is_known) && !is_static_only(model_type, &c) {
            return Recipe::read(config).map(Some);
        }
        check_quantization(config).map(|()| None)
    }
}

impl Family {
    fn is(&self, model_type: &str, architecture: Option<&str>) -> bool {
        model_type == self.model_type && architecture.is_none_or(|named| named == self.architecture)
    }
}

/// Whether what a config describes is known and not computed.
fn is_static_only(model_type: &str, c: &Reader) -> bool {
    let is_hybrid = || model_type == granite::GRANITE_HYBRID.model_type && granite::has_mamba(c);
    STATIC_ONLY.contains(&model_type) || is_hybrid()
}

/// What the architecture of a config is called; its recipe is none where it is not known here.
pub fn name(config: &ConfigFile, recipe: Option<&Recipe>) -> String {
    let c = config.reader();
    let named = || architecture(&c).or(c.str_opt("model_type").ok().flatten()).unwrap_or_default();
    recipe.map_or_else(named, |recipe| recipe.architecture).to_owned()
}

/// The first architecture that a config names.
fn architecture<'a>(c: &Reader<'a>) -> Option<&'a str> {
    c.get("architectures").and_then(|named| named.as_array())?.first()?.as_str()
}

/// Whether a family is one of those that are known here.
pub fn is_family(model_type: &str) -> bool {
    FAMILIES.iter().any(|family| family.model_type == model_type || family.inside == Some(model_type))
}

/// Reads the config with its family's function.
fn read(config: &ConfigFile) -> Result<Recipe> {
    tracing::trace!(path = %config.path().display(), "a recipe is made");
    let whole = config.reader();
    let Some(model_type) = whole.str_opt("model_type")? else {
        return read_text(config, &whole, family(config, &whole)?);
    };
    let inside: Vec<&Family> = FAMILIES.iter().copied().filter(|f| f.inside == Some(model_type)).collect();
    let Some(first) = inside.first() else { return read_text(config, &whole, family(config, &whole)?) };
    let Some(text) = whole.object_opt("text_config")? else {
        return match names::IS_FLAT.contains(&model_type) {
            true => read_text(config, &whole, first),
            false => Err(whole.wrong("text_config", "the config of the text model")),
        };
    };
    let text_type = text.str_opt("model_type")?.unwrap_or(first.model_type);
    let Some(family) = inside.iter().find(|family| family.model_type == text_type) else {
        let known: Vec<&str> = inside.iter().map(|family| family.model_type).collect();
        return Err(text.wrong("model_type", &known.join(" or ")));
    };
    check_quantization(config)?;
    let recipe = read_text(config, &text, family)?;
    let tied = tied(&whole, &text, &recipe)?;
    refuse_unknown(config, &whole, |key| NOT_TEXT.contains(&key) || whole.get(key) == text.get(key))?;
    if recipe.logit_softcap.is_some() && recipe.model_type == gemma::GEMMA3.model_type {
        let expected = "null: transformers does not apply it in a model with images, other loaders do";
        return Err(text.wrong("final_logit_softcapping", expected));
    }
    Ok(Recipe { tied, ..recipe })
}

/// Whether the head of a text model within another is the embedding: transformers 5 goes by the key outside of
/// `text_config`, transformers 4 by the one inside.
fn tied(whole: &Reader, text: &Reader, recipe: &Recipe) -> Result<bool> {
    const KEY: &str = "tie_word_embeddings";
    if recipe.model_type == gemma::GEMMA3.model_type {
        if !whole.bool_or(KEY, true)? {
            return Err(whole.wrong(KEY, "true, as in the text model"));
        }
        if !recipe.tied {
            let expected =
                "true: transformers 5 goes by the key outside of text_config and ties them, transformers 4 does not";
            return Err(text.wrong(KEY, expected));
        }
        return Ok(true);
    }
    if !whole.has(KEY) {
        return Ok(recipe.tied);
    }
    let outside = whole.bool_or(KEY, false)?;
    if text.has(KEY) && recipe.tied != outside {
        let expected =
            format!("{outside}, as outside of text_config: transformers 5 goes by that, transformers 4 by this");
        return Err(text.wrong(KEY, &expected));
    }
    Ok(outside)
}

/// The family of a text model's config.
fn family(config: &ConfigFile, c: &Reader) -> Result<&'static Family> {
    let architecture = architecture(c);
    let Some(model_type) = c.str_opt("model_type")? else {
        // What transformers writes, or reads.
        let is_transformers = ["architectures", "hidden_size", "transformers_version"].iter().any(|key| c.has(key));
        if !is_transformers {
            let class = c.get("_class_name").and_then(|class| class.as_str());
            let of = class.map_or("is no config of transformers (it names no model_type)".to_owned(), |class| {
                format!("describes a {class} of diffusers")
            });
            return Err(Error::unsupported(config.path(), format!("{of}, which is no language model")));
        }
        return Err(c.wrong("model_type", "the name of a family, such as llama"));
    };
    let is_static_only = is_static_only(model_type, c);
    let family = FAMILIES.iter().copied().find(|f| f.is(model_type, architecture));
    family.filter(|_| !is_static_only).ok_or_else(|| {
        let found = architecture.unwrap_or("(none)");
        let why = match is_static_only {
            true => "is known, but not computed",
            false => "is not supported",
        };
        let problem =
            format!("architecture {found} (model_type {model_type}) {why}; docs/models.md lists what is computed");
        Error::unsupported(config.path(), problem)
    })
}

/// Reads the config of a text model.
fn read_text(config: &ConfigFile, c: &Reader, family: &Family) -> Result<Recipe> {
    check_quantization(config)?;
    let recipe = Recipe { architecture: family.architecture, model_type: family.model_type, ..(family.read)(c)? };
    // transformers looks for it whatever the family.
    if !c.bool_or("is_causal", true)? {
        return Err(c.wrong("is_causal", "true, as in a causal language model"));
    }
    refuse_unknown(config, c, |key| family.inside.is_some() && NOT_TEXT.contains(&key))?;
    Ok(recipe)
}

/// How weights are packed is not the recipe's to know, but has to be known.
fn check_quantization(config: &ConfigFile) -> Result<()> {
    Quantization::read(config)?.map_or(Ok(()), |settings| settings.check_known(config))
}

/// Refuses keys that may change the arithmetic and that nobody has asked for.
fn refuse_unknown(config: &ConfigFile, c: &Reader, is_known: impl Fn(&str) -> bool) -> Result<()> {
    let mut unknown = known_keys::unknown(c, &[]);
    unknown.retain(|key| !is_known(key));
    if unknown.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "{} may change the arithmetic and is not known for this architecture; refused rather than guessed",
        unknown.join(", ")
    );
    Err(Error::unsupported(config.path(), problem))
}

#[cfg(test)]
mod tests;
