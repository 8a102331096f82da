//! `model.safetensors.index.json`: which shard holds which tensor.

use super::LARGEST_NEEDED;
use super::loose::Number;
use super::stand_in::StandIn;
use crate::error::{Error, Result};
use crate::files;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The file name of a checkpoint that is one file.
pub const SINGLE: &str = "model.safetensors";

/// The file name of an index.
pub const INDEX: &str = "model.safetensors.index.json";

/// Far above any checkpoint's number of tensors: more would only take memory.
const MOST_TENSORS: usize = 1 << 20;

/// An index as it is written: in order, with duplicates, and with whatever names.
#[derive(Debug, PartialEq)]
pub struct Index {
    /// Tensor names and the shards they are said to be in.
    pub weight_map: Vec<(String, String)>,
    /// Bytes that all tensors have together, if it says so with a number.
    pub total_size: Option<f64>,
}

impl Index {
    /// Reads an index's text.
    ///
    /// # Errors
    /// It is not JSON, has no `weight_map` of text, or lists far more tensors than a checkpoint has.
    pub fn parse(text: &str) -> std::result::Result<Index, serde_json::Error> {
        #[derive(Deserialize)]
        struct Whole {
            weight_map: WeightMap,
            #[serde(default)]
            metadata: Metadata,
        }
        let Whole { weight_map, metadata } = serde_json::from_str(text)?;
        Ok(Index { weight_map: weight_map.0, total_size: metadata.total_size })
    }
}

struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<WeightMap, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of text")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MOST_TENSORS {
                        return Err(A::Error::custom(format_args!("lists over {MOST_TENSORS} tensors")));
                    }
                    entries.push(entry);
                }
                Ok(WeightMap(entries))
            }
        }
        d.deserialize_map(V)
    }
}

/// Only `total_size` means something; it is not worth an error.
#[derive(Default)]
struct Metadata {
    total_size: Option<f64>,
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Metadata, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Metadata;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_unit<E>(self) -> std::result::Result<Metadata, E> {
                Ok(Metadata::default())
            }
            fn visit_str<E>(self, _: &str) -> std::result::Result<Metadata, E> {
                Ok(Metadata::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Metadata, A::Error> {
                let mut metadata = Metadata::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key != "total_size" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    metadata.total_size = match map.next_value()? {
                        Number::Whole(number) => Some(number as f64),
                        Number::Real(number) => Some(number),
                        Number::Other => None,
                    };
                }
                Ok(metadata)
            }
        }
        d.deserialize_any(V)
    }
}

/// Whether an index may name this shard: a plain file name, so that nothing leads out of the folder.
pub fn is_plain_shard(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|n| n == name)
        && !name.contains(['\\', '/'])
        && !name.starts_with('.')
        && !name.chars().any(char::is_control)
        && name.ends_with(".safetensors")
}

/// A file named as an index, and what it holds.
#[derive(Debug)]
pub struct IndexFile {
    path: PathBuf,
    /// What lies in its place.
    stand_in: Option<StandIn>,
    /// The index, or why it is none.
    index: std::result::Result<Index, String>,
}

impl IndexFile {
    pub(super) fn read(path: &Path) -> Result<IndexFile> {
        let text = files::read_text(path, LARGEST_NEEDED)?;
        let index = Index::parse(&text).map_err(|e| e.to_string());
        Ok(IndexFile { path: path.to_owned(), stand_in: StandIn::of_text(text.as_bytes()), index })
    }

    /// What lies in its place, if not the index.
    pub fn stand_in(&self) -> Option<&StandIn> {
        self.stand_in.as_ref()
    }

    /// The index as it is written.
    ///
    /// # Errors
    /// Why it is none.
    pub fn index(&self) -> std::result::Result<&Index, &str> {
        self.index.as_ref().map_err(String::as_str)
    }

    /// `weight_map` of a sound index: tensor name to a shard's plain file name.
    ///
    /// # Errors
    /// It is no index, lists nothing or one tensor twice, or leads out of the folder.
    pub fn weight_map(&self) -> Result<BTreeMap<&str, &str>> {
        let path = &self.path;
        let index = self.index().map_err(|e| Error::file(path, format!("is not an index: {e}")))?;
        if index.weight_map.is_empty() {
            return Err(Error::file(path, "weight_map is empty, expected tensor names and their shards"));
        }
        let mut weight_map = BTreeMap::new();
        for (name, shard) in &index.weight_map {
            if !is_plain_shard(shard) {
                let problem =
                    format!("names the shard {shard:?}, expected a plain *.safetensors file name; not followed");
                return Err(Error::file(path, problem));
            }
            if let Some(first) = weight_map.insert(name.as_str(), shard.as_str()).filter(|first| first != shard) {
                return Err(Error::tensor(path, name, format!("the index puts it into {first} and into {shard}")));
            }
        }
        Ok(weight_map)
    }
}

