//! Which bytes of a packed weight have to change for a row or column to become zero, or a row a multiple of itself.

use super::number::NumberType;
use super::parts::Part;
use super::span::Span;
use crate::checkpoint::map::MappedFile;
use safetensors::Dtype;

/// Bytes of a stored tensor that belong to one row or column of a weight.
#[derive(Debug, Clone)]
pub struct StoredSpan<'a> {
    /// The stored tensor, by its name in [`Tensors`](crate::checkpoint::Tensors); of a GGUF by that in the file.
    pub tensor: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [usize],
    /// The file that it lies in.
    pub file: &'a MappedFile,
    /// Which bytes of the file.
    pub span: Span,
    /// What these bytes are: elements, or scales between codes.
    pub number: NumberType,
}

impl<'a> StoredSpan<'a> {
    /// `pieces` pieces of `piece` bytes of a tensor, `stride` bytes apart, from its byte `from` on.
    pub(super) fn of(part: &Part<'a>, from: usize, piece: usize, stride: usize, pieces: usize) -> StoredSpan<'a> {
        let span = Span {
            offset: part.place.start + from as u64,
            piece_bytes: piece as u64,
            stride_bytes: stride as u64,
            pieces: pieces as u64,
        };
        StoredSpan {
            tensor: part.name,
            dtype: part.dtype,
            shape: part.shape,
            file: part.file,
            span,
            number: part.number(),
        }
    }
}

/// Codes that make a row or a column of a weight exactly zero, whatever its scales.
#[derive(Debug, Clone)]
pub struct ZeroCodes<'a> {
    /// Where the codes lie.
    pub place: StoredSpan<'a>,
    /// The bits of these bytes that are codes of the row or column, of all pieces one after the other.
    pub mask: Vec<u8>,
    /// What these bits become.
    pub codes: Vec<u8>,
}

impl<'a> ZeroCodes<'a> {
    pub(super) fn new(place: StoredSpan<'a>) -> ZeroCodes<'a> {
        let bytes = place.span.bytes() as usize;
        ZeroCodes { place, mask: vec![0; bytes], codes: vec![0; bytes] }
    }

    /// Whole bytes, each a code.
    pub(super) fn bytes(place: StoredSpan<'a>, codes: Vec<u8>) -> ZeroCodes<'a> {
        ZeroCodes { mask: vec![u8::MAX; codes.len()], codes, place }
    }

    /// A code of `bits` bits that begins at bit `at` of all pieces, the lowest bit of the first byte first.
    pub(super) fn put(&mut self, at: usize, bits: usize, code: u32) {
        for bit in 0..bits {
            let (byte, place) = ((at + bit) / 8, (at + bit) % 8);
            self.mask[byte] |= 1 << place;
            self.codes[byte] |= ((code >> bit & 1) as u8) << place;
        }
    }
}

/// The scales that a row of a weight shares with no other.
#[derive(Debug, Clone)]
pub struct OwnScales<'a> {
    /// Where they lie.
    pub place: StoredSpan<'a>,
    /// Which of them each column has.
    pub of_column: Vec<usize>,
}

impl<'a> OwnScales<'a> {
    /// Whether they hold no factor but one that is exact in each of them: 8 bits, without a sign.
    pub fn are_coarse(&self) -> bool {
        !self.place.number.holds_weights()
    }

    /// Refuses scales that are too coarse to be multiplied by anything.
    pub(super) fn of(place: StoredSpan<'a>, of_column: Vec<usize>) -> Result<OwnScales<'a>, String> {
        match NumberType::of(place.dtype).holds_weights() {
            true => Ok(OwnScales { place, of_column }),
            false => Err(format!("its scales are {}, too coarse to hold a factor", place.dtype)),
        }
    }
}
