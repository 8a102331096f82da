//! What every document with findings has, whatever it measured.

use crate::audit::{Audit, Linted, Unexamined, Verdict};
use crate::document::Document;
use crate::error::Count;
use crate::rules::Rule;
use crate::rules::finding::{Finding, Severity};
use crate::tool::Tool;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// Findings, what they are of, and what they were judged by.
pub struct Judged<'a> {
    /// What wrote the document.
    pub tool: &'a Tool,
    /// The model, as it was named.
    pub source: &'a str,
    /// All that is told of it.
    pub model: Value,
    /// What it was judged by.
    pub settings: Value,
    /// From here on a finding fails.
    pub fail_on: Severity,
    /// What the findings and what was not examined come to.
    pub verdict: Verdict,
    /// The worst first.
    pub findings: &'a [Finding],
    /// How many more there were of a kind that a file shows over and over.
    pub not_listed: u64,
    /// What was to be examined and was not.
    pub not_examined: &'a [Unexamined],
    /// What nobody asked for.
    pub skipped: &'a [Unexamined],
    /// Every rule that judged.
    pub rules: &'a [Rule],
}

impl<'a> From<&'a Document<Audit>> for Judged<'a> {
    fn from(document: &'a Document<Audit>) -> Judged<'a> {
        let audit = &document.result;
        Judged {
            tool: &document.tool,
            source: &document.model.source,
            model: value(&document.model),
            settings: value(&document.settings),
            fail_on: document.settings.fail_on,
            verdict: audit.verdict,
            findings: &audit.findings,
            not_listed: audit.not_listed,
            not_examined: &audit.not_examined,
            skipped: &audit.skipped,
            rules: &audit.judged,
        }
    }
}

impl<'a> From<&'a Document<Linted>> for Judged<'a> {
    fn from(document: &'a Document<Linted>) -> Judged<'a> {
        let linted = &document.result;
        Judged {
            tool: &document.tool,
            source: &document.model.source,
            model: value(&document.model),
            settings: value(&document.settings),
            fail_on: document.settings.fail_on,
            verdict: linted.verdict,
            findings: &linted.findings,
            not_listed: linted.not_listed,
            not_examined: &linted.not_examined,
            skipped: &[],
            rules: &linted.judged,
        }
    }
}

/// The verdict in a report for people.
pub(super) fn answer(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::NotExamined => "NOT EXAMINED",
    }
}

/// How many findings there are of each severity, as `1 error, 2 warnings, 0 notes`; those that are waived are apart.
pub(super) struct Counts {
    of_severity: [Count; 3],
    /// Those that are waived, of any severity.
    pub waived: usize,
}

impl Counts {
    pub(super) fn of(findings: &[Finding]) -> Counts {
        let of = |severity, one, several| {
            Count(findings.iter().filter(|f| f.severity == severity && f.waived.is_none()).count(), one, several)
        };
        Counts {
            of_severity: [
                of(Severity::Error, "error", "errors"),
                of(Severity::Warning, "warning", "warnings"),
                of(Severity::Note, "note", "notes"),
            ],
            waived: findings.iter().filter(|f| f.waived.is_some()).count(),
        }
    }

    /// The same, and the waived ones where there are any.
    pub(super) fn with_waived(&self) -> String {
        match self.waived {
            0 => self.to_string(),
            waived => format!("{self}, {waived} waived"),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [errors, warnings, notes] = &self.of_severity;
        write!(f, "{errors}, {warnings}, {notes}")
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}
