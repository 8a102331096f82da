//! The vocabulary as a GGUF has it, and what the kinds of tokenizers make of it.

use super::super::file::GgufFile;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";

// `llama_token_type`, and SentencePiece's own numbers.
pub(super) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
/// Never cut, and hidden in decoded text.
pub(super) const CONTROL: i32 = 3;
/// Never cut.
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;
pub(super) const BYTE: i32 = 6;

/// The vocabulary as the file has it.
pub(super) struct Tokens<'a> {
    pub texts: Vec<&'a str>,
    /// None where the file does not say: all are normal.
    pub types: Option<Vec<i32>>,
}

/// What the kinds of tokenizers differ in.
pub(super) struct Parts {
    pub added: Vec<Value>,
    /// Whether a text begins with BOS where the file does not say.
    pub adds_bos: bool,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    pub model: Value,
}

impl<'a> Tokens<'a> {
    pub fn read(file: &'a GgufFile) -> Result<Tokens<'a>> {
        let missing = || file.problem(TOKENS, "is missing; the file has no tokenizer");
        let texts = file.strs_opt(TOKENS)?.ok_or_else(missing)?;
        let types = file.i32s_opt(TYPES)?;
        if let Some(types) = types.as_ref().filter(|types| types.len() != texts.len()) {
            let problem = format!("has {} entries, expected {}, one for each token", types.len(), texts.len());
            return Err(file.problem(TYPES, problem));
        }
        Ok(Tokens { texts, types })
    }

    /// The type of a token.
    pub fn ty(&self, id: usize) -> i32 {
        self.types.as_ref().and_then(|types| types.get(id).copied()).unwrap_or(NORMAL)
    }

    /// Number, text and type of the tokens of some types.
    pub fn of_type(&self, wanted: &[i32]) -> impl Iterator<Item = (usize, &'a str, i32)> {
        let all = self.texts.iter().enumerate().map(|(id, token)| (id, *token, self.ty(id)));
        all.filter(|(.., ty)| wanted.contains(ty))
    }

    /// Every token's number by its text.
    pub fn vocabulary(&self, file: &GgufFile) -> Result<Map<String, Value>> {
        let mut vocabulary = Map::with_capacity(self.texts.len());
        for (id, token) in self.texts.iter().enumerate() {
            if vocabulary.insert((*token).to_owned(), id.into()).is_some() {
                return Err(file.problem(TOKENS, format!("has {token:?} twice, the second at {id}")));
            }
        }
        Ok(vocabulary)
    }

    /// An error about a token.
    pub fn problem(&self, file: &GgufFile, id: usize, problem: &str) -> Error {
        file.problem(TOKENS, format!("[{id}] is {:?}, {problem}", self.texts.get(id).unwrap_or(&"")))
    }
}

/// A token that is found in the text before anything else is done.
pub(super) fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": special,
    })
}
