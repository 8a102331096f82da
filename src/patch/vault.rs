//! A vault: the rows, columns and elements of some neurons in a small file of their own, to repair a checkpoint with
//! when the original is out of reach.

use super::edit::Edit;
use super::folder;
use super::plan::Plan;
use super::receipt::{Model, Receipt};
use crate::architecture::place::NeuronPlace;
use crate::checkpoint::header::Header;
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::packing::{Axis, Dense, NumberType, Span};
use crate::checkpoint::{Checkpoint, sha256_hex};
use crate::clock::now_utc;
use crate::error::{Error, Result};
use crate::files;
use crate::neuron::Neuron;
use crate::tool::Tool;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

const SCHEMA: &str = "achilles-audit/vault/v1";
/// The key of `__metadata__` that holds the [`Index`] as JSON.
const INDEX: &str = "vault";

/// What a vault keeps, as its `__metadata__` says. The bytes are its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// What wrote it.
    pub tool: Tool,
    /// When, such as `2026-11-22T20:33:36Z`.
    pub time_utc: String,
    /// What it was taken from.
    pub model: Model,
    /// The parts; each is the vault's tensor `TENSOR:AXIS:INDEX`.
    pub parts: Vec<Part>,
}

/// One row, column or element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// The checkpoint's tensor, by the name that it has in a checkpoint of the text model alone.
    pub tensor: String,
    /// How the tensor's elements are stored.
    pub dtype: Dtype,
    /// The whole tensor's shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// `row`, `column` or `element`.
    pub axis: Axis,
    /// Its index along the axis, from 0.
    pub index: usize,
    /// SHA-256 of the kept bytes.
    pub sha256: String,
    /// SHA-256 of all other bytes of the tensor, in order, without those of any part: tells whether a checkpoint is
    /// the one that the vault was taken from.
    pub rest_sha256: String,
}

impl Part {
    /// The vault's own tensor.
    pub fn key(&self) -> String {
        format!("{}:{}:{}", self.tensor, self.axis.as_str(), self.index)
    }

    pub(super) fn place(&self) -> NeuronPlace {
        NeuronPlace { tensor: self.tensor.clone(), shape: self.shape.clone(), axis: self.axis, index: self.index }
    }
}

/// Keeps what `plan` would change in the new file `out`. Nothing else of the plan matters.
///
/// # Errors
/// `out` is there, or lies in a model folder; the checkpoint is patched; a file cannot be read or written.
pub fn keep(checkpoint: &Checkpoint, plan: &Plan, out: &Path) -> Result<Index> {
    check_out(out)?;
    checkpoint.opened().folder()?;
    let _lock = folder::lock_shared(&plan.root)?;
    if Receipt::read(&plan.root)?.is_some() {
        let problem = "is patched, and a vault is to keep the original weights; undo that with `achilles-audit \
                       unpatch` first";
        return Err(Error::file(&plan.root, problem));
    }
    let missing = || Error::file(&plan.root, "was changed in the meantime; try again");
    let mut parts = Vec::with_capacity(plan.edits.len());
    for of_tensor in plan.edits.chunk_by(|a, b| a.place.tensor == b.place.tensor) {
        let tensors = checkpoint.tensors();
        let weight = tensors.weight(&of_tensor[0].place.tensor).map_err(|_| missing())?;
        let Some(dense) = weight.dense() else {
            let problem = "is packed, and a vault keeps weights as they are stored; a patch's receipt and undo file lead \
                           back all the same";
            return Err(Error::tensor(&plan.root, weight.name(), problem));
        };
        let rest = rest_sha256(dense, of_tensor.iter().map(|e| e.span));
        let rest = rest.ok_or_else(missing)?;
        parts.extend(of_tensor.iter().map(|edit| Part::of(edit, &rest)));
    }
    let index = Index { tool: Tool::this(), time_utc: now_utc(), model: Model::of(plan), parts };
    files::write_whole(out, &index.file(&plan.edits)?)?;
    Ok(index)
}

/// Whether a vault can be written to `out`.
///
/// # Errors
/// It is there already, or lies in a model folder.
pub fn check_out(out: &Path) -> Result<()> {
    if files::parent(out)?.join("config.json").exists() {
        let problem = "would lie in a model folder, where vLLM loads every *.safetensors; keep it elsewhere, out of \
                       reach of what may damage the model";
        return Err(Error::file(out, problem));
    }
    if out.symlink_metadata().is_ok_and(|about| about.is_file()) {
        let problem = "is there already and may be a vault that is still needed; choose another name or remove it";
        return Err(Error::file(out, problem));
    }
    files::check_writable(out)
}

