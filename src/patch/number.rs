//! Floats as tensors store them, rounded once.

use half::{bf16, f16};
use safetensors::Dtype;

/// A dtype whose elements can be scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Float {
    F64,
    F32,
    F16,
    Bf16,
}

impl Float {
    /// None for whole numbers and for what quantizers pack.
    pub fn of(dtype: Dtype) -> Option<Float> {
        match dtype {
            Dtype::F64 => Some(Float::F64),
            Dtype::F32 => Some(Float::F32),
            Dtype::F16 => Some(Float::F16),
            Dtype::BF16 => Some(Float::Bf16),
            _ => None,
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Float::F64 => 8,
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }

    /// The elements of little-endian `bytes`.
    pub fn read(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Float::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Float::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
            Float::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).into()).collect(),
            Float::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).into()).collect(),
        }
    }

    /// Appends `value`, rounded to nearest (ties to even), and returns what it became.
    pub fn append(self, value: f64, to: &mut Vec<u8>) -> f64 {
        match self {
            Float::F64 => {
                to.extend(value.to_le_bytes());
                value
            }
            Float::F32 => {
                to.extend((value as f32).to_le_bytes());
                (value as f32).into()
            }
            Float::F16 => {
                let rounded = f16::from_f32(to_odd_f32(value));
                to.extend(rounded.to_le_bytes());
                rounded.into()
            }
            Float::Bf16 => {
                let rounded = bf16::from_f32(to_odd_f32(value));
                to.extend(rounded.to_le_bytes());
                rounded.into()
            }
        }
    }
}

/// `value` as f32, rounded to odd: rounding that again to a dtype at least two bits shorter gives what rounding `value`
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
            for (float, of) in [
                (Float::F16, &(|b| f16::from_bits(b).to_f64()) as &dyn Fn(u16) -> f64),
                (Float::Bf16, &|b| bf16::from_bits(b).to_f64()),
            ] {
                let value = near(of);
                let mut bytes = Vec::new();
                let stored = float.append(value, &mut bytes);
                prop_assert_eq!(stored, nearest(value, of, bits), "{:?} {:e}", float, value);
                prop_assert_eq!(float.read(&bytes), vec![stored]);
                prop_assert_eq!(float.append(-value, &mut bytes), -stored);
            }
        }
    }

    #[test]
    fn what_is_too_large_becomes_infinite() {
        for (float, largest) in
            [(Float::F16, 65504.0), (Float::Bf16, 3.3895313892515355e38), (Float::F32, f32::MAX.into())]
        {
            let mut bytes = Vec::new();
            assert_eq!(float.append(largest, &mut bytes), largest);
            assert_eq!(float.append(-largest * 1.01, &mut bytes), f64::NEG_INFINITY);
        }
    }
}
