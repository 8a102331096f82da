//! What lint saw, and where: no judgement.

use super::check::Check;
use crate::architecture::place::Axis;
use crate::checkpoint::Shard;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// One thing that lint saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The check that saw it, and so the rule that judges it.
    pub check: Check,
    /// File, tensor and part, as far as they are known.
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
    /// The line, from 1, in a file of rules: that is none of the checkpoint's.
    #[serde(skip)]
    pub line: Option<usize>,
    /// What else a finding at this place is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<More>,
}

/// Further places of one finding: a waiver has to name them too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum More {
    /// These rows, columns or elements of the same tensor.
    Lines(Vec<u64>),
    /// So many in the same tensor, which are not told apart.
    InTensor(u64),
    /// So many in the same file, or in the checkpoint where no file is named, which are not told apart.
    InFile(u64),
    /// As in [`More::InFile`], and the place itself is none of them.
    NotListed(u64),
}

impl More {
    /// Parts besides the first.
    pub fn count(&self) -> u64 {
        match self {
            More::Lines(lines) => lines.len() as u64,
            More::InTensor(count) | More::InFile(count) | More::NotListed(count) => *count,
        }
    }
}

/// As their number.
impl Serialize for More {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.count())
    }
}

impl Location {
    /// A whole file, by its path below the folder.
    pub fn file(file: impl Into<String>) -> Location {
        Location { file: file.into(), ..Location::default() }
    }

    /// Narrowed to a tensor of the file, by its stored name.
    pub fn tensor(self, name: impl Into<String>) -> Location {
        Location { tensor: Some(name.into()), ..self }
    }

    /// A row, column or element of the tensor.
    pub fn at(self, axis: Axis, index: u64) -> Location {
        Location { axis: Some(axis), index: Some(index), ..self }
    }

    /// Narrowed to a byte of the file, from 0.
    pub fn byte(self, byte: u64) -> Location {
        Location { byte: Some(byte), ..self }
    }

    /// A line of a file of rules.
    pub fn line(self, line: usize) -> Location {
        Location { line: Some(line), ..self }
    }

    /// The first of `count` lines of a tensor, and those after it; `after` are all of them or the first few.
    pub fn and_lines(self, after: Vec<u64>, count: u64) -> Location {
        let others = count.saturating_sub(1);
        let more = if after.len() as u64 == others { More::Lines(after) } else { More::InTensor(others) };
        self.and(more)
    }

    /// This and further places.
    pub fn and(self, more: More) -> Location {
        Location { more: (more.count() > 0).then_some(more), ..self }
    }

    /// What of the file it is: the tensor and a part of it, and what else the finding is about.
    pub fn in_file(&self) -> String {
        let mut out = self.tensor.as_deref().map_or(String::new(), |tensor| tensor.escape_debug().to_string());
        if let (Some(axis), Some(index)) = (self.axis, self.index) {
            out += &format!(" {} {index}", axis.as_str());
        }
        if let Some(byte) = self.byte {
            out += &format!(" (byte {byte})");
        }
        match &self.more {
            None => {}
            Some(More::NotListed(count)) => out += &format!(": ({count} not listed)"),
            Some(more) => out += &format!(" and {} more", more.count()),
        }
        out
    }

    /// Whether a pattern over places as they are shown matches every place that the finding is about. For those that
    /// are not told apart it has to match `(N not listed)` in their stead, as only a pattern for the whole tensor or
    /// file does.
    pub fn is_matched(&self, pattern: impl Fn(&str) -> bool) -> bool {
        let first = Location { more: None, ..self.clone() };
        let all_of = |place: Location, count: &u64| pattern(&place.and(More::NotListed(*count)).to_string());
        match &self.more {
            None => pattern(&first.to_string()),
            Some(More::NotListed(_)) => pattern(&self.to_string()),
            Some(More::InFile(count)) => pattern(&first.to_string()) && all_of(Location::file(&self.file), count),
            Some(More::InTensor(count)) => {
                let tensor = Location { axis: None, index: None, byte: None, ..first.clone() };
                pattern(&first.to_string()) && all_of(tensor, count)
            }
            Some(More::Lines(lines)) => {
                let line = |at: &u64| Location { index: Some(*at), ..first.clone() }.to_string();
                pattern(&first.to_string()) && lines.iter().all(|at| pattern(&line(at)))
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.file.is_empty() { "." } else { &self.file };
        let separator = if self.tensor.is_some() { ": " } else { "" };
        write!(f, "{}{separator}{}", file.escape_debug(), self.in_file())
    }
}

/// Collects observations: a hostile file may give rise to millions of one kind.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub observations: Vec<Observation>,
    counts: HashMap<(Check, String), Count>,
    /// The folder that is looked at, with a slash at its end: places are told from there.
    prefix: String,
}

/// Observations of one check in one file.
#[derive(Debug, Default)]
struct Count {
    seen: u64,
    kept: u64,
}

impl Found {
    /// Observations of one check in one file that are kept.
    pub const KEPT: u64 = Shard::KEPT;
    /// Observations that are kept in all; beyond them only counted, and not by file: there may be as many files.
    pub const KEPT_IN_ALL: usize = 5000;

