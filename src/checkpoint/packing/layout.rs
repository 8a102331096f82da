//! How a tensor divides into matrices, rows and columns.

use super::number::NumberType;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A tensor as a stack of matrices.
///
/// A vector is a column of one-element rows; a tensor of three dimensions is a stack of matrices (experts); one of more
/// is flattened to its first dimension by all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Matrices in the stack.
    pub matrices: usize,
    /// Rows of one matrix.
    pub rows: usize,
    /// Columns of one matrix, in elements. Where elements are smaller than a byte, in bytes.
    pub columns: usize,
    /// What the elements are.
    pub number: NumberType,
}

/// Along which axis a part of a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// One row of a [out, in] matrix: an output channel.
    Row,
    /// One column of it: an input channel.
    Column,
    /// One element of a vector: a norm's channel.
    Element,
}

impl Axis {
    /// `row`, `column` or `element`.
    pub fn as_str(self) -> &'static str {
        match self {
            Axis::Row => "row",
            Axis::Column => "column",
            Axis::Element => "element",
        }
    }
}

impl Layout {
    /// None where there are no elements, sizes overflow, or rows are not whole bytes.
    pub fn of(dtype: Dtype, shape: &[usize]) -> Option<Layout> {
        let product = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (matrices, rows, columns) = match shape {
            [] => (1, 1, 1),
            &[n] => (1, n, 1),
            &[rows, columns] => (1, rows, columns),
            &[matrices, rows, columns] => (matrices, rows, columns),
            [rows, rest @ ..] => (1, *rows, product(rest)?),
        };
        let columns = match dtype.bitsize() {
            8.. => columns,
            bits => columns.checked_mul(bits).filter(|n| n % 8 == 0)? / 8,
        };
        let layout = Layout { matrices, rows, columns, number: NumberType::of(dtype) };
        product(&[matrices, rows, columns, layout.element_bytes()]).filter(|bytes| *bytes > 0).map(|_| layout)
    }

    /// As [`Layout::of`]; where there is none such, a vector of the tensor's bytes, of which there are `length`.
    pub fn of_bytes(dtype: Dtype, shape: &[usize], length: usize) -> Layout {
        let bytes = Layout { matrices: 1, rows: length, columns: 1, number: NumberType::U8 };
        Layout::of(dtype, shape).unwrap_or(bytes)
    }

    /// Whether rows and columns can be told one by one: not where there are over a million of a few bytes each, whose
    /// marks would be larger than they are (as in the packed weights of bitsandbytes, [n, 1]).
    pub fn has_lines(self) -> bool {
        let tells = |count: usize, bytes: usize| count <= Self::MOST_SHORT || bytes >= 64;
        tells(self.all_rows(), self.row_bytes()) && tells(self.all_columns(), self.rows * self.element_bytes())
    }

    /// Short rows or columns of a tensor that are told one by one.
    const MOST_SHORT: usize = 1 << 20;

    /// The same elements in rows of 4,096, for what asks only for all of them.
    pub fn flat(self) -> Layout {
        let columns = 4096;
        Layout { matrices: 1, rows: (self.all_rows() * self.columns).div_ceil(columns), columns, ..self }
    }

    /// All rows, a few at a time: what is packed has to be decoded, and all of it need not fit in memory.
    pub fn row_chunks(self) -> impl Iterator<Item = Range<usize>> {
        /// Numbers that are decoded at a time.
        const HELD: usize = 1 << 20;
        let (all, some) = (self.all_rows(), (HELD / self.columns.max(1)).max(1));
        (0..all).step_by(some).map(move |at| at..(at + some).min(all))
    }

    /// Rows of the whole stack.
    pub fn all_rows(self) -> usize {
        self.matrices * self.rows
    }

    /// Columns of the whole stack.
    pub fn all_columns(self) -> usize {
        self.matrices * self.columns
    }

    /// Bytes of an element.
    pub fn element_bytes(self) -> usize {
        self.number.bytes()
    }

    /// Bytes of a row.
    pub fn row_bytes(self) -> usize {
        self.columns * self.element_bytes()
    }
}
