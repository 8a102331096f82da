//! How files hold texts.

use super::super::words::strip;
use crate::error::{Error, Result as Fallible};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// How a file holds texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextFormat {
    /// Paragraphs between blank lines, each a text.
    Plain,
    /// JSON objects, one a line, each with its `text`.
    Jsonl,
    /// WikiText as it is published: headings ` = … = ` are dropped, the lines between blank ones joined to a text, as
    /// the paper's published code has it.
    Wikitext,
    /// Parquet with a column of texts.
    Parquet,
}

impl TextFormat {
    /// All of them.
    pub const ALL: [TextFormat; 4] = [TextFormat::Plain, TextFormat::Jsonl, TextFormat::Wikitext, TextFormat::Parquet];

    /// What the file's name tells: `.jsonl` and `.json` are JSON lines, `.tokens` and `.raw` WikiText (`wiki.test.tokens`,
    /// `wiki.test.raw`), `.parquet` is Parquet, all else is plain.
    pub fn of(path: &Path) -> TextFormat {
        let end = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
        match end.as_deref() {
            Some("jsonl" | "json") => TextFormat::Jsonl,
            Some("tokens" | "raw") => TextFormat::Wikitext,
            Some("parquet") => TextFormat::Parquet,
            _ => TextFormat::Plain,
        }
    }

    /// As it is written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            TextFormat::Plain => "plain",
            TextFormat::Jsonl => "jsonl",
            TextFormat::Wikitext => "wikitext",
            TextFormat::Parquet => "parquet",
        }
    }

    /// What a file of it holds, for messages.
    pub(super) fn described(self) -> &'static str {
        match self {
            TextFormat::Plain => "paragraphs with blank lines between them",
            TextFormat::Jsonl => "lines such as {\"text\": \"…\"}",
            TextFormat::Wikitext => "WikiText: paragraphs with blank lines between them, headings as = … =",
            TextFormat::Parquet => "Parquet with a text in some row",
        }
    }

    /// The texts of a file that is text, or what is wrong with it; `key` is that of JSON lines.
    pub(super) fn texts(self, file: &str, key: &str) -> Result<Vec<String>, String> {
        match self {
            TextFormat::Plain => Ok(paragraphs(file.lines(), "\n")),
            TextFormat::Wikitext => {
                let is_heading = |line: &&str| line.starts_with('=') && line.ends_with('=');
                Ok(paragraphs(file.lines().map(strip).filter(|line| !is_heading(line)), " "))
            }
            TextFormat::Jsonl => {
                let lines = file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
                lines.map(|(at, line)| of_json(at + 1, line, key)).collect()
            }
            TextFormat::Parquet => Err("is Parquet, which is no text".into()),
        }
    }
}

/// Lines between blank ones, joined.
fn paragraphs<'a>(lines: impl Iterator<Item = &'a str>, between: &str) -> Vec<String> {
    let (mut texts, mut open) = (Vec::new(), Vec::new());
    for line in lines.chain([""]) {
        if !strip(line).is_empty() {
            open.push(line);
        } else if !open.is_empty() {
            texts.push(open.join(between));
            open.clear();
        }
    }
    texts
}

fn of_json(line: usize, json: &str, key: &str) -> Result<String, String> {
    let wrong =
        |why: &dyn fmt::Display| format!("line {line}: expected a JSON object such as {{{key:?}: \"…\"}}: {why}");
    let mut record: Map<String, Value> = serde_json::from_str(json).map_err(|e| wrong(&e))?;
    match record.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong(&format!("{key:?} is no text"))),
        None => Err(wrong(&format!("it has no {key:?}"))),
    }
}

impl fmt::Display for TextFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TextFormat {
    type Err = Error;

    fn from_str(text: &str) -> Fallible<Self> {
        let found = TextFormat::ALL.into_iter().find(|format| format.as_str() == text);
        found.ok_or_else(|| Error::input(format!("text format {text:?}: expected plain, jsonl, wikitext or parquet")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_texts() {
        let plain = TextFormat::Plain.texts("\n\n One,\n two.\n \t\nThree.", "").unwrap();
        assert_eq!(plain, [" One,\n two.", "Three."]);
        assert_eq!(TextFormat::Plain.texts(" \n\n", "").unwrap(), [""; 0]);
    }

    #[test]
    fn headings_of_wikitext_are_dropped_and_lines_joined() {
        // As _load_local_wikitext of the published code: a heading is dropped, and does not end a text.
        let file = " \n = Robert = \n \n Robert is an actor . \n He acts . \n\n = = Career = = \n In 2000 = he did . \n= = = 2001 = = =\n More . \n";
        let texts = TextFormat::Wikitext.texts(file, "").unwrap();
        assert_eq!(texts, ["Robert is an actor . He acts .", "In 2000 = he did . More ."]);
    }

    #[test]
    fn json_lines_name_the_line_that_is_none() {
        let texts =
            TextFormat::Jsonl.texts("{\"text\": \"a\\nb\", \"id\": 3}\n\n{\"text\": \"c\"}\r\n", "text").unwrap();
        assert_eq!(texts, ["a\nb", "c"]);
        assert_eq!(TextFormat::Jsonl.texts("{\"text\": \"a\", \"id\": \"b\"}", "id").unwrap(), ["b"]);
        for (line, says) in [
            ("{\"txt\": \"a\"}", "it has no \"text\""),
            ("{\"text\": 3}", "\"text\" is no text"),
            ("text", "expected ident"),
        ] {
            let problem = TextFormat::Jsonl.texts(&format!("{{\"text\": \"a\"}}\n\n{line}"), "text").unwrap_err();
            assert!(problem.starts_with("line 3: expected a JSON object such as {\"text\": \"…\"}: "), "{problem}");
            assert!(problem.contains(says), "{problem}");
        }
    }

    #[test]
    fn formats_print_and_parse_back_and_names_tell_them() {
        for format in TextFormat::ALL {
            assert_eq!(format.to_string().parse::<TextFormat>().unwrap(), format);
            assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{format}\""));
        }
        assert!("text".parse::<TextFormat>().is_err());
        let of = |name: &str| TextFormat::of(Path::new(name));
        assert_eq!(
            [of("a.JSONL"), of("c4.json"), of("wiki.test.tokens"), of("wiki.test.raw")].map(TextFormat::as_str),
            ["jsonl", "jsonl", "wikitext", "wikitext"]
        );
        assert_eq!([of("a.txt"), of("a"), of("a.parquet")].map(TextFormat::as_str), ["plain", "plain", "parquet"]);
    }
}
