//! Differences in words.

use super::{Difference, LineChange, Pattern, Repacked, TensorChange};
use crate::architecture;
use crate::architecture::place::Axis;
use crate::error::Figure;
use crate::escape::printable;
use std::fmt::{self, Write};

impl fmt::Display for Difference {
    /// A line; rows and columns of a tensor follow on lines of their own. What files say of themselves is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sentence(self))
    }
}

fn sentence(difference: &Difference) -> String {
    match difference {
        Difference::FileMissing { path } => format!("file {}: missing\n", printable(path)),
        Difference::FileExtra { path } => format!("file {}: was not there\n", printable(path)),
        Difference::FileChanged { path, bytes_before, bytes_after, same_tensors } => {
            let size = match bytes_before == bytes_after {
                true => String::new(),
                false => format!(", {bytes_after} bytes, was {bytes_before}"),
            };
            let tensors =
                if *same_tensors { "; its tensors are the same: the header or their order changed" } else { "" };
            format!("file {}: changed{size}{tensors}\n", printable(path))
        }
        Difference::FileLinked { path, before, after } => {
            let was = before.as_ref().map_or("was no link".to_owned(), |was| format!("was one to {}", printable(was)));
            format!("file {}: is a link to {}, {was}\n", printable(path), printable(after))
        }
        Difference::FileDamaged { path, problem } => {
            format!("file {}: damaged: {}\n", printable(path), printable(problem))
        }
        Difference::NotExamined { path, problem } => {
            format!("file {}: NOT EXAMINED: {}\n", printable(path), printable(problem))
        }
        Difference::MetadataChanged { key, before, after } => {
            let said = |what: &Option<String>| what.as_ref().map_or("not there".to_owned(), |what| printable(what));
            format!("metadata {}: is {}, was {}\n", printable(key), said(after), said(before))
        }
        Difference::TensorMissing { name } => format!("tensor {}: missing\n", printable(name)),
        Difference::TensorExtra { name, file } => {
            format!("tensor {}: was not there (in {})\n", printable(name), printable(file))
        }
        Difference::TensorRenamed { before, after } => {
            format!("tensor {}: is now called {}\n", printable(before), printable(after))
        }
        Difference::TensorReshaped { name, before, after } => {
            format!("tensor {}: is {:?} {:?}, was {:?} {:?}\n", printable(name), after.0, after.1, before.0, before.1)
        }
        Difference::TensorMoved { name, before, after } => {
            format!("tensor {}: is in {}, was in {}\n", printable(name), printable(after), printable(before))
        }
        Difference::TensorReplaced { name, other, swapped: true } => {
            format!("tensors {} and {}: swapped\n", printable(name), printable(other))
        }
        Difference::TensorReplaced { name, other, swapped: false } => {
            format!("tensor {}: holds what {} held\n", printable(name), printable(other))
        }
        Difference::TensorChanged(change) => tensor(change),
        Difference::WeightRepacked(weight) => repacked(weight),
    }
}

fn tensor(change: &TensorChange) -> String {
    let TensorChange { shape, rows, rows_changed, columns, columns_changed, .. } = change;
    let name = printable(&change.name);
    let lines = match columns {
        0 if *rows == 0 => "rows too short to be told apart".to_owned(),
        0 => format!("{rows_changed} of {rows} elements"),
        _ => format!("{rows_changed} of {rows} rows, {columns_changed} of {columns} columns"),
    };
    let form = match change.pattern {
        Pattern::Elements => ", single elements".to_owned(),
        Pattern::Lines => String::new(),
        Pattern::LowRank { rank } => format!(", low rank ({rank}, as a merged LoRA)"),
        Pattern::Dense => ", dense".to_owned(),
    };
    let norm = change.relative_norm.map(|n| format!(", relative norm of the change {n:.3e}")).unwrap_or_default();
    let nan = match change.became_nan {
        0 => String::new(),
        1 => ", one value became NaN".to_owned(),
        count => format!(", {count} values became NaN"),
    };
    let what = match &change.packed {
        None => format!("tensor {name} {shape:?}"),
        Some(packed) => format!("weight {name} {shape:?} ({})", printable(&packed.format)),
    };
    let mut out = format!("{what}: changed in {lines}{form}{norm}{nan}\n");
    for line in &change.lines {
        let _ = writeln!(out, "  {}", self::line(&change.name, shape, line));
    }
    out
}

fn repacked(weight: &Repacked) -> String {
    let Repacked { name, shape, rows, rows_standing_out, columns, columns_standing_out, .. } = weight;
    let error = match weight.relative_error {
        Some(error) => format!("relative error {error:.2e}"),
        None => "relative error not a number".to_owned(),
    };
    let mut lines: Vec<String> = Vec::new();
    for (out, of, what) in [(rows_standing_out, rows, "rows"), (columns_standing_out, columns, "columns")] {
        lines.extend((*out > 0).then(|| format!("{out} of {of} {what}")));
    }
    let stand_out = if lines.is_empty() { String::new() } else { format!("; {} stand out", lines.join(" and ")) };
    let (before, after) = (printable(&weight.before), printable(&weight.after));
    let mut out = format!("weight {} {shape:?}: is {after}, was {before}, {error}{stand_out}\n", printable(name));
    for line in &weight.lines {
        let _ = writeln!(out, "  {}", self::line(name, shape, line));
    }
    out
}

fn line(name: &str, shape: &[usize], line: &LineChange) -> String {
    let what = match (line.axis, line.beta) {
        (Axis::Element, Some(beta)) => format!("{} times what it was", factor(beta)),
        (_, Some(_)) if line.norm_after == 0.0 => "all zero, was not".to_owned(),
        (_, Some(beta)) => format!("{} times what it was", factor(beta)),
        _ if line.norm_after.is_nan() && !line.norm_before.is_nan() => "became NaN".to_owned(),
        _ => match line.relative_error {
            Some(error) => format!("relative error {error:.2}"),
            None => "changed".to_owned(),
        },
    };
    let neuron = line.neuron.as_ref().map(|n| format!(" (neuron {})", n.short())).unwrap_or_default();
    format!("{} of {}: {what}{neuron}", architecture::line(line.axis, line.index, shape), printable(name))
}

/// Three significant digits (rounding to bfloat16 blurs the third), without the zeros at the end.
fn factor(beta: f64) -> String {
    if beta == 0.0 {
        return "0".to_owned();
    }
    if !(1e-9..1e6).contains(&beta.abs()) {
        return Figure(beta).to_string();
    }
    let digits = (2 - beta.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{beta:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
