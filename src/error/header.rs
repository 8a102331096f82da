//! How a safetensors header can break the format.

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
        /// Bytes that the file has.
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
    /// An entry is not what the format describes.
    #[error("the header is not valid: {name:?}: expected {expected}, found {found}")]
    Entry {
        /// The tensor, or `__metadata__`.
        name: String,
        /// What the format asks for.
        expected: String,
        /// What stands there instead.
        found: String,
    },
    /// Two tensors share a name.
    #[error("the header names {0:?} twice")]
    Duplicate(String),
    /// Two entries of `__metadata__` share a key.
    #[error("__metadata__ names {0:?} twice")]
    DuplicateMetadata(String),
    /// A tensor has one field twice.
    #[error("tensor {tensor:?} has two fields {field:?}")]
    DuplicateField {
        /// The tensor.
        tensor: String,
        /// The key that its entry has.
        field: String,
    },
    /// A tensor has a field that the format does not know.
    #[error("tensor {tensor:?} has the unknown field {field:?}")]
    UnknownField {
        /// The tensor.
        tensor: String,
        /// The key that its entry has.
        field: String,
    },
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
        /// Bytes that shape and dtype ask for.
        needed: u64,
        /// Bytes between its data_offsets.
        found: u64,
    },
    /// A tensor begins before the previous one ends.
    #[error("tensors {first} and {second} overlap at data offset {offset}")]
    Overlap {
        /// The earlier tensor.
        first: String,
        /// The tensor that begins inside it.
        second: String,
        /// Byte of the data at which that one begins.
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
        /// Bytes that the file should have by its header.
        needed: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// Bytes after the last tensor.
    #[error("{0} bytes follow the last tensor")]
    Trailing(u64),
}
