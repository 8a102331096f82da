//! One walk over a JSON text that keeps only what lint asks of it.

use crate::checkpoint::python_json::{self, Departure};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

/// What lint asks of a JSON file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    /// Keys that an object holds twice, with the path to them.
    pub duplicates: Vec<String>,
    /// What `auto_map`, anywhere, names.
    pub auto_map: Vec<String>,
    /// What `attn_implementation` and its like name where that is a repository.
    pub kernels: Vec<String>,
    /// Text at or below a `chat_template`, with the path to it.
    pub templates: Vec<(String, String)>,
    /// Texts below `auto_map` or a `chat_template` that are too many to be kept, and so are not examined.
    pub not_kept: usize,
    /// What of it is Python's way of writing JSON, not the standard's.
    pub departure: Departure,
}

/// Of each kind this many are kept.
const KEPT: usize = 100;

pub(super) fn examine(bytes: &[u8]) -> Result<Facts, serde_json::Error> {
    walk(bytes).or_else(|e| {
        let (text, departure) = str::from_utf8(bytes).map(python_json::standard).unwrap_or_default();
        if departure == Departure::default() {
            return Err(e);
        }
        Ok(Facts { departure, ..walk(text.as_bytes())? })
    })
}

/// As [`examine`], of JSON by the standard.
fn walk(bytes: &[u8]) -> Result<Facts, serde_json::Error> {
    let mut walk = Walk { facts: Facts::default(), hasher: RandomState::new(), path: Vec::new() };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Step(&mut walk).deserialize(&mut json)?;
    json.end()?;
    Ok(walk.facts)
}

struct Walk {
    facts: Facts,
    hasher: RandomState,
    /// Keys, cut where they are long: every fact kept has a copy of its path.
    path: Vec<String>,
}

impl Walk {
    fn below(&self, key: &str) -> bool {
        self.path.iter().any(|k| k == key)
    }
}

struct Step<'a>(&'a mut Walk);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let walk = self.0;
        if walk.below("auto_map") {
            match walk.facts.auto_map.len() < KEPT {
                true => walk.facts.auto_map.push(text.to_owned()),
                false => walk.facts.not_kept += 1,
            }
        }
        // The library's own are called by a word; of a name with an owner the kernels are fetched from the hub and run.
        if text.contains('/') && walk.path.iter().any(|key| key.ends_with("_implementation")) {
            match walk.facts.kernels.len() < KEPT {
                true => walk.facts.kernels.push(cut(text.to_owned())),
                false => walk.facts.not_kept += 1,
            }
        }
        if walk.below("chat_template") {
            match walk.facts.templates.len() < KEPT {
                true => walk.facts.templates.push((walk.path.join("."), text.to_owned())),
                false => walk.facts.not_kept += 1,
            }
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Step(self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let walk = self.0;
        // Hashes in place of the keys: a vocabulary has hundreds of thousands.
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let again = !seen.insert(walk.hasher.hash_one(&key));
            walk.path.push(cut(key));
            if again && walk.facts.duplicates.len() < KEPT {
                walk.facts.duplicates.push(walk.path.join("."));
            }
            map.next_value_seed(Step(walk))?;
            walk.path.pop();
        }
        Ok(())
    }
}

/// A key of at most a hundred characters, longer than any that is looked for.
fn cut(mut key: String) -> String {
    const LONGEST: usize = 100;
    if let Some((end, _)) = key.char_indices().nth(LONGEST) {
        key.truncate(end);
        key.push('…');
        key.shrink_to_fit();
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_wherever_they_are() {
        let text = r#"{"a":1,"b":{"c":[{"d":1,"d":2}]},"a":null,"auto_map":{"AutoModel":"x.Y"},
            "chat_template":[{"name":"default","template":"T"}],"e":{"chat_template":"U","auto_map":1}}"#;
        let facts = examine(text.as_bytes()).unwrap();
        assert_eq!(facts.duplicates, ["b.c.d", "a"]);
        assert_eq!(facts.auto_map, ["x.Y"]);
        let pair = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let template = "chat_template.template";
        let expected = [pair("chat_template.name", "default"), pair(template, "T"), pair("e.chat_template", "U")];
        assert_eq!(facts.templates, expected);
        assert_eq!(examine(br#"{"a":{"b":1},"c":{"b":1}}"#).unwrap(), Facts::default());
        let long = format!(r#"{{"chat_template":{{"{}":["a","b"]}}}}"#, "é".repeat(5_000));
        let cut = format!("chat_template.{}…", "é".repeat(100));
        assert_eq!(examine(long.as_bytes()).unwrap().templates, [pair(&cut, "a"), pair(&cut, "b")]);
        let many = format!(
            r#"{{"chat_template":["{}"],"auto_map":["{}"]}}"#,
            ["t"; 102].join("\",\""),
            ["m"; 101].join("\",\"")
        );
        let many = examine(many.as_bytes()).unwrap();
        assert_eq!((many.templates.len(), many.auto_map.len(), many.not_kept), (KEPT, KEPT, 3));
        let python = examine("\u{feff}{\"a\":[NaN,-Infinity],\"auto_map\":\"x.Y\"}".as_bytes()).unwrap();
        assert_eq!(python.departure, Departure { byte_order_mark: true, not_finite: true });
        assert_eq!(python.auto_map, ["x.Y"]);
        for bad in [&b"{"[..], b"{} x", b"\xff", b"", b"{NaN:1}", b"[NaN"] {
            assert!(examine(bad).is_err());
        }
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert!(examine(&deep).is_err());
    }
}
