//! The vocabulary in the metadata: against itself, and against the embedding.

use super::{part, tensor};
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::gguf::header::Value;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::observation::Found;
use serde_json::json;

const TOKENS: &str = "tokenizer.ggml.tokens";
const EMBEDDING: &str = "token_embd.weight";
/// What has an entry a token.
const BESIDE: &[&str] = &["tokenizer.ggml.scores", "tokenizer.ggml.token_type"];

/// Tells what does not fit.
pub fn examine(file: &GgufFile, found: &mut Found) {
    let at = || part(file, 0);
    let rows = file.tensor(EMBEDDING).and_then(|info| info.shape.first()).map(|rows| *rows as u64);
    let tokens = match file.strs_opt(TOKENS) {
        Ok(Some(tokens)) => tokens.len() as u64,
        Ok(None) if rows.is_some() => {
            return found.say(Check::TokenizerInvalid, at(), format!("holds no vocabulary ({TOKENS})"));
        }
        Ok(None) => return,
        Err(e) => return found.say(Check::TokenizerInvalid, at(), format!("its vocabulary cannot be read: {e}")),
    };
    for key in BESIDE {
        if let Some(Value::Array(array)) = file.get(key)
            && array.count as u64 != tokens
        {
            let message = format!("{key} has {} entries, there are {tokens} tokens", array.count);
            found.say(Check::TokenizerInvalid, at(), message);
        }
    }
    if let Some(rows) = rows {
        let evidence = json!({"tokens": tokens, "rows": rows});
        let message = format!("has {rows} rows, the vocabulary {tokens} tokens");
        match tokens.cmp(&rows) {
            std::cmp::Ordering::Greater => {
                found.add(Check::TokenBeyondEmbedding, tensor(file, EMBEDDING), message, evidence);
            }
            std::cmp::Ordering::Less => {
                found.add(Check::VocabularyMismatch, tensor(file, EMBEDDING), message, evidence);
            }
            std::cmp::Ordering::Equal => {}
        }
    }
    for (key, value) in file.metadata().filter(|(key, _)| key.starts_with("tokenizer.") && key.ends_with("_token_id")) {
        let id = match value {
            Value::Unsigned(id) => i128::from(*id),
            Value::Signed(id) => i128::from(*id),
            _ => continue,
        };
        // −1 is what converters write where there is none.
        let is_none = id == -1 || id == i128::from(u32::MAX);
        if !is_none && !(0..i128::from(tokens)).contains(&id) {
            let message = format!("metadata {} is {id}, there are {tokens} tokens", key.escape_debug());
            found.say(Check::TokenIdOutOfRange, at(), message);
        }
    }
}