/// Shards in a folder without an index, by their names: `model-00002-of-00003.safetensors`.
#[derive(Debug, PartialEq, Eq)]
pub enum Unindexed {
    /// There are none, or they are of several sets.
    None,
    /// All of a set.
    Whole(Vec<String>),
    /// A set that lacks these.
    Lacking(Vec<String>),
}

impl Unindexed {
    /// Of a folder that holds files of these names.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Unindexed {
        let shards: BTreeMap<&str, ShardName> = names.filter_map(|name| Some((name, ShardName::of(name)?))).collect();
        let Some(first) = shards.values().next() else { return Unindexed::None };
        if shards.values().any(|s| (s.stem, s.count) != (first.stem, first.count)) {
            return Unindexed::None;
        }
        let name = |number| format!("{}-{number:05}-of-{:05}.safetensors", first.stem, first.count);
        let all = (1..=first.count).map(name);
        // Their number is that of a name: a hostile one is not to be counted to.
        let missing: Vec<String> = all.filter(|name| !shards.contains_key(name.as_str())).take(LISTED).collect();
        if missing.is_empty() {
            return Unindexed::Whole(shards.into_keys().map(str::to_owned).collect());
        }
        Unindexed::Lacking(missing)
    }
}

/// Missing shards that are named at most.
const LISTED: usize = 3;

/// What the name of a shard says.
struct ShardName<'a> {
    stem: &'a str,
    count: usize,
}

impl ShardName<'_> {
    fn of(name: &str) -> Option<ShardName<'_>> {
        let digits = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
        let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let (number, count) = (digits(number)?, digits(count)?);
        (is_plain_shard(name) && (1..=count).contains(&number)).then_some(ShardName { stem, count })
    }
}

/// What the names of all shards of a set begin with, where this is one's; with the variant that some name after the
/// numbers: `model-00001-of-00002.fp16.safetensors`.
pub(super) fn shard_stem(name: &str) -> Option<String> {
    if let Some(shard) = ShardName::of(name) {
        return Some(shard.stem.to_owned());
    }
    let (numbered, variant) = name.strip_suffix(".safetensors")?.rsplit_once('.')?;
    let numbered = format!("{numbered}.safetensors");
    ShardName::of(&numbered).map(|shard| format!("{}.{variant}", shard.stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_written() {
        let parse = |text: &str| Index::parse(text).unwrap();
        let index = parse(r#"{"metadata":{"total_size":8,"x":[{}]},"weight_map":{"b":"2","a":"1","b":"3"},"y":1}"#);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(index.weight_map, [pair("b", "2"), pair("a", "1"), pair("b", "3")]);
        assert_eq!(index.total_size, Some(8.0));
        for (metadata, total_size) in
            [("{}", None), ("null", None), (r#"{"total_size":"8"}"#, None), (r#"{"total_size":1e3}"#, Some(1e3))]
        {
            let text = format!(r#"{{"weight_map":{{}},"metadata":{metadata}}}"#);
            assert_eq!(parse(&text).total_size, total_size, "{metadata}");
        }
        for bad in ["{}", "[]", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, r#"{"weight_map":null}"#] {
            assert!(Index::parse(bad).is_err(), "{bad}");
        }
        let many = r#""":"","#.repeat(MOST_TENSORS);
        assert!(Index::parse(&format!(r#"{{"weight_map":{{{many}"":""}}}}"#)).is_err());
    }

    #[test]
    fn shards_without_an_index_are_counted_by_their_names() {
        let of = |names: &[&str]| Unindexed::of(names.iter().copied());
        let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(of(&["config.json", second, first]), Unindexed::Whole(vec![first.into(), second.into()]));
        assert_eq!(of(&[second]), Unindexed::Lacking(vec![first.into()]));
        let Unindexed::Lacking(missing) = of(&["model-99999-of-99999.safetensors"]) else { panic!() };
        assert_eq!((missing.len(), missing[0].as_str()), (LISTED, "model-00001-of-99999.safetensors"));
        let others = [
            "model-1-of-2.safetensors",
            "model-00003-of-00002.safetensors",
            "x.safetensors",
            ".a-00001-of-00001.safetensors",
        ];
        assert_eq!(of(&others), Unindexed::None);
        assert_eq!(of(&[first, "other-00001-of-00001.safetensors"]), Unindexed::None);
    }

    #[test]
    fn shards_are_plain_names() {
        for name in ["model.safetensors", "model-00001-of-00002.safetensors"] {
            assert!(is_plain_shard(name), "{name}");
        }
        let long = ["", ".safetensors", "../a.safetensors", "a/b.safetensors", "a\\b.safetensors", "/a.safetensors"];
        for name in long.into_iter().chain(["a.bin", "a\n.safetensors", "a.safetensors/", ".a.safetensors"]) {
            assert!(!is_plain_shard(name), "{name:?}");
        }
    }
}
