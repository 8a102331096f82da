//! Rules, for people.

use super::table;
use crate::rules::{Measurement, Rule, Rules};
use std::fmt::Write;

/// All rules.
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

/// One rule.
pub fn explain(rule: &Rule) -> String {
    let mut out = format!(
        "{}: {}\n{}\n\nseverity: {}\njudges: {}\n",
        rule.id,
        rule.why,
        remedy(rule.measurement),
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

/// What to do about a finding.
pub(super) fn remedy(measurement: Measurement) -> &'static str {
    match measurement {
        Measurement::Lint => {
            "Take the file anew from a source that is trusted, write it anew, or remove it; where it is meant to be so, \
             waive it."
        }
        Measurement::CriticalSet => {
            "Keep the weights of the critical set apart with achilles-audit vault, to put them back if they are \
             damaged; where such a set is not acceptable, do not release the model."
        }
        Measurement::Fingerprint => {
            "Find out who changed it: achilles-audit verify lists all that differs. Take the checkpoint anew from its \
             source or, where the change is meant, take a new fingerprint."
        }
        Measurement::Signature => {
            "Take the checkpoint anew from whoever signed it or, where the change is meant, have it signed again."
        }
        Measurement::Base => {
            "See with achilles-audit compare what is shared, and with achilles-audit diff what changed. Where the set is \
             shared, what breaks the base breaks this: protect both. Where it is not, find out who changed it."
        }
        Measurement::Baseline => {
            "See with achilles-audit monitor check which sites are outside, and with achilles-audit diff what changed \
             in the weights; where the change is meant, record a new baseline."
        }
        Measurement::Waivers => "Correct the rule file: renew the waiver with a reason, or remove it.",
    }
}

fn severity(rule: &Rule) -> &'static str {
    rule.severity.map_or("off", |s| s.as_str())
}

pub(super) fn thresholds(rule: &Rule) -> String {
    rule.thresholds.set().iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
}
