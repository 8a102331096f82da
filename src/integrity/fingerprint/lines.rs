//! Marks of a tensor's rows and columns: enough to say later which of them changed, and by what factor.

use super::sums::{Piece, Sums, factor};
use crate::checkpoint::packing::Layout;
use pulp::Arch;
use serde::{Deserialize, Serialize};

/// The mark of one row or column.
#[derive(Debug, Clone, Copy)]
pub struct LineMark {
    /// Sum over its elements of the bit pattern (8-byte ones folded to 32 bits) mixed with a number of its place in the
    /// line, modulo 2³². Any changed bit changes it, other changes are missed once in 2³². It places a change that the
    /// tensor's digest has proved, and proves nothing by itself.
    pub check: u32,
    /// Euclidean norm.
    pub norm: f32,
    /// The first element of largest magnitude, with its sign; 0 where the line has no finite element other than 0.
    pub extreme: f32,
}

/// A norm that is not a number is the same as any other such.
impl PartialEq for LineMark {
    fn eq(&self, other: &LineMark) -> bool {
        let bits = |mark: &LineMark| (mark.check, mark.extreme.to_bits(), mark.norm.is_nan());
        bits(self) == bits(other) && (self.norm.is_nan() || self.norm.to_bits() == other.norm.to_bits())
    }
}

impl LineMark {
    /// Bytes of a stored mark.
    pub const BYTES: usize = 12;

    /// Little-endian: check, norm, extreme.
    pub fn to_bytes(self) -> [u8; LineMark::BYTES] {
        let mut bytes = [0; LineMark::BYTES];
        let words = [self.check, self.norm.to_bits(), self.extreme.to_bits()];
        for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// The inverse of [`LineMark::to_bytes`].
    pub fn from_bytes(bytes: &[u8; LineMark::BYTES]) -> LineMark {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        LineMark { check: word(0), norm: f32::from_bits(word(4)), extreme: f32::from_bits(word(8)) }
    }

    /// Every element is 0 or −0.
    pub fn is_zero(self) -> bool {
        self.norm == 0.0 && self.extreme == 0.0
    }
}

/// What the values of a tensor are like.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LineStatistics {
    /// Euclidean norm; none where a value is not finite.
    pub norm: Option<f64>,
    /// Largest magnitude among finite values.
    pub max_abs: f64,
    /// Values that are 0 or −0.
    pub zeros: u64,
    /// Values that are not a number.
    pub nan: u64,
    /// Infinite values.
    pub infinite: u64,
}

/// Takes a tensor's bytes in order and marks its lines.
#[derive(Debug)]
pub struct Marker {
    arch: Arch,
    layout: Layout,
    /// Elements taken.
    at: usize,
    rows: Vec<LineMark>,
    row: Sum,
    columns: Vec<LineMark>,
    checks: Vec<u32>,
    extremes: Vec<f32>,
    /// Sums of squares by column: of the present block of rows in f32, of those before in f64.
    block: Vec<f32>,
    squares: Vec<f64>,
    factors: Vec<u32>,
    statistics: LineStatistics,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    check: u32,
    squares: f64,
    extreme: f32,
}

/// Rows after which column sums are widened.
const BLOCK: usize = 64;

impl Marker {
    /// For one tensor.
    pub fn new(layout: Layout) -> Marker {
        let columns = layout.columns;
        Marker {
            arch: Arch::new(),
            layout,
            at: 0,
            rows: Vec::with_capacity(layout.all_rows()),
            row: Sum::default(),
            columns: Vec::with_capacity(if columns > 1 { layout.all_columns() } else { 0 }),
            checks: vec![0; columns],
            extremes: vec![0.0; columns],
            block: vec![0.0; columns],
            squares: vec![0.0; columns],
            factors: (0..columns).map(factor).collect(),
            statistics: LineStatistics { norm: Some(0.0), ..LineStatistics::default() },
        }
    }

    /// Takes the next whole elements.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let (columns, element) = (self.layout.columns, self.layout.element_bytes());
        while !bytes.is_empty() {
            let (row, column) = (self.at / columns % self.layout.rows, self.at % columns);
            let count = (columns - column).min(bytes.len() / element);
            let Some((now, rest)) = bytes.split_at_checked(count * element).filter(|_| count > 0) else { return };
            bytes = rest;
            self.piece(row, column, now);
            self.at += count;
            if column + count == columns {
                self.end_row(row);
            }
        }
    }

    /// A part of one row.
    fn piece(&mut self, row: usize, column: usize, bytes: &[u8]) {
        let here = column..column + bytes.len() / self.layout.element_bytes();
        let piece = Piece {
            number: self.layout.number,
            bytes,
            row: factor(row),
            factors: &self.factors[here.clone()],
            checks: &mut self.checks[here.clone()],
            extremes: &mut self.extremes[here.clone()],
            squares: &mut self.block[here],
        };
        let Sums { check, squares, extreme, zeros, nan, infinite } = piece.sum(self.arch);
        self.row.check = self.row.check.wrapping_add(check);
        self.row.squares += squares;
        if extreme.abs() > self.row.extreme.abs() {
            self.row.extreme = extreme;
        }
        self.statistics.zeros += zeros;
        self.statistics.nan += nan;
        self.statistics.infinite += infinite;
    }

    fn end_row(&mut self, row: usize) {
        let Sum { check, squares, extreme } = std::mem::take(&mut self.row);
        self.rows.push(LineMark { check, norm: squares.sqrt() as f32, extreme });
        self.statistics.norm = self.statistics.norm.map(|sum| sum + squares);
        self.statistics.max_abs = self.statistics.max_abs.max(extreme.abs().into());
        let last = row + 1 == self.layout.rows;
        if self.layout.columns > 1 && (last || (row + 1).is_multiple_of(BLOCK)) {
            for (sum, block) in self.squares.iter_mut().zip(&mut self.block) {
                *sum += f64::from(std::mem::take(block));
            }
        }
        if self.layout.columns > 1 && last {
            let sums = self.checks.iter_mut().zip(&mut self.squares).zip(&mut self.extremes);
            self.columns.extend(sums.map(|((check, squares), extreme)| LineMark {
                check: std::mem::take(check),
                norm: std::mem::take(squares).sqrt() as f32,
                extreme: std::mem::take(extreme),
            }));
        }
    }

    /// The marks of all rows and of all columns (of none where the tensor is a vector), and the statistics.
    pub fn finish(mut self) -> (Vec<LineMark>, Vec<LineMark>, LineStatistics) {
        // A last row that is not whole.
        let Sum { squares, extreme, .. } = self.row;
        self.statistics.norm = self.statistics.norm.map(|sum| (sum + squares).sqrt()).filter(|norm| norm.is_finite());
        self.statistics.max_abs = self.statistics.max_abs.max(extreme.abs().into());
        (self.rows, self.columns, self.statistics)
    }
}
