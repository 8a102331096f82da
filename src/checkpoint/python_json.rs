//! JSON as Python's `json` module writes it: with `Infinity`, `-Infinity` and `NaN`, which the standard does not know;
//! and as some editors save it, with a byte order mark.

use super::stand_in::StandIn;
use crate::error::{Error, Result};
use crate::files;
use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
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

/// Bytes that no file of settings has: what is published has a few megabytes, a tokenizer of speech a dozen.
pub const LARGEST: u64 = 32 << 20;
/// Values that no file of settings has: a number for each token of a vocabulary is the most. In memory each takes up to
/// hundreds of times its shortest text, `{}`.
const MOST_VALUES: usize = 160_000;
/// What a tokenizer_config.json says of each added token again, which may be as many as the vocabulary. Of each its
/// text alone is kept.
const ADDED_TOKENS: &str = "added_tokens_decoder";

/// A token and how it is found.
#[derive(Deserialize)]
#[serde(untagged)]
enum AddedToken {
    Token { content: String },
    Other(IgnoredAny),
}

/// The texts of added tokens by their numbers; null where there is something else.
struct AddedTokens(Value);

impl<'de> Deserialize<'de> for AddedTokens {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<AddedTokens, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, _: bool) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_i64<E>(self, _: i64) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_u64<E>(self, _: u64) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_f64<E>(self, _: f64) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_unit<E>(self) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_str<E>(self, _: &str) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Null)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
                let mut texts = Map::new();
                while let Some((id, token)) = map.next_entry::<String, AddedToken>()? {
                    if let AddedToken::Token { content } = token {
                        texts.insert(id, content.into());
                    }
                }
                Ok(texts.into())
            }
        }
        d.deserialize_any(Of).map(AddedTokens)
    }
}

/// Reads `text` as Python would.
///
/// # Errors
/// It is not JSON, not what `T` expects, or holds far more values than settings do.
pub fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let json = standard(text).0;
    let mut json = serde_json::Deserializer::from_str(&json);
    let value = Bounded(&mut 0).deserialize(&mut json)?;
    json.end()?;
    serde_json::from_value(value)
}

/// Reads a JSON file of a checkpoint that holds settings, as Python would; none where it is not there.
///
/// # Errors
/// It cannot be read, is larger than settings are, or is not JSON.
pub fn read(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read_text(path, LARGEST)?;
    if let Some(stand_in) = StandIn::of_text(text.as_bytes()) {
        return Err(Error::file(path, stand_in.to_string()));
    }
    parse(&text).map(Some).map_err(|e| Error::file(path, format!("is malformed: {e}")))
}

/// A part of a file whose other parts may be as long as a vocabulary; it holds no more values than settings do.
#[derive(Debug, Default)]
pub struct Part(pub Value);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Part, D::Error> {
        Bounded(&mut 0).deserialize(d).map(Part)
    }
}

/// A value of no more than so many values, counted from what is given.
struct Bounded<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Value, D::Error> {
        *self.0 += 1;
        match *self.0 > MOST_VALUES {
            true => Err(D::Error::custom(format!("holds over {MOST_VALUES} values, more than settings do"))),
            false => d.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_str<E>(self, text: &str) -> std::result::Result<Value, E> {
        Ok(text.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Bounded(self.0))? {
            values.push(value);
        }
        Ok(values.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = if key == ADDED_TOKENS {
                map.next_value::<AddedTokens>()?.0
            } else {
                map.next_value_seed(Bounded(self.0))?
            };
            members.insert(key, value);
        }
        Ok(members.into())
    }
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
    fn settings_have_no_more_values_than_tokens() {
        let list = |count: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(count));
        let read = |text: &str| parse::<Value>(text).map_err(|e| e.to_string());
        assert_eq!(read(&list(151_936)).unwrap()["a"].as_array().unwrap().len(), 151_937);
        for hostile in [list(200_000), "[{}".to_owned() + &",{}".repeat(200_000) + "]"] {
            assert!(read(&hostile).unwrap_err().contains("holds over 160000 values"));
        }
        let text = r#"{"a":[1,-1,1.5,null,true,"b"],"a":{"c":[]}}"#;
        assert_eq!(read(text), serde_json::from_str(text).map_err(|_| String::new()));
        assert!(read("{} x").is_err());
        let token = r#","1":{"content":"a","lstrip":false,"normalized":false,"rstrip":false}"#;
        let speech = format!(r#"{{"added_tokens_decoder":{{"0":{{}}{}}},"b":1}}"#, token.repeat(70_000));
        assert_eq!(read(&speech), Ok(serde_json::json!({"added_tokens_decoder": {"1": "a"}, "b": 1})));
        for other in ["5", "[1]", "null", "\"a\"", "true"] {
            let text = format!(r#"{{"added_tokens_decoder":{other},"b":1}}"#);
            assert_eq!(read(&text), Ok(serde_json::json!({"added_tokens_decoder": null, "b": 1})));
        }
    }

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
