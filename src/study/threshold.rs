//! How prefix and critical set depend on the threshold ε (the paper's Table 6).

use super::outcome::{Outcome, Table, row};
use super::{Context, Study};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::locate::SearchSettings;

pub(super) const STUDY: Study = Study {
    name: "threshold",
    paper: "Table 6",
    about: "The length of the prefix and the size of the critical set against ε",
    uses: &[],
    run,
};

/// The paper's.
const EPSILONS: [f64; 6] = [0.8, 1.0, 2.0, 3.0, 10.0, 20.0];

fn run(context: &Context) -> Result<Outcome> {
    let mut table = Table::new(
        "threshold",
        format!("What reaches ε within the first {} of the ranking", context.search.max_neurons),
        &["epsilon", "prefix", "critical set", "damage of the set"],
    );
    // The largest damage that any prefix does tells which ε are reached.
    let last = EPSILONS[EPSILONS.len() - 1];
    let whole = context.locate(&SearchSettings { epsilon: last, ..context.search.clone() })?.report;
    let base = whole.result.base.nll_nats;
    let damages: Vec<f64> = whole.result.prefix.curve_nll_nats.iter().map(|nll| metrics::damage(*nll, base)).collect();
    for epsilon in EPSILONS {
        let Some(at) = damages.iter().position(|damage| *damage >= epsilon) else {
            table.rows.push(row![epsilon, None::<usize>, None::<usize>, None::<f64>]);
            continue;
        };
        let located = context.locate(&SearchSettings { epsilon, ..context.search.clone() })?.report;
        let set = located.result.critical_set;
        let size = set.as_ref().map(|set| set.neurons.len());
        table.rows.push(row![epsilon, at + 1, size, set.map(|set| set.damage)]);
    }
    let reached: Vec<usize> =
        EPSILONS.iter().filter_map(|e| damages.iter().position(|d| d >= e)).map(|at| at + 1).collect();
    let most = damages.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let stable = reached.iter().all(|n| Some(n) == reached.first());
    let lengths = match reached.first() {
        None => "No ε of these is reached".into(),
        Some(n) if stable => format!("The prefix has {n} wherever ε is reached"),
        Some(_) => format!(
            "The prefix has {} for the ε that are reached",
            reached.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    let findings = vec![format!(
        "{lengths}; no prefix does more damage than Δ = {most:.2}. In the paper n is the same up to ε = 3 for one of three \
         models, for all ε for another, and beyond reach from 2 on for the third."
    )];
    Ok(Outcome { tables: vec![table], charts: Vec::new(), findings })
}
