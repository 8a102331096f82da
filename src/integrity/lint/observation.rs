//! What lint saw, and where: no judgement.

use super::check::Check;
use crate::checkpoint::place::Axis;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// One thing that lint saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Which of its checks.
    pub check: Check,
    /// Where.
    pub location: Location,
    /// What, in a sentence; names from the checkpoint in it are escaped.
    pub message: String,
    /// The figures behind it, an object; null where the message says all.
    pub evidence: serde_json::Value,
}

/// A place in a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file, relative to the checkpoint's folder, with `/` between its parts; empty for the folder itself.
    pub file: String,
    /// The tensor, by its name in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Whether `index` counts rows, columns or elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub axis: Option<Axis>,
    /// Which row, column or element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Offset in the file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte: Option<u64>,
}

impl Location {
    /// A file.
    pub fn file(file: impl Into<String>) -> Location {
        Location { file: file.into(), ..Location::default() }
    }

    /// A tensor in it.
    pub fn tensor(self, name: impl Into<String>) -> Location {
        Location { tensor: Some(name.into()), ..self }
    }

    /// A row, column or element of the tensor.
    pub fn at(self, axis: Axis, index: u64) -> Location {
        Location { axis: Some(axis), index: Some(index), ..self }
    }

    /// A byte of the file.
    pub fn byte(self, byte: u64) -> Location {
        Location { byte: Some(byte), ..self }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.file.is_empty() { "." } else { &self.file };
        write!(f, "{}", file.escape_debug())?;
        if let Some(tensor) = &self.tensor {
            write!(f, ": {}", tensor.escape_debug())?;
        }
        if let (Some(axis), Some(index)) = (self.axis, self.index) {
            write!(f, " {} {index}", axis.as_str())?;
        }
        if let Some(byte) = self.byte {
            write!(f, " (byte {byte})")?;
        }
        Ok(())
    }
}

/// Collects observations: a hostile file may give rise to millions of one kind.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub observations: Vec<Observation>,
    counts: HashMap<(Check, String), Count>,
}

/// Observations of one check in one file.
#[derive(Debug, Default)]
struct Count {
    seen: u64,
    kept: u64,
}

impl Found {
    /// Observations of one check in one file that are kept.
    pub const KEPT: u64 = 100;
    /// Observations that are kept in all; beyond them only counted, and not by file: there may be as many files.
    pub const KEPT_IN_ALL: usize = 5000;

    pub fn add(&mut self, check: Check, location: Location, message: impl Into<String>, evidence: serde_json::Value) {
        let full = self.observations.len() >= Found::KEPT_IN_ALL;
        let file = if full { String::new() } else { location.file.clone() };
        let count = self.counts.entry((check, file)).or_default();
        count.seen += 1;
        if !full && count.kept < Found::KEPT {
            count.kept += 1;
            self.observations.push(Observation { check, location, message: message.into(), evidence });
        }
    }

    /// As [`Found::add`], where the message says all.
    pub fn say(&mut self, check: Check, location: Location, message: impl Into<String>) {
        self.add(check, location, message, serde_json::Value::Null);
    }

    /// What was kept, by file and check, and how many were not.
    pub fn finish(mut self) -> (Vec<Observation>, u64) {
        let dropped = self.counts.values().map(|count| count.seen - count.kept).sum();
        self.observations.sort_by(|a, b| (&a.location.file, a.check).cmp(&(&b.location.file, b.check)));
        (self.observations, dropped)
    }
}
