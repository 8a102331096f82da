//! JSON as Python's `json` module writes it: with `Infinity`, `-Infinity` and `NaN`, which the standard does not know;
//! and as some editors save it, with a byte order mark.

use super::stand_in::StandIn;
use crate::error::{Error, Result};
use crate::files;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::path::Path;

/// What of a text is not JSON by the standard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Departure {
    /// It begins with a byte order mark.
    pub byte_order_mark: bool,
    /// It holds a number that is not finite.
    pub not_finite: bool,
}

/// The byte order mark of UTF-8.
const MARK: char = '\u{feff}';
/// The three words, each before one that it ends with.
const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads `text` as Python would.
///
/// # Errors
/// It is not JSON, or not what `T` expects.
pub fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(&standard(text).0)
}

/// Reads a JSON file of a checkpoint as Python would; none where it is not there.
///
/// # Errors
/// It cannot be read, or is not what `T` expects.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    if let Some(stand_in) = StandIn::of_text(text.as_bytes()) {
        return Err(Error::file(path, stand_in.to_string()));
    }
    parse(&text).map(Some).map_err(|e| Error::file(path, format!("is malformed: {e}")))
}

/// `text` as the standard has it: without a byte order mark, and with numbers that are not finite as texts, so that
/// whoever asks for a number there is told what it is.
pub fn standard(text: &str) -> (Cow<'_, str>, Departure) {
    let body = text.strip_prefix(MARK).unwrap_or(text);
    let mut departure = Departure { byte_order_mark: body.len() < text.len(), not_finite: false };
    if !body.contains(WORDS[1]) && !body.contains(WORDS[2]) {
        return (Cow::Borrowed(body), departure);
    }
    let mut out = String::with_capacity(body.len() + 16);
    let mut rest = body;
    while let Some(at) = rest.find(['"', '-', 'I', 'N']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        // A word before a colon is a key without quotes, which Python refuses too.
        let is_value = |word: &&str| from.strip_prefix(*word).is_some_and(|r| !r.trim_start().starts_with(':'));
        let word = WORDS.into_iter().find(is_value);
        let taken = match word {
            _ if from.starts_with('"') => end_of_string(from),
            Some(word) => {
                departure.not_finite = true;
                out.push('"');
                word.len()
            }
            None => 1,
        };
        out.push_str(&from[..taken]);
        if word.is_some() {
            out.push('"');
        }
        rest = &from[taken..];
    }
    out.push_str(rest);
    (Cow::Owned(out), departure)
}

/// Bytes of the string that `text` begins with, its quotes included; all where it does not end.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_read_and_strings_are_let_be() {
        let text = "\u{feff}{\"a\": [Infinity, -Infinity, NaN, -1], \"NaN \\\" Infinity\": \"-Infinity\\\\\"}";
        let (json, departure) = standard(text);
        assert_eq!(departure, Departure { byte_order_mark: true, not_finite: true });
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["a"], serde_json::json!(["Infinity", "-Infinity", "NaN", -1]));
        assert_eq!(value["NaN \" Infinity"], "-Infinity\\");
        let plain = r#"{"in a string": "NaN", "b": -1}"#;
        let none = Departure { byte_order_mark: false, not_finite: false };
        assert_eq!(standard(plain), (Cow::Owned(plain.to_owned()), none));
        for hostile in ["{NaN : 1}", "NaNNaN", "\"NaN", "NaN\"\\", "-", "Infinity\u{e9}", "\"\\\"NaN"] {
            let (json, _) = standard(hostile);
            assert!(serde_json::from_str::<serde_json::Value>(&json).is_err(), "{hostile}");
        }
    }
}
