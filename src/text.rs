//! Text to token ids, with the checkpoint's own tokenizer.

use crate::checkpoint::{Checkpoint, sha256_hex};
use crate::error::{Count, Error, Result};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;

mod spelling;

/// The reference text: the one that the published critical sets were found on.
pub const REFERENCE_TEXT: &str = "Later reviews were more positive. In just over 29 minutes, Bookends is stunning in \
its vision of a bewildered America in search of itself, said AllMusic writer Thom Jurek, who gave it five stars out of \
five. Pitchfork Media's Stephen M. Deusner called Bookends the moment in which the duo were settling into themselves, \
losing their folk revival pretensions and emphasizing quirky production techniques to match their soaring vocals. The \
A.V. Club called it the group's most musically and conceptually daring album.";

/// Below this many tokens the critical set is unstable (the paper's T_min).
pub const MIN_STABLE_TOKENS: usize = 10;

/// A text as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The ids, special tokens included.
    pub ids: Arc<[u32]>,
    /// SHA-256 of the text, lower-case hex.
    pub sha256: String,
}

/// A checkpoint's tokenizer.
#[derive(Debug)]
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Reads the checkpoint's tokenizer.json.
    ///
    /// # Errors
    /// It is not a tokenizer.
    pub fn of(checkpoint: &Checkpoint) -> Result<Tokenizer> {
        let bad = |e: tokenizers::Error| {
            let path = checkpoint.root().join("tokenizer.json");
            Error::file(path, format!("is not a tokenizer: {}", e.to_string().lines().next().unwrap_or_default()))
        };
        let json = checkpoint.tokenizer_json()?;
        let mut tokenizer: tokenizers::Tokenizer = guarded(|| json.parse())?.map_err(bad)?;
        // A saved tokenizer may cut or pad; a text that is measured must be whole.
        tokenizer.with_truncation(None).map_err(bad)?;
        tokenizer.with_padding(None);
        Ok(Tokenizer(tokenizer))
    }

    /// The ids of `text`, of any length, with the special tokens that the tokenizer adds by itself, as transformers'
    /// `tokenizer(text)`.
    ///
    /// # Errors
    /// The tokenizer fails, or makes another text of this one.
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
        let failed = |e: tokenizers::Error| Error::input(format!("the tokenizer failed on the text: {e}"));
        let (ids, departure) = guarded(|| {
            let plain = self.0.encode(text, false)?;
            let ids = match add_special_tokens {
                true => self.0.post_process(plain.clone(), None, true)?.get_ids().to_vec(),
                false => plain.get_ids().to_vec(),
            };
            let departure = spelling::departure(&self.0, text, plain.get_ids(), &ids);
            Ok((ids, departure))
        })?
        .map_err(failed)?;
        match departure {
            None => Ok(ids),
            Some(departure) => Err(Error::input(format!(
                "tokenizer.json makes another text of the given one, on which the model is not to be judged: it \
                 {departure}; compare it with the tokenizer of the model's base, or give another text"
            ))),
        }
    }

    /// The text of ids, without that of special tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decoded(ids, true)
    }

    /// The text of one id, be it a special token's.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn decode_token(&self, id: u32) -> Result<String> {
        self.decoded(&[id], false)
    }

    fn decoded(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let failed = |e: tokenizers::Error| Error::input(format!("the tokenizer failed on its own ids: {e}"));
        guarded(|| self.0.decode(ids, skip_special_tokens))?.map_err(failed)
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

/// Threads of this name meet files that nobody has checked: whoever sets a panic hook may leave their panics to us.
pub const GUARDED_THREAD: &str = "achilles-audit-tokenizer";

/// Runs `f` where a panic of the tokenizers crate on a malformed tokenizer.json becomes an error.
fn guarded<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    let malformed = || Error::input("tokenizer.json is malformed: its parts contradict each other; fetch it again");
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(GUARDED_THREAD.into()).spawn_scoped(scope, f);
        thread.map_err(Error::io("a thread for the tokenizer"))?.join().map_err(|_| malformed())
    })
}

/// Reads a file of one record a line: in a file called `.jsonl` JSON objects, of which `example` is one, else texts that
/// `plain` makes records of. Blank lines are none.
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
