//! From a collapsing prefix to an inclusion-minimal critical set: no member can be dropped.

use super::critical_set::{CriticalSet, Subset};
use super::evaluator::Evaluator;
use crate::error::Result;
use crate::metrics;
use crate::neuron::Neuron;

/// Up to this many members the damage of every subset is measured.
const MAX_SUBSETS_OF: usize = 6;

/// Backward elimination. Each round masks all sets that lack one member, then drops as many members at once as it can,
/// those first without which the damage stays largest. It ends when every set that lacks one member no longer collapses;
/// with batches of droppable members this takes rounds in the order of the logarithm of what can go.
pub(super) fn minimize(evaluator: &mut Evaluator, mut set: Vec<Neuron>, epsilon: f64) -> Result<CriticalSet> {
    let base = evaluator.nlls("minimizing", &[vec![]])?[0];
    loop {
        let stage = format!("minimizing a set of {}", set.len());
        let without_one: Vec<Vec<Neuron>> = (0..set.len()).map(|drop| without(&set, &[drop])).collect();
        let nlls = evaluator.nlls(&stage, &without_one)?;
        let mut droppable: Vec<(usize, f64)> =
            nlls.iter().map(|nll| metrics::damage(*nll, base)).enumerate().filter(|(_, d)| *d >= epsilon).collect();
        if droppable.is_empty() {
            break;
        }
        droppable.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        let order: Vec<usize> = droppable.iter().map(|(at, _)| *at).collect();
        let mut counts: Vec<usize> =
            std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < order.len()).collect();
        counts.push(order.len());
        let sets: Vec<Vec<Neuron>> = counts.iter().map(|n| without(&set, &order[..*n])).collect();
        let nlls = evaluator.nlls(&stage, &sets)?;
        // Dropping the first alone keeps the collapse, so one of them always does.
        let kept = sets.into_iter().zip(nlls).rev().find(|(_, nll)| metrics::damage(*nll, base) >= epsilon);
        let Some((smaller, _)) = kept else { break };
        set = smaller;
    }
    let nll_nats = evaluator.nlls("minimizing", std::slice::from_ref(&set))?[0];
    let subsets = if set.len() <= MAX_SUBSETS_OF { subsets(evaluator, &set, base)? } else { Vec::new() };
    Ok(CriticalSet { neurons: set, nll_nats, damage: metrics::damage(nll_nats, base), subsets })
}

/// `set` without the members at `dropped`.
fn without(set: &[Neuron], dropped: &[usize]) -> Vec<Neuron> {
    set.iter().enumerate().filter(|(at, _)| !dropped.contains(at)).map(|(_, n)| n.clone()).collect()
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
