//! The one place where the bytes of a header are read, forward, each length checked before it is believed.

use super::{Array, Checked, Claim, GgmlType, Value, ValueType};
use std::fmt::Display;
use std::ops::Range;

/// As in ggml.h.
const MAX_DIMENSIONS: u32 = 4;
/// The specification's longest key, in bytes.
const MAX_NAME_BYTES: u64 = 65_535;
/// Arrays within arrays; files in use have none.
const MAX_DEPTH: usize = 4;

impl ValueType {
    fn from_id(id: u32) -> Option<ValueType> {
        use ValueType::{Array, Bool, F32, F64, I8, I16, I32, I64, Text, U8, U16, U32, U64};
        [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64].into_iter().find(|t| *t as u32 == id)
    }

    /// As GGUF calls it.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::Text => "texts",
            ValueType::Array => "arrays",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// The fewest bytes a value takes, and whether all take so many.
    fn least_bytes(self) -> (u64, bool) {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => (1, true),
            ValueType::U16 | ValueType::I16 => (2, true),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => (4, true),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => (8, true),
            ValueType::Text => (8, false),
            ValueType::Array => (12, false),
        }
    }
}

/// Reads forward through the header.
pub(in super::super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Cursor<'_> {
    fn skip(&mut self, count: u64, what: impl Display) -> Checked<Range<usize>> {
        let left = self.bytes.len().saturating_sub(self.at);
        if count > left as u64 {
            let problem = format!("truncated at byte {}: {what} needs {count} bytes, {left} are left", self.at);
            return Err(format!("{problem}; fetch the file again"));
        }
        let from = self.at;
        self.at += count as usize;
        Ok(from..self.at)
    }

    pub(super) fn take<const N: usize>(&mut self, what: impl Display) -> Checked<[u8; N]> {
        let range = self.skip(N as u64, what)?;
        let bytes = self.bytes.get(range).and_then(|b| b.first_chunk());
        bytes.copied().ok_or_else(|| "truncated; fetch the file again".to_owned())
    }

    pub(super) fn u32(&mut self, what: impl Display) -> Checked<u32> {
        self.take(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: impl Display) -> Checked<u64> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each.
    pub(super) fn count(&mut self, what: impl Display, least: u64) -> Checked<u64> {
        let count = self.u64(&what)?;
        let left = self.bytes.len().saturating_sub(self.at) as u64;
        if count > left / least {
            return Err(format!("truncated: {what} is {count}, which {left} bytes cannot hold; fetch the file again"));
        }
        Ok(count)
    }

    /// A text: its length, then its bytes.
    pub fn text(&mut self, what: impl Display) -> Checked<Range<usize>> {
        let length = self.u64(&what)?;
        self.skip(length, what)
    }

    pub(super) fn name(&mut self, what: &str) -> Checked<String> {
        let at = self.at;
        let length = self.u64(what)?;
        if length == 0 || length > MAX_NAME_BYTES {
            return Err(format!("{what} at byte {at} has length {length}, expected 1 to {MAX_NAME_BYTES}"));
        }
        let range = self.skip(length, what)?;
        let text = self.bytes.get(range).and_then(|b| std::str::from_utf8(b).ok());
        match text {
            Some(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
            _ => Err(format!("{what} at byte {at} is not plain UTF-8 text")),
        }
    }

    fn value_type(&mut self, key: &str) -> Checked<ValueType> {
        let id = self.u32(key)?;
        ValueType::from_id(id).ok_or_else(|| format!("metadata {key} has the unknown type {id}, expected 0 to 12"))
    }

    pub(super) fn value(&mut self, key: &str) -> Checked<Value> {
        Ok(match self.value_type(key)? {
            ValueType::U8 => Value::Unsigned(u8::from_le_bytes(self.take(key)?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(self.take(key)?).into()),
            ValueType::U32 => Value::Unsigned(self.u32(key)?.into()),
            ValueType::U64 => Value::Unsigned(self.u64(key)?),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(self.take(key)?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(self.take(key)?).into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(self.take(key)?).into()),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(self.take(key)?)),
            ValueType::F32 => Value::Float(f32::from_le_bytes(self.take(key)?).into()),
            ValueType::F64 => Value::Float(f64::from_le_bytes(self.take(key)?)),
            ValueType::Bool => match self.take::<1>(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [n] => return Err(format!("metadata {key} is the truth value {n}, expected 0 or 1")),
            },
            ValueType::Text => Value::Text(self.text(key)?),
            ValueType::Array => Value::Array(self.array(key, 1)?),
        })
    }

    fn array(&mut self, key: &str, depth: usize) -> Checked<Array> {
        if depth > MAX_DEPTH {
            return Err(format!("metadata {key} has arrays nested more than {MAX_DEPTH} deep"));
        }
        let element = self.value_type(key)?;
        let (least, all) = element.least_bytes();
        let count = self.count(format_args!("the length of {key}"), least)?;
        let start = self.at;
        if all {
            self.skip(count * least, key)?;
        } else {
            for _ in 0..count {
                let _ = match element {
                    ValueType::Array => self.array(key, depth + 1)?.bytes,
                    _ => self.text(key)?,
                };
            }
        }
        Ok(Array { element, count: count as usize, bytes: start..self.at })
    }

    pub(super) fn tensor(&mut self, name: &str) -> Checked<Claim> {
        let dimensions = self.u32(name)?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(format!("tensor {name} has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}"));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let length = self.u64(name)?;
            match usize::try_from(length) {
                Ok(length) if length > 0 => shape.push(length),
                _ => return Err(format!("tensor {name} has a dimension of length {length}")),
            }
        }
        let id = self.u32(name)?;
        let ty = GgmlType::from_id(id).ok_or_else(|| format!("tensor {name} has the unknown type {id}"))?;
        let offset = self.u64(name)?;
        // GGUF lists the innermost dimension first; a row of it has to fill whole blocks.
        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(ty.block_elements) {
            let problem = format!("tensor {name} has rows of {row} elements");
            return Err(format!("{problem}, expected a multiple of {} for {}", ty.block_elements, ty.name));
        }
        let elements = shape.iter().try_fold(1usize, |n, length| n.checked_mul(*length));
        let bytes = elements.and_then(|n| ty.bytes_of(n)).ok_or_else(|| {
            let lengths: Vec<String> = shape.iter().map(usize::to_string).collect();
            format!("tensor {name} has shape [{}], whose size overflows", lengths.join(", "))
        })?;
        shape.reverse();
        Ok(Claim { ty, shape, bytes, offset })
    }
}
