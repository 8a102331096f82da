//! SARIF 2.1.0 (OASIS), with what GitHub's code scanning asks for on top: every location has a first line, every result
//! a fingerprint.

use super::Renderer;
use super::judged::Judged;
use crate::audit::Unexamined;
use crate::checkpoint::sha256_hex;
use crate::error::Result;
use crate::escape::printable;
use crate::rules::finding::{Finding, Severity};
use crate::rules::{Rule, RuleId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Component, Path};

/// For code scanning (SARIF 2.1.0).
pub const RENDERER: Renderer =
    Renderer { name: "sarif", about: "For code scanning (SARIF 2.1.0)", render: |report| document(&report.judged()) };

/// The document.
///
/// # Errors
/// It cannot be written as JSON.
pub fn document(judged: &Judged<'_>) -> Result<String> {
    let mut so_far: HashMap<(RuleId, String), usize> = HashMap::new();
    let results: Vec<Value> = judged
        .findings
        .iter()
        .map(|finding| {
            let nth = so_far.entry((finding.id, finding.location.to_string())).or_default();
            *nth += 1;
            result(judged, finding, *nth)
        })
        .collect();
    super::json::document(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": judged.tool.name,
                "version": judged.tool.version,
                "semanticVersion": judged.tool.version,
                "informationUri": "https://arxiv.org/abs/2510.10238",
                "rules": judged.rules.iter().map(rule).collect::<Vec<_>>(),
            }},
            "invocations": [{
                // Whether the tool did its job, not whether it liked what it saw.
                "executionSuccessful": judged.not_examined.is_empty(),
                "exitCode": judged.verdict.exit_code(),
                "toolExecutionNotifications": judged.not_examined.iter().map(notification).collect::<Vec<_>>(),
            }],
            "results": results,
            "columnKind": "unicodeCodePoints",
            "properties": {"verdict": judged.verdict, "model": judged.model, "settings": judged.settings,
                "skipped": judged.skipped},
        }],
    }))
}

fn rule(rule: &Rule) -> Value {
    // GitHub shows the Markdown beside an alert. There is no page about a rule that helpUri could point to.
    let (why, advice) = (&rule.why, rule.id.advice());
    let more = format!("`achilles-audit explain {}` tells more of the rule.", rule.id);
    json!({
        "id": rule.id,
        "name": rule.id,
        "shortDescription": {"text": rule.id.as_str().replace('-', " ")},
        "fullDescription": {"text": rule.why},
        "help": {
            "text": format!("{why} {advice} {more}"),
            "markdown": format!("**Why it matters.** {why}\n\n**What to do.** {advice}\n\n{more}\n"),
        },
        "defaultConfiguration": {"level": rule.severity.map_or("none", Severity::as_str)},
        "properties": {"tags": [rule.measurement], "thresholds": rule.thresholds},
    })
}

fn notification(left: &Unexamined) -> Value {
    let text = format!("not examined: {}: {}", left.measurement.as_str(), left.why);
    json!({"level": "error", "message": message(&text), "descriptor": {"id": left.measurement}})
}

/// Text with what a checkpoint says of itself in it. `[text](where to)` would be a link in it (SARIF 2.1.0, 3.11.6).
fn message(text: &str) -> Value {
    json!({"text": printable(text).replace("](", "\\](")})
}

fn result(judged: &Judged<'_>, finding: &Finding, nth: usize) -> Value {
    let place = finding.location.to_string();
    let identity = sha256_hex(format!("{}\0{place}\0{nth}", finding.id).as_bytes());
    let mut location = json!({
        "physicalLocation": {
            "artifactLocation": {"uri": uri(judged.source, finding)},
            // Other places than lines are in binary files, where everything is on the first.
            "region": {"startLine": finding.location.line.unwrap_or(1)},
        },
        "message": message(&place),
    });
    if let Some(tensor) = &finding.location.tensor {
        let name = finding.location.in_file();
        location["logicalLocations"] = json!([{"name": tensor, "fullyQualifiedName": name, "kind": "member"}]);
    }
    let rule = judged.rules.iter().position(|r| r.id == finding.id);
    let mut result = json!({
        "ruleId": finding.id,
        "level": finding.severity,
        "message": message(&finding.message),
        "locations": [location],
        "partialFingerprints": {"achillesAudit/v1": identity},
        // What nothing suppresses says so: some results here do.
        "suppressions": [],
        "properties": {"evidence": finding.evidence},
    });
    if let Some(rule) = rule {
        result["ruleIndex"] = rule.into();
    }
    if let Some(waived) = &finding.waived {
        let why = format!("{} (until {})", waived.reason, waived.expires);
        result["suppressions"] = json!([{"kind": "external", "status": "accepted", "justification": why}]);
    }
    result
}

/// A relative reference: below the model as it was named, where that is a relative path, so that a report of a model
/// within a repository points into it. A finding of a whole folder points to its config.json.
fn uri(model: &str, finding: &Finding) -> String {
    let path = Path::new(model);
    let file = &finding.location.file;
    let of_rules = finding.location.line.is_some();
    let file = match file.is_empty() {
        true => "config.json",
        false if of_rules && Path::new(file).is_absolute() => file.rsplit('/').next().unwrap_or(file),
        false => file,
    };
    let below =
        path.is_dir() && !of_rules && path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    let root: Vec<&str> = match below {
        true => path.components().filter_map(|c| c.as_os_str().to_str()).filter(|part| *part != ".").collect(),
        false => Vec::new(),
    };
    let parts = root.into_iter().chain(file.split('/').filter(|part| *part != "."));
    parts.map(|part| utf8_percent_encode(part, RESERVED).to_string()).collect::<Vec<_>>().join("/")
}

/// RFC 3986: everything but unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
