//! One HTML page that stands alone: no script, nothing is fetched, and a policy of its own forbids both.

mod chart;
mod curve;
mod elements;
mod layers;
pub(super) mod plot;
pub mod study;
#[cfg(test)]
mod tests;

use super::Renderer;
use super::judged::{Counts, Judged, answer};
use super::rules::thresholds;
use super::table::{number, place, position, sharpness_line, smallest_line, timing, verdict as search_verdict};
use crate::audit::{Audit, Linted, Unexamined, Verdict};
use crate::document::Document;
use crate::document::critical_set::CAUTION;
use crate::error::Count;
use crate::escape::markup as escaped;
use crate::evaluate::metrics::perplexity;
use crate::locate::{CriticalSetReport, RankedNeuron};
use crate::rules::finding::{Finding, Severity};
use elements::{pairs, table};
use serde_json::json;
use std::fmt::Write;

/// For people, with charts: one page that stands alone.
pub const RENDERER: Renderer = Renderer {
    name: "html",
    about: "For people, with charts: one page that stands alone",
    render: |report| Ok(report.html()),
};

/// Findings that the verdict links to.
const LINKED: usize = 8;
/// Entries of the ranking that are listed.
const RANKING_ROWS: usize = 10;

/// The page of a scan: the verdict, the critical set, the findings, and what they rest on.
pub fn document(document: &Document<Audit>) -> String {
    let audit = &document.result;
    let critical_set = audit.critical_set.as_ref();
    let search = critical_set.map(|report| format!("<h3>critical-set</h3>\n{}", pairs(&report.settings)));
    let parts = Parts {
        critical_set: critical_set.map(self::critical_set).unwrap_or_default(),
        examined: examined(audit),
        settings: search.unwrap_or_default(),
    };
    page(&Judged::from(document), &parts)
}

/// The page of a lint.
pub fn lint(document: &Document<Linted>) -> String {
    let examined = format!("<section>\n<h2>Examined</h2>\n{}</section>\n", pairs(&document.result.examined));
    page(&Judged::from(document), &Parts { examined, ..Parts::default() })
}

/// What not every document has.
#[derive(Default)]
struct Parts {
    /// A section.
    critical_set: String,
    /// A section.
    examined: String,
    /// More settings.
    settings: String,
}

fn page(judged: &Judged<'_>, parts: &Parts) -> String {
    let title = format!("{}: {}", answer(judged.verdict), escaped(judged.source));
    let body = [
        verdict(judged),
        parts.critical_set.clone(),
        findings(judged),
        left("not-examined", "Not examined", judged.not_examined),
        left("skipped", "Skipped", judged.skipped),
        parts.examined.clone(),
        format!("<section>\n<h2>Settings</h2>\n{}{}</section>\n", pairs(&judged.settings), parts.settings),
        rules(judged),
    ]
    .concat();
    elements::page(&title, judged.tool, &body)
}

/// Whether it may ship, why not, and what it is.
fn verdict(judged: &Judged<'_>) -> String {
    let class = match judged.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::NotExamined => "unknown",
    };
    let fail_on = judged.fail_on;
    let failing = |f: &Finding| f.waived.is_none() && f.severity >= fail_on;
    let against: Vec<usize> = (0..judged.findings.len()).filter(|at| failing(&judged.findings[*at])).collect();
    let unknown = match judged.not_examined.len() {
        0 => String::new(),
        n => format!(" <a href=\"#not-examined\">{}</a> not examined.", Count(n, "thing was", "things were")),
    };
    let why = match judged.verdict {
        Verdict::Fail => {
            let link = |at: &usize| format!("<a href=\"#finding-{at}\">{}</a>", judged.findings[*at].id);
            let mut links: Vec<String> = against.iter().take(LINKED).map(link).collect();
            if against.len() > LINKED {
                links.push(format!("<a href=\"#findings\">{} more</a>", against.len() - LINKED));
            }
            format!("What speaks against it: {}.{unknown}", links.join(", "))
        }
        _ => format!("Nothing that was examined speaks against it.{unknown}"),
    };
    let counts = Counts::of(judged.findings);
    let (answer, source) = (answer(judged.verdict), escaped(judged.source));
    format!(
        "<header>\n<h1 class=\"{class}\"><strong>{answer}</strong> <span>{source}</span></h1>\n\
         <p><strong>{counts}, {} waived</strong> (fail on {fail_on}; exit code {}). {why}</p>\n{}</header>\n",
        counts.waived,
        judged.verdict.exit_code(),
        pairs(&judged.model),
    )
}

