//! Strict reader of safetensors headers: every tensor's name, dtype, shape and absolute byte range.
//!
//! Stricter than the reference loader (0.8), which lets pass what its own specification forbids, so that two readers
//! can disagree about such a file: duplicate names (its last one wins), white space before the header, unknown
//! fields, names that are not plain.

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

/// The largest header the format allows, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What the file says of itself before its tensors begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// `__metadata__`, such as `{"format": "pt"}`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorEntry {
    /// The name, a module path and `.weight` or `.bias`.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub bytes: Range<u64>,
}

/// The rule of the format that a header breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer than the 8 bytes of the length.
    #[error("truncated: a safetensors file begins with 8 bytes, this one has {0}")]
    NoLength(u64),
    /// The length is beyond what the format allows.
    #[error("header length {0} is over the format's limit of 100,000,000 bytes; this is not a safetensors file")]
    TooLong(u64),
    /// The header would end after the file.
    #[error("truncated: the header needs {needed} bytes, the file has {found}")]
    PastTheEnd {
        /// 8 plus the length the file gives.
        needed: u64,
        /// The file's size.
        found: u64,
    },
    /// The header is not text.
    #[error("the header is not UTF-8 (byte {0})")]
    NotUtf8(usize),
    /// The header does not begin with its brace.
    #[error("the header begins with {0:?}, expected '{{'")]
    NoBrace(char),
    /// The header is not the JSON that the format describes.
    #[error("the header is not valid: {0}")]
    Json(String),
    /// Two tensors share a name.
    #[error("the header names {0:?} twice")]
    Duplicate(String),
    /// A name that is empty or holds control characters or path parts.
    #[error("the header holds the tensor name {0:?}, expected a plain dotted path")]
    OddName(String),
    /// Shape times element size does not fit in 64 bits, or is not whole bytes.
    #[error("tensor {0}: shape and dtype do not give a whole number of bytes that fits in 64 bits")]
    Overflow(String),
    /// The byte range has another size than shape and dtype give.
    #[error("tensor {name}: shape and dtype need {needed} bytes, its data_offsets span {found}")]
    SizeMismatch {
        /// The tensor.
        name: String,
        /// By shape and dtype.
        needed: u64,
        /// By data_offsets.
        found: u64,
    },
    /// A tensor begins before the previous one ends.
    #[error("tensors {first} and {second} overlap at data offset {offset}")]
    Overlap {
        /// The earlier tensor.
        first: String,
        /// The tensor that begins inside it.
        second: String,
        /// Where it begins.
        offset: u64,
    },
    /// Bytes that no tensor owns.
    #[error("data offsets {from} to {to} belong to no tensor")]
    Hole {
        /// First byte of the hole.
        from: u64,
        /// First byte after it.
        to: u64,
    },
    /// The file ends before its last tensor.
    #[error("truncated: the tensors need {needed} bytes, the file has {found}")]
    Truncated {
        /// By the header.
        needed: u64,
        /// The file's size.
        found: u64,
    },
    /// Bytes after the last tensor.
    #[error("{0} bytes follow the last tensor")]
    Trailing(u64),
}

impl Header {
    /// Reads the header at the start of `file`, all bytes of a safetensors file.
    ///
    /// # Errors
    /// The first rule of the format that is broken.
    pub fn read(file: &[u8]) -> Result<Header, HeaderError> {
        let found = file.len() as u64;
        let (length, rest) = file.split_first_chunk::<8>().ok_or(HeaderError::NoLength(found))?;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLong(length));
        }
        let start = 8 + length;
        let text = rest.get(..length as usize).ok_or(HeaderError::PastTheEnd { needed: start, found })?;
        let text = std::str::from_utf8(text).map_err(|e| HeaderError::NotUtf8(8 + e.valid_up_to()))?;
        match text.chars().next() {
            Some('{') => {}
            other => return Err(HeaderError::NoBrace(other.unwrap_or(' '))),
        }
        let entries: Entries = serde_json::from_str(text).map_err(|e| HeaderError::Json(e.to_string()))?;
        entries.check(start, found)
    }
}

