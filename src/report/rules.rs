//! Rules, for people.

use super::table;
use crate::rules::{Rule, Rules};
use std::fmt::Write;

/// All rules as a table: id, severity, measurement and thresholds.
pub fn list(rules: &Rules) -> String {
    let mut rows = table::table(&["rule", "severity", "judges", "thresholds"]);
    for rule in rules.all() {
        rows.add_row(vec![
            rule.id.to_string(),
            severity(rule).into(),
            rule.measurement.as_str().into(),
            thresholds(rule),
        ]);
    }
    let mut out = String::new();
    table::push(&mut out, &rows);
    let _ = writeln!(out, "{}; fail on {}", rules.name, rules.fail_on);
    out
}

/// What a rule is about, why it matters, and what to do.
pub fn explain(rule: &Rule) -> String {
    let mut out = format!(
        "{}: {}\n{}\n\nseverity: {}\njudges: {}\n",
        rule.id,
        rule.why,
        rule.id.advice(),
        severity(rule),
        rule.measurement.as_str()
    );
    if !rule.thresholds.set().is_empty() {
        let _ = writeln!(out, "thresholds: {}", thresholds(rule));
    }
    let _ = write!(out, "\nIn a rule file:\n\nrules:\n  {}: {{severity: {}", rule.id, severity(rule));
    if !rule.thresholds.set().is_empty() {
        let _ = write!(out, ", thresholds: {{{}}}", thresholds(rule));
    }
    out + "}\n"
}

fn severity(rule: &Rule) -> &'static str {
    rule.severity.map_or("off", |s| s.as_str())
}

pub(super) fn thresholds(rule: &Rule) -> String {
    rule.thresholds.set().iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
}
