//! Receipts, written and held against what lies in a folder.

use super::edit::Edit;
use super::plan::Plan;
use super::shard::{OpenShard, OpenShards, bytes_now};
use crate::checkpoint::header::Header;
use crate::checkpoint::packing::{NumberType, Span};
use crate::checkpoint::sha256_hex;
use crate::clock::now_utc;
use crate::error::{Error, Result};
use crate::files::{self, OpenFolder};
pub(super) use crate::integrity::receipt::{ChangedFile, Model, Receipt, Record, Requested, State};
use crate::integrity::receipt::{RECEIPT, SCHEMA, UNDO, UndoFile};
use crate::neuron::{Action, Intervention};
use crate::tool::Tool;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

impl Receipt {
    pub(super) fn new(plan: &Plan, files: Vec<ChangedFile>, state: State) -> Receipt {
        let undo = undo_bytes(&plan.edits);
        Receipt {
            schema: SCHEMA.into(),
            tool: Tool::this(),
            time_utc: now_utc(),
            state,
            model: Model::of(plan),
            asked: plan.interventions.iter().map(Requested::of).collect(),
            rounding: plan.rounding.clone(),
            files,
            edits: plan.edits.iter().map(Record::of).collect(),
            undo: UndoFile { name: UNDO.into(), bytes: undo.len() as u64, sha256: sha256_hex(&undo) },
        }
    }

    /// As [`Receipt::read`], in a folder that is to be changed: the receipt has to be a file of its own.
    pub(super) fn read_own(folder: &OpenFolder) -> Result<Option<Receipt>> {
        let path = folder.path().join(RECEIPT);
        let Some(file) = folder.read(RECEIPT)? else { return Ok(None) };
        Ok(Some(Receipt::parse(&path, &files::read_open(&file, &path, files::LARGEST_READ)?)?))
    }

    pub(super) fn json(&self) -> Result<Vec<u8>> {
        let bad = |e| Error::input(format!("the receipt cannot be written as JSON: {e}"));
        let mut text = serde_json::to_vec_pretty(self).map_err(bad)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Opens the shards that the receipt names, to be changed.
    pub(super) fn shards_to_change(&self, folder: &OpenFolder) -> Result<OpenShards> {
        self.shards(folder.path(), &|name| folder.change(name))
    }

    /// Opens the shards that the receipt names and checks that its spans are those of the tensors it names.
    pub(super) fn shards(&self, folder: &Path, open: &dyn Fn(&str) -> Result<File>) -> Result<OpenShards> {
        let mut shards = OpenShards::new();
        let mut tensors = HashMap::new();
        for file in &self.files {
            let path = folder.join(&file.name);
            let plain = Path::new(&file.name).file_name().is_some_and(|n| n == file.name.as_str());
            if !plain || file.name.contains('\\') || !file.name.ends_with(".safetensors") {
                let problem = format!("names the file {:?}, expected a plain *.safetensors name", file.name);
                return Err(Error::file(folder.join(RECEIPT), problem));
            }
            let shard = OpenShard::of(open(&file.name)?, &path)?;
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
            // Which codes or scales of a packed weight they are is worked out where the receipt is believed.
            let is_dense = NumberType::of(*dtype).holds_weights()
                && [".weight", ".bias"].iter().any(|end| record.tensor.ends_with(end));
            let fits = found.is_some_and(|t| match is_dense {
                true => Span::of_dense(*axis, *index, shape, *dtype, t.bytes.start) == Some(record.span),
                false => record.span.lies_in(&t.bytes),
            });
            if !fits {
                let problem =
                    format!("{} of the receipt is not in {}; nothing was changed", record.tensor, record.file);
                return Err(Error::file(folder.join(RECEIPT), problem));
            }
        }
        Ok(shards)
    }
}

impl Requested {
    pub(crate) fn of(intervention: &Intervention) -> Requested {
        let (beta, set_to) = match intervention.action {
            Action::Zero => (Some(0.0), None),
            Action::Scale(beta) => (Some(beta), None),
            Action::Set(value) => (None, Some(value)),
        };
        Requested { neuron: intervention.neuron.clone(), beta, set_to }
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
            shape: edit.stored_shape.clone(),
            axis: edit.place.axis,
            index: edit.place.index,
            file: edit.file.clone(),
            span: edit.span,
            sha256_before: sha256_hex(&edit.before),
            sha256_after: sha256_hex(&edit.after),
        }
    }

    /// SHA-256 of the bytes that are there now.
    pub(super) fn sha256_now(&self, shards: &OpenShards) -> Option<String> {
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
