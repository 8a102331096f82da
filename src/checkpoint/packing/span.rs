//! Where a row, a column or an element lies in a file.

use super::layout::{Axis, Layout};
use super::number::NumberType;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Equal pieces of a file at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Where the first piece begins, counted from the start of the file.
    pub offset: u64,
    /// Bytes of a piece.
    pub piece_bytes: u64,
    /// From the beginning of a piece to the beginning of the next.
    pub stride_bytes: u64,
    /// Pieces.
    pub pieces: u64,
}

impl Span {
    /// Row, column or element `index` of a dense tensor that begins at `start`, counted through all matrices of a stack;
    /// none where it has no such part, or no elements, or such as weights are not stored in as they are.
    pub fn of_dense(axis: Axis, index: usize, shape: &[usize], dtype: Dtype, start: u64) -> Option<Span> {
        let number = NumberType::of(dtype);
        Layout::of(dtype, shape)?;
        let element = number.holds_weights().then(|| number.bytes() as u64)?;
        let piece = |offset, piece_bytes| Span { offset, piece_bytes, stride_bytes: piece_bytes, pieces: 1 };
        let (matrices, rows, columns) = match *shape {
            [rows, columns] => (1, rows, columns),
            [matrices, rows, columns] => (matrices, rows, columns),
            _ => (0, 0, 0),
        };
        let row = columns as u64 * element;
        match axis {
            Axis::Row if index < usize::saturating_mul(matrices, rows) => Some(piece(start + index as u64 * row, row)),
            Axis::Column if index < usize::saturating_mul(matrices, columns) => {
                let (matrix, column) = (index / columns, index % columns);
                let offset = start + (matrix * rows) as u64 * row + column as u64 * element;
                Some(Span { offset, piece_bytes: element, stride_bytes: row, pieces: rows as u64 })
            }
            // The biases of a stack are a matrix.
            Axis::Element
                if matches!(shape.len(), 1 | 2) && index < shape.iter().copied().fold(1, usize::saturating_mul) =>
            {
                Some(piece(start + index as u64 * element, element))
            }
            _ => None,
        }
    }

    /// Where each piece begins.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        let Span { offset, stride_bytes, pieces, .. } = *self;
        (0..pieces).map(move |at| offset + at * stride_bytes)
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.piece_bytes * self.pieces
    }

    /// Whether all pieces lie within a range of the file, one after the other.
    pub fn lies_in(&self, range: &Range<u64>) -> bool {
        let Span { offset, piece_bytes, stride_bytes, pieces } = *self;
        let length = pieces.checked_sub(1).and_then(|gaps| gaps.checked_mul(stride_bytes)?.checked_add(piece_bytes));
        let end = length.and_then(|length| offset.checked_add(length));
        piece_bytes > 0
            && (pieces == 1 || piece_bytes <= stride_bytes)
            && offset >= range.start
            && end.is_some_and(|end| end <= range.end)
    }

    /// The span's bytes in a whole file; none where the file is shorter.
    pub fn read(&self, file: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.bytes() as usize);
        for offset in self.offsets() {
            bytes.extend(file.get(offset as usize..(offset + self.piece_bytes) as usize)?);
        }
        Some(bytes)
    }
}
