//! How far the prefix is from minimal, and whether there is more than one minimal set in it.

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study, Use};
use crate::error::{Count, Error, Result};
use crate::locate;
use crate::neuron::Neuron;

pub(super) const STUDY: Study = Study {
    name: "minimal",
    paper: "ours",
    about: "Minimal sets of the prefix by several random orders, and how often each neuron is in one",
    uses: &[Use::Draws],
    run,
};

fn run(context: &Context) -> Result<Outcome> {
    let located = context.located()?;
    if !located.result.prefix.collapsed {
        return Err(Error::input("nothing collapses the model: there is no prefix to find minimal sets in"));
    }
    let mut prefix: Vec<Neuron> = Vec::new();
    for ranked in located.result.ranking.iter().take(located.result.prefix.n) {
        if !prefix.contains(&ranked.neuron) {
            prefix.push(ranked.neuron.clone());
        }
    }
    let orders = (context.search.epsilon, context.options.draws, context.search.seed);
    let sets = locate::minimal_sets(context.subject, &prefix, orders, context.progress)?;

    let mut of_orders =
        Table::new("orders", "The minimal set that each order leads to", &["order", "members", "neurons"]);
    for (at, set) in sets.iter().enumerate() {
        let names: Vec<String> = set.iter().map(Neuron::short).collect();
        of_orders.rows.push(row![at + 1, set.len(), names.join(" ")]);
    }
    let mut members = Table::new(
        "recurrence",
        "In how many of these sets each neuron of the prefix is",
        &["rank", "neuron", "sets", "share"],
    );
    for (at, neuron) in prefix.iter().enumerate() {
        let n = sets.iter().filter(|set| set.contains(neuron)).count();
        members.rows.push(row![at + 1, neuron, n, n as f64 / sets.len() as f64]);
    }
    let sizes = sets.iter().map(Vec::len);
    let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
    let distinct = sets.iter().collect::<std::collections::HashSet<_>>().len();
    let always = prefix.iter().filter(|neuron| sets.iter().all(|set| set.contains(neuron))).count();
    let findings = vec![format!(
        "Of a prefix of {}, {} orders lead to {} of {least} to {most} members; {} in each. The paper reports prefixes alone.",
        prefix.len(),
        sets.len(),
        Count(distinct, "minimal set", "minimal sets"),
        Count(always, "neuron is", "neurons are")
    )];
    let chart =
        Chart::lines("recurrence", "The share of minimal sets that hold a neuron", &members, "rank", "share").bars();
    Ok(Outcome { tables: vec![of_orders, members], charts: vec![chart], findings })
}
