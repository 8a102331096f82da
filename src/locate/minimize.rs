//! From a collapsing prefix to an inclusion-minimal critical set: no member can be dropped.

use super::critical_set::{CriticalSet, Subset};
use super::evaluator::Evaluator;
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::Neuron;

/// Up to this many members the damage of every subset is measured.
const MAX_SUBSETS_OF: usize = 6;

/// Backward elimination. Each round masks all sets that lack one member, then drops as many members at once as it can,
/// those first without which the damage stays largest. It ends when no set that lacks
/// one member collapses any more.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locate::search::{members, search};
    use crate::locate::{Entry, SearchSettings};
    use proptest::prelude::*;
    use std::hash::{DefaultHasher, Hash, Hasher};

    /// Neurons 0 … n−1, most important first.
    fn entries(n: usize) -> Vec<Entry> {
        let neuron = |channel| format!("L0.mlp.down_proj:out:{channel}").parse().unwrap();
        (0..n).map(|c| Entry { neuron: neuron(c), importance: (n - c) as f64, position: 0 }).collect()
    }

    /// The damage of a set of masked channels.
    type Damage = fn(&[usize]) -> f64;

    fn has(set: &[usize], wanted: &[usize]) -> bool {
        wanted.iter().all(|w| set.contains(w))
    }

    fn channels(set: &[Neuron]) -> Vec<usize> {
        set.iter().map(|n| n.channel).collect()
    }

    /// An evaluator over a base NLL of 2 that takes `damage` of the masked channels.
    fn evaluator(damage: impl Fn(&[usize]) -> f64 + 'static) -> Evaluator<'static> {
        let nll = move |set: &Vec<Neuron>| match channels(set).as_slice() {
            [] => 2.0,
            masked => 2.0 + std::f64::consts::LN_10 * damage(masked),
        };
        Evaluator::measuring(move |_, sets| Ok(sets.iter().map(&nll).collect()))
    }

    fn minimal(n: usize, damage: impl Fn(&[usize]) -> f64 + 'static) -> CriticalSet {
        minimize(&mut evaluator(damage), members(&entries(n), n), 1.0).unwrap()
    }

    #[test]
    fn what_is_needed_stays() {
        let cases: [(&str, Damage, &[usize]); 5] = [
            ("one alone", |s| if has(s, &[3]) { 4.0 } else { 0.1 }, &[3]),
            ("three together", |s| if has(s, &[1, 4, 6]) { 1.5 } else { 0.1 }, &[1, 4, 6]),
            ("everything", |s| s.len() as f64 / 8.0, &[0, 1, 2, 3, 4, 5, 6, 7]),
            ("the larger of two ways", |s| 2.0 * f64::from(has(s, &[5])) + f64::from(has(s, &[0])), &[5]),
            ("overflow is collapse", |s| if has(s, &[2, 7]) { f64::NAN } else { 0.0 }, &[2, 7]),
        ];
        for (name, damage, expected) in cases {
            let set = minimal(8, damage);
            assert_eq!(channels(&set.neurons), expected, "{name}");
            let subsets = if expected.len() <= MAX_SUBSETS_OF { (1 << expected.len()) - 1 } else { 0 };
            assert_eq!(set.subsets.len(), subsets, "{name}");
            assert!(set.damage > 1.0 - 1e-9, "{name}: {}", set.damage);
        }
    }

    proptest! {
        /// Whatever the damage of sets is, monotone or not: no single member can go.
        #[test]
        fn no_member_can_go(n in 1usize..9, seed: u64, share in 0u64..100) {
            let damage = move |masked: &[usize]| {
                let mut hasher = DefaultHasher::new();
                (seed, masked).hash(&mut hasher);
                if masked.len() == n || hasher.finish() % 100 < share { 1.5 } else { 0.5 }
            };
            let set = channels(&minimal(n, damage).neurons);
            prop_assert!(damage(&set) >= 1.0);
            for drop in &set {
                let rest: Vec<usize> = set.iter().copied().filter(|c| c != drop).collect();
                prop_assert!(rest.is_empty() || damage(&rest) < 1.0, "{set:?} without {drop}");
            }
        }
    }

    #[test]
    fn the_first_prefix_that_collapses_is_found_on_a_curve_that_is_not_monotone() {
        let curve = |damages: &'static [f64]| move |masked: &[usize]| damages[masked.len() - 1];
        let cases: [(&[f64], usize, bool); 4] = [
            (&[1.2, 0.0, 0.0], 1, true),
            (&[0.1, 0.9, 0.2, 1.3, 0.4, 2.0], 4, true),
            (&[0.1, 0.9, 0.2, 0.999, 0.4, 0.0], 6, false),
            (&[0.1, 0.9, f64::INFINITY, 0.0], 3, true),
        ];
        for (damages, n, collapsed) in cases {
            let entries = entries(damages.len());
            let found =
                search(&mut evaluator(curve(damages)), &entries, &SearchSettings::default(), &String::new).unwrap();
            assert_eq!((found.n, found.collapsed, found.curve_nll_nats.len()), (n, collapsed, n), "{damages:?}");
        }
        let settings = SearchSettings { max_neurons: 3, ..SearchSettings::default() };
        let cut = search(&mut evaluator(curve(&[0.1, 0.1, 0.1, 2.0])), &entries(4), &settings, &String::new).unwrap();
        assert_eq!((cut.n, cut.collapsed), (3, false));
    }

    #[test]
    fn a_channel_that_is_listed_at_two_positions_is_masked_once() {
        let mut listed = entries(3);
        listed.insert(1, Entry { position: 7, ..listed[0].clone() });
        assert_eq!(channels(&members(&listed, 3)), [0, 1]);
        let found = search(&mut evaluator(|m| m.len() as f64 - 1.0), &listed, &SearchSettings::default(), &String::new)
            .unwrap();
        assert_eq!((found.n, found.curve_nll_nats[0] == found.curve_nll_nats[1]), (3, true));
    }
}
