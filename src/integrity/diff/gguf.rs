//! GGUF files: what their metadata say, and bytes that are neither that nor a tensor's.

use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::gguf::header::Value;
use crate::integrity::difference::Difference;
use std::collections::BTreeSet;

/// Characters of a text that are told.
const SHOWN: usize = 60;

/// Keys whose values differ, in order.
pub(super) fn metadata(a: &GgufFile, b: &GgufFile) -> Vec<Difference> {
    let keys: BTreeSet<&str> = a.metadata().chain(b.metadata()).map(|(key, _)| key).collect();
    let said = |file: &GgufFile, key: &str| file.get(key).map(|value| in_words(file, value));
    let differs = |key: &&str| match (a.get(key), b.get(key)) {
        (Some(was), Some(is)) => !same(a, was, b, is),
        _ => true,
    };
    let tell = |key: &str| Difference::MetadataChanged { key: key.into(), before: said(a, key), after: said(b, key) };
    keys.into_iter().filter(differs).map(tell).collect()
}

/// Files of which no other difference tells: the order of tensors, padding, what lies after them.
pub(super) fn other_bytes(a: &GgufFile, b: &GgufFile) -> Vec<Difference> {
    let bytes = |file: &GgufFile| file.maps().iter().map(|map| map.bytes().len() as u64).sum();
    let same = a.maps().len() == b.maps().len() && a.maps().iter().zip(b.maps()).all(|(a, b)| a.bytes() == b.bytes());
    let name = b.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let changed =
        Difference::FileChanged { path: name, bytes_before: bytes(a), bytes_after: bytes(b), same_tensors: true };
    if same { Vec::new() } else { vec![changed] }
}

fn same(a: &GgufFile, was: &Value, b: &GgufFile, is: &Value) -> bool {
    match (was, is) {
        (Value::Text(was), Value::Text(is)) => a.bytes_of(was) == b.bytes_of(is),
        (Value::Array(was), Value::Array(is)) => {
            (was.element, was.count) == (is.element, is.count) && a.bytes_of(&was.bytes) == b.bytes_of(&is.bytes)
        }
        // A NaN is as it was.
        (Value::Float(was), Value::Float(is)) => was.to_bits() == is.to_bits(),
        (was, is) => was == is,
    }
}

fn in_words(file: &GgufFile, value: &Value) -> String {
    match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Array(array) => format!("an array of {} {}", array.count, array.element.name()),
        Value::Text(at) => {
            let text = String::from_utf8_lossy(file.bytes_of(at));
            let shown: String = text.chars().take(SHOWN).collect();
            let more = if shown.len() < text.len() { format!("… ({} bytes)", text.len()) } else { String::new() };
            format!("{shown:?}{more}")
        }
    }
}
