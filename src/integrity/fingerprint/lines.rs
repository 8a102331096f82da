//! Marks of a tensor's rows and columns: enough to say later which of them changed, and by what factor.

use crate::checkpoint::packing::Layout;
use serde::{Deserialize, Serialize};

/// The mark of one row or column.
#[derive(Debug, Clone, Copy)]
pub struct LineMark {
    /// Sum over its elements of the bit pattern (8-byte ones folded to 32 bits) mixed with a number of its place in the
    /// line, modulo 2³². Any changed bit changes it, other changes are missed once in 2³². It places a change that the
    /// tensor's SHA-256 has proved, and proves nothing by itself.
    pub check: u32,
    /// Euclidean norm.
    pub norm: f32,
    /// The first element of largest magnitude, with its sign; 0 where the line has no finite element other than 0.
    pub extreme: f32,
}

impl PartialEq for LineMark {
    fn eq(&self, other: &LineMark) -> bool {
        self.to_bytes() == other.to_bytes()
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
    patterns: Vec<u32>,
    values: Vec<f32>,
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
            patterns: Vec::new(),
            values: Vec::new(),
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
        let n = bytes.len() / self.layout.element_bytes();
        self.values.resize(n, 0.0);
        self.layout.number.patterns(bytes, &mut self.patterns);
        self.layout.number.decode(bytes, &mut self.values);
        self.count();
        self.row.check = self.row.check.wrapping_add(weighted(&self.patterns, &self.factors[column..]));
        self.row.squares += squares(&self.values);
        let largest = largest(&self.values);
        if largest > self.row.extreme.abs() {
            self.row.extreme = self.values.iter().copied().find(|v| v.abs() == largest).unwrap_or_default();
        }
        if self.layout.columns > 1 {
            let here = column..column + n;
            weigh(&mut self.checks[here.clone()], factor(row), &self.patterns);
            enlarge(&mut self.extremes[here.clone()], &self.values);
            for (sum, v) in self.block[here].iter_mut().zip(&self.values) {
                *sum += v * v;
            }
        }
    }

    /// Zeros and what is not finite.
    fn count(&mut self) {
        let (mut zeros, mut odd) = (0u32, 0u32);
        for v in &self.values {
            zeros += u32::from(*v == 0.0);
            odd += u32::from(!v.is_finite());
        }
        self.statistics.zeros += u64::from(zeros);
        if odd > 0 {
            self.statistics.nan += self.values.iter().filter(|v| v.is_nan()).count() as u64;
            self.statistics.infinite += self.values.iter().filter(|v| v.is_infinite()).count() as u64;
        }
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

/// The number of a place in a line: no two places share one by more than chance (after Stafford's variant 13 of the
/// MurmurHash3 finalizer).
fn factor(place: usize) -> u32 {
    let mut x = (place as u64 ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 32) as u32
}

fn weighted(patterns: &[u32], factors: &[u32]) -> u32 {
    patterns.iter().zip(factors).fold(0, |sum: u32, (p, f)| sum.wrapping_add(mixed(*p, *f)))
}

/// A bijection of the pattern for each factor (two rounds of multiply and shift), and not a linear one: in sums of
/// pattern × odd factor an even number of changed signs cancels.
fn mixed(pattern: u32, factor: u32) -> u32 {
    let mut x = (pattern ^ factor).wrapping_mul(0x9e37_79b1);
    x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca77);
    x ^ (x >> 13)
}

/// Independent running sums: as many as let the compiler use vector registers.
const LANES: usize = 16;

fn squares(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *sum += v * v;
        }
    }
    sums.iter().chain(rest.iter().map(|v| v * v).collect::<Vec<_>>().iter()).map(|s| f64::from(*s)).sum()
}

/// The largest finite magnitude.
fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut most = [0.0f32; LANES];
    let larger = |m: f32, v: f32| {
        let v = v.abs();
        if v > m && v < f32::INFINITY { v } else { m }
    };
    for chunk in chunks {
        for (m, v) in most.iter_mut().zip(chunk) {
            *m = larger(*m, *v);
        }
    }
    most.iter().chain(rest).copied().fold(0.0, larger)
}

fn weigh(checks: &mut [u32], factor: u32, patterns: &[u32]) {
    for (check, pattern) in checks.iter_mut().zip(patterns) {
        *check = check.wrapping_add(mixed(*pattern, factor));
    }
}

fn enlarge(extremes: &mut [f32], values: &[f32]) {
    for (extreme, v) in extremes.iter_mut().zip(values) {
        let more = v.abs() > extreme.abs() && v.abs() < f32::INFINITY;
        *extreme = if more { *v } else { *extreme };
    }
}
