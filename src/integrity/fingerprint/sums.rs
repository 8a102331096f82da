//! What is summed over elements of a row, by the widest vector instructions that the machine has.
//!
//! The order of all sums is the same whatever these are, so that marks are the same on every machine.

use crate::checkpoint::packing::{NumberType, Pattern, WithElements};
use pulp::{Arch, Simd, WithSimd};

/// Sums that run beside each other.
const LANES: usize = 16;

/// Elements of one row, and what is known of those above them.
pub(super) struct Piece<'a> {
    pub number: NumberType,
    /// Whole elements.
    pub bytes: &'a [u8],
    /// The number of the row's place in each column.
    pub row: u32,
    /// Those of the elements' places in the row.
    pub factors: &'a [u32],
    pub checks: &'a mut [u32],
    pub extremes: &'a mut [f32],
    /// Sums of squares.
    pub squares: &'a mut [f32],
}

/// What the elements of a piece come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sums {
    pub check: u32,
    pub squares: f64,
    /// The first of largest finite magnitude; 0 where that is none but 0.
    pub extreme: f32,
    pub zeros: u64,
    pub nan: u64,
    pub infinite: u64,
}

impl Piece<'_> {
    /// Adds the elements to the columns' sums and returns the row's.
    pub fn sum(mut self, arch: Arch) -> Sums {
        let (body, tail) = arch.dispatch(Pass(&mut self));
        let total = |of: fn(&Lanes) -> [u32; LANES]| {
            [of(&body), of(&tail)].as_flattened().iter().fold(0u32, |sum, lane| sum.wrapping_add(*lane))
        };
        let squares = [body.squares, tail.squares].as_flattened().iter().map(|sum| f64::from(*sum)).sum();
        let most = [body.most, tail.most].as_flattened().iter().copied().fold(0.0, f32::max);
        let least = [body.least, tail.least].as_flattened().iter().copied().fold(0.0, f32::min);
        let extreme = match (most, -least) {
            (above, below) if above > below => above,
            (above, below) if above < below => least,
            (both, _) if both > 0.0 => self.first(|value| value.abs() == both).unwrap_or_default(),
            _ => 0.0,
        };
        let (mut nan, mut infinite) = (0, 0);
        if total(|lanes| lanes.odd) > 0 {
            let _ = self.first(|value| {
                nan += u64::from(value.is_nan());
                infinite += u64::from(value.is_infinite());
                false
            });
        }
        let zeros = total(|lanes| lanes.zeros).into();
        Sums { check: total(|lanes| lanes.check), squares, extreme, zeros, nan, infinite }
    }

    fn first(&self, mut is: impl FnMut(f32) -> bool) -> Option<f32> {
        let mut values = [0.0; 256];
        self.bytes.chunks(values.len() * self.number.bytes()).find_map(|bytes| {
            self.number.decode(bytes, &mut values);
            values[..bytes.len() / self.number.bytes()].iter().copied().find(|value| is(*value))
        })
    }
}

/// Sums of every sixteenth element.
#[derive(Default, Clone, Copy)]
struct Lanes {
    check: [u32; LANES],
    squares: [f32; LANES],
    most: [f32; LANES],
    least: [f32; LANES],
    zeros: [u32; LANES],
    /// How many are not finite.
    odd: [u32; LANES],
}

struct Pass<'a, 'b>(&'a mut Piece<'b>);

impl WithSimd for Pass<'_, '_> {
    type Output = (Lanes, Lanes);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (Lanes, Lanes) {
        self.0.number.with_elements(self)
    }
}

impl WithElements for Pass<'_, '_> {
    /// Sums of whole sixteens, and of the elements left over, one a lane.
    type Output = (Lanes, Lanes);

