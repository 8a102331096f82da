//! Packed weights: marks of what their stored tensors are decoded to.

use super::encoded::{decode_lines, encode_lines};
use super::lines::Marker;
use super::{Algorithm, Fingerprint, LineMark, LineStatistics, TensorRecord};
use crate::checkpoint::packing::{Layout, NumberType, Weight};
use crate::checkpoint::quantization::FILES;
use crate::checkpoint::{Opened, hex};
use crate::error::{Error, Result};
use crate::progress::Progress;
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A packed weight, by its values in single precision.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightRecord {
    /// Its name, as if it were not packed: `model.layers.0.mlp.down_proj.weight`.
    pub name: String,
    /// What its codes are, such as `FP8`.
    pub format: String,
    /// The stored tensors that it is made of, its codes first.
    pub stored: Vec<String>,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// What its values are like.
    pub statistics: LineStatistics,
    /// A mark for each row.
    pub rows: Vec<LineMark>,
    /// A mark for each column.
    pub columns: Vec<LineMark>,
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    name: String,
    format: String,
    stored: Vec<String>,
    shape: Vec<usize>,
    statistics: LineStatistics,
    rows: String,
    columns: String,
}

/// The packed weights of what was opened, whose stored tensors `after` lists; those that are unchanged are taken from
/// `before`, where there is one. None where there is no checkpoint that a loader could read.
pub(super) fn take(
    opened: &Opened,
    after: &Fingerprint,
    before: Option<&Fingerprint>,
    progress: &dyn Progress,
) -> Result<Vec<WeightRecord>> {
    if before.is_some_and(|before| before.weights.is_empty()) {
        return Ok(Vec::new());
    }
    let Ok(tensors) = opened.tensors() else { return Ok(Vec::new()) };
    let mut broken = tensors.packed().filter_map(|(_, weight)| weight.err());
    if let Some(first) = broken.next().filter(|_| before.is_none()) {
        let count = 1 + broken.count();
        tracing::warn!(
            "packed weights have no marks of their values, only of what is stored: {count} of them; {first}"
        );
    }
    let records = by_name(after);
    let known = before.map(|before| Known::of(before, after));
    let is_listed = |weight: &Weight| weight.stored().iter().all(|name| records.contains_key(name));
    let weights = tensors.weights().into_iter().filter(|weight| weight.is_packed() && is_listed(weight));
    let mut found = Vec::new();
    let mut unknown: Vec<Weight<'_>> = Vec::new();
    for weight in weights {
        match known.as_ref().and_then(|known| known.get(&weight, &records)) {
            Some(record) => found.push(record.clone()),
            None => unknown.push(weight),
        }
    }
    if unknown.is_empty() {
        return Ok(found);
    }
    let size = |weight: &Weight| weight.layout().all_rows() * weight.layout().row_bytes();
    // The largest first, so that none is left to one core at the end.
    unknown.sort_by_key(|weight| std::cmp::Reverse(size(weight)));
    progress.begin("packed weights", unknown.iter().map(|weight| size(weight) as u64).sum(), "bytes");
    let decoded = unknown.par_iter().with_max_len(1).map(|weight| {
        let is_as_listed = |name: &&str| {
            let digest = tensors.bytes(name).map(|bytes| after.algorithm.digest(bytes));
            records.get(name).into_iter().flatten().any(|record| Some(record.digest) == digest)
        };
        if !weight.stored().iter().all(is_as_listed) {
            let problem = "changed while it was read; try again when nothing writes to it";
            return Err(Error::tensor(opened.root(), weight.name(), problem));
        }
        WeightRecord::of(weight, progress)
    });
    found.extend(decoded.collect::<Result<Vec<_>>>()?.into_iter().flatten());
    progress.end();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn by_name(of: &Fingerprint) -> HashMap<&str, Vec<&TensorRecord>> {
    let mut records: HashMap<&str, Vec<&TensorRecord>> = HashMap::new();
    of.tensors.iter().for_each(|tensor| records.entry(&tensor.name).or_default().push(tensor));
    records
}

/// What an earlier fingerprint says of weights whose stored tensors, and the config that tells what they mean, are as
/// they were.
struct Known<'a> {
    weights: HashMap<&'a str, &'a WeightRecord>,
    records: HashMap<&'a str, Vec<&'a TensorRecord>>,
}

