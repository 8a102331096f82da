//! The element types GGUF knows: their names, how they pack, and which of them can be read.

use super::blocks::{self, Decode};
use super::codes::{self, Code, Scales, Zero};
use crate::checkpoint::number::NumberType;
use safetensors::Dtype;

/// An element type of GGML.
#[derive(Debug, Clone, Copy)]
pub struct GgmlType {
    /// The number the file holds.
    pub id: u32,
    /// The name GGML gives it.
    pub name: &'static str,
    /// Elements that one block encodes; a row is a whole number of blocks.
    pub block_elements: usize,
    /// Bytes that one block takes, its scales among them.
    pub block_bytes: usize,
    /// How it becomes f32; none where this tool cannot.
    pub(super) decode: Option<Decode>,
    /// What all values of a block are multiplied by.
    pub scales: Scales,
    /// The code of elements that stands for 0.
    pub zero: Zero,
}

/// Types are told apart by their numbers.
impl PartialEq for GgmlType {
    fn eq(&self, other: &GgmlType) -> bool {
        self.id == other.id
    }
}

impl GgmlType {
    /// The type of this number, if there is one.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        TYPES.iter().find(|t| t.id == id).copied()
    }

    /// Whether its values can be read.
    pub fn is_supported(self) -> bool {
        self.decode.is_some()
    }

    /// What its elements are where each is a number of its own.
    pub fn dtype(self) -> Option<Dtype> {
        Some(match self.name {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            "F64" => Dtype::F64,
            "I8" => Dtype::I8,
            "I16" => Dtype::I16,
            "I32" => Dtype::I32,
            "I64" => Dtype::I64,
            _ => return None,
        })
    }

    /// The names of all types that can be read, for messages.
    pub fn supported() -> String {
        TYPES.iter().filter(|t| t.is_supported()).map(|t| t.name).collect::<Vec<_>>().join(", ")
    }

    /// The bytes that `elements` take; none where they fill no whole number of blocks or the count overflows.
    pub fn bytes_of(self, elements: usize) -> Option<usize> {
        let whole = elements.is_multiple_of(self.block_elements);
        whole.then(|| (elements / self.block_elements).checked_mul(self.block_bytes)).flatten()
    }
}

const fn unread(id: u32, name: &'static str, block_elements: usize, block_bytes: usize) -> GgmlType {
    let (scales, zero) = (Scales::None, Zero::None(NOT_READ));
    GgmlType { id, name, block_elements, block_bytes, decode: None, scales, zero }
}

const fn plain(id: u32, name: &'static str, block_bytes: usize, decode: Decode) -> GgmlType {
    let (scales, zero) = (Scales::None, Zero::None(NO_BLOCKS));
    GgmlType { id, name, block_elements: 1, block_bytes, decode: Some(decode), scales, zero }
}

