//! The number types of stored tensors: their one decoder and encoder.

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::fmt;

/// What the elements of a stored tensor are.
///
/// What only quantizers give a meaning is decoded to the whole numbers of its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NumberType {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// The upper half of an F16.
    F8E5M2,
    /// Without infinities and with one NaN, as NVIDIA, Arm and Intel have it.
    F8E4M3,
    /// A power of two from 2⁻¹²⁷ on, without a sign; or NaN (OCP Microscaling Formats 1.0).
    F8E8M0,
    /// Whole numbers of 64 bits.
    I64,
    /// Of 32 bits.
    I32,
    /// Of 16 bits.
    I16,
    /// Of 8 bits.
    I8,
    /// 64 bits: whole numbers from 0 on, or anything else of that size.
    U64,
    /// 32 bits, likewise.
    U32,
    /// 16 bits, likewise.
    U16,
    /// 8 bits, likewise.
    U8,
}

/// As safetensors names it.
impl fmt::Display for NumberType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NumberType::F64 => "F64",
            NumberType::F32 => "F32",
            NumberType::F16 => "F16",
            NumberType::Bf16 => "BF16",
            NumberType::F8E5M2 => "F8_E5M2",
            NumberType::F8E4M3 => "F8_E4M3",
            NumberType::F8E8M0 => "F8_E8M0",
            NumberType::I64 => "I64",
            NumberType::I32 => "I32",
            NumberType::I16 => "I16",
            NumberType::I8 => "I8",
            NumberType::U64 => "U64",
            NumberType::U32 => "U32",
            NumberType::U16 => "U16",
            NumberType::U8 => "U8",
        })
    }
}

/// What stored numbers are decoded to, rounded once where it is narrower.
pub trait Real: Copy + Default + Send + Sync {
    /// The nearest to a number in single precision.
    fn from_f32(value: f32) -> Self;
    /// The nearest to one in double precision.
    fn from_f64(value: f64) -> Self;
    /// The nearest to a whole number.
    fn from_i64(value: i64) -> Self;
    /// The nearest to a whole number from 0 on.
    fn from_u64(value: u64) -> Self;
}

macro_rules! real {
    ($($type:ty, $single:expr, $double:expr;)*) => {
        $(impl Real for $type {
            fn from_f32(value: f32) -> $type { $single(value) }
            fn from_f64(value: f64) -> $type { $double(value) }
            fn from_i64(value: i64) -> $type { $double(value as f64) }
            fn from_u64(value: u64) -> $type { $double(value as f64) }
        })*
    };
}

real! {
    f64, f64::from, f64::from;
    f16, f16::from_f32, |value| f16::from_f32(to_odd_f32(value));
    bf16, bf16::from_f32, |value| bf16::from_f32(to_odd_f32(value));
}

impl Real for f32 {
    fn from_f32(value: f32) -> f32 {
        value
    }

    fn from_f64(value: f64) -> f32 {
        value as f32
    }

    fn from_i64(value: i64) -> f32 {
        value as f32
    }

    fn from_u64(value: u64) -> f32 {
        value as f32
    }
}

/// `$body` with `$read`, which makes a `$real` of the little-endian bytes of one element.
macro_rules! reading {
    ($number:expr, $real:ty, $read:ident => $body:expr) => {
        match $number {
            NumberType::F64 => reading!(8, $read, $body, |b| <$real>::from_f64(f64::from_le_bytes(b))),
            NumberType::F32 => reading!(4, $read, $body, |b| <$real>::from_f32(f32::from_le_bytes(b))),
            NumberType::F16 => reading!(2, $read, $body, |b| <$real>::from_f32(of_half(u16::from_le_bytes(b)))),
            NumberType::Bf16 => {
                reading!(2, $read, $body, |b| <$real>::from_f32(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)))
            }
            NumberType::I64 => reading!(8, $read, $body, |b| <$real>::from_i64(i64::from_le_bytes(b))),
            NumberType::I32 => reading!(4, $read, $body, |b| <$real>::from_f64(i32::from_le_bytes(b).into())),
            NumberType::I16 => reading!(2, $read, $body, |b| <$real>::from_f32(i16::from_le_bytes(b).into())),
            NumberType::I8 => reading!(1, $read, $body, |b| <$real>::from_f32(i8::from_le_bytes(b).into())),
            NumberType::U64 => reading!(8, $read, $body, |b| <$real>::from_u64(u64::from_le_bytes(b))),
            NumberType::U32 => reading!(4, $read, $body, |b| <$real>::from_f64(u32::from_le_bytes(b).into())),
            NumberType::U16 => reading!(2, $read, $body, |b| <$real>::from_f32(u16::from_le_bytes(b).into())),
            NumberType::F8E5M2 => reading!(1, $read, $body, |[b]| <$real>::from_f32(f8_e5m2(b))),
            NumberType::F8E4M3 => reading!(1, $read, $body, |[b]| <$real>::from_f32(f8_e4m3(b))),
            NumberType::F8E8M0 => reading!(1, $read, $body, |[b]| <$real>::from_f32(power_of_two(b))),
            NumberType::U8 => reading!(1, $read, $body, |[b]| <$real>::from_f32(b.into())),
        }
    };
    ($bytes:literal, $read:ident, $body:expr, |$b:pat_param| $value:expr) => {{
        let $read = |$b: [u8; $bytes]| $value;
        $body
    }};
}

