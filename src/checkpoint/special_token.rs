//! A special token, as tokenizer_config.json names it.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// By its text, or by an object that holds that.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum SpecialToken {
    Text(String),
    Token {
        content: String,
    },
    /// Which has no text.
    Other(IgnoredAny),
}

impl SpecialToken {
    pub fn into_text(self) -> Option<String> {
        match self {
            SpecialToken::Text(text) | SpecialToken::Token { content: text } => Some(text),
            SpecialToken::Other(_) => None,
        }
    }
}
