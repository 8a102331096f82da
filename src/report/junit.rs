//! JUnit XML, as build servers read it: a test case for each rule that found nothing, and one for each finding.

use super::Renderer;
use super::judged::Judged;
use crate::escape::markup as escaped;
use crate::rules::finding::Finding;
use std::fmt::Write;

/// For build servers (JUnit XML).
pub const RENDERER: Renderer =
    Renderer { name: "junit", about: "For build servers (JUnit XML)", render: |report| Ok(document(&report.judged())) };

/// A JUnit document: `testsuites` with one `testsuite`.
pub fn document(judged: &Judged<'_>) -> String {
    let clean: Vec<_> = judged.rules.iter().filter(|r| !judged.findings.iter().any(|f| f.id == r.id)).collect();
    let fail_on = judged.fail_on;
    let fails = |f: &&Finding| f.waived.is_none() && f.severity >= fail_on;
    let (failures, errors) = (judged.findings.iter().filter(fails).count(), judged.not_examined.len());
    let skipped = judged.skipped.len() + judged.findings.iter().filter(|f| f.waived.is_some()).count();
    let tests = clean.len() + judged.findings.len() + errors + judged.skipped.len();
    let counts = format!(r#"tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}""#);
    let tool = &judged.tool.name;
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(out, r#"<testsuites name="{tool}" {counts}>"#);
    let _ = writeln!(out, r#"  <testsuite name="{tool} {}" {counts}>"#, escaped(judged.source));
    let mut case = |measurement: &str, name: &str, inside: &str| {
        let (name, end) =
            (escaped(name), if inside.is_empty() { "/>".into() } else { format!(">{inside}</testcase>") });
        let _ = writeln!(out, r#"    <testcase classname="{tool}.{measurement}" name="{name}"{end}"#);
    };
    for finding in judged.findings {
        let measurement = finding.id.measurement().as_str();
        let (message, why, severity) = (escaped(&finding.message), escaped(&finding.why), finding.severity);
        let inside = match &finding.waived {
            Some(waived) => {
                format!(r#"<skipped message="waived until {}: {}"/>"#, waived.expires, escaped(&waived.reason))
            }
            None if severity >= fail_on => {
                format!(r#"<failure type="{severity}" message="{message}">{why}</failure>"#)
            }
            None => format!("<system-out>{severity}: {message} ({why})</system-out>"),
        };
        case(measurement, &format!("{}: {}", finding.id, finding.location), &inside);
    }
    for left in judged.not_examined {
        let inside = format!(r#"<error type="not-examined" message="{}"/>"#, escaped(&left.why));
        case(left.measurement.as_str(), "not examined", &inside);
    }
    for left in judged.skipped {
        let inside = format!(r#"<skipped message="{}"/>"#, escaped(&left.why));
        case(left.measurement.as_str(), "skipped", &inside);
    }
    for rule in clean {
        case(rule.measurement.as_str(), rule.id.as_str(), "");
    }
    out + "  </testsuite>\n</testsuites>\n"
}