/// What the model cannot do without.
fn critical_set(document: &Document<CriticalSetReport>) -> String {
    let report = &document.result;
    let mut out = String::from("<section>\n<h2>Critical set</h2>\n");
    let _ = writeln!(out, "<p>{}</p>", escaped(&search_verdict(document)));
    if let Some(sharpness) = &report.sharpness {
        let caution = if sharpness.gradual { format!("; {CAUTION}") } else { String::new() };
        let _ = writeln!(out, "<p>Sharpness: {}{caution}</p>", escaped(&sharpness_line(sharpness)));
    }
    if let Some(smallest) = report.critical_set.as_ref().and_then(|set| set.smallest) {
        let _ = writeln!(out, "<p>Smallest: {}</p>", escaped(&smallest_line(&smallest)));
    }
    out += "<div class=\"figures\">\n";
    out += &curve::figure(document);
    out += &layers::figure(&report.ranking);
    out += "</div>\n";
    let in_ranking = |at: Option<usize>, ranked: &RankedNeuron| {
        let rank = at.map(|at| (at + 1).to_string()).unwrap_or_default();
        vec![rank, ranked.neuron.short(), place(ranked), number(ranked.importance), position(ranked)]
    };
    let columns = ["rank", "neuron", "in the file", "importance", "at token"];
    if let Some(set) = &report.critical_set {
        let members = set.neurons.iter().map(|neuron| {
            let at = report.ranking.iter().position(|r| r.neuron == *neuron);
            let none = || vec![String::new(), neuron.short()];
            at.map_or_else(none, |at| in_ranking(Some(at), &report.ranking[at]))
        });
        out += &table("The critical set", &columns, &[0, 3, 4], members);
        if set.subsets.len() > 1 {
            let subsets = set.subsets.iter().map(|subset| {
                let names: Vec<String> = subset.neurons.iter().map(|n| n.short()).collect();
                let collapsed = if subset.damage >= document.settings.search.epsilon { "yes" } else { "no" };
                let (perplexity, damage) = (number(perplexity(subset.nll_nats)), number(subset.damage));
                vec![names.join(" + "), perplexity, damage, collapsed.into()]
            });
            out += &table("Its subsets", &["masked", "perplexity", "damage", "collapse"], &[1, 2], subsets);
        }
    }
    let first = report.ranking.iter().take(RANKING_ROWS).enumerate().map(|(at, r)| in_ranking(Some(at), r));
    out += &table("The first of the ranking", &columns, &[0, 3, 4], first);
    out + "</section>\n"
}

