//! The prompts that are recorded and checked.

use crate::checkpoint::sha256_hex;
use crate::error::{Count, Error, Result};
use crate::evaluate::text::{Tokenizer, read_lines};
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Prompts as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompts {
    /// Each has two tokens or more; none is there twice.
    pub ids: Vec<Arc<[u32]>>,
    /// SHA-256 of the texts that they were read from, one after the other, lower-case hex.
    pub sha256: String,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

impl Prompts {
    /// Reads files with one prompt a line: a JSON object with its `text` in a file called `.jsonl`, else the line
    /// itself. Blank lines are none. A prompt is cut after `max_tokens` tokens; one with a single token, or one that is
    /// there already, is left out, with a warning.
    ///
    /// # Errors
    /// A file cannot be read, a line is malformed, or there is no prompt.
    pub fn read(paths: &[PathBuf], tokenizer: &Tokenizer, max_tokens: usize) -> Result<Prompts> {
        let (mut ids, mut seen, mut all) = (Vec::new(), HashSet::new(), String::new());
        let (mut short, mut repeated) = (0, 0);
        for path in paths {
            for line in lines(path)? {
                all += &line;
                all.push('\n');
                let mut tokens = tokenizer.ids(&line)?;
                tokens.truncate(max_tokens);
                let tokens: Arc<[u32]> = tokens.into();
                if tokens.len() < 2 {
                    short += 1;
                } else if seen.insert(tokens.clone()) {
                    ids.push(tokens);
                } else {
                    repeated += 1;
                }
            }
        }
        if short + repeated > 0 {
            let prompts = Count(short + repeated, "prompt is", "prompts are");
            tracing::warn!("{prompts} left out: {short} of a single token, {repeated} given before");
        }
        match ids.is_empty() {
            false => Ok(Prompts { ids, sha256: sha256_hex(all.as_bytes()) }),
            true => {
                let files: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
                Err(Error::input(format!(
                    "{}: no prompt found; give text with one prompt a line, of two tokens or more",
                    files.join(", ")
                )))
            }
        }
    }
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let plain = |line: &str| Line { text: line.to_owned() };
    let lines = read_lines(path, plain, "{\"text\": \"…\"}")?;
    Ok(lines.into_iter().map(|line| line.text).filter(|text| !text.trim().is_empty()).collect())
}
