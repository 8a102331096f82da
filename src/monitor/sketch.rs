//! Quantiles of a stream in little memory: a histogram of logarithmic buckets (DDSketch, Masson et al. 2019, VLDB
//! 12(12), arXiv 1908.10693), unbounded in its range as that of f64 is small: 35,000 buckets could ever be used.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A quantile is within this of a value that was added, relative to it.
pub const RELATIVE_ERROR: f64 = 0.01;

/// Bucket i holds the values in (γ^(i−1), γ^i].
const GAMMA: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);

/// Counts of numbers that are not negative. The order in which they come does not matter, and the sketch of two streams
/// is the merged sketch of each.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sketch {
    /// How many were 0.
    zeros: u64,
    /// Smallest and largest, exact.
    range: Option<(f64, f64)>,
    /// How many were in each bucket.
    buckets: BTreeMap<i32, u64>,
}

impl Sketch {
    /// Adds a value; one that is negative or not finite is left out.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        let (min, max) = self.range.unwrap_or((value, value));
        self.range = Some((min.min(value), max.max(value)));
        match value {
            0.0 => self.zeros += 1,
            _ => *self.buckets.entry((value.ln() / GAMMA.ln()).ceil() as i32).or_default() += 1,
        }
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Sketch) {
        self.zeros += other.zeros;
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
        self.range = match (self.range, other.range) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
    }

    /// How many values were added.
    pub fn count(&self) -> u64 {
        self.buckets.values().fold(self.zeros, |sum, count| sum.saturating_add(*count))
    }

    /// Smallest and largest.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.range
    }

    /// The value of rank ⌊q (n − 1)⌋ of the n values, within [`RELATIVE_ERROR`]; none where there are none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let (min, max) = self.range?;
        let rank = (q.clamp(0.0, 1.0) * (self.count() - 1) as f64) as u64;
        let mut below = self.zeros;
        if rank < below {
            return Some(0.0);
        }
        for (bucket, count) in &self.buckets {
            below = below.saturating_add(*count);
            if rank < below {
                let middle = 2.0 * GAMMA.powi(*bucket) / (GAMMA + 1.0);
                return Some(middle.clamp(min, max));
            }
        }
        Some(max)
    }

    /// Checks a sketch that was read from a file.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |problem: &str| Err(Error::input(format!("a sketch that cannot be: {problem}")));
        let total = self.buckets.values().try_fold(self.zeros, |sum, count| sum.checked_add(*count));
        // Sums of a few of these still fit.
        let Some(total) = total.filter(|t| *t < 1 << 53) else { return bad("its counts are absurdly large") };
        match self.range {
            None if total == 0 => Ok(()),
            None => bad("it counts values but has no range"),
            Some(_) if total == 0 => bad("it has a range but counts no values"),
            Some((min, max)) if !(min >= 0.0 && min <= max && max.is_finite()) => bad("its range is none"),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|v| sketch.add(*v));
        sketch
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        let any_size = (-300f64..300.0).prop_map(|power| 10f64.powf(power));
        prop::collection::vec(prop_oneof![Just(0.0), any_size, 0f64..100.0], 1..200)
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_its_error(mut values in values(), q in 0f64..=1.0) {
            let found = of(&values).quantile(q).unwrap();
            values.sort_by(f64::total_cmp);
            let exact = values[(q * (values.len() - 1) as f64) as usize];
            prop_assert!((found - exact).abs() <= exact * RELATIVE_ERROR * (1.0 + 1e-9), "{found} for {exact}");
        }

        #[test]
        fn parts_merge_to_the_whole(values in values(), at in 0usize..200) {
            let (left, right) = values.split_at(at.min(values.len()));
            let mut merged = of(right);
            merged.merge(&of(left));
            prop_assert_eq!(&merged, &of(&values));
            merged.check().unwrap();
            let json = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sketch>(&json).unwrap(), merged);
        }
    }

    #[test]
    fn extremes_are_exact_and_what_is_no_norm_is_left_out() {
        let sketch = of(&[3.7, f64::NAN, 0.0, f64::INFINITY, 1234.5, -1.0, f64::MIN_POSITIVE, f64::MAX]);
        assert_eq!((sketch.count(), sketch.range()), (5, Some((0.0, f64::MAX))));
        assert_eq!((sketch.quantile(0.0), sketch.quantile(1.0)), (Some(0.0), Some(f64::MAX)));
        assert_eq!(Sketch::default().quantile(0.5), None);
    }
}
