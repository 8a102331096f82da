//! What every document with findings has, whatever it measured.

use crate::audit::{Audit, Linted, Unexamined, Verdict};
use crate::document::Document;
use crate::rules::Rule;
use crate::rules::finding::{Finding, Severity};
use crate::tool::Tool;
use serde::Serialize;
use serde_json::Value;

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

impl<'a> From<&'a Audit> for Judged<'a> {
    fn from(audit: &'a Audit) -> Judged<'a> {
        Judged {
            tool: &audit.tool,
            source: &audit.model.source,
            model: value(&audit.model),
            settings: value(&audit.settings),
            fail_on: audit.settings.fail_on,
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
            source: document.model.as_ref().map_or("", |model| &model.source),
            model: value(&document.model),
            settings: value(&document.settings),
            fail_on: document.settings.as_ref().map_or(Severity::Warning, |settings| settings.fail_on),
            verdict: linted.verdict,
            findings: &linted.findings,
            not_listed: linted.not_listed,
            not_examined: &linted.not_examined,
            skipped: &[],
            rules: &linted.judged,
        }
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}
