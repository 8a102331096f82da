//! Puts what a vault keeps back into a checkpoint.

use super::believe::EditBytes;
use super::disk::{Disk, System};
use super::edit::{Edit, file_name};
use super::folder::Folder;
use super::plan::Plan;
use super::receipt::{Receipt, Record, State};
use super::shard::{OpenShards, Pieces, bytes_now};
use super::vault::{Vault, rest_sha256};
use super::{RECEIPT, UNDO, believe, journal};
use crate::architecture::place::NeuronPlace;
use crate::checkpoint::packing::{Axis, NumberType};
use crate::checkpoint::{Opened, Tensors, sha256_hex};
use crate::error::{Error, Result};
use crate::integrity::receipt::Rounding;
use crate::neuron::Neuron;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreSettings {
    /// Work it out and write nothing.
    pub dry_run: bool,
    /// Write also where the tensors differ from those that the vault was taken from in more than the kept parts.
    pub force: bool,
}

/// What was restored, or would be in a dry run.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Everything the vault keeps, in order of file and offset.
    pub parts: Vec<RestoredPart>,
    /// Tensors that differ from those that the vault was taken from in more than the kept parts.
    pub other_tensors: BTreeSet<String>,
    /// Whether all that a patch had changed is as it was before, so that its receipt goes.
    pub patch_undone: bool,
    /// Whether an unfinished restore was found first and rolled back.
    pub rolled_back: bool,
}

/// One row, column or element.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoredPart {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// Which row, column or element of which tensor it is.
    pub place: NeuronPlace,
    /// What the file calls the tensor.
    pub stored_as: String,
    /// The shard's file name.
    pub file: String,
    /// How many bytes it takes in the file.
    pub bytes: u64,
    /// How many of them belong to elements that were not as the vault keeps them.
    pub changed_bytes: u64,
}

impl Restored {
    /// How many parts were not as the vault keeps them.
    pub fn changed(&self) -> usize {
        self.parts.iter().filter(|part| part.changed_bytes > 0).count()
    }
}

/// Puts the parts that differ from what `vault` keeps back, bit for bit, under the same journal as a patch in place.
/// Where that leaves nothing of a patch, its receipt is removed as by `unpatch`.
///
/// # Errors
/// The vault or the checkpoint is not what it has to be, a tensor is missing or has another dtype or shape, or it
/// differs in more than the kept parts; the folder holds a patch that the vault cannot undo whole; another run holds
/// the lock: nothing is changed. A file cannot be written: the bytes are put back as they were, or the next restore
/// does so.
pub fn restore(root: &Path, vault: &Path, settings: RestoreSettings) -> Result<Restored> {
    restore_with(root, vault, settings, &mut System)
}

pub(super) fn restore_with(
    root: &Path,
    vault: &Path,
    settings: RestoreSettings,
    disk: &mut dyn Disk,
) -> Result<Restored> {
    let vault = Vault::read(vault)?;
    Opened::at(root).folder()?;
    let locked = match settings.dry_run {
        true => Folder::to_read(root)?,
        false => Folder::lock_with(root, &vouch(root, &vault), disk)?,
    };
    let home = &locked.home;
    let work = Work::new(root, &vault)?;
    let mut restored = Restored { rolled_back: locked.rolled_back(), ..work.restored.clone() };
    if restored.changed() == 0 {
        return Ok(restored);
    }
    let undone = match home.receipt()? {
        Some(receipt) => {
            let shards = receipt.shards_to_change(home)?;
            let undo = work.original_of(root, &receipt, &shards)?;
            believe::check(&receipt, root, &undo)?;
            Some((receipt, shards, undo))
        }
        None => None,
    };
    restored.patch_undone = undone.is_some();
    if let Some(name) = restored.other_tensors.first().filter(|_| !settings.force) {
        let problem = "differs from the one that the vault was taken from in more than the kept parts: this is \
                       another model, or it was changed elsewhere too; --force puts the kept parts back all the same";
        return Err(Error::tensor(root, name, problem));
    }
    let shards = work.tensors.files().iter().map(|file| file_name(file.path())).collect();
    let changed: BTreeSet<&str> = work.edits.iter().filter(|e| e.before != e.after).map(|e| e.file.as_str()).collect();
    changed.iter().try_for_each(|name| home.change(name).map(drop))?;
    if settings.dry_run {
        return Ok(restored);
    }
    let mut edits = work.edits;
    if let Some((receipt, shards, undo)) = undone {
        journal::undo(home, receipt, shards, &undo, disk)?;
        edits = Work::new(root, &vault)?.edits;
    }
    edits.retain(|edit| edit.before != edit.after);
    if !edits.is_empty() {
        let plan = Plan {
            root: root.into(),
            source: vault.index.model.source.clone(),
            architecture: vault.index.model.architecture.clone(),
            config_sha256: vault.index.model.config_sha256.clone(),
            interventions: Vec::new(),
            edits,
            rounding: Rounding::none(),
            shards,
        };
        journal::write_journalled(home, &plan, journal::WriteSettings::default(), State::Restored, disk)?;
        journal::forget(home, disk)?;
    }
    Ok(restored)
}

