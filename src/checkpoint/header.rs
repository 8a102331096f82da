//! Strict reader of safetensors headers: every tensor's name, dtype, shape and absolute byte range.
//!
//! Stricter than the reference loader (0.8), which lets pass what its own specification forbids, so that two readers
//! can disagree about such a file: duplicate names (its last one wins), white space before the header, unknown
//! fields, names that are not plain.

#[cfg(test)]
mod tests;

use super::loose::{self, LooseJson};
use crate::error::HeaderError;
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// The largest header the format allows, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What the file says of itself before its tensors begin.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// How its elements are stored.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub bytes: Range<u64>,
}

impl Header {
    /// Reads the header at the start of `file`, all bytes of a safetensors file.
    ///
    /// # Errors
    /// The first rule of the format that is broken.
    pub fn read(file: &[u8]) -> Result<Header, HeaderError> {
        let mut first = None;
        let header = Header::examine(file, file.len() as u64, &mut |problem| {
            first.get_or_insert(problem);
        });
        first.map_or(Ok(header), Err)
    }

    /// Reads as much of a header as there is sense in and tells `tell` of every rule that is broken. What comes back
    /// holds the tensors that have as many bytes as shape and dtype ask for; other than after [`Header::read`], names
    /// can be odd or appear twice, and byte ranges can overlap or end after the file. `file` may be the beginning of
    /// `length` bytes.
    pub fn examine(file: &[u8], length: u64, tell: &mut dyn FnMut(HeaderError)) -> Header {
        tracing::trace!(bytes = file.len(), "a header is parsed");
        let mut header = Header::default();
        match text(file, length, tell).and_then(|(start, text)| Ok((start, parse(text, tell)?))) {
            Ok((start, entries)) => entries.check(start, length, &mut header, tell),
            Err(problem) => tell(problem),
        }
        header
    }
}

/// Where the data begins, and the header's text.
fn text<'a>(file: &'a [u8], found: u64, tell: &mut dyn FnMut(HeaderError)) -> Result<(u64, &'a str), HeaderError> {
    let (length, rest) = file.split_first_chunk::<8>().ok_or(HeaderError::NoLength(found))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong(length));
    }
    let start = 8 + length;
    let text = rest.get(..length as usize).ok_or(HeaderError::PastTheEnd { needed: start, found })?;
    let text = std::str::from_utf8(text).map_err(|e| HeaderError::NotUtf8(8 + e.valid_up_to()))?;
    let first = text.chars().next().unwrap_or(' ');
    if first != '{' {
        // White space is what some readers let pass: there may be more to tell.
        if !text.trim_start_matches([' ', '\n', '\r', '\t']).starts_with('{') {
            return Err(HeaderError::NoBrace(first));
        }
        tell(HeaderError::NoBrace(first));
    }
    Ok((start, text))
}

/// The header's JSON object, in order and with duplicates.
#[derive(Default)]
struct Entries {
    metadata: Vec<(String, String)>,
    tensors: Vec<RawTensor>,
    /// Entries were left out: what seems to be a hole may be theirs.
    incomplete: bool,
}

struct RawTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

fn parse(text: &str, tell: &mut dyn FnMut(HeaderError)) -> Result<Entries, HeaderError> {
    let mut entries = Entries::default();
    let mut had_metadata = false;
    let each = &mut |name: String, value: LooseJson| {
        if name != METADATA {
            match tensor(name, value, tell) {
                Ok(tensor) => entries.tensors.push(tensor),
                Err(problem) => {
                    entries.incomplete = true;
                    tell(problem);
                }
            }
            return;
        }
        let LooseJson::Object(pairs) = value else {
            return tell(bad(&name, "an object of text", value.kind()));
        };
        for (key, value) in pairs {
            match value {
                LooseJson::Text(value) => entries.metadata.push((key, value)),
                other => tell(bad(&name, &format!("text for {key:?}"), other.kind())),
            }
        }
        if std::mem::replace(&mut had_metadata, true) {
            tell(HeaderError::Duplicate(name));
        }
    };
    loose::each_member(text, each).map_err(|e| HeaderError::Json(e.to_string()))?;
    Ok(entries)
}

/// Longer names than any checkpoint has would only take memory, in every message about them.
const LONGEST_NAME: usize = 1024;

/// The key that is no tensor.
const METADATA: &str = "__metadata__";

