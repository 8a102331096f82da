//! A tensor's bytes as rows and columns of numbers.

use half::{bf16, f16};
use safetensors::Dtype;

/// How a tensor divides into matrices, rows and columns.
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
    /// Bytes of an element.
    pub element: usize,
    dtype: Dtype,
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
        let bits = dtype.bitsize();
        let (element, columns) = match bits {
            8.. => (bits / 8, columns),
            _ => (1, columns.checked_mul(bits).filter(|n| n % 8 == 0)? / 8),
        };
        let layout = Layout { matrices, rows, columns, element, dtype };
        product(&[matrices, rows, columns, element]).filter(|bytes| *bytes > 0).map(|_| layout)
    }

    /// Bytes of which no more is known.
    pub fn bytes(length: usize) -> Layout {
        Layout { matrices: 1, rows: length, columns: 1, element: 1, dtype: Dtype::U8 }
    }

    /// Whether rows and columns can be told one by one: not where there are over a million of a few bytes each, whose
    /// marks would be larger than they are (as in the packed weights of bitsandbytes, [n, 1]).
    pub fn has_lines(self) -> bool {
        let tells = |count: usize, bytes: usize| count <= Self::MOST_SHORT || bytes >= 64;
        tells(self.all_rows(), self.row_bytes()) && tells(self.all_columns(), self.rows * self.element)
    }

    /// Short rows or columns of a tensor that are told one by one.
    const MOST_SHORT: usize = 1 << 20;

    /// The same elements in rows of 4,096, for what asks only for all of them.
    pub fn flat(self) -> Layout {
        let columns = 4096;
        Layout { matrices: 1, rows: (self.all_rows() * self.columns).div_ceil(columns), columns, ..self }
    }

    /// Rows of the whole stack.
    pub fn all_rows(self) -> usize {
        self.matrices * self.rows
    }

    /// Columns of the whole stack.
    pub fn all_columns(self) -> usize {
        self.matrices * self.columns
    }

    /// Bytes of a row.
    pub fn row_bytes(self) -> usize {
        self.columns * self.element
    }

    /// The bit patterns of whole elements, which 8-byte ones are folded into 32 bits for.
    pub fn patterns(self, bytes: &[u8], out: &mut Vec<u32>) {
        out.clear();
        match self.element {
            1 => out.extend(bytes.iter().map(|b| u32::from(*b))),
            2 => out.extend(bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)))),
            4 => out.extend(bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b))),
            // An odd factor keeps every single bit of the upper half apart from zero.
            _ => out.extend(bytes.as_chunks().0.iter().map(|b| {
                let pattern = u64::from_le_bytes(*b);
                (pattern as u32).wrapping_add(((pattern >> 32) as u32).wrapping_mul(0x9e37_79b1))
            })),
        }
    }

    /// The values of whole elements; quantizers' packed numbers and 8-bit floats as the whole numbers of their bits.
    pub fn values(self, bytes: &[u8], out: &mut Vec<f32>) {
        out.clear();
        match (self.dtype, self.element) {
            (Dtype::BF16, _) => {
                out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)));
            }
            (Dtype::F16, _) => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            (Dtype::F32, _) => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            (Dtype::F64, _) => out.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
            (Dtype::I8, _) => out.extend(bytes.iter().map(|b| f32::from(*b as i8))),
            (Dtype::I16, _) => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)))),
            (Dtype::I32, _) => out.extend(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32)),
            (Dtype::I64, _) => out.extend(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32)),
            (_, 1) => out.extend(bytes.iter().map(|b| f32::from(*b))),
            (_, 2) => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from(u16::from_le_bytes(*b)))),
            (_, 4) => out.extend(bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b) as f32)),
            _ => out.extend(bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b) as f32)),
        }
    }

    /// The relative size of one rounding to the element type: half of its machine epsilon; 0 for whole numbers.
    pub fn rounding(self) -> f64 {
        match self.dtype {
            Dtype::BF16 => f64::from(bf16::EPSILON.to_f32()) / 2.0,
            Dtype::F16 => f64::from(f16::EPSILON.to_f32()) / 2.0,
            Dtype::F32 => f64::from(f32::EPSILON) / 2.0,
            Dtype::F64 => f64::EPSILON / 2.0,
            _ => 0.0,
        }
    }
}
