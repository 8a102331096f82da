//! Looking on for a smaller critical set than the first, by other orders, within a budget.

use super::reduction::Reduction;
use crate::error::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};

/// Where the streams of orders begin; noisy samples have those before.
const FIRST_STREAM: u64 = 1 << 62;

/// Looking on for a smaller set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Further {
    /// Rows at most.
    pub rows: usize,
    /// What orders are drawn from.
    pub seed: u64,
}

/// What looking for a smaller critical set by other orders came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Smallest {
    /// Rows (the text once under one set of masked neurons) that it was to take at most.
    pub budget: usize,
    /// Rows that it took.
    pub rows: usize,
    /// Orders that were tried.
    pub orders: usize,
    /// How many members the set had before.
    pub before: usize,
    /// A smaller one was found, and is the critical set.
    pub found: bool,
    /// Each member is needed even with the rest of the prefix masked: if more masked neurons never do less damage,
    /// there is no smaller set in the prefix.
    pub all_needed: bool,
}

impl Further {
    /// Puts smaller sets into `best` as long as there are rows and not every member is needed. Orders are drawn without
    /// replacement, the first of the ranking and those that end large steps more likely first (Efraimidis & Spirakis 2006).
    pub fn look(self, reduction: &mut Reduction, best: &mut Vec<usize>) -> Result<Smallest> {
        let (rows, before) = (reduction.rows(), best.len());
        reduction.limit(self.rows);
        let mut places: Vec<usize> = (0..reduction.len()).collect();
        for (at, member) in reduction.by_steps()?.into_iter().enumerate() {
            places[member] = places[member].min(at);
        }
        let (mut orders, mut all_needed) = (0, false);
        // Where an order takes no rows, all that it needs is known.
        while orders < self.rows && reduction.affords(1) {
            let Some(needed) = reduction.needed(best)? else { break };
            all_needed = needed.len() == best.len();
            if all_needed {
                break;
            }
            let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
            rng.set_stream(FIRST_STREAM + orders as u64);
            let mut keyed: Vec<(f64, usize)> =
                places.iter().map(|place| -rng.random::<f64>().ln() * (place + 1) as f64).zip(0..).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            let order: Vec<usize> = keyed.into_iter().map(|(_, member)| member).collect();
            orders += 1;
            if let Some(smaller) = reduction.smaller(&order, best)? {
                *best = smaller;
            }
        }
        let found = best.len() < before;
        Ok(Smallest { budget: self.rows, rows: reduction.rows() - rows, orders, before, found, all_needed })
    }
}