/// The value of an F16's bits, without a branch, so that many are decoded at once.
#[inline(always)]
fn of_half(bits: u16) -> f32 {
    const INFINITE: u32 = 0x7c00 << 13;
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    // Exponents are biased by 15 there and by 127 here; what is subnormal there is none here.
    let finite = f32::from_bits(rest) * f32::from_bits((127 + 112) << 23);
    let quiet = if rest > INFINITE { 1 << 22 } else { 0 };
    let magnitude = if rest < INFINITE { finite.to_bits() } else { rest | 0xff << 23 | quiet };
    f32::from_bits(sign | magnitude)
}

/// The stored bytes of one element.
pub trait Pattern: Copy {
    /// Its bits, of 8 bytes folded to 32.
    fn pattern(self) -> u32;
}

impl Pattern for [u8; 1] {
    #[inline(always)]
    fn pattern(self) -> u32 {
        self[0].into()
    }
}

impl Pattern for [u8; 2] {
    #[inline(always)]
    fn pattern(self) -> u32 {
        u16::from_le_bytes(self).into()
    }
}

impl Pattern for [u8; 4] {
    #[inline(always)]
    fn pattern(self) -> u32 {
        u32::from_le_bytes(self)
    }
}

impl Pattern for [u8; 8] {
    #[inline(always)]
    fn pattern(self) -> u32 {
        let pattern = u64::from_le_bytes(self);
        // An odd factor keeps every single bit of the upper half apart from zero.
        (pattern as u32).wrapping_add(((pattern >> 32) as u32).wrapping_mul(0x9e37_79b1))
    }
}

/// What is done with elements of one number type.
pub trait WithElements {
    /// What comes of it.
    type Output;

    /// Does it, where elements have `N` bytes and `value` reads one.
    fn with<const N: usize>(self, value: impl Fn([u8; N]) -> f32) -> Self::Output
    where
        [u8; N]: Pattern;
}

impl NumberType {
    /// Elements that one core decodes at least before others help.
    pub(super) const SHARED: usize = 1 << 14;

    /// Of a tensor's elements. Where these are smaller than a byte, each byte of them counts as a number.
    pub fn of(dtype: Dtype) -> NumberType {
        match dtype {
            Dtype::F64 => NumberType::F64,
            Dtype::F32 => NumberType::F32,
            Dtype::F16 => NumberType::F16,
            Dtype::BF16 => NumberType::Bf16,
            Dtype::F8_E5M2 => NumberType::F8E5M2,
            Dtype::F8_E4M3 => NumberType::F8E4M3,
            Dtype::F8_E8M0 => NumberType::F8E8M0,
            Dtype::I64 => NumberType::I64,
            Dtype::I32 => NumberType::I32,
            Dtype::I16 => NumberType::I16,
            Dtype::I8 => NumberType::I8,
            other => match other.bitsize() {
                64 => NumberType::U64,
                32 => NumberType::U32,
                16 => NumberType::U16,
                _ => NumberType::U8,
            },
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        use NumberType as N;
        match self {
            N::F64 | N::I64 | N::U64 => 8,
            N::F32 | N::I32 | N::U32 => 4,
            N::F16 | N::Bf16 | N::I16 | N::U16 => 2,
            N::F8E5M2 | N::F8E4M3 | N::F8E8M0 | N::I8 | N::U8 => 1,
        }
    }

    /// Whether weights can be stored in it as they are: 8-bit floats need scales beside them.
    pub fn holds_weights(self) -> bool {
        matches!(self, NumberType::F64 | NumberType::F32 | NumberType::F16 | NumberType::Bf16)
    }

    /// The relative size of one rounding to it: half of its machine epsilon; 0 for whole numbers.
    pub fn rounding(self) -> f64 {
        match self {
            NumberType::F64 => f64::EPSILON / 2.0,
            NumberType::F32 => f64::from(f32::EPSILON) / 2.0,
            NumberType::F16 => f64::from(f16::EPSILON.to_f32()) / 2.0,
            NumberType::Bf16 => f64::from(bf16::EPSILON.to_f32()) / 2.0,
            _ => 0.0,
        }
    }

    /// Decodes as many elements as `to` has, or as `bytes` hold where these are fewer.
    pub fn decode<T: Real>(self, bytes: &[u8], to: &mut [T]) {
        fn each<const N: usize, T>(bytes: &[u8], to: &mut [T], read: impl Fn([u8; N]) -> T) {
            to.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(to, bytes)| *to = read(*bytes));
        }
        reading!(self, T, read => each(bytes, to, read));
    }

