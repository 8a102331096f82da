//! How often a clean tensor looks like this: measured, not guessed.
//!
//! For each site and direction the largest strength within each tensor of four clean language models was taken
//! (`examples/lesion_rates.rs calibrate`; which models and where they come from: `scripts/fetch-clean-models.sh`).
//! A tenth of the tensors lie above [`Tail::tenth`]; beyond it the chance falls as a power (Hill 1975), with an
//! exponent capped at [`LARGEST_EXPONENT`], as four models cannot show a steeper one. What is beyond the largest
//! strength seen is therefore an extrapolation.

use super::site::{SITES, Site};

/// Sides of tensors of the four clean models. None holds a row or column of zeros.
pub(super) const CLEAN_SIDES: usize = 1400;
/// The steepest tail that is believed.
pub const LARGEST_EXPONENT: f64 = 4.0;

/// The upper tenth of the strengths of clean tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tail {
    /// Nine tenths of clean tensors stay below this strength.
    pub tenth: f64,
    /// The chance of s is 0.1 (s / tenth)^−exponent.
    pub exponent: f64,
}

impl Tail {
    /// The tail of the largest strengths of some clean tensors; none of fewer than 20.
    pub fn of(strengths: &[f64]) -> Option<Tail> {
        let mut ordered = strengths.to_vec();
        ordered.sort_unstable_by(|a, b| b.total_cmp(a));
        let count = (strengths.len() as f64 / 10.0).round() as usize;
        let tenth = *ordered.get(count).filter(|_| count >= 2)?;
        let mean = ordered[..count].iter().map(|s| (s / tenth).ln()).sum::<f64>() / count as f64;
        Some(Tail { tenth, exponent: (1.0 / mean).min(LARGEST_EXPONENT) })
    }

    /// The chance that a clean tensor holds something at least this strong, where that is at most a tenth; else 1.
    pub fn p_value(self, strength: f64) -> f64 {
        if strength < self.tenth { 1.0 } else { 0.1 * (strength / self.tenth).powf(-self.exponent) }
    }
}

/// The tails that p-values are worked out by.
#[derive(Debug, Clone, PartialEq)]
pub struct Tails {
    /// Of norms by site (rows of q, k, v, o, gate, up and down, then their columns): towards large norms, then small.
    pub norms: [[Tail; 2]; SITES.len()],
    /// Of the cosines of `down_proj`'s rows and `up_proj`'s columns, towards the other sign.
    pub cosines: Tail,
}

impl Tails {
    pub(super) fn of_norms(&self, site: Site, large: bool) -> Tail {
        self.norms[site.index()][usize::from(!large)]
    }
}

/// The chance that something of chance `each` is met in one of `tests`.
pub(super) fn in_any(each: f64, tests: usize) -> f64 {
    -(tests as f64 * (-each).ln_1p()).exp_m1()
}

const fn tail(tenth: f64, exponent: f64) -> Tail {
    Tail { tenth, exponent }
}

/// What `lesion_rates calibrate` printed of SmolLM2-135M-Instruct, Gemma 3 270M and Qwen2.5-Coder 0.5B and 1.5B, all of
/// them 4-bit to 6-bit GGUF files widened to bf16: 1,364 sides of tensors, 82 to 100 of each site (Gemma's rows of
/// o_proj and down_proj, which a norm follows, are left out). None has an indicator, neither by these tails nor by
/// those of the other three.
pub const MEASURED: Tails = Tails {
    norms: [
        [tail(2.00, 4.00), tail(2.15, 4.00)],
        [tail(2.25, 4.00), tail(2.86, 4.00)],
        [tail(1.81, 4.00), tail(2.97, 2.69)],
        [tail(1.69, 4.00), tail(1.50, 4.00)],
        [tail(1.84, 4.00), tail(1.82, 4.00)],
        [tail(2.89, 2.09), tail(2.24, 4.00)],
        [tail(1.10, 3.03), tail(1.01, 3.90)],
        [tail(1.61, 3.47), tail(1.37, 4.00)],
        [tail(1.54, 4.00), tail(1.61, 4.00)],
        [tail(1.47, 4.00), tail(1.63, 3.69)],
        [tail(2.44, 4.00), tail(2.82, 4.00)],
        [tail(1.15, 2.93), tail(0.99, 3.88)],
        [tail(0.82, 2.96), tail(0.98, 2.46)],
        [tail(2.48, 3.36), tail(2.10, 3.30)],
    ],
    cosines: tail(2.13, 4.00),
};
