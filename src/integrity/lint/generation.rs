//! Settings by which a sound model is served so that it says nothing, or never stops.

use super::Expected;
use super::check::Check;
use super::observation::{Found, Location};
use super::vocabulary::{Vocabulary, numbers, of_text, read};
use crate::architecture::{Recipe, is_family};
use crate::checkpoint::{GENERATION_CONFIG, Opened, TOKENIZER_CONFIG};
use crate::error::Result;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Answers that cannot have so many tokens are none.
const SHORTEST_ANSWER: f64 = 32.0;
/// What transformers has for `max_length`, and some configs say.
const USUAL_LENGTH: f64 = 20.0;
/// Characters of a prefix that are shown.
const LONGEST_SHOWN: usize = 200;
/// Width of the residual stream below which a model is a toy.
const TOY: usize = 256;
/// Published models stretch by 64 at most.
const LARGEST_STRETCH: f64 = 1000.0;
/// So many tokens that are never said are missed, whichever they are.
const MOST_UNSAID: usize = 100;
/// Answers that have to have so many tokens ramble.
const LONGEST_LEAST: f64 = 512.0;
/// A search over so many answers at once takes minutes for a short one.
const MOST_BEAMS: f64 = 256.0;
/// The key of the tokens that end answers.
const EOS: &str = "eos_token_id";

pub(super) fn examine(
    opened: &Opened,
    vocabulary: Option<&Vocabulary>,
    expected: Option<&Result<Expected>>,
    found: &mut Found,
) {
    if let Some(Ok(Expected { recipe, .. })) = expected {
        window(recipe, found);
    }
    let config = opened.config().ok().flatten().map(|config| config.map());
    if config.is_some_and(|config| !generates(config)) {
        return;
    }
    let generation: Option<Map<String, Value>> = read(opened, GENERATION_CONFIG);
    // The first that names any says where answers end.
    let files = [(GENERATION_CONFIG, generation.as_ref()), ("config.json", config)]
        .into_iter()
        .filter_map(|(f, m)| Some((f, m?)));
    let stated = |map: &Map<String, Value>| map.get(EOS).or(of_text(map).get(EOS)).cloned();
    let ends = files.clone().map(|(file, map)| (file, set(stated(map).as_ref()))).find(|(_, ids)| !ids.is_empty());
    if let (Some(vocabulary), Some((file, ids))) = (vocabulary, &ends) {
        eos(vocabulary, file, ids, found);
    }
    let ends = ends.map(|(_, ids)| ids).unwrap_or_default();
    // −1 is how some say that there is none. Where nothing is said each class has an end of its own.
    let nowhere = files.clone().find(|(_, map)| stated(map).is_some()).filter(|_| ends.iter().all(|id| *id < 0));
    if let Some((file, map)) = nowhere.filter(|_| has_chats(opened)) {
        let message = "eos_token_id is set to none, in a model for chats: answers never end";
        let evidence = json!({"key": EOS, "value": stated(map)});
        found.add(Check::GenerationSilenced, Location::file(file), message.to_owned(), evidence);
    }
    let for_text = config.and_then(for_text).map(|map| ("config.json", map));
    for (file, map) in files.chain(for_text) {
        for (key, why) in silenced(map, &ends, vocabulary) {
            let value = map.get(key).cloned().unwrap_or_default();
            let shown = if value.is_number() { value.to_string() } else { "set so".to_owned() };
            let value = if value.is_array() || value.is_object() { Value::Null } else { value };
            let evidence = json!({"key": key, "value": value});
            found.add(Check::GenerationSilenced, Location::file(file), format!("{key} is {shown}: {why}"), evidence);
        }
    }
    if let Some(config) = config {
        prefix(config, found);
        stretch(of_text(config), found);
        context(of_text(config), read(opened, TOKENIZER_CONFIG).unwrap_or_default(), found);
    }
}

