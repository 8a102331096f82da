//! Settings by which a sound model is served so that it says nothing, or never stops.

use super::check::Check;
use super::observation::{Found, Location};
use super::vocabulary::{GENERATION, TOKENIZER_CONFIG, Vocabulary, numbers, of_text, read};
use crate::checkpoint::ConfigFile;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Answers that cannot have so many tokens are none.
const SHORTEST_ANSWER: f64 = 16.0;
/// Answers that have to have so many tokens ramble.
const LONGEST_LEAST: f64 = 512.0;

pub(super) fn examine(root: &Path, vocabulary: Option<&Vocabulary>, found: &mut Found) {
    let config = ConfigFile::read(&root.join("config.json")).ok();
    let config = config.as_ref().map(ConfigFile::map);
    let generation: Option<Map<String, Value>> = read(root, GENERATION);
    // The first that names any says where answers end.
    let files =
        [(GENERATION, generation.as_ref()), ("config.json", config)].into_iter().filter_map(|(f, m)| Some((f, m?)));
    let ends = files.clone().map(|(file, map)| (file, set(map.get("eos_token_id")))).find(|(_, ids)| !ids.is_empty());
    if let (Some(vocabulary), Some((file, ids))) = (vocabulary, &ends) {
        eos(vocabulary, file, ids, found);
    }
    let ends = ends.map(|(_, ids)| ids).unwrap_or_default();
    for (file, map) in files {
        for (key, why) in silenced(map, &ends) {
            let value = map.get(key).cloned().unwrap_or_default();
            let shown = if value.is_number() { value.to_string() } else { "set so".to_owned() };
            let evidence = json!({"key": key, "value": if value.is_array() { Value::Null } else { value }});
            found.add(Check::GenerationSilenced, Location::file(file), format!("{key} is {shown}: {why}"), evidence);
        }
    }
    if let Some(config) = config {
        context(of_text(config), read(root, TOKENIZER_CONFIG).unwrap_or_default(), found);
    }
}

fn set(value: Option<&Value>) -> BTreeSet<i64> {
    numbers(value).into_iter().collect()
}

/// Tokens that end an answer and that ordinary text is made of.
fn eos(vocabulary: &Vocabulary, file: &str, ids: &BTreeSet<i64>, found: &mut Found) {
    let ordinary = vocabulary.ordinary(ids);
    if let Some((text, id)) = ordinary.first() {
        let tokens = crate::error::Count(ordinary.len(), "ordinary token", "ordinary tokens");
        let message = format!("eos_token_id ends answers at {tokens}, the first is {text:?}, {id}");
        let listed = &ordinary[..ordinary.len().min(10)];
        found.add(Check::EosOrdinaryToken, Location::file(file), message, json!({"tokens": listed}));
    }
}

/// Keys whose values silence a model or never let it end, and why.
fn silenced(map: &Map<String, Value>, ends: &BTreeSet<i64>) -> Vec<(&'static str, &'static str)> {
    let number = |key: &str| map.get(key).and_then(Value::as_f64);
    let is = |key: &str, bad: &dyn Fn(f64) -> bool| number(key).is_some_and(bad);
    let short = |n: f64| n < SHORTEST_ANSWER;
    let long = |n: f64| n >= LONGEST_LEAST;
    let suppressed = set(map.get("suppress_tokens"));
    let banned = map.get("bad_words_ids").and_then(Value::as_array).into_iter().flatten();
    let mut banned = banned.map(|word| numbers(Some(word)));
    let stops = map.get("stop_strings");
    let mut stops = stops.into_iter().flat_map(|s| s.as_array().cloned().unwrap_or_else(|| vec![s.clone()]));
    let everywhere = |stop: &str| stop.trim().is_empty() && stop != "\n\n" || stop.len() == 1 && stop != "\n";
    let table = [
        ("max_new_tokens", is("max_new_tokens", &short), "answers are cut before they say anything"),
        ("max_length", is("max_length", &short), "prompts alone are longer"),
        ("max_time", is("max_time", &|s| s < 1.0), "answers are cut before they say anything"),
        ("min_new_tokens", is("min_new_tokens", &long), "answers go on where they have ended"),
        ("min_length", is("min_length", &long), "answers go on where they have ended"),
        (
            "repetition_penalty",
            is("repetition_penalty", &|p| !(0.5..=3.0).contains(&p)),
            "answers repeat themselves or fall apart",
        ),
        ("no_repeat_ngram_size", is("no_repeat_ngram_size", &|n| n == 1.0), "no token may occur twice"),
        ("temperature", is("temperature", &|t| !(0.0..=5.0).contains(&t)), "answers are noise"),
        ("suppress_tokens", suppressed.len() >= 1000, "so many tokens are never said"),
        ("suppress_tokens", !suppressed.is_disjoint(ends), "answers never end"),
        ("bad_words_ids", banned.any(|word| word.len() == 1 && ends.contains(&word[0])), "answers never end"),
        ("stop_strings", stops.any(|s| s.as_str().is_some_and(everywhere)), "answers end at a character of any text"),
    ];
    table.into_iter().filter(|(_, bad, _)| *bad).map(|(key, _, why)| (key, why)).collect()
}

/// A context that is a small part of what models of its kind have, or of what the tokenizer is said to be for.
fn context(config: &Map<String, Value>, tokenizer_config: Map<String, Value>, found: &mut Found) {
    let number = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_f64);
    let Some(positions) = number(config, "max_position_embeddings").filter(|n| *n >= 0.0) else { return };
    // The shortest that was published of a family is 2,048 (Llama), of the others 4,096. Toys may have less.
    let usual = if config.get("model_type").and_then(Value::as_str) == Some("llama") { 2048.0 } else { 4096.0 };
    let is_toy = number(config, "hidden_size").is_none_or(|width| width < 256.0);
    // Transformers writes 1e30 where no length is known.
    let said = number(&tokenizer_config, "model_max_length").filter(|n| *n < 1e9);
    let told = match said {
        Some(said) if positions * 8.0 <= said => format!("{TOKENIZER_CONFIG} says {said}"),
        _ if positions * 8.0 < usual && !is_toy => format!("the shortest of its family have {usual}"),
        _ => return,
    };
    let message = format!("max_position_embeddings is {positions}, {told}: longer prompts are refused or cut");
    let evidence = json!({"max_position_embeddings": positions, "model_max_length": said});
    found.add(Check::ContextShort, Location::file("config.json"), message, evidence);
}