    /// Decodes all whole elements, on all cores where they are many.
    pub fn decode_all<T: Real>(self, bytes: &[u8]) -> Vec<T> {
        fn all<const N: usize, T: Send>(bytes: &[u8], read: impl Fn([u8; N]) -> T + Send + Sync) -> Vec<T> {
            bytes.as_chunks::<N>().0.par_iter().with_min_len(NumberType::SHARED).map(|bytes| read(*bytes)).collect()
        }
        reading!(self, T, read => all(bytes, read))
    }

    /// The first element whose value `is`.
    pub fn position(self, bytes: &[u8], is: impl Fn(f64) -> bool) -> Option<usize> {
        fn first<const N: usize>(bytes: &[u8], is: impl Fn([u8; N]) -> bool) -> Option<usize> {
            bytes.as_chunks::<N>().0.iter().position(|bytes| is(*bytes))
        }
        reading!(self, f64, read => first(bytes, |bytes| is(read(bytes))))
    }

    /// Appends `value`, rounded once to the nearest (ties to even) or to the nearest whole number that there is, and
    /// returns what it became.
    pub fn encode(self, value: f64, to: &mut Vec<u8>) -> f64 {
        macro_rules! put {
            ($encoded:expr) => {{
                let encoded = $encoded;
                to.extend(encoded.to_le_bytes());
                encoded
            }};
        }
        let whole = value.round_ties_even();
        match self {
            NumberType::F64 => put!(value),
            NumberType::F32 => put!(f32::from_f64(value)).into(),
            NumberType::F16 => put!(<f16 as Real>::from_f64(value)).into(),
            NumberType::Bf16 => put!(<bf16 as Real>::from_f64(value)).into(),
            NumberType::I64 => put!(whole as i64) as f64,
            NumberType::I32 => put!(whole as i32).into(),
            NumberType::I16 => put!(whole as i16).into(),
            NumberType::I8 => put!(whole as i8).into(),
            NumberType::U64 => put!(whole as u64) as f64,
            NumberType::U32 => put!(whole as u32).into(),
            NumberType::U16 => put!(whole as u16).into(),
            NumberType::F8E5M2 | NumberType::F8E4M3 | NumberType::F8E8M0 => {
                let code = self.nearest_code(value);
                to.push(code);
                self.of_code(code).into()
            }
            NumberType::U8 => put!(whole as u8).into(),
        }
    }

    /// The value of an 8-bit float's code.
    fn of_code(self, code: u8) -> f32 {
        let mut value = [0.0f32];
        self.decode(&[code], &mut value);
        value[0]
    }

    /// The code of the finite 8-bit float nearest to `value`, of two as near the even one; NaN's for NaN.
    fn nearest_code(self, value: f64) -> u8 {
        let distance = |code: &u8| (f64::from(self.of_code(*code)) - value).abs();
        let same_sign = |code: &u8| self.of_code(*code).is_sign_negative() == value.is_sign_negative();
        let finite = (0..=u8::MAX).filter(|code| self.of_code(*code).is_finite());
        let nearest = |a: &u8, b: &u8| {
            distance(a).total_cmp(&distance(b)).then(same_sign(b).cmp(&same_sign(a))).then((a & 1).cmp(&(b & 1)))
        };
        if value.is_nan() {
            return (0..=u8::MAX).find(|code| self.of_code(*code).is_nan()).unwrap_or_default();
        }
        finite.min_by(nearest).unwrap_or_default()
    }

    /// Does something with its elements; how they are read becomes part of what is done.
    #[inline(always)]
    pub fn with_elements<W: WithElements>(self, with: W) -> W::Output {
        reading!(self, f32, read => with.with(read))
    }

