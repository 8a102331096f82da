//! A checkpoint's folder that is ours alone for now, and the way back.

use super::disk::{self, Disk, System};
use super::receipt::{Receipt, Shards, State};
use super::{RECEIPT, UNDO};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// A folder that no other run patches while this value lives, and in which no patch is unfinished.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    _lock: File,
    rolled_back: bool,
}

impl Folder {
    /// Takes the lock. Where an earlier run was stopped while it changed bytes, the original ones are put back first.
    ///
    /// # Errors
    /// Another run holds the lock, or what an earlier run left cannot be rolled back.
    pub fn lock(root: &Path) -> Result<Folder> {
        Folder::lock_with(root, &mut System)
    }

    pub(super) fn lock_with(root: &Path, disk: &mut dyn Disk) -> Result<Folder> {
        let lock = open_lock(root)?;
        lock.try_lock().map_err(|e| locked(root, e))?;
        for name in [RECEIPT, UNDO] {
            disk::remove_if_there(&disk::partial(&root.join(name)))?;
        }
        let rolled_back = match Receipt::read(root)? {
            Some(receipt) if receipt.state == State::Restored => {
                forget(root, disk)?;
                false
            }
            Some(receipt) if receipt.state != State::Applied => {
                roll_back(root, &receipt, disk)?;
                true
            }
            _ => false,
        };
        Ok(Folder { root: root.into(), _lock: lock, rolled_back })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether an unfinished patch or unpatch was found and the original bytes were put back.
    pub fn rolled_back(&self) -> bool {
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
    if Receipt::read(root)?.is_some_and(|receipt| receipt.state != State::Applied) {
        let problem = "was being changed by a run that was stopped half-way; `achilles-audit unpatch` on it puts the \
                       bytes back as they were before";
        return Err(Error::file(root, problem));
    }
    Ok(())
}

/// The file whose lock is the folder's.
fn open_lock(root: &Path) -> Result<File> {
    let path = root.join("config.json");
    if !path.exists() {
        let found = if root.is_dir() { "holds no config.json" } else { "no such folder" };
        return Err(Error::file(root, format!("{found}; expected a model folder")));
    }
    files::open_regular(&path)
}

fn locked(root: &Path, error: TryLockError) -> Error {
    match error {
        TryLockError::WouldBlock => {
            Error::file(root, "another achilles-audit is working on this folder; wait until it is done and try again")
        }
        TryLockError::Error(source) => Error::Io { path: root.into(), source },
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
/// lock, or a file cannot be written; then the next run finishes.
pub fn unpatch(root: &Path) -> Result<Unpatched> {
    unpatch_with(root, &mut System)
}

pub(super) fn unpatch_with(root: &Path, disk: &mut dyn Disk) -> Result<Unpatched> {
    let folder = Folder::lock_with(root, disk)?;
    if folder.rolled_back {
        return Ok(Unpatched { receipt: None, config_changed: false });
    }
    let Some(receipt) = Receipt::read(root)? else {
        return Err(Error::file(root, format!("holds no {RECEIPT}; there is nothing to undo")));
    };
    let shards = receipt.shards(root)?;
    check_own_files(root, &receipt)?;
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
    for file in &receipt.files {
        let path = root.join(&file.name);
        if let Some(expected) = &file.sha256_after
            && super::apply::sha256_of(&path)? != *expected
        {
            let problem =
                format!("was changed since {RECEIPT} was written, outside of its edits; nothing was changed now");
            return Err(Error::file(path, problem));
        }
    }
    let undo = read_undo(root, &receipt)?.ok_or_else(|| {
        Error::file(root, format!("{UNDO} is missing; without it only the original checkpoint can help"))
    })?;
    drop(shards);
    let config_changed = sha256_hex(&files::read_regular(&root.join("config.json"))?) != receipt.model.config_sha256;
    Ok(Unpatched { receipt: Some(self::undo(root, receipt, &undo, disk)?), config_changed })
}

/// Puts `undo`, the original bytes that the receipt was written with, back and removes both files.
pub(super) fn undo(root: &Path, mut receipt: Receipt, undo: &[u8], disk: &mut dyn Disk) -> Result<Receipt> {
    if !matches!(read_undo(root, &receipt), Ok(Some(found)) if found == undo) {
        disk.write_whole(&root.join(UNDO), undo)?;
    }
    receipt.state = State::Undoing;
    disk.write_whole(&root.join(RECEIPT), &receipt.json()?)?;
    let shards = receipt.shards(root)?;
    put_back(root, &receipt, shards, undo, disk)?;
    receipt.state = State::Applied;
    Ok(receipt)
}

/// Puts the original bytes back after a run was stopped.
pub(super) fn roll_back(root: &Path, receipt: &Receipt, disk: &mut dyn Disk) -> Result<()> {
    let shards = receipt.shards(root)?;
    match read_undo(root, receipt)? {
        Some(undo) => put_back(root, receipt, shards, &undo, disk),
        // The run was stopped before it wrote the undo file, or after it removed it: no byte is new.
        None if receipt.edits.iter().all(|r| r.sha256_now(&shards).as_ref() == Some(&r.sha256_before)) => {
            disk.remove(&root.join(RECEIPT))
        }
        None => {
            let problem =
                format!("an unfinished patch cannot be rolled back as {UNDO} is missing; fetch the checkpoint again");
            Err(Error::file(root, problem))
        }
    }
}

/// The original bytes; none where there is no undo file.
pub(super) fn read_undo(root: &Path, receipt: &Receipt) -> Result<Option<Vec<u8>>> {
    let path = root.join(UNDO);
    if std::fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let bytes = files::read_regular(&path)?;
    let needed: u64 = receipt.edits.iter().map(|r| r.span.bytes()).sum();
    if bytes.len() as u64 != needed || sha256_hex(&bytes) != receipt.undo.sha256 {
        return Err(Error::file(path, format!("is not the file that {RECEIPT} was written with; nothing was changed")));
    }
    Ok(Some(bytes))
}

fn put_back(root: &Path, receipt: &Receipt, shards: Shards, undo: &[u8], disk: &mut dyn Disk) -> Result<()> {
    drop(shards);
    let mut rest = undo;
    let mut edits = Vec::new();
    for record in &receipt.edits {
        let (bytes, next) = rest.split_at(record.span.bytes() as usize);
        rest = next;
        if sha256_hex(bytes) != record.sha256_before {
            return Err(Error::file(
                root.join(UNDO),
                format!("and {RECEIPT} contradict each other; nothing was changed"),
            ));
        }
        edits.push((record.file.as_str(), record.span, bytes));
    }
    check_own_files(root, receipt)?;
    write(root, &edits, disk)?;
    forget(root, disk)
}

/// Removes what nothing is left to be done with. Without its undo file a receipt whose bytes are the old ones is still
/// understood, not the other way round.
pub(super) fn forget(root: &Path, disk: &mut dyn Disk) -> Result<()> {
    let undo = root.join(UNDO);
    if std::fs::symlink_metadata(&undo).is_ok() {
        disk.remove(&undo)?;
    }
    disk.remove(&root.join(RECEIPT))
}

/// Writes spans, given in order of file, and syncs each file.
pub(super) fn write(root: &Path, edits: &[(&str, super::Span, &[u8])], disk: &mut dyn Disk) -> Result<()> {
    for of_file in edits.chunk_by(|a, b| a.0 == b.0) {
        let path = root.join(of_file[0].0);
        let mut file = OpenOptions::new().write(true).open(&path).map_err(Error::io(&path))?;
        for (_, span, bytes) in of_file {
            for (offset, piece) in span.offsets().zip(bytes.chunks_exact(span.piece_bytes as usize)) {
                disk.write_at(&mut file, &path, offset, piece)?;
            }
        }
        disk.sync(&file, &path)?;
    }
    Ok(())
}

/// Refuses to write through links: what they lead to may be another checkpoint's.
fn check_own_files(root: &Path, receipt: &Receipt) -> Result<()> {
    receipt.files.iter().try_for_each(|file| check_own(&root.join(&file.name)))
}

/// As [`check_own_files`], for one.
pub(super) fn check_own(path: &Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        let problem = "is a link, such as those into the hub's cache, and what it leads to would change; work on a \
                       copy (`patch -o` makes one)";
        return Err(Error::file(path, problem));
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 {
        let problem = "has other names (hard links), whose checkpoints would change too; work on a copy (`patch -o` \
                       makes one)";
        return Err(Error::file(path, problem));
    }
    // Found out before a journal is written, not after.
    OpenOptions::new().write(true).open(path).map(drop).map_err(Error::io(path))
}
