//! What a tokenizer.json calls its tokens.

use super::check::Check;
use super::observation::{Found, Location};
use crate::checkpoint::{Opened, TOKENIZER, python_json};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// Tokens that an observation lists.
pub(super) const LISTED: usize = 10;

/// A JSON file of the checkpoint, as far as it can be read; others tell of one that cannot.
pub(super) fn read<T: DeserializeOwned>(opened: &Opened, name: &str) -> Option<T> {
    opened.settings(name).ok()?
}

/// As [`read`], of tokenizer.json, which is larger than others; also what is wrong with its parts.
pub(super) fn read_tokenizer<T: DeserializeOwned>(opened: &Opened) -> Option<serde_json::Result<T>> {
    let text = opened.tokenizer_text().ok()??;
    match serde_json::from_str(&python_json::standard(text).0) {
        Err(e) if !e.is_data() => None,
        read => Some(read),
    }
}

/// What a tokenizer.json calls its tokens.
#[derive(Deserialize)]
pub(super) struct Vocabulary {
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
pub(super) struct Added {
    /// As loaders number it; see [`Vocabulary::number`].
    pub(super) id: u64,
    /// As the file does, where that is another number.
    #[serde(skip)]
    pub(super) written: Option<u64>,
    pub(super) content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: Entries,
    /// The part of merges that is left out at random.
    #[serde(default)]
    dropout: Option<f64>,
}

/// Texts and numbers, be it a map or a list that counts by itself.
struct Entries(Vec<(String, u64)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a vocabulary")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((text, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    entries.push((text, entries.len() as u64));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(Of)
    }
}

impl Vocabulary {
    /// Gives added tokens the numbers that the tokenizers library gives them, whatever the file says: that of the
    /// vocabulary, where it has the text, or else the next.
    pub(super) fn number(&mut self) {
        let own: HashMap<&str, u64> = self.model.vocab.0.iter().map(|(text, id)| (text.as_str(), *id)).collect();
        let mut next = own.len() as u64;
        let mut added: HashMap<String, u64> = HashMap::new();
        for token in &mut self.added_tokens {
            let known = added.get(&token.content).or(own.get(token.content.as_str())).copied();
            let id = known.unwrap_or(next);
            next = next.max(id.saturating_add(1));
            added.insert(token.content.clone(), id);
            token.written = (token.id != id).then_some(token.id);
            token.id = id;
        }
    }

    /// Its tokens and their numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        let added = self.added_tokens.iter().map(|added| (added.content.as_str(), added.id));
        self.model.vocab.0.iter().map(|(text, id)| (text.as_str(), *id)).chain(added)
    }

    /// One more than the highest number.
    pub(super) fn end(&self) -> u64 {
        self.all().map(|(_, id)| id.saturating_add(1)).max().unwrap_or(0)
    }

    /// The number of a token, by its text.
    pub(super) fn id(&self, token: &str) -> Option<u64> {
        self.all().find(|(text, _)| *text == token).map(|(_, id)| id)
    }

    /// Those of some tokens that ordinary text is made of. In a tokenizer that has no special tokens one may be meant
    /// as such.
    pub(super) fn ordinary(&self, ids: &BTreeSet<i64>) -> Vec<(&str, u64)> {
        let is =
            |(text, id): &&(String, u64)| i64::try_from(*id).is_ok_and(|id| ids.contains(&id)) && is_ordinary(text);
        let found = self.model.vocab.0.iter().filter(is).map(|(text, id)| (text.as_str(), *id));
        let found: Vec<(&str, u64)> = found.collect();
        let one_is_meant = found.len() == 1 && self.added_tokens.iter().all(|added| !added.special);
        if one_is_meant { Vec::new() } else { found }
    }
}

