//! The critical set, how perplexity collapses with it, and where it lies (the paper's Table 1 and Figures 2, 5, 6).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Measured, Study, Use};
use crate::error::{Count, Result};
use crate::evaluate::metrics;
use crate::locate::CriticalSetReport;
use crate::neuron::Neuron;

pub(super) const STUDY: Study = Study {
    name: "critical",
    paper: "Table 1, Figures 2, 5, 6",
    about: "The collapse prefix and the critical set: how many, how rare, where, and perplexity before and after",
    uses: &[Use::Corpora],
    run,
};

fn run(context: &Context) -> Result<Outcome> {
    let located = context.located()?;
    let CriticalSetReport { base, prefix, critical_set, ranking, sharpness, .. } = &located.result;
    let in_prefix: Vec<Neuron> = ranking.iter().take(prefix.n).map(|ranked| ranked.neuron.clone()).collect();
    let set = critical_set.as_ref().map(|set| set.neurons.clone());

    let mut before_and_after = Table::new(
        "perplexity",
        "Perplexity as the model is, with the prefix masked, and with the critical set masked",
        &["corpus", "masked", "neurons", "perplexity", "damage"],
    );
    let mut sets = vec![("nothing", Vec::new()), ("prefix", in_prefix)];
    sets.extend(set.clone().map(|set| ("critical set", set)));
    let masked: Vec<Vec<Neuron>> = sets.iter().map(|(_, set)| set.clone()).collect();
    for Measured { corpus, nlls } in context.masked(&masked)? {
        for ((name, set), nll) in sets.iter().zip(&nlls) {
            let (perplexity, damage) = (metrics::perplexity(*nll), metrics::damage(*nll, nlls[0]));
            before_and_after.rows.push(row![corpus.as_str(), *name, set.len(), perplexity, damage]);
        }
    }

    let mut curve =
        Table::new("curve", "The reference text with the first n masked", &["n", "neuron", "perplexity", "damage"]);
    curve.rows.push(row![0usize, None::<&str>, base.perplexity, 0.0]);
    for (at, nll) in prefix.curve_nll_nats.iter().enumerate() {
        let damage = metrics::damage(*nll, base.nll_nats);
        curve.rows.push(row![at + 1, ranking.get(at).map(|r| r.neuron.short()), metrics::perplexity(*nll), damage]);
    }

    let mut layers = Table::new(
        "layers",
        format!("In which layers the first {} of the ranking lie", ranking.len()),
        &["layer", "first of the ranking", "prefix", "critical set"],
    );
    for layer in 0..context.model().recipe().layers.len() {
        let of = |neurons: &mut dyn Iterator<Item = &Neuron>| {
            neurons.filter(|neuron| neuron.site.module.layer() == Some(layer)).count()
        };
        let (all, first) = (of(&mut ranking.iter().map(|r| &r.neuron)), of(&mut masked[1].iter()));
        layers.rows.push(row![layer, all, first, of(&mut set.iter().flatten())]);
    }

    let channels = context.channels()?;
    let entries = channels * context.subject.text.ids.len();
    let rate = prefix.n as f64 / entries as f64 * 1e8;
    let mut counts = Table::new(
        "counts",
        "How many, and of how many: the paper counts a channel once for each position of the text",
        &["prefix", "critical set", "channels", "channels × positions", "prefix / (channels × positions) × 1e8"],
    );
    counts.rows.push(row![prefix.n, set.as_ref().map(Vec::len), channels, entries, rate]);

    let mut findings = Vec::new();
    match (&critical_set, sharpness) {
        (Some(set), Some(sharpness)) => {
            findings.push(format!(
                "The model collapses at n = {} (the paper's models: 3 to 45), which is {rate:.2} of 10⁸ channels × positions \
                 (0.26 to 21.12); {} to collapse it (Δ = {:.2}).",
                prefix.n,
                Count(set.neurons.len(), "neuron suffices", "neurons suffice"),
                set.damage
            ));
            findings.push(match sharpness.gradual {
                true => format!(
                    "No single step is as large as ε (the largest is {:.2} at n = {}): perplexity creeps over the threshold; \
                     the paper speaks of a phase transition, as 17 of its 21 published curves show.",
                    sharpness.largest_step, sharpness.largest_step_at
                ),
                false => format!(
                    "Perplexity jumps by Δ = {:.2} at n = {}: a phase transition, as the paper says.",
                    sharpness.largest_step, sharpness.largest_step_at
                ),
            });
        }
        _ => findings.push(format!(
            "Masking the first {} of the ranking does not collapse the model; each of the paper's 21 models does at 3 to 45.",
            prefix.n
        )),
    }
    let charts = vec![
        Chart::lines("curve", "Perplexity against the number of masked neurons", &curve, "n", "perplexity").log_y(),
        Chart::lines("layers", "The first of the ranking by layer", &layers, "layer", "first of the ranking").bars(),
    ];
    Ok(Outcome { tables: vec![counts, before_and_after, curve, layers], charts, findings })
}
