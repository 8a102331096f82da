//! Rows of a weight, to be read as numbers.

use super::layout::Layout;
use super::number::{NumberType, Real};
use rayon::prelude::*;

/// Consecutive rows of a weight: in the map where they are stored as they are read, else decoded.
#[derive(Debug)]
pub struct Rows<'a> {
    values: Values<'a>,
    layout: Layout,
}

#[derive(Debug)]
enum Values<'a> {
    Stored(NumberType, &'a [u8]),
    Decoded(Vec<f32>),
}

impl<'a> Rows<'a> {
    /// Rows whose elements lie one after the other in `bytes`.
    pub fn stored(layout: Layout, bytes: &'a [u8]) -> Rows<'a> {
        Rows { values: Values::Stored(layout.number, bytes), layout }
    }

    /// Rows that had to be worked out.
    pub fn decoded(layout: Layout, values: Vec<f32>) -> Rows<'a> {
        Rows { values: Values::Decoded(values), layout }
    }

    /// Reads elements of a row, counted from the first of these, from column `from` on; false where there are not so
    /// many.
    #[must_use]
    pub fn read<T: Real>(&self, row: usize, from: usize, to: &mut [T]) -> bool {
        let first = row * self.layout.columns + from;
        let elements = first..first + to.len();
        match &self.values {
            Values::Stored(number, bytes) => {
                let size = number.bytes();
                let Some(bytes) = bytes.get(elements.start * size..elements.end * size) else { return false };
                number.decode(bytes, to);
            }
            Values::Decoded(values) => {
                let Some(values) = values.get(elements) else { return false };
                to.iter_mut().zip(values).for_each(|(to, value)| *to = T::from_f32(*value));
            }
        }
        true
    }

    /// A row, counted from the first of these; empty where there is none.
    pub fn row<T: Real>(&self, row: usize) -> Vec<T> {
        let mut values = vec![T::default(); self.layout.columns];
        if self.read(row, 0, &mut values) { values } else { Vec::new() }
    }

    /// A column of the stack, of which these have to be all rows; empty where there is none.
    pub fn column<T: Real>(&self, column: usize) -> Vec<T> {
        let Layout { rows, columns, .. } = self.layout;
        let (first, column) = (column / columns.max(1) * rows, column % columns.max(1));
        let mut values = vec![T::default(); rows];
        let found = values.iter_mut().zip(first..).all(|(to, row)| self.read(row, column, std::slice::from_mut(to)));
        if found { values } else { Vec::new() }
    }

    /// All elements, on all cores where they are many.
    pub fn into_values<T: Real>(self) -> Vec<T> {
        match self.values {
            Values::Stored(number, bytes) => number.decode_all(bytes),
            Values::Decoded(values) => {
                values.into_par_iter().with_min_len(NumberType::SHARED).map(T::from_f32).collect()
            }
        }
    }
}
