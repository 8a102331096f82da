//! What lm-evaluation-harness has a text begin with.

use super::text::Tokenizer;
use crate::checkpoint::{Checkpoint, SpecialToken};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

#[derive(Default, Deserialize)]
struct SpecialTokens {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

/// The token that the first of a text is predicted from: BOS or, where there is none, EOS, by tokenizer_config.json (as
/// `HFLM.prefix_token_id` of lm-evaluation-harness) or, where that names neither, by config.json.
///
/// # Errors
/// Neither is named, or it is no token of this tokenizer.
pub(super) fn prefix_token(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<u32> {
    let named: SpecialTokens = checkpoint.tokenizer_config()?.unwrap_or_default();
    let text = |token: Option<SpecialToken>| token.and_then(SpecialToken::into_text);
    if let Some(text) = text(named.bos_token).or_else(|| text(named.eos_token)) {
        return match tokenizer.ids_as_spelled(&text)?[..] {
            [id] => Ok(id),
            _ => {
                let problem = format!("names {text:?} as the token that texts begin or end with, which is no token");
                Err(Error::file(checkpoint.root(), problem))
            }
        };
    }
    let config = checkpoint.config();
    let number = |key| match config.map().get(key) {
        Some(Value::Array(ids)) => ids.first().and_then(Value::as_u64),
        id => id.and_then(Value::as_u64),
    };
    let id = number("bos_token_id").or_else(|| number("eos_token_id")).and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| {
        Error::file(config.path(), "names no token that texts begin or end with (bos_token_id, eos_token_id)")
    })
}
