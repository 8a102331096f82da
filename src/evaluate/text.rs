//! Text to token ids, with the checkpoint's own tokenizer.

use crate::checkpoint::{Checkpoint, sha256_hex};
use crate::error::{Count, Error, Result};
use crate::worker::{Request, Response, Worker};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;

/// The reference text: the one that the published critical sets were found on.
pub const REFERENCE_TEXT: &str = "Later reviews were more positive. In just over 29 minutes, Bookends is stunning in \
its vision of a bewildered America in search of itself, said AllMusic writer Thom Jurek, who gave it five stars out of \
five. Pitchfork Media's Stephen M. Deusner called Bookends the moment in which the duo were settling into themselves, \
losing their folk revival pretensions and emphasizing quirky production techniques to match their soaring vocals. The \
A.V. Club called it the group's most musically and conceptually daring album.";

/// Below this many tokens the critical set is unstable (the paper's T_min).
pub const MIN_STABLE_TOKENS: usize = 10;

/// A text as the numbers of its tokens, and which text it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The ids, special tokens included.
    pub ids: Arc<[u32]>,
    /// SHA-256 of the text, lower-case hex.
    pub sha256: String,
}

/// A checkpoint's tokenizer. It is input as the checkpoint is, and is run by a [`worker`](crate::worker).
#[derive(Debug)]
pub struct Tokenizer(Worker);

impl Tokenizer {
    /// Reads the checkpoint's tokenizer.json.
    ///
    /// # Errors
    /// It is not a tokenizer, or takes more time or memory than its size warrants.
    pub fn of(checkpoint: &Checkpoint) -> Result<Tokenizer> {
        let root = checkpoint.root();
        let path = if root.is_dir() { root.join("tokenizer.json") } else { root.to_owned() };
        Tokenizer::parse(&path, checkpoint.tokenizer_json()?)
    }

    /// Reads a tokenizer.json's text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Tokenizer::of`].
    pub fn parse(path: &Path, json: &str) -> Result<Tokenizer> {
        let worker = Worker::new(path, "fetch the checkpoint's tokenizer again from its publisher");
        worker.ask(&Request::Tokenizer(json.into()))?;
        Ok(Tokenizer(worker))
    }

    /// The ids of `text`, of any length, with the special tokens that the tokenizer adds by itself, as transformers'
    /// `tokenizer(text)`.
    ///
    /// # Errors
    /// The tokenizer fails, makes another text or far more of this one, or takes more time or memory than it warrants.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, true)
    }

    /// The ids of a text that spells its special tokens itself, as a chat template's does: none are added.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn ids_as_spelled(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, false)
    }

    fn encoded(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        match self.0.ask(&Request::Ids { text: text.into(), add_special_tokens })? {
            Response::Ids(ids) => Ok(ids),
            other => Err(self.0.astray(&other)),
        }
    }

    /// The text of ids, without that of special tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decoded(ids, true)
    }

    /// The text of one id, be it a special token's.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn decode_token(&self, id: u32) -> Result<String> {
        self.decoded(&[id], false)
    }

    fn decoded(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        match self.0.ask(&Request::Text { ids: ids.into(), skip_special_tokens })? {
            Response::Text(text) => Ok(text),
            other => Err(self.0.astray(&other)),
        }
    }

    /// [`Tokenizer::ids`] of a text that a perplexity can be computed of.
    ///
    /// # Errors
    /// The text is empty or too short to have a perplexity (two tokens), or as [`Tokenizer::ids`].
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        if text.trim().is_empty() {
            return Err(Error::input("the text is empty; give at least a sentence with --text or --text-file"));
        }
        let ids = self.ids(text)?;
        if ids.len() < 2 {
            let tokens = Count(ids.len(), "token", "tokens");
            let problem = format!("the text has {tokens}; a perplexity needs two, a stable one {MIN_STABLE_TOKENS}");
            return Err(Error::input(problem));
        }
        Ok(Encoded { ids: ids.into(), sha256: sha256_hex(text.as_bytes()) })
    }
}

/// Reads a file of one record a line: in a file called `.jsonl` JSON objects, of which `example` is one, else texts
/// that `plain` makes records of. Blank lines are none.
///
/// # Errors
/// As [`read_file`]; also where a line of JSON is not such a record.
pub fn read_lines<T: DeserializeOwned>(path: &Path, plain: impl Fn(&str) -> T, example: &str) -> Result<Vec<T>> {
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
    let text = read_file(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(at, line): (usize, &str)| match json {
        false => Ok(plain(line.trim())),
        true => serde_json::from_str(line)
            .map_err(|e| Error::file(path, format!("line {}: expected a JSON object such as {example}: {e}", at + 1))),
    };
    lines.map(read).collect()
}

/// Reads a text file.
///
/// # Errors
/// It cannot be read or is not UTF-8.
pub fn read_file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    String::from_utf8(bytes).map_err(|e| {
        let problem = format!("expected text in UTF-8, byte {} is not; convert it first", e.utf8_error().valid_up_to());
        Error::file(path, problem)
    })
}
