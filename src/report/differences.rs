//! In what checkpoints differ, in sentences for people.

use crate::checkpoint::place::Axis;
use crate::error::Bytes;
use crate::integrity::diff::Diff;
use crate::integrity::difference::{Difference, LineChange, Pattern, TensorChange};
use crate::integrity::verify::Verification;
use std::fmt::Write;

/// Differences of one kind that are shown; JSON holds all.
const SHOWN: usize = 40;

/// The verdict of `verify`.
pub fn verification(v: &Verification) -> String {
    let examined = format!("{} files, {} tensors, {}", v.files, v.tensors, Bytes(v.bytes));
    let head = match (v.intact, v.same_tensors) {
        (true, _) => format!("INTACT: {examined} are as fingerprinted\n"),
        (_, true) => format!("FILES DIFFER, all tensors are the same ({examined})\n"),
        _ => format!("NOT INTACT ({examined})\n"),
    };
    head + &sentences(&v.differences)
}

/// The verdict of `diff`.
pub fn diff(d: &Diff) -> String {
    let head = match (d.differences.is_empty(), d.same_tensors == d.tensors) {
        (true, _) => format!("SAME: {} tensors and all other files\n", d.tensors),
        _ => format!("DIFFERENT: {} of {} shared tensors are the same\n", d.same_tensors, d.tensors),
    };
    head + &sentences(&d.differences)
}

fn sentences(differences: &[Difference]) -> String {
    let mut out = String::new();
    let mut shown = std::collections::BTreeMap::new();
    for difference in differences {
        let so_far: &mut usize = shown.entry(kind(difference)).or_default();
        *so_far += 1;
        if *so_far <= SHOWN {
            let _ = write!(out, "{}", sentence(difference));
        }
    }
    for (kind, count) in shown.into_iter().filter(|(_, count)| *count > SHOWN) {
        let _ = writeln!(out, "… and {} more {kind}; --format json lists them", count - SHOWN);
    }
    out
}

fn kind(difference: &Difference) -> &'static str {
    match difference {
        Difference::FileMissing { .. } => "missing files",
        Difference::FileExtra { .. } => "extra files",
        Difference::FileChanged { .. } => "changed files",
        Difference::NotExamined { .. } => "files that could not be examined",
        Difference::TensorMissing { .. } => "missing tensors",
        Difference::TensorExtra { .. } => "extra tensors",
        Difference::TensorRenamed { .. } => "renamed tensors",
        Difference::TensorReshaped { .. } => "tensors of another type or shape",
        Difference::TensorMoved { .. } => "tensors in other files",
        Difference::TensorChanged(_) => "changed tensors",
    }
}

/// A difference; rows and columns of a tensor follow on lines of their own.
pub(crate) fn sentence(difference: &Difference) -> String {
    let shown = |name: &str| super::findings::printable(name);
    match difference {
        Difference::FileMissing { path } => format!("file {}: missing\n", shown(path)),
        Difference::FileExtra { path } => format!("file {}: was not there\n", shown(path)),
        Difference::FileChanged { path, bytes_before, bytes_after, same_tensors } => {
            let size = match bytes_before == bytes_after {
                true => String::new(),
                false => format!(", {bytes_after} bytes, was {bytes_before}"),
            };
            let tensors =
                if *same_tensors { "; its tensors are the same: the header or their order changed" } else { "" };
            format!("file {}: changed{size}{tensors}\n", shown(path))
        }
        Difference::NotExamined { path, problem } => {
            format!("file {}: NOT EXAMINED: {}\n", shown(path), shown(problem))
        }
        Difference::TensorMissing { name } => format!("tensor {}: missing\n", shown(name)),
        Difference::TensorExtra { name, file } => {
            format!("tensor {}: was not there (in {})\n", shown(name), shown(file))
        }
        Difference::TensorRenamed { before, after } => {
            format!("tensor {}: is now called {}\n", shown(before), shown(after))
        }
        Difference::TensorReshaped { name, before, after } => {
            format!("tensor {}: is {:?} {:?}, was {:?} {:?}\n", shown(name), after.0, after.1, before.0, before.1)
        }
        Difference::TensorMoved { name, before, after } => {
            format!("tensor {}: is in {}, was in {}\n", shown(name), shown(after), shown(before))
        }
        Difference::TensorChanged(change) => tensor(change),
    }
}

fn tensor(change: &TensorChange) -> String {
    let TensorChange { shape, rows, rows_changed, columns, columns_changed, .. } = change;
    let name = super::findings::printable(&change.name);
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
    let mut out = format!("tensor {name} {shape:?}: changed in {lines}{form}{norm}\n");
    for line in &change.lines {
        let _ = writeln!(out, "  {}", self::line(change, line));
    }
    out
}

fn line(change: &TensorChange, line: &LineChange) -> String {
    let what = match (line.axis, line.beta) {
        (Axis::Element, Some(beta)) => format!("{} times what it was", factor(beta)),
        (_, Some(_)) if line.norm_after == 0.0 => "all zero, was not".to_owned(),
        (_, Some(beta)) => format!("{} times what it was", factor(beta)),
        _ => "changed".to_owned(),
    };
    let neuron = line.neuron.as_ref().map(|n| format!(" (neuron {})", n.short())).unwrap_or_default();
    format!("{} {} of {}: {what}{neuron}", line.axis.as_str(), line.index, super::findings::printable(&change.name))
}

/// Three significant digits (rounding to bfloat16 blurs the third), without the zeros at the end.
fn factor(beta: f64) -> String {
    if beta == 0.0 {
        return "0".to_owned();
    }
    let digits = (2 - beta.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{beta:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
