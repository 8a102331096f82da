//! A summary for people.

use crate::architecture::in_file;
use crate::document::Document;
use crate::document::critical_set::CAUTION;
use crate::error::{Bytes, Count, Figure};
use crate::evaluate::metrics::{damage, perplexity};
use crate::locate::{CriticalSetReport, RankedNeuron, Ranking, Sampling, Sharpness, Smallest, Stopped, Subset};
use crate::neuron::Neuron;
use crate::patch::{Kept, PlanDocument, RestoreDocument};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ColumnConstraint, Table, Width};
use std::fmt::Write;
use std::path::Path;

/// Points of the curve that are shown.
const CURVE_POINTS: usize = 12;
/// Entries of the ranking that are shown.
const RANKING_ROWS: usize = 10;
/// Width of the longest bar.
const BAR: f64 = 24.0;
/// Characters in a line of a column of sentences.
const SENTENCES: u16 = 80;

/// The summary of a located critical set.
pub fn critical_set(document: &Document<CriticalSetReport>) -> String {
    let mut out = String::new();
    let Document { settings, result: report, .. } = document;
    let mut head = table(&[]);
    head.add_row(vec![
        "model".into(),
        format!("{} ({})", document.model.source, document.model.architecture().unwrap_or_default()),
    ]);
    head.add_row(vec![
        "base perplexity".into(),
        format!("{} over {} tokens", number(report.base.perplexity), settings.tokens),
    ]);
    head.add_row(vec!["ranking".into(), ranking_line(document)]);
    head.add_row(vec!["result".into(), verdict(document)]);
    if let Some(sharpness) = &report.sharpness {
        head.add_row(vec!["sharpness".into(), sharpness_line(sharpness)]);
    }
    if let Some(smallest) = report.critical_set.as_ref().and_then(|set| set.smallest) {
        head.add_row(vec!["smallest".into(), smallest_line(&smallest)]);
    }
    if report.is_gradual() {
        head.add_row(vec!["caution", CAUTION]);
    }
    push(&mut out, &head);

    if let Some(set) = &report.critical_set {
        let mut members = table(&["critical neuron", "in the file", "importance", "at token"]);
        for neuron in &set.neurons {
            let ranked = report.ranking.iter().find(|r| r.neuron == *neuron);
            let place = ranked.map(place).unwrap_or_default();
            let importance = ranked.map(|r| number(r.importance)).unwrap_or_default();
            let position = ranked.map(position).unwrap_or_default();
            members.add_row(vec![neuron.short(), place, importance, position]);
        }
        right(&mut members, &[2, 3]);
        push(&mut out, &members);
        if set.subsets.len() > 1 {
            push(&mut out, &subsets(&set.subsets, settings.search.epsilon));
        }
    }
    push(&mut out, &curve(report));

    let mut ranking = table(&["rank", "neuron", "importance", "at token", "in the file"]);
    for (at, r) in report.ranking.iter().take(RANKING_ROWS).enumerate() {
        let rank = (at + 1).to_string();
        ranking.add_row(vec![rank, r.neuron.short(), number(r.importance), position(r), place(r)]);
    }
    right(&mut ranking, &[0, 2, 3]);
    push(&mut out, &ranking);
    out += &super::weights::line(&document.model);
    out += &super::hub::lines(document.model.hub(), &[]);
    let _ = writeln!(out, "{}", timing(document));
    out
}

/// What a patch is going to change.
pub fn patch_plan(plan: &PlanDocument) -> String {
    let mut out = String::new();
    let mut edits = table(&["neuron", "in the file", "shard", "bytes", "before", "after"]);
    for edit in &plan.edits {
        let in_file = in_file(edit.axis, edit.index, &edit.tensor, &edit.shape);
        let (before, after) = (some(&edit.before), some(&edit.after));
        edits.add_row(vec![names(&edit.neurons), in_file, edit.file.clone(), edit.bytes.to_string(), before, after]);
    }
    right(&mut edits, &[3]);
    push(&mut out, &edits);
    let bytes = plan.edits.iter().map(|e| e.bytes).sum();
    let rounding = match &plan.rounding.tensor {
        Some(tensor) => format!("worst relative rounding {:.2e}, in {tensor}", plan.rounding.worst_relative),
        None => "every value is exact".to_owned(),
    };
    let to_zero = match plan.rounding.to_zero {
        0 => String::new(),
        n => format!("; {} though the factor is not", Count(n as usize, "value becomes 0", "values become 0")),
    };
    let edits = Count(plan.edits.len(), "edit", "edits");
    let changed = match plan.edits.iter().map(|edit| edit.changed_bytes).sum() {
        0 => "no value changes".to_owned(),
        changed if changed == bytes => "all change".to_owned(),
        changed => format!("those of {} change", Bytes(changed)),
    };
    let _ = writeln!(out, "{} in {edits}, {changed}; {rounding}{to_zero}", Bytes(bytes));
    out
}

