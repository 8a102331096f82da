//! A checkpoint's folder that is ours alone for now, and the way back.

use super::disk::{self, Disk, System};
use super::receipt::{Receipt, Record, State};
use super::shard::Shards;
use super::vault::Vault;
use super::{RECEIPT, UNDO, believe, restore};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{self, OpenFolder};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;

/// A folder that no other run patches while this value lives, and in which no patch is unfinished.
#[derive(Debug)]
pub struct Folder {
    pub(super) open: OpenFolder,
    _lock: File,
    rolled_back: bool,
}

/// Which run that was stopped half-way is rolled back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unfinished<'a> {
    /// None: whoever can write to the folder can write the journal of one.
    None,
    /// A patch, or its undoing.
    Patch,
    /// A restore, or another run that this vault vouches for.
    Restore(&'a Vault),
}

impl Folder {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another run holds the lock, or one was stopped while it changed bytes.
    pub fn lock(root: &Path) -> Result<Folder> {
        Folder::lock_with(root, Unfinished::None, &mut System)
    }

    /// As [`Folder::lock`]. Where an earlier run of this kind was stopped while it changed bytes, the original ones are
    /// put back first.
    pub(super) fn lock_with(root: &Path, unfinished: Unfinished, disk: &mut dyn Disk) -> Result<Folder> {
        let lock = open_lock(root)?;
        lock.try_lock().map_err(|e| locked(root, e))?;
        let open = OpenFolder::open(root)?;
        for name in [RECEIPT, UNDO] {
            open.remove_if_there(&disk::partial(name))?;
        }
        let rolled_back = match Receipt::read_own(&open)? {
            Some(receipt) if receipt.state == State::Restored && is_restored(&receipt, &open)? => {
                forget(&open, disk)?;
                false
            }
            Some(receipt) if receipt.state != State::Applied => {
                let believe = |shards: &Shards, undo: &[u8]| {
                    let new = match (unfinished, receipt.asked.is_empty()) {
                        (Unfinished::Patch, false) => believe::check(&receipt, root, undo)?,
                        (Unfinished::Restore(vault), true) => believe::check_restore(&receipt, root, vault)?,
                        (Unfinished::Restore(vault), false) => {
                            let kept = restore::original_of(root, vault, &receipt, shards)?;
                            believe::check(&receipt, root, &kept)?
                        }
                        _ => return Err(half_way(root, &receipt)),
                    };
                    believe::check_between(&receipt, root, shards, undo, &new)
                };
                roll_back(&open, &receipt, &believe, disk)?;
                true
            }
            _ => false,
        };
        Ok(Folder { open, _lock: lock, rolled_back })
    }

    /// A folder that no other run changes while this value lives.
    pub(super) fn to_read(root: &Path) -> Result<Folder> {
        Ok(Folder { _lock: lock_shared(root)?, open: OpenFolder::open(root)?, rolled_back: false })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.open.path()
    }

    /// Whether an unfinished patch or unpatch was found and the original bytes were put back.
    pub(super) fn rolled_back(&self) -> bool {
        self.rolled_back
    }
}

/// Keeps runs that change the folder out while this one copies from it.
pub(super) fn lock_shared(root: &Path) -> Result<File> {
    let lock = open_lock(root)?;
    lock.try_lock_shared().map_err(|e| locked(root, e))?;
    check_settled(root)?;
    Ok(lock)
}

/// Refuses a folder in which a run was stopped half-way.
pub(super) fn check_settled(root: &Path) -> Result<()> {
    match Receipt::read(root)? {
        Some(receipt) if receipt.state != State::Applied => Err(half_way(root, &receipt)),
        _ => Ok(()),
    }
}

/// Whether nothing is left to be done for a receipt that says so: it is a restore's, and the weights are what that
/// left.
fn is_restored(receipt: &Receipt, folder: &OpenFolder) -> Result<bool> {
    let shards = receipt.shards_to_change(folder)?;
    let is_left = |record: &Record| record.sha256_now(&shards).as_ref() == Some(&record.sha256_after);
    Ok(receipt.asked.is_empty() && receipt.edits.iter().all(is_left))
}

