//! Measurements, judged: how bad what was seen is.

use crate::integrity::lint::{Location, Observation};
use crate::rules::{Date, RuleId, Rules};
use serde::{Deserialize, Serialize};
use std::fmt;
use strum::IntoStaticStr;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Unusual in a checkpoint that is fit to be released: somebody has to look at it.
    Warning,
    /// Broken, dangerous, or not what it is said to be.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A rule's verdict on a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The rule that found it.
    pub id: RuleId,
    /// How bad it is.
    pub severity: Severity,
    /// The file, tensor, row or byte that it is about.
    pub location: Location,
    /// What it is, in a sentence.
    pub message: String,
    /// Why it matters, in a sentence.
    pub why: String,
    /// The figures behind it, an object; null where the message says all.
    pub evidence: serde_json::Value,
    /// Why it is let pass, where it is: then it fails nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waived: Option<Waived>,
}

/// Why a finding is let pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waived {
    /// In the words of whoever waived it.
    pub reason: String,
    /// The last day on which the waiver holds, UTC.
    pub expires: Date,
}

/// Something that was measured and that a rule may judge.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleObservation {
    /// The rule that is to judge it.
    pub rule: RuleId,
    /// File, tensor and part, as far as they are known.
    pub location: Location,
    /// What, in a sentence.
    pub message: String,
    /// The figures behind it, an object; null where the message says all.
    pub evidence: serde_json::Value,
}

impl From<Observation> for RuleObservation {
    fn from(o: Observation) -> RuleObservation {
        RuleObservation { rule: o.check.into(), location: o.location, message: o.message, evidence: o.evidence }
    }
}

/// Judges what was seen; the worst come first. What is judged by a rule that is off is left out.
pub fn judge(seen: impl IntoIterator<Item = impl Into<RuleObservation>>, rules: &Rules) -> Vec<Finding> {
    let finding = |seen: RuleObservation| {
        let rule = rules.rule(seen.rule);
        Some(Finding {
            id: rule.id,
            severity: rule.severity?,
            location: seen.location,
            message: seen.message,
            why: rule.why.clone(),
            evidence: seen.evidence,
            waived: None,
        })
    };
    let mut findings: Vec<Finding> = seen.into_iter().map(Into::into).filter_map(finding).collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    findings
}

/// Whether any finding is bad enough, and not waived.
pub fn fails(findings: &[Finding], fail_on: Severity) -> bool {
    findings.iter().any(|f| f.severity >= fail_on && f.waived.is_none())
}
