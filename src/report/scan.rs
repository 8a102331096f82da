//! What an audit says, for people: the verdict first.

use super::judged::{Counts, answer};
use super::short::short;
use super::table;
use crate::audit::{Audit, Unexamined};
use crate::document::Document;
use crate::error::{Bytes, Count};
use std::fmt::Write;

/// The verdict, the findings, what is not known, and the critical set.
pub fn table(document: &Document<Audit>) -> String {
    let Document { model, result: audit, .. } = document;
    let mut out = verdict(document);
    out += &super::findings::rows(&audit.findings, "rule");
    if audit.not_listed > 0 {
        let _ = writeln!(out, "and {} more findings of the same kinds", audit.not_listed);
    }
    out += &super::hub::lines(model.hub(), &[]);
    left(&mut out, "NOT EXAMINED", &audit.not_examined);
    left(&mut out, "skipped", &audit.skipped);
    let served = [("chat template: sha256", &model.chat_template_sha256), ("tokenizer: class", &model.tokenizer_class)];
    for (name, value) in served {
        value.iter().flatten().for_each(|value| _ = writeln!(out, "{name} {}", short(value)));
    }
    if let Some(e) = &audit.lint {
        let (files, tensors) =
            (Count(e.files as usize, "file", "files"), Count(e.tensors as usize, "tensor", "tensors"));
        let _ = writeln!(out, "lint: {files}, {tensors}, {} of values", Bytes(e.value_bytes));
    }
    if let Some(i) = &audit.fingerprint {
        let result = match (i.intact, i.same_tensors) {
            (true, _) => "intact",
            (_, true) => "files differ, all tensors are the same",
            _ => "not intact",
        };
        let _ = writeln!(out, "fingerprint: {result} ({} files, {} tensors, {})", i.files, i.tensors, Bytes(i.bytes));
    }
    if let Some(compared) = &audit.base {
        out += &super::compare::line(compared);
    }
    if let Some(c) = &audit.baseline {
        let (outside, prompts) = (c.prompts_outside, Count(c.prompts, "prompt", "prompts"));
        let _ = writeln!(out, "baseline: {outside} of {prompts} outside, {} sites (p {:.2e})", c.sites, c.p_value);
    }
    if let Some(s) = &audit.signature {
        let s = &s.result;
        let signer = s.signer.as_deref().unwrap_or("nobody");
        let _ = writeln!(out, "signature: {} files intact, signed by {}", s.files, short(signer));
    }
    match &audit.critical_set {
        Some(found) => out += &table::critical_set(found),
        None => out += &super::weights::line(model),
    }
    out
}

/// `PASS`, `FAIL` or `NOT EXAMINED`, and why.
fn verdict(document: &Document<Audit>) -> String {
    let Document { settings, result, .. } = document;
    let (answer, counts) = (answer(result.verdict), Counts::of(&result.findings).with_waived());
    format!("{answer}: {counts} (rules {}: fail on {})\n", short(&settings.rules), settings.fail_on)
}

fn left(out: &mut String, what: &str, list: &[Unexamined]) {
    for left in list {
        let _ = writeln!(out, "{what}: {}: {}", left.measurement.as_str(), short(&left.why));
    }
}
