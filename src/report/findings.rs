//! Findings, for people.

use super::judged::Counts;
use super::short::short;
use super::table;
use crate::audit::Linted;
use crate::error::{Bytes, Count};
use crate::rules::finding::Finding;
use std::fmt::Write;

/// Findings as rows; `rule` is what the column of their ids is called.
pub(super) fn rows(findings: &[Finding], rule: &str) -> String {
    let mut out = String::new();
    if findings.is_empty() {
        return out;
    }
    let mut rows = table::table(&["severity", rule, "where", "found"]);
    for finding in findings {
        let severity = match &finding.waived {
            Some(_) => format!("waived ({})", finding.severity),
            None => finding.severity.to_string(),
        };
        let mut found = short(&finding.message);
        if let Some(waived) = &finding.waived {
            let _ = write!(found, "\nwaived until {}: {}", waived.expires, short(&waived.reason));
        }
        rows.add_row(vec![severity, finding.id.to_string(), short(&finding.location.to_string()), found]);
    }
    table::wrap(&mut rows, 3);
    table::push(&mut out, &rows);
    out
}

/// The findings of lint, and what was looked at.
pub fn table(linted: &Linted) -> String {
    let Linted { findings, not_listed, examined, .. } = linted;
    let mut out = rows(findings, "check");
    let more = if *not_listed > 0 { format!(" ({not_listed} more not listed)") } else { String::new() };
    // Those of a GGUF lie in none.
    let shards = match examined.shards as usize {
        0 if examined.tensors > 0 => String::new(),
        shards => format!(" in {}", Count(shards, "safetensors file", "safetensors files")),
    };
    let _ = writeln!(
        out,
        "{}{more}; examined {}, {}{shards}, {} of values",
        Counts::of(findings).with_waived(),
        Count(examined.files as usize, "file", "files"),
        Count(examined.tensors as usize, "tensor", "tensors"),
        Bytes(examined.value_bytes),
    );
    out
}