/// A restore from this vault, or any run whose original bytes it keeps.
pub(super) fn vouch(root: &Path, vault: &Vault) -> impl Fn(&Receipt, &OpenShards, &[u8]) -> Result<Option<EditBytes>> {
    move |receipt, shards, _| match receipt.asked.is_empty() {
        true => check_journal(receipt, root, vault).map(Some),
        false => {
            let kept = Work::new(root, vault)?.original_of(root, receipt, shards)?;
            believe::check(receipt, root, &kept).map(Some)
        }
    }
}

/// Checks that a receipt is the journal of a restore: its edits leave what the vault keeps.
fn check_journal(receipt: &Receipt, root: &Path, vault: &Vault) -> Result<EditBytes> {
    let tensors = Opened::folder_at(root).text_tensors()?;
    let parts = vault.parts();
    let kept: BTreeMap<_, &[u8]> = parts
        .map(|(part, bytes)| ((tensors.stored_name(&part.tensor), part.axis.as_str(), part.index), bytes))
        .collect();
    let of = |record: &Record| {
        let bytes = kept.get(&(record.tensor.as_str(), record.axis.as_str(), record.index));
        bytes.filter(|bytes| sha256_hex(bytes) == record.sha256_after).map(|bytes| bytes.to_vec())
    };
    receipt.edits.iter().map(of).collect::<Option<_>>().ok_or_else(|| {
        let problem = "is not the journal of a restore from this vault; nothing was changed";
        Error::file(root.join(RECEIPT), problem)
    })
}

/// What a vault means for a folder.
struct Work {
    tensors: Tensors,
    /// From what is there to what the vault keeps, also where that is the same.
    edits: Vec<Edit>,
    restored: Restored,
}