    #[inline(always)]
    fn with<const N: usize>(self, value: impl Fn([u8; N]) -> f32) -> (Lanes, Lanes)
    where
        [u8; N]: Pattern,
    {
        let Piece { bytes, row, factors, checks, extremes, squares, .. } = self.0;
        let (elements, elements_left) = bytes.as_chunks::<N>().0.as_chunks::<LANES>();
        let (factors, factors_left) = factors.as_chunks::<LANES>();
        let (checks, checks_left) = checks.as_chunks_mut::<LANES>();
        let (extremes, extremes_left) = extremes.as_chunks_mut::<LANES>();
        let (squares, squares_left) = squares.as_chunks_mut::<LANES>();
        let (mut body, mut tail) = (Lanes::default(), Lanes::default());
        let columns = checks.iter_mut().zip(extremes).zip(squares);
        for ((elements, factors), ((checks, extremes), squares)) in elements.iter().zip(factors).zip(columns) {
            // Copies, so that the compiler knows that none of them is part of another and takes all lanes at once.
            let (elements, factors) = (*elements, *factors);
            let (mut check, mut extreme, mut square) = (*checks, *extremes, *squares);
            for lane in 0..LANES {
                let element = (elements[lane].pattern(), value(elements[lane]), factors[lane], *row);
                take(element, &mut body, lane, (&mut check[lane], &mut extreme[lane], &mut square[lane]));
            }
            (*checks, *extremes, *squares) = (check, extreme, square);
        }
        for (lane, bytes) in elements_left.iter().enumerate() {
            let element = (bytes.pattern(), value(*bytes), factors_left[lane], *row);
            let column = (&mut checks_left[lane], &mut extremes_left[lane], &mut squares_left[lane]);
            take(element, &mut tail, lane, column);
        }
        (body, tail)
    }
}

/// One element: its pattern, its value, and the numbers of its places in its row and its column.
#[inline(always)]
fn take(
    (pattern, value, factor, row): (u32, f32, u32, u32),
    lanes: &mut Lanes,
    lane: usize,
    (check, extreme, squares): (&mut u32, &mut f32, &mut f32),
) {
    lanes.check[lane] = lanes.check[lane].wrapping_add(mixed(pattern, factor));
    *check = check.wrapping_add(mixed(pattern, row));
    let square = value * value;
    lanes.squares[lane] += square;
    *squares += square;
    let is_finite = value.abs() < f32::INFINITY;
    // A piece has too few elements for these to overflow; a check of that would keep them from vector registers.
    lanes.odd[lane] = lanes.odd[lane].wrapping_add(u32::from(!is_finite));
    lanes.zeros[lane] = lanes.zeros[lane].wrapping_add(u32::from(value == 0.0));
    let finite = if is_finite { value } else { 0.0 };
    lanes.most[lane] = if finite > lanes.most[lane] { finite } else { lanes.most[lane] };
    lanes.least[lane] = if finite < lanes.least[lane] { finite } else { lanes.least[lane] };
    *extreme = if finite.abs() > extreme.abs() { finite } else { *extreme };
}

/// The number of a place in a line: no two places share one by more than chance (after Stafford's variant 13 of the
/// MurmurHash3 finalizer).
pub(super) fn factor(place: usize) -> u32 {
    let mut x = (place as u64 ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 32) as u32
}