/// What is said of a folder in which a run was stopped half-way.
fn half_way(root: &Path, receipt: &Receipt) -> Error {
    let problem = match receipt.asked.is_empty() {
        true => {
            "was being restored by a run that was stopped half-way, for which only its vault can vouch; run \
             `achilles-audit restore` with that again"
        }
        false => {
            "was being changed by a run that was stopped half-way; if that was yours, `achilles-audit unpatch` puts \
             back the bytes that it had kept"
        }
    };
    Error::file(root, problem)
}

/// The file whose lock is the folder's.
fn open_lock(root: &Path) -> Result<File> {
    let path = root.join("config.json");
    if !path.exists() {
        let found = match root {
            root if root.is_dir() => "holds no config.json",
            root if root.exists() => "is not a folder",
            _ => "no such folder",
        };
        return Err(Error::file(root, format!("{found}; expected a model folder")));
    }
    files::open_regular(&path)
}

fn locked(root: &Path, error: TryLockError) -> Error {
    match error {
        TryLockError::WouldBlock => {
            Error::file(root, "another achilles-audit is working on this folder; wait until it is done and try again")
        }
        TryLockError::Error(source) => Error::io(root)(source),
    }
}

/// What unpatching did.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpatched {
    /// The receipt that was undone; none where an unfinished patch was rolled back instead.
    pub receipt: Option<Receipt>,
    /// Whether config.json is another than when the patch was made. A patch does not touch it, nor does the way back.
    pub config_changed: bool,
}

/// Puts the original bytes back into a patched folder and removes receipt and undo file. The edited ranges, and the
/// size and header of the files that hold them, have to be as the receipt says; all other bytes of these files as well
/// where it holds their digests.
///
/// # Errors
/// There is no receipt, or what is there is not what the receipt says; then nothing is changed. Another run holds the
/// lock, or a file cannot be written; then the next one finishes.
pub fn unpatch(root: &Path) -> Result<Unpatched> {
    unpatch_with(root, &mut System)
}

pub(super) fn unpatch_with(root: &Path, disk: &mut dyn Disk) -> Result<Unpatched> {
    let folder = Folder::lock_with(root, Unfinished::Patch, disk)?;
    if folder.rolled_back {
        return Ok(Unpatched { receipt: None, config_changed: false });
    }
    let open = &folder.open;
    let Some(receipt) = Receipt::read_own(open)? else {
        return Err(Error::file(root, format!("holds no {RECEIPT}; there is nothing to undo")));
    };
    let shards = receipt.shards_to_change(open)?;
    for record in &receipt.edits {
        if record.sha256_now(&shards).as_ref() != Some(&record.sha256_after) {
            let problem = format!(
                "{} {} is not as {RECEIPT} says it was left: it was changed since; nothing was changed now",
                record.axis.as_str(),
                record.index
            );
            return Err(Error::tensor(root.join(&record.file), &record.tensor, problem));
        }
    }
    for (file, shard) in receipt.files.iter().filter_map(|file| Some((file, shards.get(&file.name)?))) {
        if let Some(expected) = &file.sha256_after
            && shard.sha256()? != *expected
        {
            let problem =
                format!("was changed since {RECEIPT} was written, outside of its edits; nothing was changed now");
            return Err(Error::file(root.join(&file.name), problem));
        }
    }
    let undo = read_undo(open, &receipt)?.ok_or_else(|| {
        Error::file(root, format!("{UNDO} is missing; without it only the original checkpoint can help"))
    })?;
    believe::check(&receipt, root, &undo)?;
    let config_changed = sha256_hex(&files::read_regular(&root.join("config.json"))?) != receipt.model.config_sha256;
    Ok(Unpatched { receipt: Some(self::undo(open, receipt, shards, &undo, disk)?), config_changed })
}

