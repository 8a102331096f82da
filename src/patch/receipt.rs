//! What a patch changed, enough to check it and to undo it.

use super::edit::{Edit, Plan, Rounding};
use super::shard::{Shard, Shards, bytes_now};
use super::{RECEIPT, UNDO};
use crate::checkpoint::header::Header;
use crate::checkpoint::packing::{Axis, Span};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{self, OpenFolder};
use crate::neuron::{Action, Intervention, Neuron};
use crate::tool::Tool;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::Path;

const SCHEMA: &str = "achilles-audit/patch/v1";

/// The receipt of a patch: `achilles-patch.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// `achilles-audit/patch/v1`.
    pub schema: String,
    /// What wrote it.
    pub tool: Tool,
    /// When, such as `2026-11-22T20:33:36Z`.
    pub time_utc: String,
    /// Whether the edits are all there.
    pub state: State,
    /// What was patched.
    pub model: Model,
    /// What was asked for.
    pub asked: Vec<Asked>,
    /// What rounding to the tensors' dtypes cost.
    pub rounding: Rounding,
    /// The files that changed.
    pub files: Vec<ChangedFile>,
    /// Every change of bytes.
    pub edits: Vec<Record>,
    /// Where the original bytes are kept.
    pub undo: UndoFile,
}

/// How far a patch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Bytes may be old or new: `unpatch` puts the old ones back.
    Applying,
    /// All edits are there.
    Applied,
    /// Bytes are being put back; `unpatch` goes on with that.
    Undoing,
    /// All bytes of a vault are there; this file is only the journal of that, and the next run removes it.
    Restored,
}

/// Which model it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// As it was named on the command line.
    pub source: String,
    /// As its config names it.
    pub architecture: String,
    /// SHA-256 of its config.json.
    pub config_sha256: String,
}

/// What was asked for one neuron.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The neuron.
    pub neuron: Neuron,
    /// The factor; none where the neuron was set to a value.
    pub beta: Option<f64>,
    /// The value it was set to.
    pub set_to: Option<f64>,
}

/// A file that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedFile {
    /// Its name in the folder.
    pub name: String,
    /// Its size, which a patch never changes.
    pub bytes: u64,
    /// SHA-256 of its header with the length before it, which a patch never changes.
    pub header_sha256: String,
    /// SHA-256 of the whole file before; none where digests were not asked for.
    pub sha256_before: Option<String>,
    /// And after.
    pub sha256_after: Option<String>,
}

/// One row, column or element and its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// The tensor, as the file names it.
    pub tensor: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// `row`, `column` or `element`.
    pub axis: Axis,
    /// Which one.
    pub index: usize,
    /// The file.
    pub file: String,
    /// Which bytes of it.
    pub span: Span,
    /// SHA-256 of the span's bytes, one piece after the other.
    pub sha256_before: String,
    /// And after.
    pub sha256_after: String,
}

/// The file with the original bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoFile {
    /// `achilles-patch.undo`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

impl Receipt {
    pub(super) fn new(plan: &Plan, files: Vec<ChangedFile>, state: State) -> Receipt {
        let undo = undo_bytes(&plan.edits);
        Receipt {
            schema: SCHEMA.into(),
            tool: Tool::this(),
            time_utc: now_utc(),
            state,
            model: Model::of(plan),
            asked: plan.interventions.iter().map(Asked::of).collect(),
            rounding: plan.rounding.clone(),
            files,
            edits: plan.edits.iter().map(Record::of).collect(),
            undo: UndoFile { name: UNDO.into(), bytes: undo.len() as u64, sha256: sha256_hex(&undo) },
        }
    }

    /// The receipt in a folder; none where there is none.
    ///
    /// # Errors
    /// It cannot be read or is not a receipt.
    pub fn read(folder: &Path) -> Result<Option<Receipt>> {
        let path = folder.join(RECEIPT);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        Ok(Some(Receipt::parse(&path, &files::read_regular(&path)?)?))
    }

    /// As [`Receipt::read`], in a folder that is to be changed: the receipt has to be a file of its own.
    pub(super) fn read_own(folder: &OpenFolder) -> Result<Option<Receipt>> {
        let path = folder.path().join(RECEIPT);
        let Some(file) = folder.read(RECEIPT)? else { return Ok(None) };
        Ok(Some(Receipt::parse(&path, &files::read_open(&file, &path, files::LARGEST_READ)?)?))
    }

