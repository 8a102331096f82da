//! Floats looked at as bits.

use super::KEPT;
use crate::checkpoint::number::FloatBits;
use crate::checkpoint::packing::NumberType;
use safetensors::Dtype;

/// A float type, and what is unusual in it.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    pub bytes: usize,
    float: FloatBits,
    /// Above this share of denormal numbers they are a flood: f16's range makes some of them usual.
    pub flood: f64,
}

impl Format {
    pub fn of(dtype: Dtype) -> Option<Format> {
        let number = NumberType::of(dtype);
        let float = number.float_bits()?;
        let bytes = number.bytes();
        Some(match number {
            NumberType::F16 => Format { bytes, float, flood: 0.5 },
            _ if number.holds_weights() => Format { bytes, float, flood: 0.01 },
            // With scales beside them, their denormal numbers are as good as others.
            _ => Format { bytes, float: FloatBits { denormal: 0, ..float }, flood: 1.0 },
        })
    }

    /// Scans rows of `row` elements, the first of which is row `from` of the tensor.
    pub fn scan(self, bytes: &[u8], row: usize, from: u64, keep_columns: bool) -> ValueCounts {
        match self.bytes {
            1 => part::<u8, 1>(bytes, row, from, self, keep_columns),
            2 => part::<u16, 2>(bytes, row, from, self, keep_columns),
            4 => part::<u32, 4>(bytes, row, from, self, keep_columns),
            _ => part::<u64, 8>(bytes, row, from, self, keep_columns),
        }
    }
}

/// What was seen of a tensor.
#[derive(Default)]
pub struct ValueCounts {
    pub nan: Count,
    pub infinite: Count,
    pub denormal: Count,
    pub zero_rows: u64,
    /// As many of the first of them as are kept.
    pub first_zero_rows: Vec<u64>,
    /// For each column whether anything but zero was in it.
    pub columns: Vec<bool>,
    /// Anything but zero.
    pub any: bool,
}

/// How many, and the first element, counted from the tensor's beginning.
#[derive(Default, Clone, Copy)]
pub struct Count {
    pub count: u64,
    pub first: Option<u64>,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.count += other.count;
        self.first = [self.first, other.first].into_iter().flatten().min();
    }
}

impl ValueCounts {
    /// Adds those of some rows, whose columns are those from `column` on.
    pub fn add(&mut self, part: ValueCounts, column: usize) {
        self.nan.add(part.nan);
        self.infinite.add(part.infinite);
        self.denormal.add(part.denormal);
        self.any |= part.any;
        self.zero_rows += part.zero_rows;
        // The first of all, in whatever order pieces come.
        self.first_zero_rows.extend(part.first_zero_rows);
        self.first_zero_rows.sort_unstable();
        self.first_zero_rows.truncate(KEPT);
        self.columns.iter_mut().skip(column).zip(part.columns).for_each(|(ours, theirs)| *ours |= theirs);
    }
}

/// A float's bits.
trait Bits<const N: usize>: Copy + Default + Eq + Ord + std::ops::BitAnd<Output = Self> + std::ops::BitOrAssign {
    /// Elements that can be counted in this type without overflow.
    const BLOCK: usize;
    fn read(bytes: [u8; N]) -> Self;
    fn from_u64(value: u64) -> Self;
    fn one_if(condition: bool) -> Self;
    fn to_u64(self) -> u64;
    fn plus(self, other: Self) -> Self;
    fn minus_one(self) -> Self;
}

macro_rules! bits {
    ($($t:ident $n:literal $block:literal)*) => {
        $(impl Bits<$n> for $t {
            const BLOCK: usize = $block;
            fn read(bytes: [u8; $n]) -> $t { $t::from_le_bytes(bytes) }
            fn from_u64(value: u64) -> $t { value as $t }
            fn one_if(condition: bool) -> $t { condition as $t }
            fn to_u64(self) -> u64 { self as u64 }
            fn plus(self, other: $t) -> $t { self.wrapping_add(other) }
            fn minus_one(self) -> $t { self.wrapping_sub(1) }
        })*
    };
}

bits! { u8 1 128 u16 2 4096 u32 4 4096 u64 8 4096 }

/// See [`Format::scan`].
fn part<T: Bits<N>, const N: usize>(
    bytes: &[u8],
    row: usize,
    from: u64,
    format: Format,
    keep_columns: bool,
) -> ValueCounts {
    let mut seen = ValueCounts::default();
    let mut columns = vec![T::default(); if keep_columns { row } else { 0 }];
    let (elements, _) = bytes.as_chunks::<N>();
    for (at, values) in elements.chunks(row).enumerate() {
        let first = (from + at as u64) * row as u64;
        let mut any = T::default();
        for (block, start) in values.chunks(T::BLOCK).zip((0..).step_by(T::BLOCK)) {
            let sums = match keep_columns {
                true => sums_and_columns(block, format, &mut columns[start..]),
                false => sums(block, format),
            };
            any |= sums.any;
            // Rare: only then is it worth to look where.
            if sums.special != T::default() || sums.denormal != T::default() {
                places::<T, N>(block, first + start as u64, format, &mut seen);
            }
        }
        if any == T::default() {
            seen.zero_rows += 1;
            if seen.first_zero_rows.len() < KEPT {
                seen.first_zero_rows.push(from + at as u64);
            }
        } else {
            seen.any = true;
        }
    }
    seen.columns = columns.iter().map(|c| *c != T::default()).collect();
    seen
}