    /// How the bits of a float are to be read; none for whole numbers.
    pub fn float_bits(self) -> Option<FloatBits> {
        let ieee = |mantissa: u32| {
            let mask = u64::MAX >> (65 - 8 * self.bytes());
            let denormal = (1u64 << mantissa) - 1;
            FloatBits { mask, special: mask & !denormal, has_infinity: true, denormal }
        };
        match self {
            NumberType::F64 => Some(ieee(52)),
            NumberType::F32 => Some(ieee(23)),
            NumberType::F16 => Some(ieee(10)),
            NumberType::Bf16 => Some(ieee(7)),
            NumberType::F8E5M2 => Some(ieee(2)),
            NumberType::F8E4M3 => Some(FloatBits { special: 0x7f, has_infinity: false, ..ieee(3) }),
            _ => None,
        }
    }
}

/// The value of an 8-bit float with four bits of exponent (bias 7) and three of mantissa, as [`of_half`] computes it.
#[inline(always)]
fn f8_e4m3(code: u8) -> f32 {
    // The one pattern of a magnitude that is no number.
    const NAN: u8 = 0x7f;
    let (sign, rest) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f) << 20);
    let number = f32::from_bits(rest) * f32::from_bits((127 + 120) << 23);
    f32::from_bits(sign | if code & 0x7f == NAN { f32::NAN } else { number }.to_bits())
}

/// The upper half of a half-precision number.
fn f8_e5m2(code: u8) -> f32 {
    of_half(u16::from(code) << 8)
}

