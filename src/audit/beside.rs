//! How the model is served beside how its base is: tokenizer, chat template, generation settings, special tokens.

use super::place;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::finding::Seen;
use crate::integrity::lint::Location;
use crate::probe::{ChatTemplate, QUESTIONS};
use crate::rules::{RuleId, rule};
use crate::text::{REFERENCE_TEXT, Tokenizer};
use serde_json::{Map, Value, json};

/// Keys that a message lists.
const LISTED: usize = 5;

type Object = Map<String, Value>;

/// What differs. Fine-tunes add tokens, templates and settings of their own; other numbers for the same words they do not
/// need.
///
/// # Errors
/// A file of either cannot be read.
pub fn observe(model: &Checkpoint, base: &Checkpoint, text: &str) -> Result<Vec<Seen>> {
    let seen = |rule, file: &str, message: String, evidence| {
        let whole = place::whole(model);
        let location = if whole.file.is_empty() { Location::file(file) } else { whole };
        let message = format!("{message} of the base {}", base.name());
        Seen { rule, location, message, evidence }
    };
    let mut found = Vec::new();
    let (ours, theirs) = (model.tokenizer_json()?, base.tokenizer_json()?);
    if ours != theirs {
        let (rule, message, evidence) = tokenizers(model, base, text)?;
        found.push(seen(rule, "tokenizer.json", message, evidence));
    }
    let template = |checkpoint| Ok::<_, crate::Error>(ChatTemplate::of(checkpoint)?.map(|template| template.sha256()));
    let (ours, theirs) = (template(model)?, template(base)?);
    if ours != theirs {
        let evidence = json!({"sha256": ours, "base_sha256": theirs});
        found.push(seen(
            rule!("base-template-changed"),
            "tokenizer_config.json",
            "the chat template is not that".into(),
            evidence,
        ));
    }
    let (ours, theirs) =
        (model.generation_config()?.unwrap_or_default(), base.generation_config()?.unwrap_or_default());
    let keys = differing(&ours, &theirs, |key| key != "transformers_version" && !key.starts_with('_'));
    if !keys.is_empty() {
        let message = format!("{} not as in generation_config.json", listed(&keys));
        found.push(seen(rule!("base-generation-changed"), "generation_config.json", message, json!({"keys": keys})));
    }
    let special = |key: &str| {
        ["bos", "eos", "pad", "unk"]
            .iter()
            .any(|name| key.strip_prefix(name).is_some_and(|rest| rest.starts_with("_token")))
    };
    let mut keys = differing(model.config().map(), base.config().map(), special);
    let (ours, theirs) = (model.tokenizer_config()?.unwrap_or_default(), base.tokenizer_config()?.unwrap_or_default());
    keys.extend(differing(&ours, &theirs, special));
    if !keys.is_empty() {
        let message = format!("{} not as in the configs", listed(&keys));
        found.push(seen(rule!("base-special-tokens-changed"), "tokenizer_config.json", message, json!({"keys": keys})));
    }
    Ok(found)
}

/// What is to be said of two tokenizers that are not the same file.
fn tokenizers(model: &Checkpoint, base: &Checkpoint, text: &str) -> Result<(RuleId, String, Value)> {
    let (ours, theirs) = (Tokenizer::of(model)?, Tokenizer::of(base)?);
    let questions = QUESTIONS.join(" ");
    let texts = [text, REFERENCE_TEXT, &questions];
    // Special tokens around a text are a fine-tune's own.
    let differs = |text: &&&str| ours.ids_as_spelled(text).ok() != theirs.ids_as_spelled(text).ok();
    if let Some(text) = texts.iter().find(differs) {
        let text: String = text.chars().take(60).collect();
        let message = format!("tokenizer.json gives {text:?}… other numbers than that");
        return Ok((rule!("base-tokenizer-changed"), message, json!({"text": text})));
    }
    let object = |checkpoint: &Checkpoint| -> Result<Object> {
        Ok(serde_json::from_str(checkpoint.tokenizer_json()?).unwrap_or_default())
    };
    let parts = differing(&object(model)?, &object(base)?, |_| true);
    let message = format!("{} not as in tokenizer.json", listed(&parts));
    Ok((rule!("base-tokenizer-differs"), message, json!({"parts": parts})))
}

/// Keys whose values are not the same.
fn differing(ours: &Object, theirs: &Object, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut keys: Vec<String> = ours.keys().chain(theirs.keys()).filter(|key| wanted(key)).cloned().collect();
    keys.sort();
    keys.dedup();
    let value = |map: &Object, key: &str| map.get(key).cloned().unwrap_or_default();
    keys.retain(|key| value(ours, key) != value(theirs, key));
    keys
}

fn listed(keys: &[String]) -> String {
    let more = keys.len().saturating_sub(LISTED);
    let first = keys[..keys.len() - more].join(", ");
    let is = if keys.len() == 1 { "is" } else { "are" };
    if keys.is_empty() {
        "its form is".into()
    } else if more > 0 {
        format!("{first} and {more} more are")
    } else {
        format!("{first} {is}")
    }
}
