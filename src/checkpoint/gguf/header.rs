//! Strict reader of what a GGUF says before its data begin, versions 2 and 3.
//!
//! Every length is checked against the bytes that are left before anything is allocated; strings and arrays stay where
//! they are until they are asked for.

mod cursor;

use super::Checked;
use super::types::GgmlType;
pub(super) use cursor::Cursor;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Far above any model; keeps a hostile file from growing tables.
const MAX_ENTRIES: u64 = 1 << 20;
/// Problems that are kept.
const MAX_PROBLEMS: usize = 1000;

/// What a GGUF says before its data begin.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    /// Those whose bytes are in the file.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the data begin.
    pub data: usize,
    /// What tensors begin at multiples of.
    pub alignment: usize,
    /// Which rules of the format the file breaks, as far as it can be followed all the same.
    pub problems: Vec<HeaderProblem>,
}

/// A rule of the format that a file breaks.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderProblem {
    /// Which.
    pub kind: ProblemKind,
    /// The tensor that breaks it, if it is one.
    pub tensor: Option<String>,
    /// In a sentence without the file's name.
    problem: String,
}

/// What a file breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// Two values of one key.
    DuplicateKey,
    /// Two tensors of one name.
    DuplicateTensor,
    /// A tensor does not begin where alignment has it.
    Misaligned,
    /// A tensor ends after the file.
    Truncated,
    /// Two tensors share bytes.
    Overlap,
    /// The parts of a split file do not belong together.
    Parts,
}

impl fmt::Display for HeaderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl HeaderProblem {
    pub(super) fn new(kind: ProblemKind, tensor: Option<&str>, problem: impl Into<String>) -> HeaderProblem {
        HeaderProblem { kind, tensor: tensor.map(str::to_owned), problem: problem.into() }
    }
}

/// What the header says of a tensor: its type, shape and offset.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// In which blocks its values are stored.
    pub ty: GgmlType,
    /// The shape, outermost dimension first, as PyTorch shows it ([out, in]).
    pub shape: Vec<usize>,
    /// Which of the files of a split one it lies in, from 0.
    pub part: usize,
    /// Where its bytes lie, counted from the start of the file.
    pub bytes: Range<usize>,
}

impl TensorInfo {
    /// Type and shape of what is stored: where elements share blocks, the bytes of each row.
    pub fn stored(&self) -> (Dtype, Vec<usize>) {
        if let Some(dtype) = self.ty.dtype() {
            return (dtype, self.shape.clone());
        }
        let mut shape = self.shape.clone();
        if let Some(row) = shape.last_mut() {
            *row = *row / self.ty.block_elements * self.ty.block_bytes;
        }
        (Dtype::U8, shape)
    }
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
    /// Reads the header of a whole file that keeps all rules. The error is one line without the path.
    pub(super) fn read(bytes: &[u8]) -> Checked<Header> {
        let header = Header::examine(bytes)?;
        header.problems.first().map_or(Ok(()), |problem| Err(problem.to_string())).map(|()| header)
    }

    /// Reads the header of a whole file, whatever rules it breaks. The error, where it cannot be followed, is one line
    /// without the path.
    pub(super) fn examine(bytes: &[u8]) -> Checked<Header> {
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
        let (mut metadata, mut problems) = (BTreeMap::new(), Vec::new());
        for _ in 0..key_count {
            let key = cursor.name("a metadata key")?;
            let value = cursor.value(&key)?;
            match metadata.entry(key) {
                Entry::Vacant(free) => _ = free.insert(value),
                Entry::Occupied(first) => {
                    let problem = format!("metadata {} is there twice; convert the model again", first.key());
                    tell(&mut problems, HeaderProblem::new(ProblemKind::DuplicateKey, None, problem));
                }
            }
        }
        let mut claims = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = cursor.name("a tensor name")?;
            let claim = cursor.tensor(&name)?;
            match claims.entry(name) {
                Entry::Vacant(free) => _ = free.insert(claim),
                Entry::Occupied(first) => {
                    let name = first.key();
                    let problem = format!("tensor {name} is there twice; convert the model again");
                    tell(&mut problems, HeaderProblem::new(ProblemKind::DuplicateTensor, Some(name), problem));
                }
            }
        }
        let alignment = alignment(&metadata)?;
        let data_start = (cursor.at as u64).next_multiple_of(alignment);
        let tensors = place(claims, data_start, alignment, bytes.len() as u64, &mut problems);
        Ok(Header { version, metadata, tensors, data: data_start as usize, alignment: alignment as usize, problems })
    }
}

/// Keeps a problem, unless there are very many.
fn tell(problems: &mut Vec<HeaderProblem>, problem: HeaderProblem) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(problem);
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
    problems: &mut Vec<HeaderProblem>,
) -> BTreeMap<String, TensorInfo> {
    let mut tensors = BTreeMap::new();
    for (name, claim) in claims {
        let mut broken = |kind, problem| tell(problems, HeaderProblem::new(kind, Some(&name), problem));
        if !claim.offset.is_multiple_of(alignment) {
            let problem = format!("tensor {name} has offset {}, expected a multiple of {alignment}", claim.offset);
            broken(ProblemKind::Misaligned, problem);
        }
        let start = data_start.checked_add(claim.offset);
        let end = start.and_then(|s| s.checked_add(claim.bytes as u64)).filter(|end| *end <= file_bytes);
        let (Some(start), Some(end)) = (start, end) else {
            let problem = format!("truncated: tensor {name} has {} bytes at data offset {}", claim.bytes, claim.offset);
            let problem = format!("{problem}, which end after the file's {file_bytes} bytes; fetch it again");
            broken(ProblemKind::Truncated, problem);
            continue;
        };
        let bytes = start as usize..end as usize;
        tensors.insert(name, TensorInfo { ty: claim.ty, shape: claim.shape, part: 0, bytes });
    }
    let mut in_order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| (info.bytes.start, info.bytes.end));
    for pair in in_order.windows(2) {
        if let [(a, first), (b, second)] = pair
            && second.bytes.start < first.bytes.end
        {
            let problem = format!("tensors {a} and {b} share bytes; convert the model again");
            tell(problems, HeaderProblem::new(ProblemKind::Overlap, Some(b.as_str()), problem));
        }
    }
    tensors
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Checked<u64> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => Ok(*n),
        Some(_) => Err("metadata general.alignment is wrong, expected a power of two from 8 to 1048576".to_owned()),
    }
}

#[cfg(test)]
mod tests;
