//! What comparing with a base found, for people.

use super::hub;
use super::short::short;
use super::table::{number, push, right, table};
use super::weights;
use crate::compare::published::Published;
use crate::compare::{Compared, Comparison, Masked, Overlap, Variant};
use crate::document::critical_set::CAUTION;
use crate::error::Figure;
use crate::evaluate::divergence::Divergence;
use crate::neuron::Neuron;
use std::fmt::Write;

/// Neurons of a critical set that are shown.
const SHOWN: usize = 10;

/// A row for each variant, then where the neurons of the base's set are in each.
pub fn comparison(result: &Comparison) -> String {
    let base = &result.base;
    let mut out = format!("base {}: critical set {}\n", short(&base.source), names(&result.critical_set));
    if let Some(source) = &base.published {
        let _ = writeln!(out, "from {source}");
    }
    if let Some(partial) = &base.partial {
        let _ = writeln!(out, "{partial}: that they do not transfer means little");
    }
    if base.is_gradual() {
        let _ = writeln!(out, "base {}: {CAUTION}", short(&base.source));
    }
    let header =
        ["variant", "perplexity", "verdict", "base's set on it", "random sets", "its set on base", "shared", "ρ"];
    let mut rows = table(&header);
    for variant in &result.variants {
        let compared = &variant.compared;
        let transfer = &compared.transfer;
        let back = transfer.variant_on_base.as_ref();
        rows.add_row(vec![
            short(&variant.located.model.source),
            number(variant.located.result.base.perplexity),
            compared.verdict.as_str().into(),
            fold(transfer.base_on_variant.damage),
            controls(&transfer.base_on_variant),
            back.map_or("-".into(), |masked| fold(masked.damage)),
            compared.location.overlap.iter().map(overlap).collect::<Vec<_>>().join(", "),
            compared.location.spearman.map_or("-".into(), |rho| format!("{rho:.2}")),
        ]);
    }
    right(&mut rows, &[1, 3, 4, 5, 7]);
    push(&mut out, &rows);
    if result.variants.iter().any(|variant| variant.compared.divergence.is_some()) {
        push(&mut out, &divergences(&result.variants));
    }
    let mut neurons = table(&["neuron of the base's set", "variant", "rank", "in base", "importance / base's"]);
    for variant in &result.variants {
        add_neurons(&mut neurons, &short(&variant.located.model.source), &variant.compared);
    }
    right(&mut neurons, &[2, 3, 4]);
    push(&mut out, &neurons);
    for variant in result.variants.iter().filter(|variant| variant.located.result.is_gradual()) {
        let _ = writeln!(out, "variant {}: {CAUTION}", short(&variant.located.model.source));
    }
    for variant in &result.variants {
        let Compared { importance_not_compared, divergence_not_compared, .. } = &variant.compared;
        let name = short(&variant.located.model.source);
        for (what, why) in [("importances", importance_not_compared), ("predictions", divergence_not_compared)] {
            if let Some(why) = why {
                let _ = writeln!(out, "variant {name}: {what} are not compared: {}", short(why));
            }
        }
    }
    if let Some(told) = weights::told(base.weights.as_deref()) {
        let _ = writeln!(out, "base {}: {told}", short(&base.source));
    }
    for variant in &result.variants {
        let model = &variant.located.model;
        if let Some(told) = weights::told(model.weights.as_deref()) {
            let _ = writeln!(out, "variant {}: {told}", short(&model.source));
        }
    }
    out += &hub::lines(base.hub.as_ref(), &[]);
    for variant in &result.variants {
        out += &hub::lines(variant.located.model.hub(), &[]);
    }
    out + "base's set on it, random sets (the worst of 10), its set on base: perplexity when masked; \
           shared: how many of the first n neurons of both rankings are the same\n"
}

/// What scan found of it.
pub(super) fn line(compared: &Compared) -> String {
    let masked = &compared.transfer.base_on_variant;
    let (base, verdict) = (short(&compared.base.source), compared.verdict.as_str());
    let shared = compared.location.overlap.iter().map(overlap).collect::<Vec<_>>().join(", ");
    let divergence = compared.divergence.as_ref().map_or(String::new(), |found| {
        let [mean, p99, same] = figures(found);
        format!("; KL {mean} nats (99 % below {p99}), same first token {same}")
    });
    format!(
        "base {base}: {verdict}; its set masked {}, random sets {}; shared {shared}{divergence}\n",
        fold(masked.damage),
        controls(masked)
    )
}

/// How far each variant's predictions are from the base's.
fn divergences(variants: &[Variant]) -> comfy_table::Table {
    let mut rows = table(&["variant", "KL to base, nats a token", "99 % below", "same first token"]);
    for variant in variants {
        let none = || ["-".to_owned(), "-".to_owned(), "-".to_owned()];
        let figures = variant.compared.divergence.as_ref().map_or_else(none, figures);
        rows.add_row([short(&variant.located.model.source)].into_iter().chain(figures));
    }
    right(&mut rows, &[1, 2, 3]);
    rows
}

/// Mean and 99th percentile of KL, and the share of equal first tokens.
fn figures(found: &Divergence) -> [String; 3] {
    [number(found.kl_mean_nats), number(found.kl_p99_nats), format!("{:.1} %", 100.0 * found.top1_agreement)]
}

/// The list of what was published.
pub fn published(sets: &[Published]) -> String {
    let mut rows = table(&["published:", "n", "perplexity", "collapse", "first neurons of the ranking"]);
    for set in sets {
        let neurons: Vec<Neuron> = set.channels().iter().map(|entry| entry.neuron.clone()).take(3).collect();
        let name = set.model.rsplit('/').next().unwrap_or(&set.model);
        let masked = set.curve.get(set.prefix.wrapping_sub(1));
        rows.add_row(vec![
            name.to_owned(),
            set.prefix.to_string(),
            number(set.base_perplexity),
            masked.map_or("-".into(), |p| number(*p)),
            names(&neurons),
        ]);
    }
    right(&mut rows, &[1, 2, 3]);
    let mut out = String::new();
    push(&mut out, &rows);
    let source = sets.first().map_or("", |set| &set.source);
    let _ =
        writeln!(out, "n: entries of the ranking (a channel at a token) until perplexity had risen tenfold\n{source}");
    out
}

fn add_neurons(rows: &mut comfy_table::Table, variant: &str, compared: &Compared) {
    let rank = |rank: Option<usize>| rank.map_or("-".into(), |rank| rank.to_string());
    for placed in compared.location.neurons.iter().take(SHOWN) {
        let ratio = placed.importance_ratio.map_or("-".into(), |ratio| format!("{:.3}", Figure(ratio)));
        rows.add_row(vec![
            placed.neuron.short(),
            variant.to_owned(),
            rank(placed.rank),
            placed.base_rank.to_string(),
            ratio,
        ]);
    }
}

fn names(neurons: &[Neuron]) -> String {
    let shown: Vec<String> = neurons.iter().take(SHOWN).map(Neuron::short).collect();
    match neurons.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn overlap(overlap: &Overlap) -> String {
    format!("{}/{}", overlap.shared, overlap.k)
}

fn controls(masked: &Masked) -> String {
    fold(masked.worst_control())
}

fn fold(damage: f64) -> String {
    match damage.is_finite() {
        true => format!("× 10^{damage:.2}"),
        false => "× ∞".into(),
    }
}
