//! Findings as a section for a model card, in GitHub-flavored Markdown: the verdict, the critical set, and how to repeat it.

use super::judged::{Counts, answer};
use super::short::short;
use super::{Renderer, ShowFindings, table};
use crate::audit::Unexamined;
use crate::checkpoint::sha256_hex;
use crate::document::Document;
use crate::error::Count;
use crate::escape;
use crate::evaluate::text::REFERENCE_TEXT;
use crate::locate::{CriticalSetReport, SearchSettings};
use crate::rules::{Measurement, Rules};
use std::fmt::Write;

/// `--format markdown`.
pub(super) const RENDERER: Renderer =
    Renderer { name: "markdown", about: "A section for a model card", render: |document| Ok(section(document)) };

/// Findings that are listed; JSON holds all.
const LISTED: usize = 20;

fn section(document: &dyn ShowFindings) -> String {
    let judged = document.judged();
    let mut out = String::from("## Audit by achilles-audit\n\n");
    let (answer, counts) = (answer(judged.verdict), Counts::of(judged.findings).with_waived());
    let _ = writeln!(out, "**{answer}**: {counts}; {} and worse fail.\n", judged.fail_on);
    if let Some(found) = document.critical_set() {
        critical_set(&mut out, found);
    }
    let open: Vec<_> = judged.findings.iter().filter(|finding| finding.waived.is_none()).collect();
    if !open.is_empty() {
        out += "| severity | rule | where | found |\n|---|---|---|---|\n";
        for finding in open.iter().take(LISTED) {
            let (place, found) = (text(&finding.location.to_string()), text(&finding.message));
            let _ = writeln!(out, "| {} | {} | {place} | {found} |", finding.severity, code(&finding.id.to_string()));
        }
        let more = open.len().saturating_sub(LISTED) as u64 + judged.not_listed;
        if more > 0 {
            let _ = writeln!(out, "\nand {}.", Count(more as usize, "more finding", "more findings"));
        }
        out.push('\n');
    }
    list(&mut out, "Not examined", judged.not_examined);
    list(&mut out, "Nobody asked for", judged.skipped);
    out += "To repeat it:\n\n```sh\n";
    out += &command(document, judged.source, judged.settings["rules"].as_str());
    out += "```\n\n";
    let mut of = vec![format!("{} {}", judged.tool.name, judged.tool.version)];
    let of_model = |at: &str| judged.model.pointer(at).and_then(serde_json::Value::as_str);
    of.extend(of_model("/hub/commit").map(|commit| format!("commit {}", code(commit))));
    of.extend(of_model("/config_sha256").map(|sha256| format!("config.json with SHA-256 {}", code(sha256))));
    of.extend(judged.settings["rules_sha256"].as_str().map(|sha256| format!("rules with SHA-256 {}", code(sha256))));
    let _ = writeln!(out, "{}.", of.join(", "));
    out
}

/// What the model cannot do without.
fn critical_set(out: &mut String, document: &Document<CriticalSetReport>) {
    let Document { settings, result: report, .. } = document;
    let _ = writeln!(
        out,
        "{}. Perplexity of the model as it is: {:.2}.\n",
        text(&table::verdict(document)),
        report.base.perplexity
    );
    let Some(set) = &report.critical_set else { return };
    out.push_str("| critical neuron | in the file |\n|---|---|\n");
    for neuron in set.neurons.iter().take(LISTED) {
        let ranked = report.ranking.iter().find(|ranked| ranked.neuron == *neuron);
        let _ =
            writeln!(out, "| {} | {} |", code(&neuron.short()), text(&ranked.map(table::place).unwrap_or_default()));
    }
    if let Some(more) = set.neurons.len().checked_sub(LISTED).filter(|more| *more > 0) {
        let _ = writeln!(out, "\nand {more} more.");
    }
    let sharpness = report.sharpness.as_ref().map(|sharpness| format!(" {}.", text(&table::sharpness_line(sharpness))));
    let _ = writeln!(
        out,
        "\nFound by {}, in {}.{}\n",
        text(&table::ranking_line(document)),
        settings.dtype.as_str(),
        sharpness.unwrap_or_default()
    );
}

