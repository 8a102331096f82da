//! What hardening did, for people.

use super::table::{number, push, right, table};
use crate::document::Document;
use crate::harden::{Fitted, Hardened, Lesion};
use crate::neuron::Neuron;

/// Rows that are named of a lesion.
const NAMED: usize = 4;

/// The spares, perplexity, and what lesions cost before and after.
pub fn table_of(document: &Document<Hardened>) -> String {
    let Document { model, settings, result, .. } = document;
    let mut out = String::new();
    let mut head = table(&[]);
    head.add_row(vec!["model".into(), format!("{} ({})", model.source, model.architecture().unwrap_or_default())]);
    let texts = format!("{} fitted to, {} judged by", settings.fitted_to, settings.judged_by);
    head.add_row(vec!["texts".into(), format!("{}: {texts}", settings.corpus)]);
    let change = format!("{:+.3} % on the texts judged by", 100.0 * result.change);
    head.add_row(vec!["perplexity of the healthy model".into(), change]);
    push(&mut out, &head);

    let mut spares = table(&["spare", "stands in for", "neurons overwritten", "used"]);
    for Fitted { spare, used, .. } in &result.spares {
        let neurons: Vec<String> = spare.neurons.iter().map(Neuron::short).collect();
        let used: Vec<String> = used.iter().map(|used| number(*used)).collect();
        spares.add_row(vec![spare.row.short(), spare.stands_for.short(), neurons.join(" "), used.join(" ")]);
    }
    push(&mut out, &spares);

    let mut kinds = table(&["text", "perplexity before", "after", "change"]);
    for kind in &result.kinds {
        let change = kind.perplexity_after / kind.perplexity_before - 1.0;
        let numbers = [kind.perplexity_before, kind.perplexity_after].map(number);
        let [before, after] = numbers;
        kinds.add_row(vec![kind.kind.clone(), before, after, format!("{:+.3} %", 100.0 * change)]);
    }
    right(&mut kinds, &[1, 2, 3]);
    push(&mut out, &kinds);

    let mut lesions = table(&["rows lost", "damage before", "after", "worst text"]);
    for Lesion { neurons, damage_before, damage_after, worst_kind } in &result.lesions {
        let mut names: Vec<String> = neurons.iter().take(NAMED).map(Neuron::short).collect();
        if let Some(more) = neurons.len().checked_sub(NAMED).filter(|more| *more > 0) {
            names.push(format!("and {more} more"));
        }
        let before = damage_before.map(|damage| format!("{damage:.3}")).unwrap_or_default();
        let after = [damage_after, worst_kind].map(|damage| format!("{damage:.3}"));
        let [after, worst] = after;
        lesions.add_row(vec![names.join(" "), before, after, worst]);
    }
    right(&mut lesions, &[1, 2, 3]);
    push(&mut out, &lesions);
    out
}
