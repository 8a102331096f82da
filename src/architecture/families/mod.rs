//! The families this tool knows: how each one's config.json becomes a [`Recipe`].
//!
//! To add one: give it a file here, or a place in that of its close kin; list it in [`FAMILIES`]; make its fixture
//! (fixtures/families.py). Its function starts from [`plain`](super::config_keys::plain) and changes what differs; a
//! config key that nothing asks for is refused unless it cannot change anything, so every key that changes the
//! arithmetic has to be read or checked.

mod gemma;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen;

use super::known_keys;
use super::recipe::Recipe;
use crate::checkpoint::ConfigFile;
use crate::checkpoint::config::Reader;
use crate::checkpoint::quantization::Quantization;
use crate::error::{Error, Result};

/// A family: what its configs call it, and the function that reads them.
struct Family {
    /// `model_type`.
    model_type: &'static str,
    /// The architecture beside it.
    architecture: &'static str,
    /// `model_type` of configs whose `text_config` is this family's, whether that says it or not. The text model is
    /// named as if it stood alone (see [`Tensors::named`](crate::checkpoint::Tensors::named)).
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
    &phi3::PHI3,
    &olmo2::OLMO2,
    &mistral::MIXTRAL,
    &qwen::QWEN3_MOE,
];

/// Keys of a whole config that concern what is not its text model.
const NOT_TEXT: &[&str] =
    &["boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "text_config", "vision_config"];

impl Recipe {
    /// The recipe that `config` describes, which is worked out when it is first asked for.
    ///
    /// # Errors
    /// The architecture is not supported (the message names those that are), a key is missing or contradicts another,
    /// or the config asks for arithmetic that is not implemented.
    pub fn read(config: &ConfigFile) -> Result<Recipe> {
        config.once(read)
    }
}

/// Whether a family is one of those that are known here.
pub fn is_family(model_type: &str) -> bool {
    FAMILIES.iter().any(|family| family.model_type == model_type || family.inside == Some(model_type))
}

/// Reads the config with its family's function.
fn read(config: &ConfigFile) -> Result<Recipe> {
    tracing::trace!(path = %config.path().display(), "a recipe is made");
    let whole = config.reader();
    let model_type = whole.str_opt("model_type")?;
    let nested = FAMILIES.iter().find(|f| f.inside.is_some() && f.inside == model_type);
    let text = nested.map(|f| whole.object_opt("text_config").map(|text| (f.model_type, text))).transpose()?;
    let Some((text_type, Some(text))) = text else { return read_text(config, &whole, None) };
    if !whole.bool_or("tie_word_embeddings", true)? {
        return Err(whole.wrong("tie_word_embeddings", "true, as in the text model"));
    }
    check_quantization(config)?;
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
    let known = |f: &&&Family| model_type == f.model_type && architecture.is_none_or(|a| a == f.architecture);
    let Some(family) = FAMILIES.iter().find(known) else {
        let supported: Vec<&str> = FAMILIES.iter().map(|f| f.architecture).collect();
        let found = architecture.unwrap_or("(none)");
        let problem = format!(
            "architecture {found} (model_type {model_type}) is not supported; supported: {}",
            supported.join(", ")
        );
        return Err(Error::unsupported(config.path(), problem));
    };
    check_quantization(config)?;
    let recipe = Recipe { architecture: family.architecture, model_type: family.model_type, ..(family.read)(c)? };
    // transformers looks for it whatever the family.
    if !c.bool_or("is_causal", true)? {
        return Err(c.wrong("is_causal", "true, as in a causal language model"));
    }
    refuse_unknown(config, c, &[])?;
    Ok(recipe)
}

/// How weights are packed is not the recipe's to know, but has to be known.
fn check_quantization(config: &ConfigFile) -> Result<()> {
    Quantization::read(config)?.map_or(Ok(()), |settings| settings.check_known(config))
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
    Err(Error::unsupported(config.path(), problem))
}

#[cfg(test)]
mod tests;