/// The command that gives the same; what it cannot name is told after it.
fn command(document: &dyn ShowFindings, source: &str, rules: Option<&str>) -> String {
    let judged = document.judged();
    let commit = judged.model.pointer("/hub/commit").and_then(serde_json::Value::as_str);
    let source = match commit {
        Some(commit) => format!("{}@{commit}", source.split('@').next().unwrap_or(source)),
        None => source.to_owned(),
    };
    let mut command = format!("achilles-audit {} {}", document.command(), quoted(&source));
    for (flag, value) in document.given() {
        let _ = write!(command, " --{flag}");
        if let Some(value) = value {
            let _ = write!(command, " {}", quoted(&value));
        }
    }
    if let Some(rules) = rules.filter(|rules| *rules != Rules::DEFAULT) {
        let _ = write!(command, " --rules {}", quoted(rules));
    }
    let Some(Document { settings, .. }) = document.critical_set() else {
        let not_asked = judged.skipped.iter().any(|left| left.measurement == Measurement::CriticalSet);
        return command + if not_asked { " --static\n" } else { "\n" };
    };
    let (search, usual) = (&settings.search, SearchSettings::default());
    let told = [
        ("ranking", search.ranking.as_str().to_owned(), usual.ranking.as_str().to_owned()),
        ("side", search.side.to_string(), usual.side.to_string()),
        ("sites", search.sites.to_string(), search.ranking.usual_sites().to_string()),
        ("counting", search.counting.as_str().to_owned(), usual.counting.as_str().to_owned()),
        ("dtype", settings.dtype.as_str().to_owned(), "f32".to_owned()),
        ("alpha", search.alpha.to_string(), usual.alpha.to_string()),
        ("samples", search.samples.to_string(), usual.samples.to_string()),
        ("seed", search.seed.to_string(), usual.seed.to_string()),
        ("epsilon", search.epsilon.to_string(), usual.epsilon.to_string()),
        ("max-neurons", search.max_neurons.to_string(), usual.max_neurons.to_string()),
    ];
    for (flag, value, _) in told.iter().filter(|(_, value, usual)| value != usual) {
        let _ = write!(command, " --{flag} {}", quoted(value));
    }
    match settings.text_sha256 == sha256_hex(REFERENCE_TEXT.as_bytes()) {
        true => command + "\n",
        false => format!("{command} --text-file TEXT\n# TEXT: the text with SHA-256 {}\n", settings.text_sha256),
    }
}

fn list(out: &mut String, what: &str, list: &[Unexamined]) {
    if list.is_empty() {
        return;
    }
    let _ = writeln!(out, "{what}:\n");
    for left in list {
        let _ = writeln!(out, "- {}: {}", left.measurement.as_str(), text(&left.why));
    }
    out.push('\n');
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    let word = escape::printable(word);
    match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A name as code; one that would end it, as text.
fn code(name: &str) -> String {
    match name.contains(['`', '|']) {
        true => text(name),
        false => format!("`{}`", short(name)),
    }
}

/// What a checkpoint says, so that it is nothing but text: no markup, no link.
fn text(said: &str) -> String {
    let mut out = String::new();
    for c in escape::markup(&short(said)).replace("www.", "www&#46;").chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '|' | '~' | '@' => _ = write!(out, "&#{};", u32::from(c)),
            // Where a scheme ends: nothing becomes a link.
            ':' => out.push_str("&#58;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_checkpoint_says_is_text() {
        let hostile = "a | b\n<img src=x> [x](https://evil) ![](y) `c` www.evil.com a@b.c **d** ~~e~~";
        let told = text(hostile);
        assert!(!told.contains(['|', '<', '[', '`', '*', '~', '@', '\n', '!']), "{told}");
        assert!(!told.contains("https:") && !told.contains("www."), "{told}");
        assert_eq!(text("row 507 of [576, 1536]"), "row 507 of &#91;576, 1536&#93;");
        assert_eq!((code("L1.a:out:7"), code("a`b|")), ("`L1.a:out:7`".into(), "a&#96;b&#124;".into()));
        assert_eq!((quoted("a/b@1"), quoted("it's `x`")), ("a/b@1".into(), r"'it'\''s `x`'".into()));
    }
}