/// 2^(code − 127); NaN for 255.
pub(super) fn power_of_two(code: u8) -> f32 {
    match code {
        // Below f32's normal numbers.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// How a float's bits are to be read: without the sign they are in the order of the magnitudes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloatBits {
    /// All but the sign.
    pub mask: u64,
    /// From here on bits are infinity (exactly this) or NaN.
    pub special: u64,
    /// Whether `special` itself is infinity.
    pub has_infinity: bool,
    /// Up to here, zero apart, bits are denormal numbers.
    pub denormal: u64,
}

/// `value` as f32, rounded to odd: rounding that again to a type at least two bits shorter gives what rounding `value`
/// once would (Boldo and Melquiond 2008). The half crate's own way from f64 drops the low 32 bits first, which makes
/// ties of values that are none.
fn to_odd_f32(value: f64) -> f32 {
    let near = value as f32;
    if near.is_nan() || near.is_infinite() || f64::from(near) == value {
        return near;
    }
    let toward_zero = near.to_bits() - u32::from(f64::from(near).abs() > value.abs());
    f32::from_bits(toward_zero | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [NumberType; 15] = {
        use NumberType::*;
        [F64, F32, F16, Bf16, F8E5M2, F8E4M3, F8E8M0, I64, I32, I16, I8, U64, U32, U16, U8]
    };

    /// The nearest of the bit patterns around, ties to the even one.
    fn nearest(value: f64, of: impl Fn(u16) -> f64, guess: u16) -> f64 {
        let candidates = (guess.saturating_sub(2)..=guess.saturating_add(2)).filter(|b| of(*b).is_finite());
        let distance = |b: &u16| (of(*b) - value).abs();
        let best = candidates.min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
        of(best.unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn half_precision_is_rounded_once(bits in 0u16..0x7b00, low in -3i64..4, tie: bool) {
            let near = |of: &dyn Fn(u16) -> f64| {
                let middle = if tie { (of(bits) + of(bits + 1)) / 2.0 } else { of(bits) };
                f64::from_bits((middle.to_bits() as i64 + low).max(0) as u64)
            };
            for (number, of) in [
                (NumberType::F16, &(|b| f16::from_bits(b).to_f64()) as &dyn Fn(u16) -> f64),
                (NumberType::Bf16, &|b| bf16::from_bits(b).to_f64()),
            ] {
                let value = near(of);
                let mut bytes = Vec::new();
                let stored = number.encode(value, &mut bytes);
                prop_assert_eq!(stored, nearest(value, of, bits), "{:?} {:e}", number, value);
                prop_assert_eq!(number.decode_all::<f64>(&bytes), vec![stored]);
                prop_assert_eq!(number.encode(-value, &mut bytes), -stored);
            }
        }

        #[test]
        fn single_precision_is_rounded_once_to_half(bits in 0u16..0x7b00, low in -3i32..4) {
            let (f16_of, bf16_of) = (|b| f16::from_bits(b).to_f64(), |b| bf16::from_bits(b).to_f64());
            let near = |of: &dyn Fn(u16) -> f64| {
                let middle = ((of(bits) + of(bits + 1)) / 2.0) as f32;
                f32::from_bits((middle.to_bits() as i32 + low).max(0) as u32)
            };
            let value = near(&f16_of);
            let rounded = NumberType::F32.decode_all::<f16>(&value.to_le_bytes());
            prop_assert_eq!(rounded[0].to_f64(), nearest(value.into(), f16_of, bits));
            let value = near(&bf16_of);
            let rounded = NumberType::F32.decode_all::<bf16>(&value.to_le_bytes());
            prop_assert_eq!(rounded[0].to_f64(), nearest(value.into(), bf16_of, bits));
        }

        #[test]
        fn what_is_decoded_is_encoded_to_the_same_bytes(bytes in any::<[u8; 8]>()) {
            for number in ALL {
                let bytes = &bytes[..number.bytes()];
                let mut value = [0.0f64];
                number.decode(bytes, &mut value);
                // 64-bit whole numbers are more than f64 holds.
                let is_exact = value[0].is_finite() && (number.bytes() < 8 || number == NumberType::F64);
                if is_exact {
                    let mut again = Vec::new();
                    prop_assert_eq!(number.encode(value[0], &mut again), value[0], "{:?}", number);
                    prop_assert_eq!(&again, bytes, "{:?}", number);
                }
                let single: Vec<f32> = number.decode_all(bytes);
                if !value[0].is_nan() && number.bytes() < 8 {
                    prop_assert_eq!(single[0], value[0] as f32, "{:?}", number);
                }
                let at = number.position(bytes, |v| v == value[0]);
                prop_assert_eq!(at, (!value[0].is_nan()).then_some(0));
            }
        }
    }

    /// The figures of the OCP specifications (8-bit floating point 1.0, Microscaling Formats 1.0).
    #[test]
    fn eight_bit_floats_are_those_of_their_specifications() {
        let of = |number: NumberType, code: u8| number.of_code(code);
        for (code, value) in [
            (0x7e, 448.0),
            (0x08, 2f32.powi(-6)),
            (0x07, 0.875 * 2f32.powi(-6)),
            (0x01, 2f32.powi(-9)),
            (0x80, -0.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(of(NumberType::F8E4M3, code).to_bits(), value.to_bits(), "{code:#x}");
        }
        for (code, value) in [(0x7b, 57344.0), (0x7c, f32::INFINITY), (0x01, 2f32.powi(-16)), (0xbc, -1.0)] {
            assert_eq!(of(NumberType::F8E5M2, code), value, "{code:#x}");
        }
        for (code, value) in [(0, 2f32.powi(-127)), (1, 2f32.powi(-126)), (127, 1.0), (254, 2f32.powi(127))] {
            assert_eq!(of(NumberType::F8E8M0, code), value, "{code}");
        }
        let nan = [
            (NumberType::F8E4M3, 0x7f),
            (NumberType::F8E4M3, 0xff),
            (NumberType::F8E8M0, 0xff),
            (NumberType::F8E5M2, 0x7d),
        ];
        assert!(nan.iter().all(|(number, code)| of(*number, *code).is_nan()));
        let mut bytes = Vec::new();
        assert_eq!(NumberType::F8E4M3.encode(1e9, &mut bytes), 448.0);
        assert_eq!(NumberType::F8E4M3.encode(17.0, &mut bytes), 16.0);
        assert_eq!(NumberType::F8E8M0.encode(3.1, &mut bytes), 4.0);
    }

    #[test]
    fn what_is_too_large_becomes_infinite() {
        for (number, largest) in
            [(NumberType::F16, 65504.0), (NumberType::Bf16, 3.3895313892515355e38), (NumberType::F32, f32::MAX.into())]
        {
            let mut bytes = Vec::new();
            assert_eq!(number.encode(largest, &mut bytes), largest);
            assert_eq!(number.encode(-largest * 1.01, &mut bytes), f64::NEG_INFINITY);
        }
    }

    /// Fingerprints are sums of these.
    #[test]
    fn every_half_is_decoded_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            assert_eq!(of_half(bits).to_bits(), f16::from_bits(bits).to_f32().to_bits(), "{bits:#x}");
        }
    }

    #[test]
    fn patterns_stay_what_they_are() {
        assert_eq!([0xf1].pattern(), 0xf1);
        assert_eq!([0xf1, 0xf2].pattern(), 0xf2f1);
        assert_eq!([0xf1, 0xf2, 0xf3, 0xf4].pattern(), 0xf4f3_f2f1);
        assert_eq!([0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8].pattern(), 0x90c2_7f56);
    }
}
