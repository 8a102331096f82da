//! The page of studies: what each found, beside the paper, with its tables and charts.

use super::elements::{page, pairs, table};
use super::plot;
use crate::document::Document;
use crate::escape::markup as escaped;
use crate::report::cell::shown_cell;
use crate::study::{StudyReport, Table};
use crate::tool::Tool;
use std::fmt::Write;

/// Rows of a table that are shown; its file holds all.
const MOST_ROWS: usize = 60;

/// The page of some studies of one model, and of those that were not run: name and reason.
pub fn studies(documents: &[Document<StudyReport>], left_out: &[(String, String)]) -> String {
    let source = documents.first().map_or(String::new(), |document| escaped(&document.model.source));
    let mut body =
        format!("<header>\n<h1 class=\"note\"><strong>Studies</strong> <span>{source}</span></h1>\n</header>\n");
    if documents.len() > 1 {
        body += "<nav><ul>\n";
        for document in documents {
            let StudyReport { study, repeats, about, .. } = &document.result;
            let _ = writeln!(
                body,
                "<li><a href=\"#{0}\">{0}</a> ({1}): {2}</li>",
                escaped(study),
                escaped(repeats),
                escaped(about)
            );
        }
        body += "</ul></nav>\n";
    }
    if !left_out.is_empty() {
        body += "<section id=\"left-out\">\n<h2>Not run</h2>\n<ul>\n";
        for (name, why) in left_out {
            let _ = writeln!(body, "<li><strong>{}</strong>: {}</li>", escaped(name), escaped(why));
        }
        body += "</ul>\n</section>\n";
    }
    for document in documents {
        body += &study(document);
    }
    if let Some(first) = documents.first() {
        let _ = write!(body, "<section>\n<h2>Model</h2>\n{}</section>\n", pairs(&first.model));
    }
    page(&format!("Studies of {source}"), &Tool::this(), &body)
}

fn study(document: &Document<StudyReport>) -> String {
    let StudyReport { study, repeats, about, outcome, paper, paper_source, seconds } = &document.result;
    let mut out = format!(
        "<section id=\"{}\">\n<h2>{} <small>({})</small></h2>\n<p>{}.</p>\n",
        escaped(study),
        escaped(study),
        escaped(repeats),
        escaped(about)
    );
    out += "<ul>\n";
    for finding in &outcome.findings {
        let _ = writeln!(out, "<li>{}</li>", escaped(finding));
    }
    out += "</ul>\n<div class=\"figures\">\n";
    for chart in &outcome.charts {
        if let Some(table) = outcome.tables.iter().find(|table| table.name == chart.table) {
            out += &plot::figure(&format!("{study}-{}", chart.name), chart, table);
        }
    }
    out += "</div>\n";
    out += &outcome.tables.iter().map(shown).collect::<String>();
    if !paper.is_empty() {
        let _ = writeln!(out, "<h3>The paper</h3>\n<p>{}.</p>", escaped(paper_source));
        out += &paper.iter().map(shown).collect::<String>();
    }
    let settings = pairs(&document.settings);
    out + &format!("<details><summary>Settings, {seconds:.1} s</summary>\n{settings}</details>\n</section>\n")
}

fn shown(of: &Table) -> String {
    if of.rows.is_empty() {
        return String::new();
    }
    let numeric = |at: &usize| of.rows.iter().any(|row| row[*at].number().is_some());
    let numeric: Vec<usize> = (0..of.columns.len()).filter(numeric).collect();
    let columns: Vec<String> = of.columns.iter().map(|column| escaped(column)).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let rows = of.rows.iter().take(MOST_ROWS).map(|row| row.iter().map(shown_cell).collect());
    let title = match of.rows.len() > MOST_ROWS {
        false => escaped(&of.title),
        true => format!("{} (the first {MOST_ROWS} of {} rows)", escaped(&of.title), of.rows.len()),
    };
    table(&title, &columns, &numeric, rows)
}