    /// Reads a receipt's bytes; `path` is for messages.
    ///
    /// # Errors
    /// It is not a receipt.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Receipt> {
        let not_one = |e| Error::file(path, format!("is not a receipt that this version can read: {e}"));
        let receipt: Receipt = serde_json::from_slice(bytes).map_err(not_one)?;
        if receipt.schema != SCHEMA {
            let problem = format!("has the schema {:?}, expected {SCHEMA}", receipt.schema);
            return Err(Error::file(path, problem));
        }
        match receipt.repeated() {
            Some(what) => Err(Error::file(path, format!("lists {what} twice, expected each change once"))),
            None => Ok(receipt),
        }
    }

    /// What is listed more than once: no patch does that, and each entry costs reading what it names.
    fn repeated(&self) -> Option<String> {
        let mut files = BTreeSet::new();
        let mut edits = HashSet::new();
        let file = self.files.iter().find(|f| !files.insert(&f.name)).map(|f| f.name.clone());
        let edit = self.edits.iter().find(|r| !edits.insert((&r.file, &r.tensor, r.axis, r.index)));
        file.or_else(|| edit.map(|r| format!("{} {} of {}", r.axis.as_str(), r.index, r.tensor)))
    }

    pub(super) fn json(&self) -> Result<Vec<u8>> {
        let bad = |e| Error::input(format!("the receipt cannot be written as JSON: {e}"));
        let mut text = serde_json::to_vec_pretty(self).map_err(bad)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Opens the shards that the receipt names, to be changed.
    pub(super) fn shards_to_change(&self, folder: &OpenFolder) -> Result<Shards> {
        self.shards(folder.path(), &|name| folder.change(name))
    }

    /// Opens the shards that the receipt names and checks that its spans are those of the tensors it names.
    pub(super) fn shards(&self, folder: &Path, open: &dyn Fn(&str) -> Result<File>) -> Result<Shards> {
        let mut shards = Shards::new();
        let mut tensors = HashMap::new();
        for file in &self.files {
            let path = folder.join(&file.name);
            let plain = Path::new(&file.name).file_name().is_some_and(|n| n == file.name.as_str());
            if !plain || file.name.contains('\\') || !file.name.ends_with(".safetensors") {
                let problem = format!("names the file {:?}, expected a plain *.safetensors name", file.name);
                return Err(Error::file(folder.join(RECEIPT), problem));
            }
            let shard = Shard::of(open(&file.name)?, &path)?;
            let header =
                Header::read(shard.bytes()).map_err(|problem| Error::Header { path: path.clone(), problem })?;
            if shard.bytes().len() as u64 != file.bytes || header_sha256(shard.bytes()) != file.header_sha256 {
                return Err(Error::file(
                    &path,
                    "has another header or size than the receipt says; nothing was changed",
                ));
            }
            shards.insert(file.name.clone(), shard);
            tensors.extend(header.tensors.into_iter().map(|t| ((file.name.as_str(), t.name.clone()), t)));
        }
        for record in &self.edits {
            let found = tensors.get(&(record.file.as_str(), record.tensor.clone()));
            let found = found.filter(|t| t.dtype == record.dtype && t.shape == record.shape);
            let Record { axis, index, shape, dtype, .. } = record;
            let span = found.and_then(|t| Span::of_dense(*axis, *index, shape, *dtype, t.bytes.start));
            if span != Some(record.span) {
                let problem =
                    format!("{} of the receipt is not in {}; nothing was changed", record.tensor, record.file);
                return Err(Error::file(folder.join(RECEIPT), problem));
            }
        }
        Ok(shards)
    }
}

impl Asked {
    pub(crate) fn of(intervention: &Intervention) -> Asked {
        let (beta, set_to) = match intervention.action {
            Action::Zero => (Some(0.0), None),
            Action::Scale(beta) => (Some(beta), None),
            Action::Set(value) => (None, Some(value)),
        };
        Asked { neuron: intervention.neuron.clone(), beta, set_to }
    }

    /// None where it says nothing, or two things.
    pub(super) fn action(&self) -> Option<Action> {
        match (self.beta, self.set_to) {
            (Some(beta), None) => Some(Action::Scale(beta)),
            (None, Some(value)) => Some(Action::Set(value)),
            _ => None,
        }
    }
}

impl Model {
    pub(super) fn of(plan: &Plan) -> Model {
        Model {
            source: plan.source.clone(),
            architecture: plan.architecture.clone(),
            config_sha256: plan.config_sha256.clone(),
        }
    }
}

impl Record {
    pub(super) fn of(edit: &Edit) -> Record {
        Record {
            neurons: edit.neurons.clone(),
            tensor: edit.stored_as.clone(),
            dtype: edit.dtype,
            shape: edit.place.shape.clone(),
            axis: edit.place.axis,
            index: edit.place.index,
            file: edit.file.clone(),
            span: edit.span,
            sha256_before: sha256_hex(&edit.before),
            sha256_after: sha256_hex(&edit.after),
        }
    }

    /// SHA-256 of the bytes that are there now.
    pub(super) fn sha256_now(&self, shards: &Shards) -> Option<String> {
        bytes_now(shards, &self.file, self.span).map(|bytes| sha256_hex(&bytes))
    }
}

/// SHA-256 of a safetensors file's header and the length before it.
pub(super) fn header_sha256(file: &[u8]) -> String {
    let length = file.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    let end = usize::try_from(length).ok().and_then(|n| n.checked_add(8));
    sha256_hex(end.and_then(|end| file.get(..end)).unwrap_or(file))
}

/// The original bytes in the order of the edits.
pub(super) fn undo_bytes(edits: &[Edit]) -> Vec<u8> {
    edits.iter().flat_map(|e| e.before.iter().copied()).collect()
}

/// The time in UTC, to the second (the civil calendar as Howard Hinnant computes it from days).
pub(crate) fn now_utc() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    utc(since)
}

fn utc(since_epoch_s: u64) -> String {
    let (days, second) = (since_epoch_s / 86_400 + 719_468, since_epoch_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_those_of_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_795_379_616, "2026-11-22T20:33:36Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(super::utc(seconds), text);
        }
    }
}
