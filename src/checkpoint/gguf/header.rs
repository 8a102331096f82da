//! Strict reader of what a GGUF says before its data begin, versions 2 and 3.
//!
//! Every length is checked against the bytes that are left before anything is allocated; strings and arrays stay where
//! they are until they are asked for.

use super::Checked;
use super::types::GgmlType;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// As in ggml.h.
const MAX_DIMENSIONS: u32 = 4;
/// The specification's longest key, in bytes.
const MAX_NAME_BYTES: u64 = 65_535;
/// Arrays within arrays; files in use have none.
const MAX_DEPTH: usize = 4;
/// Far above any model; keeps a hostile file from growing tables.
const MAX_ENTRIES: u64 = 1 << 20;

/// What a GGUF says before its data begin.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// What the header says of a tensor: its type, shape and offset.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// In which blocks its values are stored.
    pub ty: GgmlType,
    /// The shape, outermost dimension first, as PyTorch shows it ([out, in]).
    pub shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub bytes: Range<usize>,
}

/// A metadata value. Texts and arrays are byte ranges of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A u8, u16, u32 or u64.
    Unsigned(u64),
    /// An i8, i16, i32 or i64.
    Signed(i64),
    /// An f32, widened, or an f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text, by the bytes of the file that it lies in.
    Text(Range<usize>),
    /// A list of values of one type, which is read when it is asked for.
    Array(Array),
}

/// Where the elements of an array lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The type that all its elements have.
    pub element: ValueType,
    /// How many elements the header says there are.
    pub count: usize,
    /// The bytes of the file that they lie in.
    pub bytes: Range<usize>,
}

/// The type of a metadata value; each discriminant is the number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Header {
    /// Reads the header of a whole file. The error is one line without the path.
    pub(super) fn read(bytes: &[u8]) -> Checked<Header> {
        tracing::trace!(bytes = bytes.len(), "a header is parsed");
        let mut cursor = Cursor { bytes, at: 0 };
        let magic = cursor.take::<4>("the magic")?;
        if magic != MAGIC {
            return Err(format!("is not a GGUF file: expected it to begin with \"GGUF\", found {magic:02x?}"));
        }
        let version = cursor.u32("the version")?;
        match version {
            2 | 3 => {}
            1 => return Err("is GGUF version 1, expected 2 or 3; convert the model again".to_owned()),
            _ if (1..=3).contains(&version.swap_bytes()) => {
                return Err("is a big-endian GGUF, expected little-endian; convert it with gguf-convert-endian".into());
            }
            _ => return Err(format!("is GGUF version {version}, expected 2 or 3; a newer achilles-audit may read it")),
        }
        let tensor_count = cursor.count("the tensor count", 24)?;
        let key_count = cursor.count("the metadata count", 13)?;
        if tensor_count.max(key_count) > MAX_ENTRIES {
            let problem = format!("claims {tensor_count} tensors and {key_count} metadata keys");
            return Err(format!("{problem}, expected at most {MAX_ENTRIES} of each"));
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let key = cursor.name("a metadata key")?;
            let value = cursor.value(&key)?;
            if metadata.contains_key(&key) {
                return Err(format!("metadata {key} is there twice; convert the model again"));
            }
            metadata.insert(key, value);
        }
        let mut claims = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = cursor.name("a tensor name")?;
            let claim = cursor.tensor(&name)?;
            if claims.contains_key(&name) {
                return Err(format!("tensor {name} is there twice; convert the model again"));
            }
            claims.insert(name, claim);
        }
        let alignment = alignment(&metadata)?;
        let data_start = (cursor.at as u64).next_multiple_of(alignment);
        let tensors = place(claims, data_start, alignment, bytes.len() as u64)?;
        Ok(Header { version, metadata, tensors })
    }
}

/// A tensor as the header lists it; the offset counts from the start of the data.
struct Claim {
    ty: GgmlType,
    shape: Vec<usize>,
    bytes: usize,
    offset: u64,
}

/// Checks where the tensors lie, and that no two share bytes.
fn place(
    claims: BTreeMap<String, Claim>,
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Checked<BTreeMap<String, TensorInfo>> {
    let mut tensors = BTreeMap::new();
    for (name, claim) in claims {
        if !claim.offset.is_multiple_of(alignment) {
            return Err(format!("tensor {name} has offset {}, expected a multiple of {alignment}", claim.offset));
        }
        let start = data_start.checked_add(claim.offset);
        let end = start.and_then(|s| s.checked_add(claim.bytes as u64)).filter(|end| *end <= file_bytes);
        let (Some(start), Some(end)) = (start, end) else {
            let problem = format!("truncated: tensor {name} has {} bytes at data offset {}", claim.bytes, claim.offset);
            return Err(format!("{problem}, which end after the file's {file_bytes} bytes; fetch it again"));
        };
        let bytes = start as usize..end as usize;
        tensors.insert(name, TensorInfo { ty: claim.ty, shape: claim.shape, bytes });
    }
    let mut in_order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| (info.bytes.start, info.bytes.end));
    for pair in in_order.windows(2) {
        if let [(a, first), (b, second)] = pair
            && second.bytes.start < first.bytes.end
        {
            return Err(format!("tensors {a} and {b} share bytes; convert the model again"));
        }
    }
    Ok(tensors)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Checked<u64> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => Ok(*n),
        Some(_) => Err("metadata general.alignment is wrong, expected a power of two from 8 to 1048576".to_owned()),
    }
}

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
pub(super) struct Cursor<'a> {
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

    fn take<const N: usize>(&mut self, what: impl Display) -> Checked<[u8; N]> {
        let range = self.skip(N as u64, what)?;
        let bytes = self.bytes.get(range).and_then(|b| b.first_chunk());
        bytes.copied().ok_or_else(|| "truncated; fetch the file again".to_owned())
    }

    fn u32(&mut self, what: impl Display) -> Checked<u32> {
        self.take(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: impl Display) -> Checked<u64> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, what: impl Display, least: u64) -> Checked<u64> {
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

    fn name(&mut self, what: &str) -> Checked<String> {
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

    fn value(&mut self, key: &str) -> Checked<Value> {
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

    fn tensor(&mut self, name: &str) -> Checked<Claim> {
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

#[cfg(test)]
mod tests;