    /// What is found in a folder below, by its name with a slash at its end.
    pub fn within<T>(&mut self, prefix: &str, examine: impl FnOnce(&mut Found) -> T) -> T {
        let outer = std::mem::replace(&mut self.prefix, prefix.to_owned());
        let examined = examine(self);
        self.prefix = outer;
        examined
    }

    /// Whether this was told of that place.
    pub fn has(&self, check: Check, location: &Location) -> bool {
        let file = self.whole(&location.file);
        let is_there =
            |at: &Location| at.file == file && Location { file: location.file.clone(), ..at.clone() } == *location;
        self.observations.iter().any(|o| o.check == check && is_there(&o.location))
    }

    /// A file of the folder that is looked at, by its path below the checkpoint's.
    fn whole(&self, file: &str) -> String {
        match file {
            "" => self.prefix.trim_end_matches('/').to_owned(),
            file => format!("{}{file}", self.prefix),
        }
    }

    pub fn add(&mut self, check: Check, location: Location, message: impl Into<String>, evidence: serde_json::Value) {
        let location = Location { file: self.whole(&location.file), ..location };
        let full = self.is_full();
        let file = if full { String::new() } else { location.file.clone() };
        let count = self.counts.entry((check, file)).or_default();
        count.seen += 1;
        if !full && count.kept < Found::KEPT {
            count.kept += 1;
            self.observations.push(Observation { check, location, message: message.into(), evidence });
        }
    }

    /// Counts more observations of a file, which are not kept.
    pub fn count(&mut self, check: Check, file: &str, more: u64) {
        let file = if self.is_full() { String::new() } else { self.whole(file) };
        self.counts.entry((check, file)).or_default().seen += more;
    }

    fn is_full(&self) -> bool {
        self.observations.len() >= Found::KEPT_IN_ALL
    }

    /// As [`Found::add`], where the message says all.
    pub fn say(&mut self, check: Check, location: Location, message: impl Into<String>) {
        self.add(check, location, message, serde_json::Value::Null);
    }

    /// What was kept, by file and check, one more for those that were not, and how many these were.
    pub fn finish(mut self) -> (Vec<Observation>, u64) {
        let dropped = self.counts.into_iter().filter(|(_, count)| count.seen > count.kept);
        let mut not_listed = 0;
        for ((check, file), Count { seen, kept }) in dropped {
            let more = seen - kept;
            not_listed += more;
            let whole = if file.is_empty() { "all files" } else { "the file" };
            self.observations.push(Observation {
                check,
                location: Location::file(file).and(More::NotListed(more)),
                message: format!("{more} more of this kind in {whole}, which are not listed"),
                evidence: serde_json::json!({"count": seen, "not_listed": more}),
            });
        }
        self.observations.sort_by(|a, b| (&a.location.file, a.check).cmp(&(&b.location.file, b.check)));
        (self.observations, not_listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::Glob;

    /// A place, what it is shown as, what waives it, and what names a part of it or another place.
    #[test]
    fn a_place_is_matched_where_all_of_it_is() {
        let row = |index| Location::file("m.safetensors").tensor("T").at(Axis::Row, index);
        let table: [(Location, &str, &[&str], &[&str]); 7] = [
            (
                row(100),
                "m.safetensors: T row 100",
                &["*: T row 100", "*row 1*"],
                &["*: T row 10", "*: T row 1000", "*: T"],
            ),
            (
                row(100).and_lines(vec![101, 399], 3),
                "m.safetensors: T row 100 and 2 more",
                &["*: T row *", "*: T row {100,101,399}", "*"],
                &[
                    "*: T row 100",
                    "*: T row 1*",
                    "*: T row 100*",
                    "m.safetensors: T row 100 and 2 more",
                    "*: T row {100,399}",
                ],
            ),
            (
                row(3).and_lines(vec![5], 9),
                "m.safetensors: T row 3 and 8 more",
                &["*: T*", "m.safetensors*"],
                &["*: T row 3", "*: T row 3*", "*: T row {3,5}"],
            ),
            (
                row(3).byte(80).and(More::InTensor(1)),
                "m.safetensors: T row 3 (byte 80) and 1 more",
                &["*: T*"],
                &["*: T row 3*", "*: T row 3 (byte 80)"],
            ),
            (
                row(3).and(More::InFile(1)),
                "m.safetensors: T row 3 and 1 more",
                &["m.safetensors*", "m.safetensors: *"],
                &["*: T row 3", "*: T*"],
            ),
            (
                Location::file("m.safetensors").and(More::NotListed(7)),
                "m.safetensors: (7 not listed)",
                &["m.safetensors*", "m.safetensors: (* not listed)"],
                &["m.safetensors", "*: T*", "m.safetensors: T row *", "n*"],
            ),
            (Location::default().and(More::InTensor(0)), ".", &["."], &["config.json"]),
        ];
        for (place, shown, all, other) in table {
            assert_eq!(place.to_string(), shown);
            let matched = |glob: &&str| {
                let glob = Glob::new(glob).unwrap().compile_matcher();
                place.is_matched(|place| glob.is_match(place))
            };
            assert!(all.iter().all(matched), "{shown}: {all:?}");
            assert!(!other.iter().any(matched), "{shown}: {other:?}");
        }
    }
}
