//! What locating will take, for people.

use super::table::{number, push, right, table};
use crate::document::Document;
use crate::error::{Bytes, Count};
use crate::locate::{Estimate, Span};

/// Memory and the machine, then what each stage takes.
pub fn table_of(document: &Document<Estimate>) -> String {
    let Document { model, settings, result, .. } = document;
    let Estimate { memory, machine, pass, stages, seconds } = result;
    let mut out = String::new();
    let mut head = table(&[]);
    let architecture = model.architecture().unwrap_or_default();
    head.add_row(vec!["model".into(), format!("{} ({architecture})", model.source)]);
    let (resident, streamed) = (Bytes(memory.resident_bytes), Bytes(memory.streamed_bytes));
    let weights = format!("{resident} resident in {}, or {streamed} at once streamed", settings.dtype.as_str());
    head.add_row(vec!["weights".into(), weights]);
    let how = if memory.weights == "resident" { "they stay" } else { "they are streamed" };
    head.add_row(vec!["memory".into(), format!("{} can be had: {how}", Bytes(memory.available_bytes))]);
    if let Some(problem) = &memory.problem {
        head.add_row(vec!["too little", problem]);
    }
    let (flops, read) = (machine.flops / 1e9, Bytes(machine.read_bytes as u64));
    head.add_row(vec!["machine".into(), format!("{} GFLOP/s, reads {read}/s", number(flops))]);
    let rows = format!(
        "{} of {} tokens through a layer at once, {} in a pass at most",
        Count(pass.chunk_rows, "row", "rows"),
        settings.tokens,
        pass.most_rows
    );
    head.add_row(vec!["rows".into(), rows]);
    let work = format!("{} of weights, {} GFLOP a row", Bytes(pass.bytes), number(pass.row_flops as f64 / 1e9));
    head.add_row(vec!["a pass".into(), work]);
    push(&mut out, &head);

    let mut shown = table(&["stage", "passes", "rows", "seconds"]);
    for stage in stages {
        let (passes, rows) = (counts(&stage.passes), counts(&stage.rows));
        shown.add_row(vec![stage.stage.to_owned(), passes, rows, times(&stage.seconds)]);
    }
    shown.add_row(vec!["all".into(), String::new(), String::new(), times(seconds)]);
    right(&mut shown, &[1, 2, 3]);
    push(&mut out, &shown);
    out += &super::weights::line(model);
    out
}

fn counts(span: &Span<usize>) -> String {
    between(span.least.to_string(), span.most.to_string())
}

fn times(span: &Span<f64>) -> String {
    let seconds = |value: f64| if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    between(seconds(span.least), seconds(span.most))
}

fn between(least: String, most: String) -> String {
    if least == most { least } else { format!("{least} to {most}") }
}
