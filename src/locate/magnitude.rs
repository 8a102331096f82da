//! Magnitude: one pass, and how far a channel is from what is usual for it.

use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// |x − the channel's median over positions|, (positions, channels).
pub(super) fn importance(x: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    let medians = medians(&x.flatten_all()?.to_vec1()?, x.dim(1)?);
    Ok(x.broadcast_sub(&Tensor::new(medians, &Device::Cpu)?)?.abs()?)
}

/// The median of each channel over positions; of two in the middle their mean.
fn medians(values: &[f32], channels: usize) -> Vec<f32> {
    let of_channel = |channel: usize| {
        let mut values: Vec<f32> = values.iter().skip(channel).step_by(channels).copied().collect();
        let (middle, is_even) = (values.len() / 2, values.len().is_multiple_of(2));
        let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
        match below.iter().copied().max_by(f32::total_cmp) {
            Some(lower) if is_even => lower / 2.0 + *upper / 2.0,
            _ => *upper,
        }
    };
    (0..channels).into_par_iter().map(of_channel).collect()
}

#[cfg(test)]
mod tests {
    use super::medians;

    #[test]
    fn the_median_is_that_of_each_channel() {
        assert_eq!(medians(&[1.0, 9.0, 3.0, -9.0, 2.0, 0.0], 2), [2.0, 0.0]);
        assert_eq!(medians(&[1.0, 9.0, 3.0, -9.0], 2), [2.0, 0.0]);
        assert_eq!(medians(&[4.0, 5.0], 2), [4.0, 5.0]);
    }
}
