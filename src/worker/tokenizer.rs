//! The tokenizers crate, and how much it may make of what it is given.

use super::spelling;
use fancy_regex::Regex;
use serde::Serialize;
use serde_json::Value;
use tokenizers::models::ModelWrapper;

/// A tokenizer.json, read.
#[derive(Debug)]
pub(super) struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    /// The regular expressions of its normalizer and pre-tokenizer.
    patterns: Vec<Regex>,
}

/// Ids that a text may come to: four a byte, where the most that is published is one (bytes that are no token's), and
/// some for special tokens.
const IDS_PER_BYTE: usize = 4;
const MORE_IDS: usize = 64;
/// Bytes that ids may come to; the longest tokens published are runs of a hundred or so of spaces and dashes.
const BYTES_PER_ID: usize = 1024;

/// Bytes of a text on which regular expressions are tried first; it takes a hundredth of a second.
const CHECKED: usize = 64 << 10;

impl Tokenizer {
    pub fn read(json: &str) -> Result<Tokenizer, String> {
        let bad = |e: tokenizers::Error| format!("is not a tokenizer: {e}");
        let mut tokenizer: tokenizers::Tokenizer = json.parse().map_err(bad)?;
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0)
        {
            return Err(format!("draws tokens at random (dropout {dropout}): no number of it is the same twice"));
        }
        // A saved tokenizer may cut or pad; a text that is measured must be whole.
        tokenizer.with_truncation(None).map_err(bad)?;
        tokenizer.with_padding(None);
        let mut patterns = Vec::new();
        collect(&written(tokenizer.get_normalizer())?, &mut patterns)?;
        collect(&written(tokenizer.get_pre_tokenizer())?, &mut patterns)?;
        Ok(Tokenizer { tokenizer, patterns })
    }

    pub fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        self.check_patterns(text)?;
        let failed = |e: tokenizers::Error| format!("failed on the text: {e}");
        let plain = self.tokenizer.encode(text, false).map_err(failed)?;
        let (found, most) = (plain.len(), text.len() * IDS_PER_BYTE + MORE_IDS);
        if found > most {
            return Err(format!("makes {found} tokens of {} bytes of text, expected at most {most}", text.len()));
        }
        let all = match add_special_tokens {
            true => self.tokenizer.post_process(plain.clone(), None, true).map_err(failed)?,
            false => plain.clone(),
        };
        match spelling::departure(&self.tokenizer, text, plain.get_ids(), all.get_ids()) {
            None => Ok(all.get_ids().to_vec()),
            Some(departure) => Err(format!(
                "makes another text of the given one, on which the model is not to be judged: it {departure}"
            )),
        }
    }

    /// A regular expression that backtracks without end is given up on, and the crate goes on as if it had found no more:
    /// other ids than any other program would give.
    fn check_patterns(&self, text: &str) -> Result<(), String> {
        let end = (0..=CHECKED.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let beginning = &text[..end.unwrap_or(0)];
        let gives_up = |pattern: &&Regex| pattern.find_iter(beginning).any(|found| found.is_err());
        match self.patterns.iter().find(gives_up) {
            Some(pattern) => {
                let shown: String = pattern.as_str().chars().take(60).collect();
                Err(format!("has a regular expression that backtracks without end on the text ({shown})"))
            }
            None => Ok(()),
        }
    }

    pub fn text(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        let text =
            self.tokenizer.decode(ids, skip_special_tokens).map_err(|e| format!("failed on its own ids: {e}"))?;
        let most = (ids.len() + 1) * BYTES_PER_ID;
        if text.len() > most {
            return Err(format!("makes {} bytes of {} ids, expected at most {most}", text.len(), ids.len()));
        }
        Ok(text)
    }
}

fn written(part: Option<&impl Serialize>) -> Result<Value, String> {
    serde_json::to_value(part).map_err(|e| format!("is not a tokenizer: {e}"))
}

/// The regular expressions in a part of a tokenizer.json, `{"Regex": "…"}`.
fn collect(part: &Value, patterns: &mut Vec<Regex>) -> Result<(), String> {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(pattern)) = members.get("Regex") {
                patterns.push(Regex::new(pattern).map_err(|e| format!("is not a tokenizer: {e}"))?);
            }
            members.values().try_for_each(|member| collect(member, patterns))
        }
        Value::Array(entries) => entries.iter().try_for_each(|entry| collect(entry, patterns)),
        _ => Ok(()),
    }
}