const fn blocks(
    (id, name): (u32, &'static str),
    [block_elements, block_bytes]: [usize; 2],
    decode: Decode,
    scales: Scales,
    zero: Zero,
) -> GgmlType {
    GgmlType { id, name, block_elements, block_bytes, decode: Some(decode), scales, zero }
}

/// A half-precision scale at this byte of a block.
const fn half(at: usize) -> Scales {
    Scales::Half { at, count: 1 }
}

/// Likewise, and beside it that of what is taken off or added.
const fn halves(at: usize) -> Scales {
    Scales::Half { at, count: 2 }
}

/// Where codes lie, and which stands for 0.
const fn code(lies: fn(usize) -> Code, zero: u32) -> Zero {
    Zero::Code { lies, zero }
}

const NOT_READ: &str = "it cannot be read";
const NO_BLOCKS: &str = "it has no blocks";
const MINIMA: Zero = Zero::None("its values have a minimum added, so that no code stands for 0");
const TABLE: Zero = Zero::None("none of the 16 values of its codes is 0");
const SHARED: Zero = Zero::None("neighbouring columns share a code");

/// `ggml_type` of ggml.h; sizes as gguf-py's `GGML_QUANT_SIZES` lists them.
static TYPES: [GgmlType; 34] = [
    plain(0, "F32", 4, |bytes, out| NumberType::F32.decode(bytes, out)),
    plain(1, "F16", 2, |bytes, out| NumberType::F16.decode(bytes, out)),
    plain(30, "BF16", 2, |bytes, out| NumberType::Bf16.decode(bytes, out)),
    plain(28, "F64", 8, |bytes, out| NumberType::F64.decode(bytes, out)),
    blocks((2, "Q4_0"), [32, 18], blocks::q4_0, half(0), code(codes::q4_0, 8)),
    blocks((3, "Q4_1"), [32, 20], blocks::q4_1, halves(0), MINIMA),
    blocks((6, "Q5_0"), [32, 22], blocks::q5_0, half(0), code(codes::q5_0, 16)),
    blocks((7, "Q5_1"), [32, 24], blocks::q5_1, halves(0), MINIMA),
    blocks((8, "Q8_0"), [32, 34], blocks::q8_0, half(0), code(codes::q8_0, 0)),
    blocks((10, "Q2_K"), [256, 84], blocks::q2_k, halves(80), MINIMA),
    blocks((11, "Q3_K"), [256, 110], blocks::q3_k, half(108), code(codes::q3_k, 4)),
    blocks((12, "Q4_K"), [256, 144], blocks::q4_k, halves(0), MINIMA),
    blocks((13, "Q5_K"), [256, 176], blocks::q5_k, halves(0), MINIMA),
    blocks((14, "Q6_K"), [256, 210], blocks::q6_k, half(208), code(codes::q6_k, 32)),
    unread(9, "Q8_1", 32, 40),
    unread(15, "Q8_K", 256, 292),
    blocks((16, "IQ2_XXS"), [256, 66], blocks::iq2_xxs, half(0), SHARED),
    blocks((17, "IQ2_XS"), [256, 74], blocks::iq2_xs, half(0), SHARED),
    blocks((18, "IQ3_XXS"), [256, 98], blocks::iq3_xxs, half(0), SHARED),
    blocks((19, "IQ1_S"), [256, 50], blocks::iq1_s, half(0), SHARED),
    blocks((20, "IQ4_NL"), [32, 18], blocks::iq4_nl, half(0), TABLE),
    blocks((21, "IQ3_S"), [256, 110], blocks::iq3_s, half(0), SHARED),
    blocks((22, "IQ2_S"), [256, 82], blocks::iq2_s, half(0), SHARED),
    blocks((23, "IQ4_XS"), [256, 136], blocks::iq4_xs, half(0), TABLE),
    unread(24, "I8", 1, 1),
    unread(25, "I16", 1, 2),
    unread(26, "I32", 1, 4),
    unread(27, "I64", 1, 8),
    blocks((29, "IQ1_M"), [256, 56], blocks::iq1_m, Scales::Scattered { at: 48 }, SHARED),
    blocks((34, "TQ1_0"), [256, 54], blocks::tq1_0, half(52), SHARED),
    blocks((35, "TQ2_0"), [256, 66], blocks::tq2_0, half(64), code(codes::tq2_0, 1)),
    blocks((39, "MXFP4"), [32, 17], blocks::mxfp4, Scales::Exponent { at: 0 }, code(codes::mxfp4, 0)),
    blocks((40, "NVFP4"), [64, 36], blocks::nvfp4, Scales::Small { at: 0, count: 4 }, code(codes::nvfp4, 0)),
    unread(41, "Q1_0", 128, 18),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique() {
        for (at, a) in TYPES.iter().enumerate() {
            assert!(TYPES[..at].iter().all(|b| a.id != b.id && a.name != b.name), "{a:?}");
        }
    }

    #[test]
    fn bytes_of_takes_whole_blocks_only() {
        let q4_0 = GgmlType::from_id(2).unwrap();
        assert_eq!(q4_0.bytes_of(64), Some(36));
        assert_eq!(q4_0.bytes_of(63), None);
        assert_eq!(GgmlType::from_id(28).unwrap().bytes_of(usize::MAX), None);
        assert!(GgmlType::from_id(4).is_none(), "Q4_2 is gone from GGML");
    }
}
