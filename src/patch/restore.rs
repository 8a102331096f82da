//! Puts what a vault keeps back into a checkpoint.

use super::believe::EditBytes;
use super::bits::{Bits, Held};
use super::disk::{Disk, System};
use super::edit::{Edit, file_name};
use super::folder::Folder;
use super::plan::Plan;
use super::receipt::{Receipt, Record, State};
use super::shard::{OpenShards, Pieces, bytes_now};
use super::vault::{Part, Stored, Vault};
use super::{Kept, RECEIPT, UNDO, believe, journal};
use crate::architecture::place::{Axis, NeuronPlace};
use crate::checkpoint::packing::{OwnBits, Weight};
use crate::checkpoint::{Opened, Tensors, sha256_hex};
use crate::error::{Error, Result};
use crate::integrity::receipt::Rounding;
use crate::neuron::Neuron;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// Which row, column or element of that it is.
    pub stored_index: usize,
    /// The shape in which that counts, outermost dimension first.
    pub shape: Vec<usize>,
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
    let opened = Opened::at(root);
    if !opened.is_gguf() {
        opened.folder()?;
    }
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
    let shards = work.tensors.mapped().iter().map(|file| file_name(file.path())).collect();
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
            lines: Vec::new(),
            spares: Vec::new(),
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
    move |receipt, shards, undo| {
        let work = Work::new(root, vault)?;
        match receipt.asked.is_empty() {
            true => work.check_journal(root, receipt, undo).map(Some),
            false => believe::check(receipt, root, &work.original_of(root, receipt, shards)?).map(Some),
        }
    }
}

/// What a vault means for a folder.
struct Work {
    tensors: Tensors,
    /// From what is there to what the vault keeps, also where that is the same.
    edits: Vec<Edit>,
    /// What the vault keeps of each weight.
    kept: BTreeMap<String, Bits>,
    restored: Restored,
}

/// A part of a vault and the bits that it is of in a folder.
struct Found<'a> {
    part: &'a Part,
    own: OwnBits<'a>,
    kept: &'a [u8],
}

impl Work {
    fn new(root: &Path, vault: &Vault) -> Result<Work> {
        let tensors = Opened::at(root).named_tensors()?;
        let (mut edits, mut kept, mut other_tensors) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        let mut of_weights: BTreeMap<String, Vec<(&Part, &[u8])>> = BTreeMap::new();
        for (part, bytes) in vault.parts() {
            of_weights.entry(part.place().tensor).or_default().push((part, bytes));
        }
        for (name, parts) in of_weights {
            if !tensors.holds(&name) {
                return Err(Error::tensor(root, name, "is missing, the vault keeps a part of it"));
            }
            let weight = tensors.weight(&name)?;
            let found = parts.iter().map(|(part, bytes)| Found::of(&tensors, &weight, part, bytes));
            let found = found.collect::<Result<Vec<_>>>()?;
            let held: Vec<Held> = found.iter().map(|f| Held::of(&f.own.place, &f.own.mask, f.kept)).collect();
            let bits = Bits::of(&held).ok_or_else(|| {
                let problem = "the vault contradicts itself where a row crosses a column; nothing was changed";
                Error::tensor(root, &name, problem)
            })?;
            let rest = bits.rest_sha256(&weight);
            if parts.iter().any(|(part, _)| rest.as_ref() != Some(&part.rest_sha256)) {
                other_tensors.insert(name.clone());
            }
            for found in &found {
                edits.push(found.edit(root, &tensors, &bits)?);
            }
            kept.insert(name, bits);
        }
        edits.sort_by(|a, b| (&a.file, a.span).cmp(&(&b.file, b.span)));
        let parts = edits.iter().map(|edit| RestoredPart {
            neurons: edit.neurons.clone(),
            place: edit.place.clone(),
            stored_as: edit.stored_as.clone(),
            stored_index: edit.stored_index,
            shape: edit.shape_in_file(),
            file: edit.file.clone(),
            bytes: edit.span.bytes(),
            changed_bytes: edit.changed_bytes(),
        });
        let restored = Restored { parts: parts.collect(), other_tensors, patch_undone: false, rolled_back: false };
        Ok(Work { tensors, edits, kept, restored })
    }

