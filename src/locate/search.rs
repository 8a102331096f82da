//! Stage 2: the shortest prefix of the ranking whose mask makes the model collapse.

use super::critical_set::Prefix;
use super::evaluator::Evaluator;
use super::{Entry, SearchSettings};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::Neuron;

/// Prefixes computed at once, at most.
const MAX_BATCH: usize = 32;

/// Tries prefixes of 1, 2, … entries (Δn = 1) and stops at the first with damage ≥ ε. The damage of prefixes is not
/// monotone, so none is skipped; batches double, so at most as many are computed in vain as were needed, or as a pass pays
/// for, with which it begins.
/// `why` explains a perplexity that is not a number.
pub(super) fn search(
    evaluator: &mut Evaluator,
    entries: &[Entry],
    settings: &SearchSettings,
    why: &dyn Fn() -> String,
) -> Result<Prefix> {
    let longest = settings.max_neurons.min(entries.len());
    let mut curve_nll_nats = Vec::new();
    let mut batch = evaluator.paid();
    let most = MAX_BATCH.max(batch);
    while curve_nll_nats.len() < longest {
        let from = curve_nll_nats.len();
        let to = (from + batch).min(longest);
        let mut sets = vec![vec![]];
        sets.extend((from + 1..=to).map(|n| members(entries, n)));
        let stage = format!("masking prefixes {} to {to}", from + 1);
        let mut nlls = evaluator.nlls(&stage, &sets)?.into_iter();
        let base = metrics::base(nlls.next().unwrap_or(f64::NAN), why)?;
        for nll in nlls {
            curve_nll_nats.push(nll);
            if metrics::damage(nll, base) >= settings.epsilon {
                return Ok(Prefix { collapsed: true, n: curve_nll_nats.len(), curve_nll_nats });
            }
        }
        batch = (batch * 2).min(most);
    }
    Ok(Prefix { collapsed: false, n: curve_nll_nats.len(), curve_nll_nats })
}

/// The distinct neurons of the first `n` entries, in order of the ranking.
pub(super) fn members(entries: &[Entry], n: usize) -> Vec<Neuron> {
    let mut members: Vec<Neuron> = Vec::with_capacity(n);
    for entry in &entries[..n.min(entries.len())] {
        if !members.contains(&entry.neuron) {
            members.push(entry.neuron.clone());
        }
    }
    members
}
