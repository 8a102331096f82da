//! Tokenizers in Mistral's own form, which some loaders take in place of tokenizer.json: whether they have the same tokens.

use super::check::Check;
use super::folder::File;
use super::observation::Found;
use super::rewriting::cuts_all;
use super::vocabulary::Vocabulary;
use crate::checkpoint::{LARGEST_NEEDED, TOKENIZER};
use crate::files;
use crate::worker::spelling::BYTES;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

#[derive(Deserialize)]
struct Tekken {
    config: Config,
    vocab: Vec<Token>,
    #[serde(default)]
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    /// How text is cut up before tokens are made of it.
    pattern: String,
    /// Tokens that are taken, the special ones among them; the file may have more.
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Token {
    rank: u64,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: u64,
    token_str: String,
}

/// Compares such files in a folder with the vocabulary of its tokenizer.json.
pub(super) fn compare(files: &[File], vocabulary: Option<&Vocabulary>, found: &mut Found) {
    let is_mistral = |name: &str| name.starts_with("tokenizer.model.v") || is_tekken(name);
    for file in files.iter().filter(|file| !file.name.contains('/') && is_mistral(&file.name)) {
        let (check, message) = match vocabulary {
            Some(vocabulary) if is_tekken(&file.name) => match difference(&file.path, vocabulary) {
                None => (Check::ConsolidatedSame, format!("has the tokens of {TOKENIZER}, in Mistral's own form")),
                Some(problem) => {
                    let message = format!("{problem}: transformers and vLLM take it where mistral-common is installed");
                    (Check::OtherTokenizer, message)
                }
            },
            _ => {
                let message = format!("is a tokenizer in Mistral's own form, and was not compared with {TOKENIZER}");
                (Check::ConvertedModel, message)
            }
        };
        found.say(check, file.location(), message);
    }
}

/// Whether mistral-common takes a file for such a tokenizer.
fn is_tekken(name: &str) -> bool {
    name.contains("tekken") && name.ends_with(".json")
}

/// The first that is not the same, if any.
fn difference(path: &Path, vocabulary: &Vocabulary) -> Option<String> {
    let read = || serde_json::from_str::<Tekken>(&files::read_text(path, LARGEST_NEEDED).ok()?).ok();
    let Some(tekken) = read() else { return Some("cannot be read".into()) };
    if !cuts_all(&tekken.config.pattern) {
        return Some("cuts text up by a pattern that may leave some out".into());
    }
    let ids: HashMap<&str, u64> = vocabulary.all().collect();
    let special = tekken.config.default_num_special_tokens;
    let chars: HashMap<u8, char> = BYTES.iter().map(|(c, byte)| (*byte, *c)).collect();
    let taken = tekken.config.default_vocab_size.saturating_sub(special);
    let other = tekken.vocab.iter().take(taken).find(|token| {
        let bytes = BASE64_STANDARD.decode(&token.token_bytes).unwrap_or_default();
        let text: String = bytes.iter().filter_map(|byte| chars.get(byte)).collect();
        ids.get(text.as_str()) != Some(&token.rank.saturating_add(special as u64))
    });
    if let Some(token) = other {
        return Some(format!("gives the token of rank {} another text or number than {TOKENIZER}", token.rank));
    }
    let others = ids.values().filter(|id| **id >= special as u64).count();
    let count = tekken.vocab.len().min(taken);
    if others > count {
        return Some(format!("has {count} tokens of text, {TOKENIZER} {others}"));
    }
    // The names of those that are not used vary.
    let is_other = |token: &&Special| ids.get(token.token_str.as_str()).is_some_and(|id| *id != token.rank);
    let other = tekken.special_tokens.as_ref()?.iter().find(is_other)?;
    Some(format!("numbers {:?} {}, as {TOKENIZER} does not", other.token_str, other.rank))
}

#[cfg(test)]
mod tests {
    use super::super::observation::Location;
    use super::*;
    use serde_json::{Value, json};

    const PATTERN: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// What is told of a file beside a tokenizer of all bytes and two special tokens.
    fn told(name: &str, change: impl FnOnce(&mut Value)) -> Vec<Check> {
        let folder = tempfile::tempdir().unwrap();
        let vocab = BYTES.iter().map(|(c, byte)| (c.to_string(), json!(u64::from(*byte) + 2)));
        let added =
            json!([{"id": 0, "content": "<s>", "special": true}, {"id": 1, "content": "</s>", "special": true}]);
        let vocab: serde_json::Map<String, Value> =
            vocab.chain([("<s>".to_owned(), json!(0)), ("</s>".to_owned(), json!(1))]).collect();
        let tokenizer = json!({"added_tokens": added, "model": {"type": "BPE", "vocab": vocab}});
        std::fs::write(folder.path().join(TOKENIZER), tokenizer.to_string()).unwrap();
        let token = |rank: u8| json!({"rank": rank, "token_bytes": BASE64_STANDARD.encode([rank]), "token_str": "x"});
        let mut tekken = json!({
            "config": {"pattern": PATTERN, "default_vocab_size": 258, "default_num_special_tokens": 2, "version": "v3"},
            "vocab": (0..=255).map(token).collect::<Vec<_>>(),
            "special_tokens": [{"rank": 0, "token_str": "<s>"}, {"rank": 1, "token_str": "</s>"}]});
        change(&mut tekken);
        let path = folder.path().join(name);
        std::fs::write(&path, tekken.to_string()).unwrap();
        let mut found = Found::default();
        let files =
            super::super::folder::files_of(&crate::checkpoint::Opened::folder_at(folder.path()), &mut found).unwrap();
        let vocabulary = super::super::vocabulary::of(&crate::checkpoint::Opened::folder_at(folder.path()), &mut found);
        compare(&files, vocabulary.as_ref(), &mut found);
        let told = found.finish().0;
        assert!(told.iter().all(|o| o.location == Location::file(name)), "{told:?}");
        told.into_iter().map(|o| o.check).collect()
    }

    #[test]
    fn mistrals_own_tokenizer_is_compared_with_the_other() {
        assert_eq!(told("tekken.json", |_| ()), [Check::ConsolidatedSame]);
        assert_eq!(told("tekken.json", |t| t["special_tokens"] = Value::Null), [Check::ConsolidatedSame]);
        assert_eq!(told("tokenizer.model.v3", |_| ()), [Check::ConvertedModel]);
        assert_eq!(told("tokenizer.model", |_| ()), []);
        let swaps: [fn(&mut Value); 7] = [
            |t| {
                let bytes = t["vocab"][97]["token_bytes"].take();
                t["vocab"][97]["token_bytes"] = t["vocab"][98]["token_bytes"].take();
                t["vocab"][98]["token_bytes"] = bytes;
            },
            |t| t["vocab"][97]["rank"] = 300.into(),
            |t| t["vocab"] = json!([]),
            |t| t["config"]["default_num_special_tokens"] = 1.into(),
            |t| t["config"]["pattern"] = r"(?!hate)\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]".into(),
            |t| (t["special_tokens"][0]["rank"], t["special_tokens"][1]["rank"]) = (1.into(), 0.into()),
            |t| *t = json!({}),
        ];
        for (at, swap) in swaps.into_iter().enumerate() {
            assert_eq!(told("tekken.json", swap), [Check::OtherTokenizer], "{at}");
        }
    }
}
