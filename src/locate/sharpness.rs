//! How sharp a collapse is: whether one neuron brings it about, or many do bit by bit.

use super::infinite::one_finite_or_infinite;
use crate::evaluate::metrics;
use serde::{Deserialize, Serialize};

/// How a critical set crosses ε. Of the 21 prefixes that the paper published, 17 reach ε = 1 by one step of 1.08 or more,
/// and 4 have none above 0.66: so a step of ε parts them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sharpness {
    /// The largest step of damage from one prefix of the curve to the next, of which the first is from nothing masked.
    #[serde(deserialize_with = "one_finite_or_infinite")]
    pub largest_step: f64,
    /// The prefix that this step leads to.
    pub largest_step_at: usize,
    /// The damage of the critical set less ε.
    #[serde(deserialize_with = "one_finite_or_infinite")]
    pub above_epsilon: f64,
    /// No step is as large as ε: many neurons add up. [`CAUTION`](crate::document::critical_set::CAUTION) is in place.
    pub gradual: bool,
}

impl Sharpness {
    /// Of a curve (NLL with the first 1, 2, … entries masked) and a critical set's damage.
    pub(crate) fn of(base_nll_nats: f64, curve_nll_nats: &[f64], damage: f64, epsilon: f64) -> Sharpness {
        let damages: Vec<f64> =
            std::iter::once(0.0).chain(curve_nll_nats.iter().map(|nll| metrics::damage(*nll, base_nll_nats))).collect();
        let steps = damages.windows(2).map(|pair| pair[1] - pair[0]).zip(1..);
        let larger = |a: (f64, usize), b: (f64, usize)| if b.0 > a.0 { b } else { a };
        let (largest_step, largest_step_at) = steps.fold((f64::NEG_INFINITY, 0), larger);
        Sharpness { largest_step, largest_step_at, above_epsilon: damage - epsilon, gradual: largest_step < epsilon }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_told_from_a_creep() {
        let near = |a: f64, b: f64| a == b || (a - b).abs() < 1e-9;
        let told = |damages: &[f64], (step, at): (f64, usize), above: f64, gradual: bool| {
            let curve: Vec<f64> = damages.iter().map(|d| 2.0 + d * std::f64::consts::LN_10).collect();
            let found = Sharpness::of(2.0, &curve, *damages.last().unwrap(), 1.0);
            assert!(near(found.largest_step, step) && near(found.above_epsilon, above), "{damages:?}: {found:?}");
            assert_eq!((found.largest_step_at, found.gradual), (at, gradual), "{damages:?}");
        };
        told(&[4.68], (4.68, 1), 3.68, false);
        told(&[0.0, -0.2, 3.2], (3.4, 3), 2.2, false);
        told(&[0.25, 0.75, 1.0], (0.5, 2), 0.0, true);
        told(&[0.75, 0.5, 0.875, 1.25], (0.75, 1), 0.25, true);
        told(&[0.5, f64::INFINITY], (f64::INFINITY, 2), f64::INFINITY, false);
    }
}
