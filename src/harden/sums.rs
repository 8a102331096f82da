//! Sums over states, and the ridge regressions that are solved from them, in f64.

use crate::error::{Error, Result};
use nalgebra::{DMatrix, DVector};

/// Sums over states x, rows of (positions, width).
#[derive(Debug, Clone)]
pub(super) struct Sums {
    /// How many there are.
    pub count: f64,
    /// Σ x.
    pub sum: DVector<f64>,
    /// Σ x xᵀ.
    outer: DMatrix<f64>,
}

impl Sums {
    pub fn new(width: usize) -> Sums {
        Sums { count: 0.0, sum: DVector::zeros(width), outer: DMatrix::zeros(width, width) }
    }

    pub fn add(&mut self, states: &DMatrix<f64>) {
        self.count += states.nrows() as f64;
        self.sum += states.row_sum().transpose();
        self.outer.gemm_tr(1.0, states, states, 1.0);
    }
}

/// Linear functions of a state by ridge regression: the w that minimizes Σᵢ cᵢ (w·xᵢ − tᵢ)² + λ |w|², where all states of
/// one kind have one weight c and one target t. λ is `ridge` times the mean square of a channel.
pub(super) struct Regression<'a> {
    kinds: Vec<(&'a Sums, f64)>,
    factor: nalgebra::Cholesky<f64, nalgebra::Dyn>,
}

impl<'a> Regression<'a> {
    /// Of kinds of states, each with its weight.
    ///
    /// # Errors
    /// The sums are not finite, or all zero.
    pub fn new(kinds: Vec<(&'a Sums, f64)>, ridge: f64) -> Result<Regression<'a>> {
        let width = kinds.first().map_or(0, |(sums, _)| sums.sum.len());
        let mut gram = DMatrix::zeros(width, width);
        for (sums, weight) in &kinds {
            gram += &sums.outer * *weight;
        }
        let penalty = ridge * gram.trace() / width.max(1) as f64;
        (0..width).for_each(|at| gram[(at, at)] += penalty);
        let none = || Error::Compute("the states that a spare is fitted to are not finite, or all zero".into());
        Ok(Regression { kinds, factor: gram.cholesky().ok_or_else(none)? })
    }

    /// The function whose targets are these, one for each kind.
    pub fn solve(&self, targets: &[f64]) -> DVector<f64> {
        let mut right = DVector::zeros(self.kinds.first().map_or(0, |(sums, _)| sums.sum.len()));
        for ((sums, weight), target) in self.kinds.iter().zip(targets) {
            right += &sums.sum * (weight * target);
        }
        self.factor.solve(&right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the normal equations of one more row for each channel, solved by singular values.
    #[test]
    fn a_regression_from_sums_is_that_of_the_states() {
        let a = DMatrix::from_fn(7, 3, |r, c| ((r * 5 + c * 3) % 7) as f64 - 2.0);
        let b = DMatrix::from_fn(4, 3, |r, c| ((r * 2 + c * 5) % 6) as f64 + 0.5);
        let (mut sums_a, mut sums_b) = (Sums::new(3), Sums::new(3));
        sums_a.add(&a.rows(0, 3).into_owned());
        sums_a.add(&a.rows(3, 4).into_owned());
        sums_b.add(&b);
        let (weight, ridge) = (2.5, 0.1);
        let found = Regression::new(vec![(&sums_a, 1.0), (&sums_b, weight)], ridge).unwrap().solve(&[1.0, -0.5]);
        let penalty = ridge * ((&a.transpose() * &a).trace() + weight * (&b.transpose() * &b).trace()) / 3.0;
        let (root, mut rows, mut targets) = (f64::sqrt(weight), Vec::new(), Vec::new());
        a.row_iter().for_each(|row| (rows.push(row.into_owned()), targets.push(1.0)).0);
        b.row_iter().for_each(|row| (rows.push(row * root), targets.push(-0.5 * root)).0);
        (0..3).for_each(|at| {
            rows.push(DMatrix::<f64>::identity(3, 3).row(at) * penalty.sqrt());
            targets.push(0.0);
        });
        let whole = DMatrix::from_rows(&rows);
        let expected = whole.svd(true, true).solve(&DVector::from_vec(targets), 1e-12).unwrap();
        assert!((found - expected).norm() < 1e-9);
        assert!(Regression::new(vec![(&Sums::new(2), 1.0)], 0.1).is_err());
    }
}