/// The header's JSON object, in order and with duplicates.
#[derive(Default)]
struct Entries {
    metadata: Option<Pairs<String>>,
    tensors: Vec<(String, RawTensor)>,
    duplicate: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl Entries {
    fn check(self, start: u64, file_len: u64) -> Result<Header, HeaderError> {
        if let Some(name) = self.duplicate {
            return Err(HeaderError::Duplicate(name));
        }
        let mut metadata = BTreeMap::new();
        for (key, value) in self.metadata.unwrap_or_default().0 {
            if metadata.insert(key.clone(), value).is_some() {
                return Err(HeaderError::Duplicate(key));
            }
        }
        let mut names = HashSet::new();
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, raw) in self.tensors {
            if !names.insert(name.clone()) {
                return Err(HeaderError::Duplicate(name));
            }
            if name.is_empty() || name.chars().any(|c| c.is_control() || c == '/' || c == '\\') {
                return Err(HeaderError::OddName(name));
            }
            let (begin, end) = raw.data_offsets;
            let needed = byte_count(&raw.shape, raw.dtype).ok_or_else(|| HeaderError::Overflow(name.clone()))?;
            if end.checked_sub(begin) != Some(needed) {
                return Err(HeaderError::SizeMismatch { name, needed, found: end.saturating_sub(begin) });
            }
            let end = start.checked_add(end).ok_or_else(|| HeaderError::Overflow(name.clone()))?;
            tensors.push(TensorEntry { name, dtype: raw.dtype, shape: raw.shape, bytes: start + begin..end });
        }
        tensors.sort_by_key(|t| (t.bytes.start, t.bytes.end));
        let mut at = start;
        let mut previous = "";
        for tensor in &tensors {
            let bytes = &tensor.bytes;
            if bytes.start < at {
                let (first, second) = (previous.to_owned(), tensor.name.clone());
                return Err(HeaderError::Overlap { first, second, offset: bytes.start - start });
            }
            if bytes.start > at {
                return Err(HeaderError::Hole { from: at - start, to: bytes.start - start });
            }
            at = bytes.end;
            previous = &tensor.name;
        }
        match at.cmp(&file_len) {
            std::cmp::Ordering::Greater => Err(HeaderError::Truncated { needed: at, found: file_len }),
            std::cmp::Ordering::Less => Err(HeaderError::Trailing(file_len - at)),
            std::cmp::Ordering::Equal => Ok(Header { metadata, tensors }),
        }
    }
}