    /// Checks that a receipt is the journal of a restore: its edits leave what the vault keeps in `undo`, the original
    /// bytes.
    fn check_journal(&self, root: &Path, receipt: &Receipt, undo: &[u8]) -> Result<EditBytes> {
        let key = |tensor: &str, axis: Axis, index: usize| (tensor.to_owned(), axis.as_str(), index);
        let edits: HashMap<_, &Edit> =
            self.edits.iter().map(|edit| (key(&edit.stored_as, edit.place.axis, edit.stored_index), edit)).collect();
        let left = |(record, old): (&Record, &[u8])| {
            let edit = edits.get(&key(&record.tensor, record.axis, record.index));
            let edit = edit.filter(|edit| (&edit.file, edit.span) == (&record.file, record.span))?;
            let mut new = old.to_vec();
            self.kept.get(&edit.place.tensor)?.put(&edit.file, edit.span, &mut new);
            (sha256_hex(&new) == record.sha256_after).then_some(new)
        };
        let records = receipt.edits.iter().zip(journal::pieces(receipt, &Kept::of(root), undo)?);
        records.map(left).collect::<Option<_>>().ok_or_else(|| {
            let problem = "is not the journal of a restore from this vault; nothing was changed";
            Error::file(root.join(RECEIPT), problem)
        })
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

impl<'a> Found<'a> {
    fn of(tensors: &Tensors, weight: &'a Weight<'a>, part: &'a Part, kept: &'a [u8]) -> Result<Found<'a>> {
        let bad = |problem: String| Error::tensor(tensors.root(), &part.tensor, problem);
        let (found, expected) = (weight.format(), part.format());
        let (shape, expected_shape) = (weight.shape(), part.place().shape);
        if weight.is_packed() != part.packed.is_some() || found != expected || shape != expected_shape {
            let problem = format!("is {found} {shape:?}, the vault keeps a part of {expected} {expected_shape:?}");
            return Err(bad(format!("{problem}: it was taken from another checkpoint")));
        }
        let stored = Stored::all_of(tensors, weight);
        let other = part.packed.as_ref().and_then(|packed| packed.stored.iter().find(|of| !stored.contains(of)));
        if let Some(Stored { name, dtype, shape }) = other {
            let problem = format!("has no {name} {dtype} {shape:?} beside it, as the vault's model had");
            return Err(bad(format!("{problem}: it was taken from another checkpoint")));
        }
        let owned = weight.own_bits(part.axis, part.index)?.into_iter();
        let fits = |own: &OwnBits| {
            (own.place.tensor, own.place.dtype, own.place.shape) == (&part.tensor, part.dtype, &part.shape)
                && own.mask.len() == kept.len()
                && own.mask.iter().zip(kept).all(|(mask, kept)| kept & !mask == 0)
        };
        let own = owned.into_iter().find(fits).ok_or_else(|| {
            let (axis, index, bytes) = (part.axis.as_str(), part.index, kept.len());
            bad(format!("has no {axis} {index} of {bytes} bytes that lies as the vault's does"))
        })?;
        Ok(Found { part, own, kept })
    }

    /// From what is there to what is kept; bits of others in the same bytes stay what they are, or become what is kept
    /// of them.
    fn edit(&self, root: &Path, tensors: &Tensors, bits: &Bits) -> Result<Edit> {
        let place = &self.own.place;
        let stored_as = tensors.stored_name(place.tensor);
        let missing = || Error::tensor(root, stored_as, "is not where its header says");
        let before = place.span.read(place.file.bytes()).ok_or_else(missing)?;
        let (file, mut after) = (file_name(place.file.path()), before.clone());
        bits.put(&file, place.span, &mut after);
        Ok(Edit {
            neurons: self.part.neurons.clone(),
            place: self.part.place(),
            dtype: place.dtype,
            stored_as: stored_as.to_owned(),
            stored_shape: place.shape.to_vec(),
            stored_index: tensors.weight(&self.part.place().tensor)?.stored_index(self.part.axis, self.part.index),
            number: place.number,
            unpacked: None,
            file,
            span: place.span,
            before,
            after,
        })
    }
}