/// A bijection of the pattern for each factor (two rounds of multiply and shift), and not a linear one: in sums of
/// pattern × odd factor an even number of changed signs cancels.
#[inline(always)]
fn mixed(pattern: u32, factor: u32) -> u32 {
    let mut x = (pattern ^ factor).wrapping_mul(0x9e37_79b1);
    x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca77);
    x ^ (x >> 13)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const NUMBERS: [NumberType; 15] = {
        use NumberType::*;
        [F64, F32, F16, Bf16, F8E5M2, F8E4M3, F8E8M0, I64, I32, I16, I8, U64, U32, U16, U8]
    };

    /// A piece's sums, and its columns' checks, extremes and squares by their bits (of any NaN 0).
    type Found = (Sums, Vec<u32>, Vec<u32>, Vec<u32>);

    /// Where there is something in the columns before.
    fn sums(arch: Arch, number: NumberType, bytes: &[u8]) -> Found {
        let elements = bytes.len() / number.bytes();
        let factors: Vec<u32> = (0..elements).map(factor).collect();
        let (mut checks, mut extremes, mut squares) = (vec![7; elements], vec![-0.5; elements], vec![0.25; elements]);
        let piece = Piece {
            number,
            bytes,
            row: factor(3),
            factors: &factors,
            checks: &mut checks,
            extremes: &mut extremes,
            squares: &mut squares,
        };
        let sums = piece.sum(arch);
        let bits = |values: &[f32]| values.iter().map(|v| if v.is_nan() { 0 } else { v.to_bits() }).collect();
        (sums, checks, bits(&extremes), bits(&squares))
    }

    /// The same one element after the other.
    fn plainly(number: NumberType, bytes: &[u8]) -> Found {
        let mut values = vec![0.0f32; bytes.len() / number.bytes()];
        number.decode(bytes, &mut values);
        let of = |bytes: &[u8]| match *bytes {
            [a] => [a].pattern(),
            [a, b] => [a, b].pattern(),
            [a, b, c, d] => [a, b, c, d].pattern(),
            _ => <[u8; 8]>::try_from(bytes).unwrap().pattern(),
        };
        let patterns: Vec<u32> = bytes.chunks(number.bytes()).map(of).collect();
        let (mut lanes, mut left) = ([0.0f32; LANES], 0.0);
        let whole = values.len() / LANES * LANES;
        values[..whole].iter().enumerate().for_each(|(at, v)| lanes[at % LANES] += v * v);
        let mut squares: f64 = lanes.iter().map(|sum| f64::from(*sum)).sum();
        values[whole..].iter().for_each(|v| squares += f64::from(v * v));
        let finite = values.iter().filter(|v| v.is_finite());
        for value in finite.clone() {
            left = if value.abs() > f32::abs(left) { *value } else { left };
        }
        let count = |is: fn(&f32) -> bool| values.iter().filter(|v| is(v)).count() as u64;
        let check = patterns.iter().enumerate().fold(0u32, |sum, (at, p)| sum.wrapping_add(mixed(*p, factor(at))));
        let (zeros, nan, infinite) = (count(|v| *v == 0.0), count(|v| v.is_nan()), count(|v| v.is_infinite()));
        let sums = Sums { check, squares, extreme: left, zeros, nan, infinite };
        let more = |v: &f32| if v.is_finite() && v.abs() > 0.5 { *v } else { -0.5 };
        let square = |v: &f32| if v.is_nan() { 0 } else { (v * v + 0.25).to_bits() };
        let checks = patterns.iter().map(|pattern| mixed(*pattern, factor(3)).wrapping_add(7)).collect();
        (sums, checks, values.iter().map(|v| more(v).to_bits()).collect(), values.iter().map(square).collect())
    }

    #[test]
    fn sums_are_those_of_one_element_after_the_other_on_every_machine() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        for (number, elements) in
            NUMBERS.into_iter().flat_map(|n| [1, 15, 16, 17, 576, 1023, 1025, 3001].map(|e| (n, e)))
        {
            for case in 0..4 {
                let mut bytes: Vec<u8> = (0..elements * number.bytes()).map(|_| random.random()).collect();
                // Ties for the largest, and zeros.
                if case % 2 == 1 {
                    bytes.iter_mut().for_each(|byte| *byte &= 0x81);
                }
                let found = sums(Arch::new(), number, &bytes);
                let same = |a: &Found, b: &Found| {
                    let norm = |sums: Sums| if sums.squares.is_nan() { Sums { squares: -1.0, ..sums } } else { sums };
                    assert_eq!((norm(a.0), &a.1, &a.2, &a.3), (norm(b.0), &b.1, &b.2, &b.3), "{number} {elements}");
                };
                same(&found, &plainly(number, &bytes));
                same(&found, &sums(Arch::Scalar, number, &bytes));
            }
        }
    }
}
