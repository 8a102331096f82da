//! Answers before and after, for people.

use super::table::{push, right, table};
use crate::document::Document;
use crate::escape::printable;
use crate::evaluate::metrics::Prediction;
use crate::neuron::Neuron;
use crate::probe::{Answer, Probe};
use comfy_table::{ContentArrangement, Table};

/// Columns of a terminal that the tables take.
const WIDTH: u16 = 110;
/// Numbers of masked neurons that are shown.
const POINTS: usize = 6;
/// Neurons that are named.
const NAMED: usize = 5;

/// What was asked and masked, the answers, and what became of their first tokens.
pub fn probed(document: &Document<Probe>) -> String {
    let mut out = String::new();
    let (model, settings) = (&document.model, &document.settings);
    let (probed, neurons) = (&document.result.prompts, &settings.neurons);
    let model = format!("{} ({})", model.source, model.architecture().unwrap_or_default());
    let mut head = table(&[]);
    head.add_row(["model", &printable(&model)]);
    head.add_row([
        "prompts",
        &match &settings.chat_template {
            Some(template) => format!("{}, in the chat template of {}", probed.len(), printable(&template.file)),
            None => format!("{}, as they are", probed.len()),
        },
    ]);
    head.add_row(["masked", &named(neurons)]);
    push(&mut out, &wrapped(head));

    let mut answers = table(&["", "prompt", "before", "after", "repeated"]);
    for (at, p) in probed.iter().enumerate() {
        let repeated = format!("{} → {}", share(&p.before), share(&p.after));
        answers.add_row([(at + 1).to_string(), printable(&p.prompt), shown(&p.before), shown(&p.after), repeated]);
    }
    push(&mut out, &wrapped(answers));

    let points = points(neurons.len());
    let columns = points.iter().map(|n| if *n == 0 { "none masked".to_owned() } else { format!("first {n}") });
    let header: Vec<String> = ["".into(), "answer's first token".into()].into_iter().chain(columns).collect();
    let mut curve = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for (at, p) in probed.iter().enumerate() {
        let of = |n: &usize| p.curve.get(*n).map(probability_and_rank).unwrap_or_default();
        let token = printable(&format!("\"{}\"", p.answer_token.text));
        curve.add_row([(at + 1).to_string(), token].into_iter().chain(points.iter().map(of)));
    }
    right(&mut curve, &(2..header.len()).collect::<Vec<_>>());
    push(&mut out, &curve);
    out.push_str(
        "repeated: share of the answer's 4-grams that repeat an earlier one; last table: probability (rank)\n",
    );
    out
}

/// Within the width, by wrapping cells.
fn wrapped(mut table: Table) -> Table {
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table
}

fn named(neurons: &[Neuron]) -> String {
    let names: Vec<String> = neurons.iter().take(NAMED).map(Neuron::short).collect();
    match neurons.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// The text on one line; `…` where it was cut.
fn shown(answer: &Answer) -> String {
    let text = answer.text.trim();
    printable(&if answer.ended { text.to_owned() } else { format!("{text} …") })
}

fn share(answer: &Answer) -> String {
    answer.repeated_share.map_or("–".into(), |share| format!("{:.0}%", 100.0 * share))
}

fn probability_and_rank(prediction: &Prediction) -> String {
    let Prediction { probability, rank } = prediction;
    match *probability {
        p if p >= 1e-4 => format!("{p:.4} ({rank})"),
        p => format!("{p:.1e} ({rank})"),
    }
}

/// None, the first few, then evenly up to all.
fn points(neurons: usize) -> Vec<usize> {
    if neurons < POINTS {
        return (0..=neurons).collect();
    }
    let early = [0, 1, 2];
    let rest = POINTS - early.len();
    let even = (1..=rest).map(|i| 2 + (neurons - 2) * i / rest);
    early.into_iter().chain(even).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_begin_densely_and_end_with_all() {
        assert_eq!(points(1), [0, 1]);
        assert_eq!(points(5), [0, 1, 2, 3, 4, 5]);
        assert_eq!(points(6), [0, 1, 2, 3, 4, 6]);
        assert_eq!(points(200), [0, 1, 2, 68, 134, 200]);
    }
}
