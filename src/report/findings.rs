//! Findings, for people.

use super::table;
use crate::error::Bytes;
use crate::escape::printable;
use crate::integrity::lint::Examined;
use crate::rules::finding::{Finding, Severity};
use std::fmt::Write;

/// The findings of lint, and what was looked at.
pub fn table(findings: &[Finding], not_listed: u64, examined: &Examined) -> String {
    let mut out = String::new();
    if !findings.is_empty() {
        let mut rows = table::table(&["severity", "check", "where", "found"]);
        for finding in findings {
            let (place, message) = (short(&finding.location.to_string()), short(&finding.message));
            rows.add_row(vec![finding.severity.to_string(), finding.id.to_string(), place, message]);
        }
        table::wrap(&mut rows, 3);
        table::push(&mut out, &rows);
    }
    let count = |severity: Severity| findings.iter().filter(|f| f.severity == severity).count();
    let plural = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let counts = [Severity::Error, Severity::Warning, Severity::Note]
        .map(|severity| plural(count(severity) as u64, severity.as_str()));
    let more = if not_listed > 0 { format!(" ({not_listed} more not listed)") } else { String::new() };
    let _ = writeln!(
        out,
        "{}{more}; examined {}, {} in {}, {} of values",
        counts.join(", "),
        plural(examined.files, "file"),
        plural(examined.tensors, "tensor"),
        plural(examined.shards, "safetensors file"),
        Bytes(examined.value_bytes),
    );
    out
}

/// What a checkpoint says of itself must not drive the terminal, nor fill it.
pub(super) fn short(text: &str) -> String {
    const LONGEST: usize = 240;
    let start: String = text.chars().take(LONGEST + 1).collect();
    let mut shown = printable(&start);
    if shown.chars().count() > LONGEST {
        shown = shown.chars().take(LONGEST - 1).chain(['…']).collect();
    }
    shown
}