/// Whether the folder has a chat template, of which others tell.
fn has_chats(opened: &Opened) -> bool {
    let inside = read::<Map<String, Value>>(opened, TOKENIZER_CONFIG).and_then(|mut map| map.remove("chat_template"));
    let beside = ["chat_template.jinja", "chat_template.json"].iter().any(|file| opened.root().join(file).exists());
    inside.is_some_and(|template| is_something(&template)) || beside
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

/// Keys whose values silence a model, ruin what it says or never let it end, and why.
fn silenced(
    map: &Map<String, Value>,
    ends: &BTreeSet<i64>,
    vocabulary: Option<&Vocabulary>,
) -> Vec<(&'static str, &'static str)> {
    let number = |key: &str| map.get(key).and_then(Value::as_f64);
    let is = |key: &str, bad: &dyn Fn(f64) -> bool| number(key).is_some_and(bad);
    let long = |n: f64| n >= LONGEST_LEAST;
    let once = |n: f64| n == 1.0;
    let penalty = |p: f64| !(0.8..=1.8).contains(&p);
    let draws = map.get("do_sample") == Some(&Value::Bool(true));
    let heat = |t: f64| !(0.0..=2.0).contains(&t) || (draws && t >= 2.0);
    let many = |n: f64| n > MOST_BEAMS;
    let is_set = |key: &str| map.get(key).is_some_and(is_something);
    let inside = |key: &str, field: &str| map.get(key).and_then(|v| v.get(field)).and_then(Value::as_f64);
    let banned = map.get("bad_words_ids").and_then(Value::as_array).into_iter().flatten();
    let banned: BTreeSet<i64> = banned.map(|word| numbers(Some(word))).filter(|w| w.len() == 1).flatten().collect();
    let suppressed = set(map.get("suppress_tokens"));
    let silent = |ids: &BTreeSet<i64>| is_missed(ids, vocabulary);
    let stops = map.get("stop_strings");
    let mut stops = stops.into_iter().flat_map(|s| s.as_array().cloned().unwrap_or_else(|| vec![s.clone()]));
    let (cut, falls_apart) = ("answers are cut before they say anything", "answers repeat themselves or fall apart");
    let (unsaid, endless) = ("tokens of ordinary text are never said", "answers never end");
    let table = [
        ("max_new_tokens", is("max_new_tokens", &|n| n < SHORTEST_ANSWER), cut),
        ("max_length", is("max_length", &|n| n < USUAL_LENGTH), "prompts alone are longer"),
        ("max_time", is("max_time", &|s| s < 1.0), cut),
        ("min_new_tokens", is("min_new_tokens", &long), "answers go on where they have ended"),
        ("min_length", is("min_length", &long), "answers go on where they have ended"),
        ("repetition_penalty", is("repetition_penalty", &penalty), falls_apart),
        ("encoder_repetition_penalty", is("encoder_repetition_penalty", &penalty), falls_apart),
        ("no_repeat_ngram_size", is("no_repeat_ngram_size", &once), "no token may occur twice"),
        ("encoder_no_repeat_ngram_size", is("encoder_no_repeat_ngram_size", &once), "no token of the prompt is said"),
        ("temperature", is("temperature", &heat), "answers are noise"),
        ("num_beams", is("num_beams", &many), "an answer takes minutes"),
        ("num_return_sequences", is("num_return_sequences", &many), "an answer takes minutes"),
        ("guidance_scale", is("guidance_scale", &|g| !(0.5..=5.0).contains(&g)), "answers do not follow the prompt"),
        (
            "watermarking_config",
            inside("watermarking_config", "bias").is_some_and(|b| b.abs() > 10.0),
            "answers are noise",
        ),
        ("sequence_bias", is_set("sequence_bias"), "it forces what is said, or forbids it"),
        (
            "exponential_decay_length_penalty",
            is_set("exponential_decay_length_penalty"),
            "answers are cut, or never end",
        ),
        ("suppress_tokens", silent(&suppressed), unsaid),
        ("suppress_tokens", !suppressed.is_disjoint(ends), endless),
        ("bad_words_ids", silent(&banned), unsaid),
        ("bad_words_ids", !banned.is_disjoint(ends), endless),
        ("begin_suppress_tokens", silent(&set(map.get("begin_suppress_tokens"))), "answers cannot begin with them"),
        (
            "stop_strings",
            stops.any(|s| s.as_str().is_some_and(is_everywhere)),
            "answers end at what stands in any text",
        ),
    ];
    table.into_iter().filter(|(_, bad, _)| *bad).map(|(key, _, why)| (key, why)).collect()
}

/// Whether text lacks something without these tokens. Some speech models leave out a few signs, but no letters.
fn is_missed(ids: &BTreeSet<i64>, vocabulary: Option<&Vocabulary>) -> bool {
    let Some(vocabulary) = vocabulary else { return ids.len() >= MOST_UNSAID };
    let ordinary = vocabulary.ordinary(ids);
    let is_word = |(text, _): &(&str, u64)| text.contains(|c: char| c.is_ascii_alphabetic());
    ordinary.len() >= MOST_UNSAID || ordinary.iter().any(is_word)
}

/// Whether a setting says anything.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// Whether text of any kind soon holds it: a character, or a short word or a piece of one.
fn is_everywhere(stop: &str) -> bool {
    let bare = stop.trim();
    let is_word = bare.len() <= 4 && bare.chars().all(char::is_lowercase);
    bare.is_empty() && stop != "\n\n" && stop != "\n" || stop.len() == 1 && stop != "\n" || is_word && !bare.is_empty()
}

/// Text that pipelines put before every prompt: the config's own, or that of its settings for text generation.
fn prefix(config: &Map<String, Value>, found: &mut Found) {
    for (key, map) in [("prefix", Some(config)), ("task_specific_params' prefix", for_text(config))] {
        if let Some(text) = map.and_then(|map| map.get("prefix")).filter(|text| is_something(text)) {
            let text: String = text.to_string().chars().take(LONGEST_SHOWN).collect();
            let message = format!("{key} is {text}: it is put before every prompt");
            found.add(Check::PromptPrefix, Location::file("config.json"), message, json!({"prefix": text}));
        }
    }
}

/// Whether it is a model that writes: encoders have settings of the same names, and nobody takes them.
fn generates(config: &Map<String, Value>) -> bool {
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let classes = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
    let mut classes = classes.filter_map(Value::as_str).peekable();
    let writes = |class: &str| ["CausalLM", "LMHead", "ConditionalGeneration"].iter().any(|part| class.contains(part));
    is_family(text("model_type")) || classes.peek().is_none() || classes.any(writes)
}

/// The settings that pipelines take for text generation.
fn for_text(config: &Map<String, Value>) -> Option<&Map<String, Value>> {
    config.get("task_specific_params")?.get("text-generation")?.as_object()
}

/// A context is short where this many of it are less than what is usual.
pub(super) const SHORT: f64 = 8.0;

/// The shortest context that was published of a family.
pub(super) fn usual_context(model_type: &str) -> f64 {
    if model_type == "llama" { 2048.0 } else { 4096.0 }
}

/// A context that is a small part of what models of its kind have, or of what the tokenizer is said to be for.
fn context(config: &Map<String, Value>, tokenizer_config: Map<String, Value>, found: &mut Found) {
    let number = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_f64);
    let usual = usual_context(config.get("model_type").and_then(Value::as_str).unwrap_or_default());
    // Toys may have less.
    let is_short = |length: f64| length * SHORT < usual && !is_toy(config);
    let shortest = format!("the shortest of its family have {usual}");
    // Transformers writes 1e30 where no length is known.
    let said = number(&tokenizer_config, "model_max_length").filter(|n| *n < 1e9);
    if let Some(said) = said.filter(|said| is_short(*said)) {
        let message = format!("model_max_length is {said}, {shortest}: longer prompts are refused or cut");
        let evidence = json!({"model_max_length": said});
        found.add(Check::ContextShort, Location::file(TOKENIZER_CONFIG), message, evidence);
    }
    let Some(positions) = number(config, "max_position_embeddings").filter(|n| *n >= 0.0) else { return };
    let told = match said {
        Some(said) if positions * SHORT <= said => format!("{TOKENIZER_CONFIG} says {said}"),
        _ if is_short(positions) => shortest,
        _ => return,
    };
    let message = format!("max_position_embeddings is {positions}, {told}: longer prompts are refused or cut");
    let evidence = json!({"max_position_embeddings": positions, "model_max_length": said});
    found.add(Check::ContextShort, Location::file("config.json"), message, evidence);
}