/// What restoring from a vault did, or would do.
pub fn restored(restored: &RestoreDocument) -> String {
    let changed: Vec<_> = restored.parts.iter().filter(|part| part.changed_bytes > 0).collect();
    if changed.is_empty() {
        let kept = Count(restored.parts.len(), "part", "parts");
        return format!("nothing to restore: {kept} of the vault and of the checkpoint are equal\n");
    }
    let mut out = String::new();
    let mut shown = table(&["neuron", "in the file", "shard", "bytes", "not as kept"]);
    for part in &changed {
        let in_file = in_file(part.axis, part.index, &part.tensor, &part.shape);
        let (bytes, not_as_kept) = (part.bytes.to_string(), part.changed_bytes.to_string());
        shown.add_row(vec![names(&part.neurons), in_file, part.file.clone(), bytes, not_as_kept]);
    }
    right(&mut shown, &[3, 4]);
    push(&mut out, &shown);
    let (changed, all) = (changed.len(), Count(restored.parts.len(), "kept part", "kept parts"));
    let done = if restored.dry_run { "would be restored" } else { "restored" };
    let _ = writeln!(out, "{changed} of {all} {done}, bit for bit");
    if restored.patch_undone {
        let receipt = Kept::of(Path::new(&restored.folder)).receipt;
        let done = if restored.dry_run { "would undo" } else { "undid" };
        let _ = writeln!(out, "this {done} the patch of {receipt}, which goes");
    }
    out
}

fn names(neurons: &[Neuron]) -> String {
    neurons.iter().map(Neuron::short).collect::<Vec<_>>().join(", ")
}

/// The first of some values.
fn some(values: &[f64]) -> String {
    let first: Vec<String> = values.iter().take(3).map(|v| format!("{:.4}", Figure(*v))).collect();
    format!("{}{}", first.join(" "), if values.len() > 3 { " …" } else { "" })
}

/// What each stage took, and where.
pub(super) fn timing(report: &Document<CriticalSetReport>) -> String {
    let (t, s) = (&report.result.timing_s, &report.settings);
    format!(
        "{:.1} s: load {:.1}, importance {:.1}, search {:.1}, minimize {:.1} ({} on {})",
        t.load + t.importance + t.search + t.minimize,
        t.load,
        t.importance,
        t.search,
        t.minimize,
        s.dtype.as_str(),
        s.device
    )
}

pub(super) fn ranking_line(report: &Document<CriticalSetReport>) -> String {
    let s = &report.settings.search;
    let how = match s.ranking {
        Ranking::Noise => format!("noise (α {}, K {}, seed {})", s.alpha, samples(report), s.seed),
        Ranking::Random => format!("random (seed {})", s.seed),
        other => other.as_str().to_owned(),
    };
    format!("{how}, side {}, sites {}", s.side, s.sites)
}

/// How many samples were drawn, and why no more.
fn samples(report: &Document<CriticalSetReport>) -> String {
    let drawn = report.settings.samples_used;
    match report.result.sampling {
        Some(Sampling { stopped: Stopped::Settled, most, .. }) => format!("{drawn} of {most}, which settle the prefix"),
        Some(Sampling { stopped: Stopped::All, .. }) | None => drawn.to_string(),
    }
}