impl<'a> Known<'a> {
    fn of(before: &'a Fingerprint, after: &Fingerprint) -> Known<'a> {
        let file =
            |of: &Fingerprint, path: &str| of.files.iter().find(|file| file.path == path).map(|file| file.sha256);
        let mut settings = FILES.iter().chain(&["config.json"]);
        let same = settings.all(|path| file(before, path) == file(after, path));
        let weights = before.weights.iter().filter(|_| same).map(|weight| (weight.name.as_str(), weight));
        Known { weights: weights.collect(), records: by_name(before) }
    }

    fn get(&self, weight: &Weight, now: &HashMap<&str, Vec<&TensorRecord>>) -> Option<&'a WeightRecord> {
        let known = *self.weights.get(weight.name())?;
        let is = |of: &HashMap<&str, Vec<&TensorRecord>>, name: &str| match of.get(name).map(Vec::as_slice) {
            Some([one]) => Some(one.digest),
            _ => None,
        };
        let as_it_was = |name: &&str| is(now, name).is_some_and(|digest| is(&self.records, name) == Some(digest));
        let same = known.format == weight.format() && known.shape == weight.shape() && known.stored == weight.stored();
        (same && weight.stored().iter().all(as_it_was)).then_some(known)
    }
}

impl WeightRecord {
    /// None where it cannot be decoded.
    fn of(weight: &Weight, progress: &dyn Progress) -> Result<Option<WeightRecord>> {
        let layout = Layout { number: NumberType::F32, ..weight.layout() };
        let lines = Some(layout).filter(|layout| layout.has_lines());
        let mut marker = Marker::new(lines.unwrap_or(layout.flat()));
        let mut bytes = Vec::new();
        for range in layout.row_chunks() {
            let Ok(rows) = weight.rows(range) else { return Ok(None) };
            bytes.clear();
            rows.into_values::<f32>().iter().for_each(|value| bytes.extend(value.to_le_bytes()));
            marker.update(&bytes);
            progress.advance(bytes.len() as u64)?;
        }
        let (mut rows, mut columns, statistics) = marker.finish();
        if lines.is_none() {
            (rows, columns) = (Vec::new(), Vec::new());
        }
        Ok(Some(WeightRecord {
            name: weight.name().to_owned(),
            format: weight.format(),
            stored: weight.stored().into_iter().map(str::to_owned).collect(),
            shape: weight.shape().to_vec(),
            statistics,
            rows,
            columns,
        }))
    }

    /// What identifies it: `["NAME","FORMAT",[SHAPE],["STORED"],"DIGEST"]`, the last of the marks of its rows, then of
    /// its columns.
    pub(super) fn identity(&self, algorithm: Algorithm) -> serde_json::Value {
        let mut hasher = algorithm.hasher();
        self.rows.iter().chain(&self.columns).for_each(|line| hasher.update(line.to_bytes()));
        serde_json::json!([self.name, self.format, self.shape, self.stored, hex(&hasher.finish())])
    }
}

impl From<&WeightRecord> for Stored {
    fn from(weight: &WeightRecord) -> Stored {
        Stored {
            name: weight.name.clone(),
            format: weight.format.clone(),
            stored: weight.stored.clone(),
            shape: weight.shape.clone(),
            statistics: weight.statistics,
            rows: encode_lines(&weight.rows),
            columns: encode_lines(&weight.columns),
        }
    }
}

impl Stored {
    /// `is_listed`: whether there is a tensor of a name.
    pub fn check(self, is_listed: &dyn Fn(&str) -> bool) -> std::result::Result<WeightRecord, String> {
        let bad = |problem: String| format!("weight {}: {problem}", self.name);
        if let Some(missing) = self.stored.iter().find(|name| !is_listed(name)) {
            return Err(bad(format!("is made of {missing}, which is not among the tensors")));
        }
        let layout = Layout::of(Dtype::F32, &self.shape).filter(|layout| layout.has_lines());
        let [rows, columns] =
            layout.map_or([0, 0], |l| [l.all_rows(), if l.columns > 1 { l.all_columns() } else { 0 }]);
        Ok(WeightRecord {
            rows: decode_lines(&self.rows, rows, "rows").map_err(bad)?,
            columns: decode_lines(&self.columns, columns, "columns").map_err(bad)?,
            name: self.name,
            format: self.format,
            stored: self.stored,
            shape: self.shape,
            statistics: self.statistics,
        })
    }
}