impl Work {
    fn new(root: &Path, vault: &Vault) -> Result<Work> {
        let tensors = Opened::folder_at(root).text_tensors()?;
        let mut edits = Vec::new();
        let mut rests = BTreeMap::new();
        for (part, kept) in vault.parts() {
            let bad = |problem: String| Error::tensor(root, &part.tensor, problem);
            let entry = tensors.get(&part.tensor);
            let entry = entry.ok_or_else(|| bad("is missing, the vault keeps a part of it".into()))?;
            if (entry.dtype, &entry.shape) != (part.dtype, &part.shape) {
                let (found, expected) = ((entry.dtype, &entry.shape), (part.dtype, &part.shape));
                let problem =
                    format!("is {} {:?}, the vault keeps a part of {} {:?}", found.0, found.1, expected.0, expected.1);
                return Err(bad(format!("{problem}: it was taken from another checkpoint")));
            }
            let none = || bad(format!("has no {} {} of {} bytes", part.axis.as_str(), part.index, kept.len()));
            let weight = tensors.weight(&part.tensor)?;
            let dense = weight.dense().ok_or_else(none)?;
            let span = dense.span(part.axis, part.index).filter(|s| s.bytes() == kept.len() as u64).ok_or_else(none)?;
            let file = dense.file();
            rests.insert(part.tensor.as_str(), part.rest_sha256.as_str());
            edits.push(Edit {
                neurons: part.neurons.clone(),
                place: part.place(),
                dtype: part.dtype,
                stored_as: tensors.stored_name(&part.tensor).to_owned(),
                stored_shape: part.shape.clone(),
                stored_index: part.index,
                number: NumberType::of(part.dtype),
                unpacked: None,
                file: file_name(file.path()),
                span,
                before: span.read(file.bytes()).ok_or_else(none)?,
                after: kept.to_vec(),
            });
        }
        edits.sort_by(|a, b| (&a.file, a.span).cmp(&(&b.file, b.span)));
        let mut other_tensors = BTreeSet::new();
        for of_tensor in edits.chunk_by(|a, b| a.place.tensor == b.place.tensor) {
            check_crossings(root, of_tensor)?;
            let name = &of_tensor[0].place.tensor;
            let weight = tensors.weight(name)?;
            let rest = weight.dense().and_then(|dense| rest_sha256(dense, of_tensor.iter().map(|e| e.span)));
            if rest.as_deref() != rests.get(name.as_str()).copied() {
                other_tensors.insert(name.clone());
            }
        }
        let parts = edits.iter().map(|edit| RestoredPart {
            neurons: edit.neurons.clone(),
            place: edit.place.clone(),
            stored_as: edit.stored_as.clone(),
            file: edit.file.clone(),
            bytes: edit.span.bytes(),
            changed_bytes: edit.changed_bytes(),
        });
        let restored = Restored { parts: parts.collect(), other_tensors, patch_undone: false, rolled_back: false };
        Ok(Work { tensors, edits, restored })
    }

    /// The original bytes of everything that the patch of `receipt` changed, where the vault holds enough of them.
    fn original_of(&self, root: &Path, receipt: &Receipt, shards: &OpenShards) -> Result<Vec<u8>> {
        let mut undo = Vec::new();
        let mut kept = BTreeMap::new();
        for record in &receipt.edits {
            let pieces = kept.entry(record.file.as_str()).or_insert_with(|| {
                let of_file: Vec<&Edit> = self.edits.iter().filter(|e| e.file == record.file).collect();
                Pieces::of(&of_file)
            });
            let mut original = bytes_now(shards, &record.file, record.span).unwrap_or_default();
            let length = record.span.piece_bytes as usize;
            for (at, piece) in record.span.offsets().zip(original.chunks_exact_mut(length)) {
                pieces.lay_over(piece, at);
            }
            if sha256_hex(&original) != record.sha256_before {
                let problem = format!(
                    "is patched, and the vault does not keep all that the patch changed; undo that with \
                     `achilles-audit unpatch` first, or, where {UNDO} is lost, move {RECEIPT} away"
                );
                return Err(Error::file(root, problem));
            }
            undo.extend(original);
        }
        Ok(undo)
    }
}

/// Where a kept row crosses a kept column both have to hold the same element.
fn check_crossings(root: &Path, of_tensor: &[Edit]) -> Result<()> {
    let along = |axis: Axis| of_tensor.iter().filter(move |e| e.place.axis == axis);
    for row in along(Axis::Row) {
        let size = NumberType::of(row.dtype).bytes();
        let element = |of: &Edit, at: usize| of.after.get(at * size..(at + 1) * size).map(<[u8]>::to_vec);
        if along(Axis::Column).any(|column| element(row, column.place.index) != element(column, row.place.index)) {
            let problem = "the vault contradicts itself where a row crosses a column; nothing was changed";
            return Err(Error::tensor(root, &row.place.tensor, problem));
        }
    }
    Ok(())
}
