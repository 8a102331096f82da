//! What every study comes to: tables, charts of them, and what they say beside the paper's.

use crate::neuron::Neuron;
use serde::{Deserialize, Serialize};

/// What a study came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its figures; each is a CSV file of its own.
    pub tables: Vec<Table>,
    /// How they are drawn; each is an SVG file of its own.
    pub charts: Vec<Chart>,
    /// Sentences: what was found, beside what the paper says.
    pub findings: Vec<String>,
}

/// Rows of figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What its file is called: lower-case letters and hyphens.
    pub name: String,
    /// What it holds, in words.
    pub title: String,
    /// What each column is called.
    pub columns: Vec<String>,
    /// As many cells as there are columns.
    pub rows: Vec<Vec<Cell>>,
}

/// A figure of a table. In JSON a number, a text or null; a measurement that is not finite is the text `inf`, `-inf` or
/// `NaN`, as in CSV.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub enum Cell {
    /// How many, or which.
    Count(u64),
    /// A measurement.
    Number(f64),
    /// Words, or a name.
    Text(String),
    /// Nothing is known here.
    Nothing,
}

/// A cell in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Count(u64),
    Number(f64),
    Text(String),
    Nothing,
}

impl From<Cell> for Stored {
    fn from(cell: Cell) -> Stored {
        match cell {
            Cell::Count(count) => Stored::Count(count),
            Cell::Number(value) if value.is_finite() => Stored::Number(value),
            Cell::Number(value) => Stored::Text(value.to_string()),
            Cell::Text(text) => Stored::Text(text),
            Cell::Nothing => Stored::Nothing,
        }
    }
}

impl From<Stored> for Cell {
    fn from(stored: Stored) -> Cell {
        match stored {
            Stored::Count(count) => Cell::Count(count),
            Stored::Number(value) => Cell::Number(value),
            Stored::Text(text) => match text.as_str() {
                "inf" => Cell::Number(f64::INFINITY),
                "-inf" => Cell::Number(f64::NEG_INFINITY),
                "NaN" => Cell::Number(f64::NAN),
                _ => Cell::Text(text),
            },
            Stored::Nothing => Cell::Nothing,
        }
    }
}

impl Cell {
    /// Its value on an axis of numbers.
    pub fn number(&self) -> Option<f64> {
        match self {
            Cell::Count(count) => Some(*count as f64),
            Cell::Number(number) => Some(*number),
            Cell::Text(_) | Cell::Nothing => None,
        }
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Cell {
        Cell::Count(count as u64)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Cell {
        Cell::Number(number)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

impl From<&Neuron> for Cell {
    fn from(neuron: &Neuron) -> Cell {
        Cell::Text(neuron.short())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(maybe: Option<T>) -> Cell {
        maybe.map_or(Cell::Nothing, Into::into)
    }
}

/// A row of cells of several kinds: `row!["clean", 0, perplexity]`.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::study::outcome::Cell::from($cell)),*] };
}
pub(super) use row;

impl Table {
    /// An empty one.
    pub fn new(name: &str, title: impl Into<String>, columns: &[&str]) -> Table {
        let columns = columns.iter().map(|column| (*column).into()).collect();
        Table { name: name.into(), title: title.into(), columns, rows: Vec::new() }
    }

    /// Whether each row has a cell for every column, which of a file that was read is not certain.
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(|row| row.len() == self.columns.len())
    }

    /// Which column is called `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }
}

/// How a table is drawn: one column along x, one along y, a line for each value of a third.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// What its file is called: lower-case letters and hyphens.
    pub name: String,
    /// What it shows, in words.
    pub title: String,
    /// The table, by its name.
    pub table: String,
    /// The column along x; where it holds words, they stand beside each other in order.
    pub x: String,
    /// The column along y, of numbers.
    pub y: String,
    /// The column whose values tell lines apart.
    pub series: Option<String>,
    /// Columns and the texts that rows must have there to be drawn; all rows are where there are none.
    pub only: Vec<(String, String)>,
    /// Whether x is on a logarithmic scale, on which zero has a place of its own before all others.
    pub log_x: bool,
    /// Whether y is on a logarithmic scale.
    pub log_y: bool,
    /// Lines or bars.
    pub mark: Mark,
}

/// How points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// A dot each, joined by lines.
    Line,
    /// A bar each.
    Bar,
}

impl Chart {
    /// A chart of lines with linear axes.
    pub fn lines(name: &str, title: impl Into<String>, table: &Table, x: &str, y: &str) -> Chart {
        Chart {
            name: name.into(),
            title: title.into(),
            table: table.name.clone(),
            x: x.into(),
            y: y.into(),
            series: None,
            only: Vec::new(),
            log_x: false,
            log_y: false,
            mark: Mark::Line,
        }
    }

    /// The same with bars.
    pub fn bars(self) -> Chart {
        Chart { mark: Mark::Bar, ..self }
    }

    /// The same with a line for each value of a column.
    pub fn by(self, series: &str) -> Chart {
        Chart { series: Some(series.into()), ..self }
    }

    /// The same of the rows alone that have a text in a column.
    pub fn only(mut self, column: &str, text: &str) -> Chart {
        self.only.push((column.into(), text.into()));
        self
    }

    /// The same with y on a logarithmic scale.
    pub fn log_y(self) -> Chart {
        Chart { log_y: true, ..self }
    }

    /// The same with x on a logarithmic scale.
    pub fn log_x(self) -> Chart {
        Chart { log_x: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_as_they_are_written() {
        let cells = row![3usize, 2.5, 1.0, "words", None::<f64>];
        let written = serde_json::to_string(&cells).unwrap();
        assert_eq!(written, r#"[3,2.5,1.0,"words",null]"#);
        assert_eq!(serde_json::from_str::<Vec<Cell>>(&written).unwrap(), cells);
        let infinite = row![f64::INFINITY, f64::NEG_INFINITY];
        let written = serde_json::to_string(&infinite).unwrap();
        assert_eq!(written, r#"["inf","-inf"]"#);
        assert_eq!(serde_json::from_str::<Vec<Cell>>(&written).unwrap(), infinite);
        assert!(matches!(serde_json::from_str(r#""NaN""#).unwrap(), Cell::Number(value) if value.is_nan()));
    }
}
