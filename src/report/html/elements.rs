//! What pages are made of: the page itself, tables, lists of settings.

use crate::escape::markup as escaped;
use crate::tool::Tool;
use serde::Serialize;
use serde_json::{Number, Value};
use std::fmt::Write;

/// Characters of one value of the evidence that are shown; JSON holds all.
const LONGEST_VALUE: usize = 600;

/// Colours by name, for light pages and dark ones.
pub const COLOURS: &str = include_str!("colours.css");
/// What charts look like.
pub const CHARTS: &str = include_str!("chart.css");

/// A page that stands alone: no script, nothing is fetched, and a policy of its own forbids both. Title and body are
/// markup.
pub fn page(title: &str, tool: &Tool, body: &str) -> String {
    let style = [COLOURS, include_str!("style.css"), CHARTS].concat();
    let tool = escaped(&format!("{} {}", tool.name, tool.version));
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"/>
<meta name="generator" content="{tool}"/>
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"#
    )
}

/// A table in a box of its own that scrolls where it is too wide. The first cell of a row that holds text names it.
pub fn table(caption: &str, columns: &[&str], numeric: &[usize], rows: impl Iterator<Item = Vec<String>>) -> String {
    let class = |at: usize| if numeric.contains(&at) { " class=\"number\"" } else { "" };
    let named_by = (0..columns.len()).find(|at| !numeric.contains(at));
    let mut out = format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\n<table>\n<caption>{caption}</caption>\n<thead><tr>"
    );
    for (at, name) in columns.iter().enumerate() {
        let _ = write!(out, "<th scope=\"col\"{}>{name}</th>", class(at));
    }
    out += "</tr></thead>\n<tbody>\n";
    for row in rows {
        out += "<tr>";
        for (at, cell) in row.iter().enumerate() {
            let (tag, scope) = if Some(at) == named_by { ("th", " scope=\"row\"") } else { ("td", "") };
            let _ = write!(out, "<{tag}{scope}{}>{}</{tag}>", class(at), escaped(cell));
        }
        out += "</tr>\n";
    }
    out + "</tbody>\n</table>\n</div>\n"
}

/// The keys and values of an object as a list; of other values, the value alone.
pub fn pairs(object: &impl Serialize) -> String {
    let object = match serde_json::to_value(object).unwrap_or_default() {
        Value::Null => return String::new(),
        Value::Object(object) if object.is_empty() => return String::new(),
        Value::Object(object) => object,
        other => return format!("<p><code>{}</code></p>\n", escaped(&cut(&readable(&other)))),
    };
    let mut out = String::from("<dl>\n");
    for (key, value) in object {
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            escaped(&key.replace('_', " ")),
            escaped(&cut(&readable(&value)))
        );
    }
    out + "</dl>\n"
}

/// A value without the punctuation of JSON.
fn readable(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Number(number) => digits(number),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "none".into(),
        Value::Array(list) => {
            let between = if list.iter().any(|v| v.is_object() || v.is_array()) { "; " } else { ", " };
            list.iter().map(readable).collect::<Vec<_>>().join(between)
        }
        Value::Object(object) => {
            let pair = |(key, value): (&String, &Value)| format!("{} {}", key.replace('_', " "), readable(value));
            object.iter().map(pair).collect::<Vec<_>>().join(", ")
        }
    }
}

/// Eight significant digits, more than anybody gives a setting.
fn digits(number: &Number) -> String {
    let rounded = number.as_f64().filter(|_| number.is_f64()).and_then(|value| format!("{value:.7e}").parse().ok());
    rounded.and_then(Number::from_f64).as_ref().unwrap_or(number).to_string()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_VALUE) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}… (JSON holds all)", &text[..at]),
    }
}
