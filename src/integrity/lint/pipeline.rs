//! The steps that a tokenizer.json has text go through.

use super::check::Check;
use super::observation::{Found, Location};
use super::vocabulary::{Vocabulary, read_tokenizer};
use crate::checkpoint::python_json::Part;
use crate::checkpoint::{Opened, TOKENIZER};
use serde::Deserialize;
use serde_json::Value;

/// A tokenizer.json without its vocabulary.
#[derive(Deserialize)]
pub(super) struct Pipeline {
    #[serde(default)]
    pub(super) normalizer: Part,
    #[serde(default)]
    pub(super) pre_tokenizer: Part,
    #[serde(default)]
    pub(super) post_processor: Part,
    #[serde(default)]
    pub(super) decoder: Part,
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    pub(super) model: Option<Model>,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) id: u64,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
pub(super) struct Model {
    /// Old files do not name it.
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) end_of_word_suffix: Option<String>,
}

impl Pipeline {
    /// That of a model. Others tell of a tokenizer.json that is none; one whose vocabulary could be read all the same is
    /// told of here.
    pub(super) fn of(opened: &Opened, vocabulary: Option<&Vocabulary>, found: &mut Found) -> Option<Pipeline> {
        match read_tokenizer::<Pipeline>(opened)? {
            Ok(pipeline) => Some(pipeline),
            Err(e) => {
                if vocabulary.is_some() {
                    let message = format!("its parts cannot be examined: {e}");
                    found.say(Check::TokenizerInvalid, Location::file(TOKENIZER), message);
                }
                None
            }
        }
    }
}

/// A part's steps: those of a sequence, of sequences within it too, or itself.
pub(super) fn steps(part: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "pretokenizers", "decoders"].iter().find_map(|key| part.get(key)?.as_array());
    match inner {
        Some(inner) if kind(part) == "Sequence" => inner.iter().flat_map(steps).collect(),
        _ if part.is_null() => Vec::new(),
        _ => vec![part],
    }
}

pub(super) fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn text<'a>(step: &'a Value, key: &str) -> &'a str {
    step.get(key).and_then(Value::as_str).unwrap_or_default()
}
