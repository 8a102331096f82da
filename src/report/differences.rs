//! In what checkpoints differ, in sentences for people.

use super::short::short;
use crate::error::{Bytes, Count};
use crate::integrity::diff::Diff;
use crate::integrity::difference::Difference;
use crate::integrity::published::PublishedVerification;
use crate::integrity::verify::Verification;
use crate::patch::Verified;
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

/// The verdict of `verify`, beside what a hub published.
pub fn published(v: &PublishedVerification) -> String {
    let examined = format!("{}, {}", Count(v.files, "file", "files"), Bytes(v.bytes));
    let named = match (&v.repository, &v.commit) {
        (Some(repository), Some(commit)) => format!("as {repository} publishes them at {commit}"),
        _ => "what the Hugging Face cache calls them".to_owned(),
    };
    let head = match (v.passed, v.not_examined.len()) {
        (true, 0) => format!("INTACT: {examined} are {named}\n"),
        (true, more) => format!("NOT ALL EXAMINED: {examined} are {named}, {more} were not examined\n"),
        (false, _) => format!("NOT INTACT ({examined}): not all are {named}\n"),
    };
    let not_here = match v.not_here.len() {
        0 => String::new(),
        more => format!(
            "{} published that a model does not need, not here: {}\n",
            Count(more, "file", "files"),
            short(&v.not_here.join(", "))
        ),
    };
    head + &sentences(&v.differences) + &not_here
}

/// The verdict of `diff`.
pub fn diff(d: &Diff) -> String {
    let head = match (d.differences.is_empty(), d.same_tensors == d.tensors) {
        (true, _) => format!("SAME: {} tensors and all other files\n", d.tensors),
        _ => format!("DIFFERENT: {} of {} shared tensors are the same\n", d.same_tensors, d.tensors),
    };
    head + &sentences(&d.differences)
}

/// What `verify-patch` found.
pub fn patched(v: &Verified) -> String {
    let mut out: String = v.differences.iter().map(|line| format!("differs: {line}\n")).collect();
    let rest = match v.differences.len() {
        0 => "nothing else differs".to_owned(),
        n => Count(n, "difference", "differences").to_string(),
    };
    let (files, bytes, edited) = (Count(v.files, "file", "files"), v.bytes, v.edited_bytes);
    let _ = writeln!(out, "{files}, {bytes} bytes compared; {edited} bytes belong to the receipt's edits; {rest}");
    out
}

fn sentences(differences: &[Difference]) -> String {
    let mut out = String::new();
    let mut shown = std::collections::BTreeMap::new();
    for difference in differences {
        let so_far: &mut usize = shown.entry(kind(difference)).or_default();
        *so_far += 1;
        if *so_far <= SHOWN {
            let _ = write!(out, "{}", difference);
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
        Difference::FileLinked { .. } => "links that lead elsewhere",
        Difference::FileDamaged { .. } => "damaged files",
        Difference::NotExamined { .. } => "files that could not be examined",
        Difference::MetadataChanged { .. } => "keys of the metadata",
        Difference::TensorMissing { .. } => "missing tensors",
        Difference::TensorExtra { .. } => "extra tensors",
        Difference::TensorRenamed { .. } => "renamed tensors",
        Difference::TensorReshaped { .. } => "tensors of another type or shape",
        Difference::TensorMoved { .. } => "tensors in other files",
        Difference::TensorReplaced { .. } => "tensors that hold what others held",
        Difference::TensorChanged(_) => "changed tensors",
        Difference::WeightRepacked(_) => "weights in another form",
    }
}