/// One entry; the error is what makes it unusable.
fn tensor(name: String, value: LooseJson, tell: &mut dyn FnMut(HeaderError)) -> Result<RawTensor, HeaderError> {
    let bad = |expected: &str, found: &str| bad(&name, expected, found);
    if name.len() > LONGEST_NAME {
        let (length, start) = (name.len(), name.chars().take(40).collect::<String>());
        return Err(self::bad(&start, &format!("a name of up to {LONGEST_NAME} bytes"), &format!("{length}")));
    }
    let LooseJson::Object(fields) = value else { return Err(bad("an object", value.kind())) };
    let (mut dtype, mut shape, mut offsets) = (None, None, None);
    for (field, value) in fields {
        let again = match (field.as_str(), value) {
            ("dtype", LooseJson::Text(text)) => {
                let read: StrDeserializer<'_, ValueError> = text.as_str().into_deserializer();
                let known = Dtype::deserialize(read).map_err(|_| bad("a dtype", &format!("{text:?}")))?;
                dtype.replace(known).is_some()
            }
            ("shape", LooseJson::Whole(list)) => shape.replace(list).is_some(),
            ("data_offsets", LooseJson::Whole(list)) => {
                let &[begin, end] = list.as_slice() else {
                    return Err(bad("two data_offsets", &list.len().to_string()));
                };
                offsets.replace((begin, end)).is_some()
            }
            ("dtype", other) => return Err(bad("dtype as text", other.kind())),
            ("shape" | "data_offsets", other) => {
                return Err(bad(
                    &format!("{field} as a list of up to {} whole numbers", LooseJson::LONGEST),
                    other.kind(),
                ));
            }
            _ => {
                tell(HeaderError::UnknownField { tensor: name.clone(), field });
                continue;
            }
        };
        if again {
            tell(HeaderError::DuplicateField { tensor: name.clone(), field });
        }
    }
    match (dtype, shape, offsets) {
        (Some(dtype), Some(shape), Some(offsets)) => Ok(RawTensor { name, dtype, shape, offsets }),
        _ => Err(bad("dtype, shape and data_offsets", "fewer")),
    }
}

fn bad(name: &str, expected: &str, found: &str) -> HeaderError {
    HeaderError::Entry { name: name.into(), expected: expected.into(), found: found.into() }
}

impl Entries {
    fn check(self, start: u64, file_len: u64, header: &mut Header, tell: &mut dyn FnMut(HeaderError)) {
        for (key, value) in self.metadata {
            if header.metadata.insert(key.clone(), value).is_some() {
                tell(HeaderError::DuplicateMetadata(key));
            }
        }
        let mut incomplete = self.incomplete;
        let mut names = HashSet::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let name = &tensor.name;
            if !names.insert(name.as_str()) {
                tell(HeaderError::Duplicate(name.clone()));
            }
            if name.is_empty() || name.chars().any(|c| c.is_control() || c == '/' || c == '\\') {
                tell(HeaderError::OddName(name.clone()));
            }
        }
        drop(names);
        let mut claims = Vec::with_capacity(self.tensors.len());
        header.tensors.reserve_exact(self.tensors.len());
        for RawTensor { name, dtype, shape, offsets: (begin, end) } in self.tensors {
            let (Some(needed), Some(absolute)) = (byte_count(&shape, dtype), start.checked_add(end)) else {
                incomplete = true;
                tell(HeaderError::Overflow(name));
                continue;
            };
            if end.checked_sub(begin) != Some(needed) {
                incomplete |= end < begin;
                if end >= begin {
                    claims.push((start + begin, absolute, name.clone()));
                }
                tell(HeaderError::SizeMismatch { name, needed, found: end.saturating_sub(begin) });
                continue;
            }
            let shape = shape.into_iter().map(|d| d as usize).collect();
            header.tensors.push(TensorEntry { name, dtype, shape, bytes: start + begin..absolute });
        }
        header.tensors.sort_by_key(|t| (t.bytes.start, t.bytes.end));
        layout(&header.tensors, claims, start, file_len, incomplete, tell);
    }
}

/// Whether the tensors, and what tensors of a wrong size claim (`claims`), cover the data one after the other.
fn layout(
    tensors: &[TensorEntry],
    claims: Vec<(u64, u64, String)>,
    start: u64,
    file_len: u64,
    incomplete: bool,
    tell: &mut dyn FnMut(HeaderError),
) {
    let claimed = claims.iter().map(|(from, to, name)| (*from, *to, name.as_str()));
    let mut ranges: Vec<_> = tensors.iter().map(|t| (t.bytes.start, t.bytes.end, t.name.as_str())).collect();
    ranges.extend(claimed);
    ranges.sort_by_key(|(from, to, _)| (*from, *to));
    let mut at = start;
    let mut previous = "";
    for (from, to, name) in ranges {
        if from < at {
            let (first, second) = (previous.to_owned(), name.to_owned());
            tell(HeaderError::Overlap { first, second, offset: from - start });
        }
        if from > at && !incomplete {
            tell(HeaderError::Hole { from: at - start, to: from - start });
        }
        if to >= at {
            (at, previous) = (to, name);
        }
    }
    match at.cmp(&file_len) {
        std::cmp::Ordering::Greater => tell(HeaderError::Truncated { needed: at, found: file_len }),
        std::cmp::Ordering::Less if !incomplete => tell(HeaderError::Trailing(file_len - at)),
        _ => {}
    }
}

/// Bytes of a tensor, if they are whole and fit in 64 bits.
fn byte_count(shape: &[u64], dtype: Dtype) -> Option<u64> {
    // A dimension that no memory could hold is refused even where another one is 0.
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(usize::try_from(d).ok()? as u64))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    (bits % 8 == 0).then_some(bits / 8)
}