/// Whether a token can stand in ordinary text: not one in brackets, as special tokens are, nor a control character.
pub(super) fn is_ordinary(token: &str) -> bool {
    let begins = token.trim().starts_with(['<', '[', '{', '|', '\u{ff5c}']) && token.chars().count() > 2;
    let bracketed = begins && token.trim().ends_with(['>', ']', '}', '|', '\u{ff5c}']);
    // GPT-2's characters for the bytes that cannot be seen: of these a space, a tab and the ends of lines are ordinary.
    let hidden = |c: char| matches!(c, '\u{100}'..='\u{143}') && !['Ġ', 'Ċ', 'ĉ', 'č'].contains(&c);
    !token.is_empty() && !bracketed && !token.chars().all(|c| hidden(c) || (c.is_control() && !c.is_whitespace()))
}

/// The tokenizer's vocabulary. Others tell of a tokenizer.json that is no JSON.
pub(super) fn of(opened: &Opened, found: &mut Found) -> Option<Vocabulary> {
    match read_tokenizer::<Vocabulary>(opened)? {
        Ok(mut vocabulary) => {
            vocabulary.number();
            if let Some(dropout) = vocabulary.model.dropout.filter(|dropout| *dropout != 0.0) {
                let message = format!("draws tokens at random (dropout {dropout}): no answer is the same twice");
                found.say(Check::TokenizerInvalid, Location::file(TOKENIZER), message);
            }
            Some(vocabulary)
        }
        Err(e) => {
            let message = format!("is not a tokenizer, nothing was held against it: {e}");
            found.say(Check::TokenizerInvalid, Location::file(TOKENIZER), message);
            None
        }
    }
}

/// The part of a config that is of text.
pub(super) fn of_text(config: &Map<String, Value>) -> &Map<String, Value> {
    config.get("text_config").and_then(Value::as_object).unwrap_or(config)
}

/// A number or several; what is neither counts as none.
pub(super) fn numbers(value: Option<&Value>) -> Vec<i64> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(whole).collect(),
        Some(value) => whole(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// A whole number, be it written as `2.0`.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e15).map(|n| n as i64))
}

/// Places for what is no text: Gemma 3's text models share the tokenizer of those that see, whose `<image_soft_token>`
/// is beyond their embedding.
pub(super) fn is_of_other_input(token: &str) -> bool {
    token.starts_with('<')
        && token.ends_with('>')
        && ["image", "audio", "video"].iter().any(|input| token.contains(input))
}

#[cfg(test)]
impl Vocabulary {
    /// Of tokens and of special ones that are added.
    pub(super) fn of_tokens(tokens: &[(&str, u64)], added: &[(&str, u64)]) -> Vocabulary {
        let vocab: Map<String, Value> =
            tokens.iter().map(|(text, id)| ((*text).into(), serde_json::json!(id))).collect();
        let added: Vec<Value> =
            added.iter().map(|(text, id)| serde_json::json!({"id": id, "content": text, "special": true})).collect();
        serde_json::from_value(serde_json::json!({"added_tokens": added, "model": {"type": "BPE", "vocab": vocab}}))
            .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_tokens_are_those_of_text() {
        let special = ["<|end|>", "</s>", "[EOS]", "<\u{ff5c}end\u{2581}of\u{ff5c}>", "\u{100}", "<0x00>"];
        let text = ["\u{120}the", "\u{2581}the", ".", "\u{10a}", "\n", "<", "\u{6211}"];
        let tokens: Vec<(&str, u64)> = special.into_iter().chain(text).zip(0..).collect();
        let ordinary = |added: &[(&str, u64)], ids: &[i64]| {
            let vocabulary = Vocabulary::of_tokens(&tokens, added);
            let found = vocabulary.ordinary(&ids.iter().copied().collect());
            found.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
        };
        let all: Vec<i64> = (-1..20).collect();
        assert_eq!(ordinary(&[("<|end|>", 0), ("stop", 13)], &all), (6..13).collect::<Vec<_>>());
        assert_eq!(ordinary(&[("<|end|>", 0)], &[8]), [8]);
        // Without special tokens one of the others has to do.
        assert_eq!((ordinary(&[], &[8]), ordinary(&[], &[8, 9])), (vec![], vec![8, 9]));
    }
}
