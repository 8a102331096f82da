//! What a patch plans and a restore did, as documents.

use super::{Edit, Plan, Requested, Restored, RestoredPart, Rounding};
use crate::checkpoint::packing::{Axis, Span};
use crate::document::{Document, Kind, ModelIdentity};
use crate::neuron::Neuron;
use safetensors::Dtype;
use serde::Serialize;
use std::path::Path;

/// What a patch is going to change (`achilles-audit/patch-plan/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanDocument {
    /// The interventions that the edits will make.
    pub asked: Vec<Requested>,
    /// What rounding to the tensors' dtypes costs.
    pub rounding: Rounding,
    /// Every change of bytes.
    pub edits: Vec<PlannedEdit>,
}

/// One row, column or element and its values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedEdit {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// The tensor, as the file names it.
    pub tensor: String,
    /// How the tensor's elements are stored.
    pub dtype: Dtype,
    /// The whole tensor's shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// `row`, `column` or `element`.
    pub axis: Axis,
    /// Its index along the axis in the file, from 0, counted through all matrices of a stack.
    pub index: usize,
    /// The shard, by its name in the folder.
    pub file: String,
    /// The bytes of the file that are written.
    pub span: Span,
    /// How many bytes the span has.
    pub bytes: u64,
    /// How many of them belong to values that change.
    pub changed_bytes: u64,
    /// The values as they are.
    pub before: Vec<f64>,
    /// The values as they will be.
    pub after: Vec<f64>,
}

impl Kind for PlanDocument {
    const SCHEMA: &'static str = "achilles-audit/patch-plan/v1";
    type Model = ModelIdentity;
    type Settings = ();
}

impl Plan {
    /// The plan, to be shown.
    pub fn document(&self) -> Document<PlanDocument> {
        let edit = |edit: &Edit| PlannedEdit {
            neurons: edit.neurons.clone(),
            tensor: edit.stored_as.clone(),
            dtype: edit.dtype,
            shape: edit.shape_in_file(),
            axis: edit.place.axis,
            index: edit.stored_index,
            file: edit.file.clone(),
            span: edit.span,
            bytes: edit.span.bytes(),
            changed_bytes: edit.changed_bytes(),
            before: edit.values_before(),
            after: edit.values_after(),
        };
        let identity = ModelIdentity {
            source: self.source.clone(),
            architecture: Some(Some(self.architecture.clone())),
            config_sha256: Some(Some(self.config_sha256.clone())),
            ..ModelIdentity::default()
        };
        let result = PlanDocument {
            asked: self.asked(),
            rounding: self.rounding.clone(),
            edits: self.edits.iter().map(edit).collect(),
        };
        Document::new(identity, (), result)
    }
}

/// What restoring from a vault did, or would do (`achilles-audit/restore/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestoreDocument {
    /// The model folder, as it was named.
    pub folder: String,
    /// Whether this only says what would be done; nothing was written.
    pub dry_run: bool,
    /// Every part that the vault keeps.
    pub parts: Vec<ShownPart>,
    /// Tensors that differ from the vault's in more than the kept parts.
    pub other_tensors_differ: Vec<String>,
    /// A patch's receipt goes, as its edits are undone by this.
    pub patch_undone: bool,
    /// An unfinished run was found, whose bytes were put back first.
    pub rolled_back: bool,
}

/// A kept row, column or element.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownPart {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// The tensor, as the file names it.
    pub tensor: String,
    /// The whole tensor's shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// `row`, `column` or `element`.
    pub axis: Axis,
    /// Its index along the axis, from 0, counted through all matrices of a stack.
    pub index: usize,
    /// The shard, by its name in the folder.
    pub file: String,
    /// How many bytes it takes in the file.
    pub bytes: u64,
    /// Those of values that were not as kept.
    pub changed_bytes: u64,
}

impl Kind for RestoreDocument {
    const SCHEMA: &'static str = "achilles-audit/restore/v1";
    type Model = ();
    type Settings = ();
}

impl Restored {
    /// What was done to `folder`, to be shown.
    pub fn document(&self, folder: &Path, dry_run: bool) -> Document<RestoreDocument> {
        let part = |part: &RestoredPart| ShownPart {
            neurons: part.neurons.clone(),
            tensor: part.stored_as.clone(),
            shape: part.shape.clone(),
            axis: part.place.axis,
            index: part.stored_index,
            file: part.file.clone(),
            bytes: part.bytes,
            changed_bytes: part.changed_bytes,
        };
        let result = RestoreDocument {
            folder: folder.to_string_lossy().into_owned(),
            dry_run,
            parts: self.parts.iter().map(part).collect(),
            other_tensors_differ: self.other_tensors.iter().cloned().collect(),
            patch_undone: self.patch_undone,
            rolled_back: self.rolled_back,
        };
        Document::new((), (), result)
    }
}