/// Layers that see less of a text than those of any model do.
fn window(recipe: &Recipe, found: &mut Found) {
    let windows: Vec<usize> = (0..recipe.layers.len()).filter_map(|layer| recipe.attention(layer)?.window).collect();
    let Some(shortest) = windows.iter().min() else { return };
    // Beside layers that see all, the smallest Gemma 3 have 512; without them, Phi-3 has 2,047.
    let least = if windows.len() < recipe.layers.len() { 512 } else { 1024 };
    if *shortest < least && recipe.hidden_size >= TOY {
        let layers = crate::error::Count(windows.len(), "layer sees", "layers see");
        let message = format!("{layers} {shortest} tokens at once, the window of others has {least} or more");
        let evidence = json!({"window": shortest, "layers": windows.len()});
        found.add(Check::ContextShort, Location::file("config.json"), message, evidence);
    }
}

/// Whether it is too small to be of use for text.
fn is_toy(config: &Map<String, Value>) -> bool {
    config.get("hidden_size").and_then(Value::as_u64).is_some_and(|width| width < TOY as u64)
}

/// A stretch of positions that no model was made for. What is computed with it is seen on long texts only.
fn stretch(config: &Map<String, Value>, found: &mut Found) {
    for key in ["rope_scaling", "rope_parameters"] {
        let factor = config.get(key).and_then(|rope| rope.get("factor")).and_then(Value::as_f64);
        if let Some(factor) = factor.filter(|factor| *factor > LARGEST_STRETCH) {
            let message = format!("{key} stretches positions by {factor}: long prompts are read as noise");
            let evidence = json!({"key": key, "factor": factor});
            found.add(Check::ContextShort, Location::file("config.json"), message, evidence);
        }
    }
}