impl Part {
    fn of(edit: &Edit, rest_sha256: &str) -> Part {
        Part {
            neurons: edit.neurons.clone(),
            tensor: edit.place.tensor.clone(),
            dtype: edit.dtype,
            shape: edit.place.shape.clone(),
            axis: edit.place.axis,
            index: edit.place.index,
            sha256: sha256_hex(&edit.before),
            rest_sha256: rest_sha256.to_owned(),
        }
    }
}

impl Index {
    fn file(&self, edits: &[Edit]) -> Result<Vec<u8>> {
        let bad = |e: &dyn std::fmt::Display| Error::input(format!("the vault cannot be written: {e}"));
        let json = serde_json::to_string(self).map_err(|e| bad(&e))?;
        let metadata = HashMap::from([("schema".to_owned(), SCHEMA.to_owned()), (INDEX.to_owned(), json)]);
        let mut tensors = Vec::with_capacity(edits.len());
        for (part, edit) in self.parts.iter().zip(edits) {
            let elements = edit.before.len() / NumberType::of(edit.dtype).bytes();
            let view = TensorView::new(edit.dtype, vec![elements], &edit.before).map_err(|e| bad(&e))?;
            tensors.push((part.key(), view));
        }
        safetensors::serialize(tensors, Some(metadata)).map_err(|e| bad(&e))
    }
}

/// A vault that was read and whose kept bytes are those it was written with.
#[derive(Debug)]
pub struct Vault {
    file: MappedFile,
    /// What its metadata say that it keeps.
    pub index: Index,
    kept: Vec<Range<u64>>,
}

impl Vault {
    /// Reads and checks a vault.
    ///
    /// # Errors
    /// It is not one, or was damaged.
    pub fn read(path: &Path) -> Result<Vault> {
        let file = MappedFile::open(path)?;
        let header = Header::read(file.bytes()).map_err(|problem| Error::Header { path: path.into(), problem })?;
        let not_one =
            |problem: &str| Error::file(path, format!("{problem}; expected what `achilles-audit vault` writes"));
        match header.metadata.get("schema").map(String::as_str) {
            Some(SCHEMA) => {}
            Some(other) => return Err(not_one(&format!("has the schema {other:?}"))),
            None => return Err(not_one("is not a vault")),
        }
        let json = header.metadata.get(INDEX).ok_or_else(|| not_one("says nothing of what it keeps"))?;
        let index: Index = serde_json::from_str(json).map_err(|e| not_one(&format!("says of itself: {e}")))?;
        let mut tensors: BTreeMap<_, _> = header.tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let mut kept = Vec::with_capacity(index.parts.len());
        for part in &index.parts {
            // Removed, so that none serves two parts.
            let tensor = tensors.remove(&part.key()).filter(|t| t.dtype == part.dtype && t.shape.len() == 1);
            let tensor = tensor.ok_or_else(|| not_one(&format!("does not hold its part {}", part.key())))?;
            if slice(file.bytes(), &tensor.bytes).map(sha256_hex).as_ref() != Some(&part.sha256) {
                let problem = format!("its part {} is not what it was written with: the file is damaged", part.key());
                return Err(Error::file(path, problem));
            }
            kept.push(tensor.bytes);
        }
        match tensors.into_keys().next() {
            Some(name) => Err(not_one(&format!("holds {name:?}, which is none of its parts"))),
            None => Ok(Vault { file, index, kept }),
        }
    }

    /// The parts and their bytes.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Part, &[u8])> {
        let bytes = self.kept.iter().map(|range| slice(self.file.bytes(), range).unwrap_or_default());
        self.index.parts.iter().zip(bytes)
    }
}

/// SHA-256 of a tensor's bytes outside of `spans`, in order; none where the file is shorter.
pub(super) fn rest_sha256(tensor: &Dense, spans: impl Iterator<Item = Span>) -> Option<String> {
    let (file, place) = (tensor.file().bytes(), tensor.place());
    let pieces = spans.flat_map(|span| span.offsets().map(move |at| (at, at + span.piece_bytes)).collect::<Vec<_>>());
    let mut pieces: Vec<(u64, u64)> = pieces.chain([(place.end, place.end)]).collect();
    pieces.sort_unstable();
    let mut hasher = Sha256::new();
    let mut at = place.start;
    for (start, end) in pieces {
        if start > at {
            hasher.update(slice(file, &(at..start))?);
        }
        at = at.max(end);
    }
    Some(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn slice<'a>(file: &'a [u8], range: &Range<u64>) -> Option<&'a [u8]> {
    file.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