/// Puts `undo`, the original bytes that the receipt was written with, back and removes both files.
pub(super) fn undo(
    folder: &OpenFolder,
    mut receipt: Receipt,
    shards: Shards,
    undo: &[u8],
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    if !matches!(read_undo(folder, &receipt), Ok(Some(found)) if found == undo) {
        disk.write_whole(folder, UNDO, undo)?;
    }
    receipt.state = State::Undoing;
    disk.write_whole(folder, RECEIPT, &receipt.json()?)?;
    put_back(folder, &receipt, shards, undo, disk)?;
    receipt.state = State::Applied;
    Ok(receipt)
}

/// Puts the original bytes back after a run was stopped, once `believe` agrees to them.
pub(super) fn roll_back(
    folder: &OpenFolder,
    receipt: &Receipt,
    believe: &dyn Fn(&Shards, &[u8]) -> Result<()>,
    disk: &mut dyn Disk,
) -> Result<()> {
    let shards = receipt.shards_to_change(folder)?;
    match read_undo(folder, receipt)? {
        Some(undo) => {
            believe(&shards, &undo)?;
            put_back(folder, receipt, shards, &undo, disk)
        }
        // The run was stopped before it wrote the undo file, or after it removed it: no byte is new.
        None if receipt.edits.iter().all(|r| r.sha256_now(&shards).as_ref() == Some(&r.sha256_before)) => {
            disk.remove(folder, RECEIPT)
        }
        None => {
            let problem =
                format!("an unfinished patch cannot be rolled back as {UNDO} is missing; fetch the checkpoint again");
            Err(Error::file(folder.path(), problem))
        }
    }
}

/// The original bytes; none where there is no undo file.
pub(super) fn read_undo(folder: &OpenFolder, receipt: &Receipt) -> Result<Option<Vec<u8>>> {
    let path = folder.path().join(UNDO);
    let Some(file) = folder.read(UNDO)? else { return Ok(None) };
    let bytes = files::read_open(&file, &path, files::LARGEST_READ)?;
    let needed: u64 = receipt.edits.iter().map(|r| r.span.bytes()).sum();
    if bytes.len() as u64 != needed || sha256_hex(&bytes) != receipt.undo.sha256 {
        return Err(Error::file(path, format!("is not the file that {RECEIPT} was written with; nothing was changed")));
    }
    Ok(Some(bytes))
}

fn put_back(folder: &OpenFolder, receipt: &Receipt, shards: Shards, undo: &[u8], disk: &mut dyn Disk) -> Result<()> {
    let pieces = believe::pieces(receipt, folder.path(), undo)?;
    let edits: Vec<_> = receipt.edits.iter().zip(pieces).map(|(r, bytes)| (r.file.as_str(), r.span, bytes)).collect();
    write(folder, shards, &edits, disk)?;
    forget(folder, disk)
}

/// Removes what nothing is left to be done with. Without its undo file a receipt whose bytes are the old ones is still
/// understood, not the other way round.
pub(super) fn forget(folder: &OpenFolder, disk: &mut dyn Disk) -> Result<()> {
    if folder.holds(UNDO) {
        disk.remove(folder, UNDO)?;
    }
    disk.remove(folder, RECEIPT)
}

/// Writes spans, given in order of file, and syncs each file.
pub(super) fn write(
    folder: &OpenFolder,
    shards: Shards,
    edits: &[(&str, super::Span, &[u8])],
    disk: &mut dyn Disk,
) -> Result<()> {
    // The maps go first: what they show would change.
    let files: BTreeMap<String, File> = shards.into_iter().map(|(name, shard)| (name, shard.file)).collect();
    for of_file in edits.chunk_by(|a, b| a.0 == b.0) {
        let path = folder.path().join(of_file[0].0);
        let file = files.get(of_file[0].0).ok_or_else(|| Error::file(&path, "is not open to be changed"))?;
        for (_, span, bytes) in of_file {
            for (offset, piece) in span.offsets().zip(bytes.chunks_exact(span.piece_bytes as usize)) {
                disk.write_at(file, &path, offset, piece)?;
            }
        }
        disk.sync(file, &path)?;
    }
    Ok(())
}
