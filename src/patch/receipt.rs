//! Receipts, written and held against what lies in a folder.

use super::edit::Edit;
use super::home::Home;
use super::plan::{Line, Plan};
use super::shard::{OpenShard, OpenShards, bytes_now};
use crate::checkpoint::listing::Listing;
use crate::checkpoint::packing::{NumberType, Span};
use crate::checkpoint::sha256_hex;
use crate::clock::now_utc;
use crate::error::{Error, Result};
pub(super) use crate::integrity::receipt::{ChangedFile, Model, Receipt, Record, Requested, State};
use crate::integrity::receipt::{Kept, SCHEMA, UndoFile};
use crate::neuron::{Action, Intervention};
use crate::tool::Tool;
use base64::prelude::{BASE64_STANDARD, Engine};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

impl Receipt {
    pub(super) fn new(plan: &Plan, kept: &Kept, files: Vec<ChangedFile>, state: State) -> Receipt {
        let undo = undo_bytes(&plan.edits);
        Receipt {
            schema: SCHEMA.into(),
            tool: Tool::this(),
            time_utc: now_utc(),
            state,
            model: Model::of(plan),
            asked: plan.asked(),
            spares: plan.spares.clone(),
            rounding: plan.rounding.clone(),
            files,
            edits: plan.edits.iter().map(Record::of).collect(),
            undo: UndoFile { name: kept.undo.clone(), bytes: undo.len() as u64, sha256: sha256_hex(&undo) },
        }
    }

    pub(super) fn json(&self) -> Result<Vec<u8>> {
        let bad = |e| Error::input(format!("the receipt cannot be written as JSON: {e}"));
        let mut text = serde_json::to_vec_pretty(self).map_err(bad)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Opens the shards that the receipt names, to be changed.
    pub(super) fn shards_to_change(&self, home: &Home) -> Result<OpenShards> {
        self.shards(&home.kept, &|name| home.change(name))
    }

    /// Opens the shards that the receipt names and checks that its spans are those of the tensors it names.
    pub(super) fn shards(&self, kept: &Kept, open: &dyn Fn(&str) -> Result<File>) -> Result<OpenShards> {
        let mut shards = OpenShards::new();
        let mut tensors = HashMap::new();
        for file in &self.files {
            let path = kept.folder.join(&file.name);
            if !kept.may_change(&file.name) {
                let expected = match kept.is_of_gguf() {
                    true => kept.parts().join(" or "),
                    false => "a plain *.safetensors name".into(),
                };
                let problem = format!("names the file {:?}, expected {expected}", file.name);
                return Err(Error::file(kept.receipt_path(), problem));
            }
            let shard = OpenShard::of(open(&file.name)?, &path)?;
            let listing = Listing::read(&path, shard.bytes())?;
            let header_sha256 = sha256_hex(shard.bytes().get(..listing.data).unwrap_or_default());
            if shard.bytes().len() as u64 != file.bytes || header_sha256 != file.header_sha256 {
                return Err(Error::file(
                    &path,
                    "has another header or size than the receipt says; nothing was changed",
                ));
            }
            shards.insert(file.name.clone(), shard);
            tensors.extend(listing.tensors.into_iter().map(|t| ((file.name.as_str(), t.name.clone()), t)));
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
                return Err(Error::file(kept.receipt_path(), problem));
            }
        }
        Ok(shards)
    }
}

/// What a receipt says that was asked for a neuron.
pub(super) enum Asked {
    /// A factor, or a value.
    Action(Action),
    /// The values of its row or column.
    Values(Arc<[f32]>),
}

impl Requested {
    pub(crate) fn of(intervention: &Intervention) -> Requested {
        let (beta, set_to) = match intervention.action {
            Action::Zero => (Some(0.0), None),
            Action::Scale(beta) => (Some(beta), None),
            Action::Set(value) => (None, Some(value)),
        };
        Requested { neuron: intervention.neuron.clone(), beta, set_to, values: None }
    }

    pub(super) fn overwritten(line: &Line) -> Requested {
        let bytes: Vec<u8> = line.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Requested { neuron: line.neuron.clone(), beta: None, set_to: None, values: Some(BASE64_STANDARD.encode(bytes)) }
    }

    /// None where it says nothing, or two things.
    pub(super) fn action(&self) -> Option<Asked> {
        match (self.beta, self.set_to, &self.values) {
            (Some(beta), None, None) => Some(Asked::Action(Action::Scale(beta))),
            (None, Some(value), None) => Some(Asked::Action(Action::Set(value))),
            (None, None, Some(values)) => {
                let bytes = BASE64_STANDARD.decode(values).ok()?;
                let (values, rest) = bytes.as_chunks();
                rest.is_empty().then(|| Asked::Values(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
            }
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
            index: edit.stored_index,
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

/// The original bytes in the order of the edits.
pub(super) fn undo_bytes(edits: &[Edit]) -> Vec<u8> {
    edits.iter().flat_map(|e| e.before.iter().copied()).collect()
}