/// Bytes of a tensor, if they are whole and fit in 64 bits.
fn byte_count(shape: &[usize], dtype: Dtype) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// A JSON object with values of one type, in order and with duplicates.
struct Pairs<T>(Vec<(String, T)>);

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = Pairs<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of text")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Pairs(entries))
            }
        }
        d.deserialize_map(V(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if entries.metadata.replace(map.next_value()?).is_some() {
                            entries.duplicate = Some(name);
                        }
                    } else {
                        let tensor = map
                            .next_value()
                            .map_err(|e| serde::de::Error::custom(format_args!("tensor {name:?}: {e}")))?;
                        entries.tensors.push((name, tensor));
                    }
                }
                Ok(entries)
            }
        }
        d.deserialize_map(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    }

    #[test]
    fn reads_what_the_reference_writes() {
        use safetensors::tensor::TensorView;
        let data: Vec<u8> = (0..64).collect();
        let tensors = [
            ("b", TensorView::new(Dtype::F32, vec![2, 3], &data[..24]).unwrap()),
            ("a.weight", TensorView::new(Dtype::BF16, vec![5], &data[30..40]).unwrap()),
            ("empty", TensorView::new(Dtype::F32, vec![0, 4], &[]).unwrap()),
        ];
        let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
        let bytes = safetensors::serialize(tensors, Some(metadata)).unwrap();
        let header = Header::read(&bytes).unwrap();
        assert_eq!(header.metadata["format"], "pt");
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(header.tensors.len(), reference.len());
        for entry in &header.tensors {
            let theirs = reference.tensor(&entry.name).unwrap();
            assert_eq!((entry.dtype, entry.shape.as_slice()), (theirs.dtype(), theirs.shape()));
            assert_eq!(&bytes[entry.bytes.start as usize..entry.bytes.end as usize], theirs.data());
        }
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let t = |name: &str, from: u64, to: u64| {
            format!(r#""{name}":{{"dtype":"F32","shape":[{}],"data_offsets":[{from},{to}]}}"#, (to - from) / 4)
        };
        let read = |header: String, data| Header::read(&file(&header, data)).unwrap_err();
        use HeaderError::*;
        assert_eq!(Header::read(b"1234").unwrap_err(), NoLength(4));
        assert_eq!(Header::read(&u64::MAX.to_le_bytes()).unwrap_err(), TooLong(u64::MAX));
        assert_eq!(Header::read(&100u64.to_le_bytes()).unwrap_err(), PastTheEnd { needed: 108, found: 8 });
        let mut invalid = file("{}", 0);
        invalid[9] = 0xff;
        assert_eq!(Header::read(&invalid).unwrap_err(), NotUtf8(9));
        assert_eq!(read(" {}".into(), 0), NoBrace(' '));
        assert!(matches!(read("{".into(), 0), Json(_)));
        assert!(matches!(read(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#.into(), 4), Json(_)));
        assert!(matches!(read(r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#.into(), 4), Json(_)));
        assert!(matches!(read(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.into(), 4), Json(_)));
        assert_eq!(read(format!("{{{},{}}}", t("a", 0, 4), t("a", 4, 8)), 8), Duplicate("a".into()));
        assert_eq!(read(r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0), Duplicate("__metadata__".into()));
        assert_eq!(read(r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), 0), Duplicate("k".into()));
        assert_eq!(read(format!("{{{}}}", t("../a", 0, 4)), 4), OddName("../a".into()));
        let overflow = r#"{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}"#;
        assert_eq!(read(overflow.into(), 4), Overflow("a".into()));
        let mismatch = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
        assert_eq!(read(mismatch.into(), 4), SizeMismatch { name: "a".into(), needed: 8, found: 4 });
        let overlap = Overlap { first: "a".into(), second: "b".into(), offset: 4 };
        assert_eq!(read(format!("{{{},{}}}", t("a", 0, 8), t("b", 4, 12)), 12), overlap);
        assert_eq!(read(format!("{{{},{}}}", t("a", 0, 4), t("b", 8, 12)), 12), Hole { from: 4, to: 8 });
        let header = format!("{{{}}}", t("a", 0, 8));
        let start = 8 + header.len() as u64;
        assert_eq!(read(header.clone(), 4), Truncated { needed: start + 8, found: start + 4 });
        assert_eq!(read(header, 9), Trailing(1));
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), n in 0u64..300) {
            let mut file = n.to_le_bytes().to_vec();
            file.extend(&bytes);
            let _ = Header::read(&file);
        }

        #[test]
        fn changed_headers_read_alike_or_are_refused(at in 8usize..150, byte: u8) {
            let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
            let mut bytes = file(header, 32);
            bytes[at] = byte;
            if let Ok(ours) = Header::read(&bytes) {
                let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                for entry in &ours.tensors {
                    let tensor = theirs.tensor(&entry.name).unwrap();
                    prop_assert_eq!(&entry.shape[..], tensor.shape());
                    let range = entry.bytes.start as usize..entry.bytes.end as usize;
                    prop_assert_eq!(&bytes[range], tensor.data());
                }
            }
        }
    }
}
