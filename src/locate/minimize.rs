//! From a collapsing prefix to an inclusion-minimal critical set: no member can be dropped.

use super::critical_set::{CriticalSet, Subset};
use super::evaluator::Evaluator;
use super::reduction::Reduction;
use super::smallest::{Further, Smallest};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::Neuron;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha20Rng;

/// Up to this many members the damage of every subset is measured.
const MAX_SUBSETS_OF: usize = 6;

/// Prefixes of so many members are eliminated from at once.
const SHORT: usize = 16;

/// The second order may take one row for so many members of the prefix.
const MEMBERS_A_ROW: usize = 4;

/// The stream of random orders; noisy samples have those before.
const ORDERS_STREAM: u64 = 1 << 61;

/// The critical set within a prefix that collapses, and the damage of its subsets.
pub(super) fn minimize(
    evaluator: &mut Evaluator,
    prefix: Vec<Neuron>,
    epsilon: f64,
    further: Option<Further>,
) -> Result<CriticalSet> {
    let (fewest, smallest) = fewest(evaluator, &prefix, epsilon, further)?;
    let set: Vec<Neuron> = fewest.into_iter().map(|at| prefix[at].clone()).collect();
    let base = evaluator.nlls("minimizing", &[vec![]])?[0];
    let nll_nats = evaluator.nlls("minimizing", std::slice::from_ref(&set))?[0];
    let subsets = if set.len() <= MAX_SUBSETS_OF { subsets(evaluator, &set, base)? } else { Vec::new() };
    Ok(CriticalSet { neurons: set, nll_nats, damage: metrics::damage(nll_nats, base), subsets, smallest })
}

/// The members, by their place in the prefix, of a set that is looked for in the order of the ranking, then, with few
/// rows, in that of the curve's steps, which may give a smaller one. It is proven: each member was left out once.
fn fewest(
    evaluator: &mut Evaluator,
    prefix: &[Neuron],
    epsilon: f64,
    further: Option<Further>,
) -> Result<(Vec<usize>, Option<Smallest>)> {
    let mut best: Vec<usize> = (0..prefix.len()).collect();
    let mut reduction = Reduction::new(evaluator, prefix, epsilon)?;
    if prefix.len() > SHORT {
        best = reduction.descend(&best, &[], usize::MAX)?.unwrap_or(best);
    }
    best = reduction.eliminate(&best)?.unwrap_or(best);
    if prefix.len() > SHORT {
        let steps = reduction.by_steps()?;
        reduction.limit(prefix.len() / MEMBERS_A_ROW);
        best = reduction.smaller(&steps, &best)?.unwrap_or(best);
    }
    let smallest = further.map(|further| further.look(&mut reduction, &mut best)).transpose()?;
    Ok((best, smallest))
}

/// A minimal set of a prefix that collapses by each of so many random orders, from a seed.
pub(super) fn by_orders(
    evaluator: &mut Evaluator,
    prefix: &[Neuron],
    (epsilon, orders, seed): (f64, usize, u64),
) -> Result<Vec<Vec<Neuron>>> {
    let mut reduction = Reduction::new(evaluator, prefix, epsilon)?;
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    rng.set_stream(ORDERS_STREAM);
    let mut sets = Vec::with_capacity(orders);
    for _ in 0..orders {
        let mut order: Vec<usize> = (0..prefix.len()).collect();
        order.shuffle(&mut rng);
        let set = reduction.descend(&order, &[], usize::MAX)?.unwrap_or(order);
        let set = reduction.eliminate(&set)?.unwrap_or(set);
        sets.push(set.into_iter().map(|at| prefix[at].clone()).collect());
    }
    Ok(sets)
}

/// Every subset but the empty one, smaller ones first.
fn subsets(evaluator: &mut Evaluator, set: &[Neuron], base: f64) -> Result<Vec<Subset>> {
    let mut masks: Vec<u32> = (1..1u32 << set.len()).collect();
    masks.sort_by_key(|mask| (mask.count_ones(), mask.trailing_zeros(), *mask));
    let chosen = |mask: u32| (0..set.len()).filter(|i| mask >> i & 1 == 1).map(|i| set[i].clone()).collect();
    let sets: Vec<Vec<Neuron>> = masks.into_iter().map(chosen).collect();
    let nlls = evaluator.nlls("measuring subsets", &sets)?;
    let subset = |(neurons, nll_nats)| Subset { neurons, nll_nats, damage: metrics::damage(nll_nats, base) };
    Ok(sets.into_iter().zip(nlls).map(subset).collect())
}

#[cfg(test)]
mod tests;