/// Whether the model collapsed, and without what.
pub(super) fn verdict(report: &Document<CriticalSetReport>) -> String {
    let (epsilon, n) = (report.settings.search.epsilon, report.result.prefix.n);
    let neurons = |n: usize| if n == 1 { "1 neuron".to_owned() } else { format!("{n} neurons") };
    let Some(set) = &report.result.critical_set else {
        return format!(
            "no collapse: masking up to {n} entries of the ranking never raised perplexity 10^{epsilon}-fold"
        );
    };
    let members = set.neurons.len();
    format!(
        "{}: without {} perplexity is {} (damage {:.2} ≥ {epsilon}); prefix n = {n}, of which {} needed",
        if report.result.is_gradual() { "gradual" } else { "COLLAPSE" },
        neurons(members),
        number(perplexity(set.nll_nats)),
        set.damage,
        if members == 1 { "1 is".to_owned() } else { format!("{members} are") },
    )
}

/// How the set crosses ε.
pub(super) fn sharpness_line(sharpness: &Sharpness) -> String {
    let Sharpness { largest_step, largest_step_at, above_epsilon, .. } = sharpness;
    format!(
        "largest step of damage {:.2}, at n = {largest_step_at}; the set is {:.2} above ε",
        Figure(*largest_step),
        Figure(*above_epsilon)
    )
}

/// Whether looking on gave a smaller set.
pub(super) fn smallest_line(smallest: &Smallest) -> String {
    let Smallest { budget, rows, orders, before, found, all_needed } = *smallest;
    let found = match found {
        true => format!("found, the first set had {before}"),
        false => "no smaller set found".to_owned(),
    };
    let orders = Count(orders, "other order", "other orders");
    let why = if all_needed { "; each member is needed even with the rest of the prefix masked" } else { "" };
    format!("{found}: {orders}, {rows} of {budget} rows{why}")
}

fn subsets(subsets: &[Subset], epsilon: f64) -> Table {
    let mut shown = table(&["masked", "perplexity", "damage"]);
    for subset in subsets {
        let names: Vec<String> = subset.neurons.iter().map(|n| n.short()).collect();
        let collapsed = if subset.damage >= epsilon { " *" } else { "" };
        let damage = format!("{:.2}{collapsed}", subset.damage);
        shown.add_row(vec![names.join(" + "), number(perplexity(subset.nll_nats)), damage]);
    }
    right(&mut shown, &[1]);
    shown
}

/// Perplexity over the number of masked entries, with bars on a logarithmic scale.
fn curve(report: &CriticalSetReport) -> Table {
    let base = report.base.nll_nats;
    let nlls: Vec<f64> = std::iter::once(base).chain(report.prefix.curve_nll_nats.iter().copied()).collect();
    let last = nlls.len() - 1;
    let step = last.div_ceil(CURVE_POINTS).max(1);
    let shown = (0..=last).filter(|n| n % step == 0 || *n == last || *n == 1);
    let top = nlls.iter().map(|nll| damage(*nll, base)).filter(|d| d.is_finite()).fold(1e-9, f64::max);
    let mut points = table(&["masked", "perplexity", "damage"]);
    for n in shown {
        let damage = damage(nlls[n], base);
        let filled = (damage.clamp(0.0, top) / top * BAR).round() as usize;
        let bar = format!("{damage:>6.2} {}", "█".repeat(filled));
        points.add_row(vec![n.to_string(), number(perplexity(nlls[n])), bar.trim_end().to_owned()]);
    }
    right(&mut points, &[0, 1]);
    points
}

/// The token at which a neuron has its importance.
pub(super) fn position(ranked: &RankedNeuron) -> String {
    ranked.position.map_or_else(|| "-".into(), |position| position.to_string())
}

/// What an entry is in the file.
pub(super) fn place(ranked: &RankedNeuron) -> String {
    match (&ranked.axis, ranked.index, &ranked.tensor, &ranked.shape) {
        (Some(axis), Some(index), Some(tensor), Some(shape)) => {
            let bias = if ranked.bias.is_some() { " and of its bias" } else { "" };
            format!("{axis} {index} of {tensor} {shape:?}{bias}")
        }
        _ => "in no tensor alone".into(),
    }
}

/// Four significant digits; powers of ten from a million on.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "∞".into();
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if (-3..6).contains(&magnitude) {
        format!("{value:.*}", (3 - magnitude).clamp(0, 6) as usize)
    } else {
        format!("{value:.2e}")
    }
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

pub(super) fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Breaks the lines of a column of sentences, so that a terminal does not break those of the whole table.
pub(super) fn wrap(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(SENTENCES)));
    }
}

pub(super) fn push(out: &mut String, table: &Table) {
    let _ = writeln!(out, "{table}");
}