struct Sums<T> {
    any: T,
    special: T,
    denormal: T,
}

impl<T: Default> Sums<T> {
    fn none() -> Sums<T> {
        Sums { any: T::default(), special: T::default(), denormal: T::default() }
    }
}

impl<T> Sums<T> {
    #[inline(always)]
    fn add<const N: usize>(&mut self, bits: T, special: T, denormal: T)
    where
        T: Bits<N>,
    {
        self.any |= bits;
        self.special = self.special.plus(T::one_if(bits >= special));
        self.denormal = self.denormal.plus(T::one_if(bits.minus_one() < denormal));
    }
}

fn sums<T: Bits<N>, const N: usize>(block: &[[u8; N]], format: Format) -> Sums<T> {
    let FloatBits { mask, special, denormal, .. } = format.float;
    let [mask, special, denormal] = [mask, special, denormal].map(T::from_u64);
    let mut sums = Sums::none();
    for bytes in block {
        sums.add(T::read(*bytes) & mask, special, denormal);
    }
    sums
}

fn sums_and_columns<T: Bits<N>, const N: usize>(block: &[[u8; N]], format: Format, columns: &mut [T]) -> Sums<T> {
    let FloatBits { mask, special, denormal, .. } = format.float;
    let [mask, special, denormal] = [mask, special, denormal].map(T::from_u64);
    let mut sums = Sums::none();
    for (bytes, column) in block.iter().zip(columns) {
        let bits = T::read(*bytes) & mask;
        *column |= bits;
        sums.add(bits, special, denormal);
    }
    sums
}

/// Counts what is unusual in a block whose first element is element `first` of the tensor.
fn places<T: Bits<N>, const N: usize>(block: &[[u8; N]], first: u64, format: Format, seen: &mut ValueCounts) {
    let FloatBits { mask, special, has_infinity, denormal } = format.float;
    for (bytes, at) in block.iter().zip(first..) {
        let bits = (T::read(*bytes) & T::from_u64(mask)).to_u64();
        let count = if bits >= special {
            if has_infinity && bits == special { &mut seen.infinite } else { &mut seen.nan }
        } else if bits != 0 && bits <= denormal {
            &mut seen.denormal
        } else {
            continue;
        };
        count.add(Count { count: 1, first: Some(at) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// What other code calls a number.
    #[derive(Debug, PartialEq)]
    struct Kind {
        nan: bool,
        infinite: bool,
        denormal: bool,
        zero: bool,
    }

    fn kind<T: Bits<N>, const N: usize>(bytes: [u8; N], dtype: Dtype) -> Kind {
        let seen = part::<T, N>(&bytes, 1, 0, Format::of(dtype).unwrap(), true);
        assert_eq!(seen.columns, [seen.any]);
        Kind {
            nan: seen.nan.count == 1,
            infinite: seen.infinite.count == 1,
            denormal: seen.denormal.count == 1,
            zero: seen.zero_rows == 1,
        }
    }

    macro_rules! theirs {
        ($value:expr, $subnormal:expr) => {{
            let v = $value;
            Kind { nan: v.is_nan(), infinite: v.is_infinite(), denormal: $subnormal, zero: f64::from(v) == 0.0 }
        }};
    }

    #[test]
    fn every_half_float_and_many_others_are_what_others_call_them() {
        let subnormal = std::num::FpCategory::Subnormal;
        for bits in 0..=u16::MAX {
            let (bytes, h, b) = (bits.to_le_bytes(), f16::from_bits(bits), bf16::from_bits(bits));
            assert_eq!(kind::<u16, 2>(bytes, Dtype::F16), theirs!(h, h.classify() == subnormal), "f16 {bits:#x}");
            assert_eq!(kind::<u16, 2>(bytes, Dtype::BF16), theirs!(b, b.classify() == subnormal), "bf16 {bits:#x}");
            // The sign, the exponent and the ends of the mantissa; the rest by a multiplier.
            for low in [0, 1, 0xffff, bits.wrapping_mul(0x9e37)] {
                let word = u32::from(bits) << 16 | u32::from(low);
                let f = f32::from_bits(word);
                assert_eq!(kind::<u32, 4>(word.to_le_bytes(), Dtype::F32), theirs!(f, f.is_subnormal()), "{word:#x}");
                let word = u64::from(bits) << 48 | u64::from(low);
                let f = f64::from_bits(word);
                assert_eq!(kind::<u64, 8>(word.to_le_bytes(), Dtype::F64), theirs!(f, f.is_subnormal()), "{word:#x}");
            }
        }
        for bits in 0..=u8::MAX {
            // E5M2 is the upper half of an f16; E4M3 has one NaN and no infinity.
            let h = f16::from_bits(u16::from(bits) << 8);
            assert_eq!(kind::<u8, 1>([bits], Dtype::F8_E5M2), theirs!(h, false), "e5m2 {bits:#x}");
            let expected = Kind { nan: bits & 0x7f == 0x7f, infinite: false, denormal: false, zero: bits & 0x7f == 0 };
            assert_eq!(kind::<u8, 1>([bits], Dtype::F8_E4M3), expected, "e4m3 {bits:#x}");
        }
    }
}
