//! Tokens that files beside tokenizer.json add to it, or make special.

use super::check::Check;
use super::observation::{Found, Location};
use super::rewriting::is_word;
use super::vocabulary::{LISTED, Vocabulary, is_of_other_input, is_ordinary, read};
use crate::checkpoint::{Opened, TOKENIZER, TOKENIZER_CONFIG};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};

pub(super) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
pub(super) const ADDED_TOKENS: &str = "added_tokens.json";
/// Names of lone special tokens.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];
/// Names of several.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// A token that a file names.
struct Named<'a> {
    file: &'static str,
    /// Under which key.
    key: &'a str,
    text: &'a str,
    /// The number that the file gives it.
    id: Option<u64>,
}

/// Holds what the files say of tokens against the tokenizer and the embedding's `rows`.
pub(super) fn examine(opened: &Opened, vocabulary: &Vocabulary, rows: Option<u64>, found: &mut Found) {
    let [config, special, added] = [TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS]
        .map(|file| read::<Map<String, Value>>(opened, file).unwrap_or_default());
    let mut named = of_map(TOKENIZER_CONFIG, &config);
    named.extend(of_map(SPECIAL_TOKENS, &special));
    named.extend(added.iter().map(|(text, id)| Named { file: ADDED_TOKENS, key: "", text, id: id.as_u64() }));
    named.retain(|token| !token.text.is_empty());
    // Both may be as many as the vocabulary.
    let ids: HashMap<&str, u64> = vocabulary.all().collect();
    for file in [TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS] {
        let of_file: Vec<&Named> = named.iter().filter(|token| token.file == file).collect();
        ordinary(file, &of_file, vocabulary, &ids, found);
    }
    if let Some(rows) = rows {
        beyond(&named, vocabulary, &ids, rows, found);
    }
}

/// The tokens of tokenizer_config.json or special_tokens_map.json.
fn of_map<'a>(file: &'static str, map: &'a Map<String, Value>) -> Vec<Named<'a>> {
    let roles = ROLES.iter().filter_map(|role| Some((*role, map.get(*role)?)));
    // A list, or a map from names.
    let several = |list: &'a Value| -> Vec<&'a Value> {
        list.as_array()
            .map(|list| list.iter().collect())
            .or(list.as_object().map(|m| m.values().collect()))
            .unwrap_or_default()
    };
    let lists = LISTS.iter().filter_map(|key| Some((*key, map.get(*key)?)));
    let lists = lists.flat_map(|(key, list)| several(list).into_iter().map(move |token| (key, token)));
    let decoder = map.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
    let decoder = decoder.filter_map(|(id, token)| {
        let text = text(token)?;
        Some(Named { file, key: "added_tokens_decoder", text, id: id.parse().ok() })
    });
    let named = roles.chain(lists).filter_map(|(key, token)| Some(Named { file, key, text: text(token)?, id: None }));
    named.chain(decoder).collect()
}

/// The text of a token, be it there alone or with how it is found.
fn text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Words that tokenizer.json does not set apart and a file does.
fn ordinary(
    file: &'static str,
    named: &[&Named],
    vocabulary: &Vocabulary,
    ids: &HashMap<&str, u64>,
    found: &mut Found,
) {
    let set_apart: HashSet<&str> = vocabulary.added_tokens.iter().map(|added| added.content.as_str()).collect();
    let bare = named.iter().filter(|token| !set_apart.contains(token.text));
    let (ends, others): (Vec<&Named>, Vec<&Named>) = bare.partition(|token| token.key == "eos_token");
    for end in ends {
        // A tokenizer without special tokens has an ordinary one for it.
        let end_ids: BTreeSet<i64> = ids.get(end.text).and_then(|id| i64::try_from(*id).ok()).into_iter().collect();
        if !vocabulary.ordinary(&end_ids).is_empty() {
            let message = format!("eos_token ends answers at {:?}, which ordinary text is made of", end.text);
            found.add(Check::EosOrdinaryToken, Location::file(file), message, json!({"token": end.text}));
        }
    }
    let is_of_text = |token: &&Named| {
        let is_known = ids.contains_key(token.text);
        let is_sign = is_known && is_ordinary(token.text) && !token.text.trim().is_empty();
        // One of the signs has to do for padding where nothing was made for it.
        let is_lone = ROLES.contains(&token.key);
        if is_lone { is_known && is_word(token.text) } else { is_word(token.text) || is_sign }
    };
    let texts: BTreeSet<&str> = others.into_iter().filter(is_of_text).map(|token| token.text).collect();
    if let Some(first) = texts.first() {
        let words = crate::error::Count(texts.len(), "token", "tokens");
        let message = format!("sets {words} of ordinary text apart, as {TOKENIZER} does not, the first is {first:?}");
        let listed: Vec<&str> = texts.iter().copied().take(LISTED).collect();
        found.add(Check::SpecialTokenWord, Location::file(file), message, json!({"tokens": listed}));
    }
}

/// Tokens that tokenizer.json lacks, whose numbers the embedding has no row for. Those that begin, end and pad are
/// looked at on their own in tokenizer_config.json.
fn beyond(named: &[Named], vocabulary: &Vocabulary, ids: &HashMap<&str, u64>, rows: u64, found: &mut Found) {
    let mut next = vocabulary.end();
    let mut seen = BTreeSet::new();
    for token in named {
        let is_examined = token.file == TOKENIZER_CONFIG && ROLES.contains(&token.key);
        if ids.contains_key(token.text) || !seen.insert(token.text) {
            continue;
        }
        let id = token.id.unwrap_or(next).max(next);
        next = next.saturating_add(1);
        if id >= rows && !is_examined && !is_of_other_input(token.text) {
            let message = format!(
                "adds {:?}, which {TOKENIZER} does not have: its number is {id}, and the embedding has {rows} rows",
                token.text
            );
            let evidence = json!({"token": token.text, "id": id, "embedding": rows});
            found.add(Check::TokenBeyondEmbedding, Location::file(token.file), message, evidence);
        }
    }
}