fn findings(judged: &Judged<'_>) -> String {
    let mut out = String::from("<section id=\"findings\">\n<h2>Findings</h2>\n");
    if judged.findings.is_empty() {
        out += "<p>None.</p>\n";
    }
    for (at, f) in judged.findings.iter().enumerate() {
        let class = if f.waived.is_some() { "waived" } else { f.severity.as_str() };
        let badge = if f.waived.is_some() { format!("waived {}", f.severity) } else { f.severity.to_string() };
        let (id, message, location) = (f.id, escaped(&f.message), escaped(&f.location.to_string()));
        let _ = write!(
            out,
            "<article class=\"{class}\" id=\"finding-{at}\">\n<h3><span class=\"badge\">{badge}</span> {id}</h3>\n\
             <p>{message}</p>\n<p class=\"where\">Where: <code>{location}</code></p>\n<p>Why it matters: {}</p>\n",
            escaped(&f.why)
        );
        match &f.waived {
            Some(waived) => {
                let (reason, expires) = (escaped(&waived.reason), waived.expires);
                let _ = writeln!(out, "<p class=\"waiver\">Waived until {expires}: {reason}</p>");
            }
            None => {
                let _ = writeln!(out, "<p>What to do: {}</p>", escaped(f.id.advice()));
            }
        }
        out += &pairs(&f.evidence);
        out += "</article>\n";
    }
    if judged.not_listed > 0 {
        let _ = writeln!(out, "<p>And {} more of the same kinds.</p>", judged.not_listed);
    }
    out + "</section>\n"
}

fn left(id: &str, heading: &str, list: &[Unexamined]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut out = format!("<section id=\"{id}\">\n<h2>{heading}</h2>\n<ul>\n");
    for left in list {
        let _ = writeln!(out, "<li><strong>{}</strong>: {}</li>", left.measurement.as_str(), escaped(&left.why));
    }
    out + "</ul>\n</section>\n"
}

/// How much the measurements looked at.
fn examined(audit: &Audit) -> String {
    let mut out = String::new();
    let mut part = |name: &str, list: String| {
        let _ = write!(out, "<h3>{name}</h3>\n{list}");
    };
    if let Some(examined) = &audit.lint {
        part("lint", pairs(examined));
    }
    if let Some(report) = &audit.critical_set {
        part("critical-set", format!("<p>{}</p>\n", escaped(&timing(report))));
    }
    if let Some(integrity) = &audit.fingerprint {
        part("fingerprint", pairs(integrity));
    }
    if let Some(c) = &audit.base {
        let masked = &c.transfer.base_on_variant;
        let shown = json!({"base": c.base.source, "verdict": c.verdict.as_str(), "damage_by_its_set": masked.damage,
            "damage_by_random_sets": masked.worst_control(), "overlap": c.location.overlap,
            "spearman": c.location.spearman, "damage_beside_base": c.damage, "divergence": c.divergence,
            "divergence_not_compared": c.divergence_not_compared});
        part("base", pairs(&shown));
    }
    if let Some(c) = &audit.baseline {
        let shown = json!({"alarm": c.alarm, "p_value": c.p_value, "alpha": c.alpha, "prompts": c.prompts,
            "prompts_outside": c.prompts_outside, "sites": c.sites, "sites_examined": c.sites_examined,
            "sites_outside": c.outside.len()});
        part("baseline", pairs(&shown));
    }
    if let Some(s) = &audit.signature {
        let r = &s.result;
        let shown = json!({"verdict": r.verdict, "signer": r.signer, "refusal": r.refusal, "files": r.files,
            "bytes": r.bytes, "root_sha256": r.root_sha256, "signature": s.model.signature});
        part("signature", pairs(&shown));
    }
    if out.is_empty() { out } else { format!("<section>\n<h2>Examined</h2>\n{out}</section>\n") }
}

fn rules(judged: &Judged<'_>) -> String {
    let rows = judged.rules.iter().map(|rule| {
        let found = judged.findings.iter().filter(|f| f.id == rule.id).count();
        let severity = rule.severity.map_or("off", Severity::as_str);
        let thresholds = thresholds(rule);
        let measurement = rule.measurement.as_str();
        vec![rule.id.to_string(), severity.into(), found.to_string(), measurement.into(), thresholds, rule.why.clone()]
    });
    let columns = ["rule", "severity", "findings", "judges", "thresholds", "why it matters"];
    let listed = table("Every rule whose measurement took place", &columns, &[2], rows);
    format!("<section>\n<h2>Rules judged</h2>\n{listed}</section>\n")
}
