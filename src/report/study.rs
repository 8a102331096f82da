//! A study for people, and each of its tables and charts as a file.

use super::cell::shown_cell;
use super::html;
use super::table::table as plain_table;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::escape::printable;
use crate::study::{Cell, STUDIES, StudyReport, Table};
use std::fmt::Write;

/// Rows of a table that are shown; its file holds all.
const MOST_ROWS: usize = 24;

/// What was found, the tables, and the paper's.
pub fn table(document: &Document<StudyReport>) -> String {
    let StudyReport { study, repeats, about, outcome, paper, paper_source, .. } = &document.result;
    let mut out = format!("{study} ({repeats}): {about}\n");
    for finding in &outcome.findings {
        let _ = writeln!(out, "- {finding}");
    }
    for table in &outcome.tables {
        out += &shown(table);
    }
    if !paper.is_empty() {
        let _ = writeln!(out, "\nThe paper ({paper_source})");
        for table in paper {
            out += &shown(table);
        }
    }
    out
}

fn shown(table: &Table) -> String {
    let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
    let mut plain = plain_table(&columns);
    for row in table.rows.iter().take(MOST_ROWS) {
        plain.add_row(row.iter().map(|cell| printable(&shown_cell(cell))));
    }
    let more = table.rows.len().saturating_sub(MOST_ROWS);
    let more = if more > 0 { format!("… and {more} more rows\n") } else { String::new() };
    format!("\n{}\n{plain}\n{more}", table.title)
}

/// What a study is on disk: `STUDY.json`, a CSV file of each table, an SVG file of each chart, by name.
///
/// # Errors
/// It cannot be written as JSON or CSV.
pub fn files(document: &Document<StudyReport>) -> Result<Vec<(String, String)>> {
    let StudyReport { study, outcome, .. } = &document.result;
    let mut files = Vec::new();
    for table in &outcome.tables {
        files.push((format!("{study}.{}.csv", table.name), csv(table)?));
    }
    for chart in &outcome.charts {
        if let Some(table) = outcome.tables.iter().find(|table| table.name == chart.table) {
            files.push((format!("{study}.{}.svg", chart.name), html::plot::svg(chart, table)));
        }
    }
    // Last: what is there is whole.
    files.push((format!("{study}.json"), super::json::document(document)?));
    Ok(files)
}

/// A table by RFC 4180, its columns' names first. Numbers have all their digits; what is not finite is `inf` or `NaN`,
/// what is not known is empty.
fn csv(table: &Table) -> Result<String> {
    let failed = |problem: String| Error::input(format!("table {} cannot be written as CSV: {problem}", table.name));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&table.columns).map_err(|e| failed(e.to_string()))?;
    for row in &table.rows {
        writer.write_record(row.iter().map(written)).map_err(|e| failed(e.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
}

/// All of a cell, in one line: what a model says must not drive a terminal that a file is shown on.
fn written(cell: &Cell) -> String {
    match cell {
        Cell::Count(count) => count.to_string(),
        Cell::Number(value) => value.to_string(),
        Cell::Text(text) => printable(text),
        Cell::Nothing => String::new(),
    }
}

/// The names of all studies, what each repeats, and what it measures.
pub fn list() -> String {
    let mut names = plain_table(&["study", "the paper's", "what"]);
    for study in STUDIES {
        names.add_row([study.name, study.paper, study.about]);
    }
    format!("{names}\n")
}
