//! How the model is served beside how its base is: tokenizer, chat template, generation settings, special tokens.

use super::place;
use crate::checkpoint::{Checkpoint, python_json};
use crate::error::{Count, Result};
use crate::evaluate::text::{REFERENCE_TEXT, Tokenizer};
use crate::evaluate::vocabulary::moved;
use crate::integrity::lint::Location;
use crate::probe::{ChatTemplate, QUESTIONS};
use crate::rules::RuleId;
use crate::rules::finding::RuleObservation;
use serde_json::{Map, Value, json};

/// Keys that a message lists.
const LISTED: usize = 5;

type Object = Map<String, Value>;

/// What differs. Fine-tunes add tokens, templates and settings of their own; other numbers for the same words they do
/// not need.
///
/// # Errors
/// A file of either cannot be read.
pub fn observe(model: &Checkpoint, base: &Checkpoint, text: &str) -> Result<Vec<RuleObservation>> {
    let seen = |rule, file: &str, message: String, evidence| {
        let whole = place::whole(model);
        let location = if whole.file.is_empty() { Location::file(file) } else { whole };
        let message = format!("{message} of the base {}", base.name());
        RuleObservation { rule, location, message, evidence }
    };
    let mut found = Vec::new();
    let (ours, theirs) = (model.tokenizer_json()?, base.tokenizer_json()?);
    if ours != theirs {
        let (rule, message, evidence) = tokenizers(model, base, text)?;
        found.push(seen(rule, "tokenizer.json", message, evidence));
    }
    let template = |checkpoint: &Checkpoint| {
        Ok::<_, crate::Error>(ChatTemplate::of(checkpoint.opened())?.map(|template| template.sha256()))
    };
    let (ours, theirs) = (template(model)?, template(base)?);
    if ours != theirs {
        let evidence = json!({"sha256": ours, "base_sha256": theirs});
        found.push(seen(
            RuleId::BaseTemplateChanged,
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
        found.push(seen(RuleId::BaseGenerationChanged, "generation_config.json", message, json!({"keys": keys})));
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
        found.push(seen(RuleId::BaseSpecialTokensChanged, "tokenizer_config.json", message, json!({"keys": keys})));
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
        return Ok((RuleId::BaseTokenizerChanged, message, json!({"text": text})));
    }
    let object = |checkpoint: &Checkpoint| -> Result<Object> {
        Ok(python_json::parse(checkpoint.tokenizer_json()?).unwrap_or_default())
    };
    let (ours, theirs) = (object(model)?, object(base)?);
    let moved = moved(&ours, &theirs);
    if let Some((token, id, base_id)) = moved.first() {
        let tokens = Count(moved.len(), "token", "tokens");
        let message = format!(
            "tokenizer.json gives {tokens} other numbers, the first is {token:?}, {id} and not {base_id}, than that"
        );
        let evidence = json!({"count": moved.len(), "tokens": &moved[..moved.len().min(LISTED)]});
        return Ok((RuleId::BaseTokenizerChanged, message, evidence));
    }
    let parts = differing(&ours, &theirs, |_| true);
    let message = format!("{} not as in tokenizer.json", listed(&parts));
    Ok((RuleId::BaseTokenizerDiffers, message, json!({"parts": parts})))
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
