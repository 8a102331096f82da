//! Magnitude: one pass, and how far a channel is from what is usual for it.

use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// |x − the channel's median over positions|, (positions, channels), in f32 on the host.
pub(super) fn importance(x: &Tensor) -> Result<Tensor> {
    let (positions, channels) = x.dims2()?;
    let mut values: Vec<f32> = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let medians = medians(&values, channels);
    for position in values.chunks_mut(channels) {
        position.iter_mut().zip(&medians).for_each(|(value, median)| *value = (*value - median).abs());
    }
    Ok(Tensor::from_vec(values, (positions, channels), &Device::Cpu)?)
}

/// The median of each channel over positions; of two in the middle their mean.
fn medians(values: &[f32], channels: usize) -> Vec<f32> {
    let of_channel = |channel: usize| {
        let mut keys: Vec<i32> = values.iter().skip(channel).step_by(channels).map(|value| key(*value)).collect();
        let (middle, is_even) = (keys.len() / 2, keys.len().is_multiple_of(2));
        let (below, upper, _) = keys.select_nth_unstable(middle);
        match below.iter().max() {
            Some(lower) if is_even => value(*lower) / 2.0 + value(*upper) / 2.0,
            _ => value(*upper),
        }
    };
    (0..channels).into_par_iter().map(of_channel).collect()
}

/// An integer that is to others as the value is to theirs by [`f32::total_cmp`]: integers are told apart faster.
fn key(value: f32) -> i32 {
    turned(value.to_bits().cast_signed())
}

/// The value of a key.
fn value(key: i32) -> f32 {
    f32::from_bits(turned(key).cast_unsigned())
}

/// Of what is negative all bits but the sign's are turned, which turns them back as well.
fn turned(bits: i32) -> i32 {
    if bits < 0 { bits ^ i32::MAX } else { bits }
}

#[cfg(test)]
mod tests {
    use super::{key, medians, value};

    #[test]
    fn the_median_is_that_of_each_channel() {
        assert_eq!(medians(&[1.0, 9.0, 3.0, -9.0, 2.0, 0.0], 2), [2.0, 0.0]);
        assert_eq!(medians(&[1.0, 9.0, 3.0, -9.0], 2), [2.0, 0.0]);
        assert_eq!(medians(&[4.0, 5.0], 2), [4.0, 5.0]);
        assert_eq!(medians(&[-4.0, f32::NEG_INFINITY, -0.5, f32::INFINITY, 1.0], 1), [-0.5]);
    }

    #[test]
    fn keys_are_in_the_order_of_values() {
        let mut values =
            [0.0, -0.0, 1.5, -1.5, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
        values.sort_by(f32::total_cmp);
        assert!(values.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert!(values.iter().all(|of| value(key(*of)).to_bits() == of.to_bits()));
    }
}
