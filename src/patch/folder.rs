//! A model's folder, or GGUF, that is ours alone for now.

use super::believe::EditBytes;
use super::disk::{self, Disk, System};
use super::home::Home;
use super::receipt::{Receipt, Record, State};
use super::shard::OpenShards;
use super::{Kept, believe, journal};
use crate::error::{Error, Result};
use crate::files;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

/// A model, in a folder or a GGUF, that no other run patches while this value lives, and of which no patch is unfinished.
#[derive(Debug)]
pub struct Folder {
    pub(super) home: Home,
    _lock: File,
    rolled_back: bool,
}

/// Says of the journal of a run that was stopped half-way, by its receipt, the files that change and the original bytes,
/// what each edit was to leave; none where this run may not follow it: whoever can write to the folder can write a
/// journal.
pub(super) type Vouch<'a> = &'a dyn Fn(&Receipt, &OpenShards, &[u8]) -> Result<Option<EditBytes>>;

impl Folder {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another run holds the lock, or one was stopped while it changed bytes.
    pub fn lock(root: &Path) -> Result<Folder> {
        Folder::lock_with(root, &|_, _, _| Ok(None), &mut System)
    }

    /// As [`Folder::lock`]. Where an earlier run was stopped while it changed bytes, the original ones are put back first
    /// if `vouch` knows what it was to leave.
    pub(super) fn lock_with(root: &Path, vouch: Vouch, disk: &mut dyn Disk) -> Result<Folder> {
        let lock = open_lock(root)?;
        again(|| lock.try_lock()).map_err(|e| locked(root, e))?;
        let home = Home::of(root)?;
        for name in [&home.kept.receipt, &home.kept.undo] {
            home.open.remove_if_there(&disk::partial(name))?;
        }
        let rolled_back = match home.receipt()? {
            Some(receipt) if receipt.state == State::Restored && is_restored(&receipt, &home)? => {
                journal::forget(&home, disk)?;
                false
            }
            Some(receipt) if receipt.state != State::Applied => {
                let believe = |shards: &OpenShards, undo: &[u8]| {
                    let new = vouch(&receipt, shards, undo)?.ok_or_else(|| half_way(root, &receipt))?;
                    believe::check_between(&receipt, root, shards, undo, &new)
                };
                journal::roll_back(&home, &receipt, &believe, disk)?;
                true
            }
            _ => false,
        };
        Ok(Folder { home, _lock: lock, rolled_back })
    }

    /// A folder that no other run changes while this value lives.
    pub(super) fn to_read(root: &Path) -> Result<Folder> {
        Ok(Folder { _lock: lock_shared(root)?, home: Home::of(root)?, rolled_back: false })
    }

    /// The model's folder, or its .gguf file.
    pub fn root(&self) -> &Path {
        &self.home.kept.model
    }

    /// Whether an unfinished patch or unpatch was found and the original bytes were put back.
    pub(super) fn rolled_back(&self) -> bool {
        self.rolled_back
    }
}

/// Keeps runs that change the folder out while this one copies from it.
pub(super) fn lock_shared(root: &Path) -> Result<File> {
    let lock = open_lock(root)?;
    again(|| lock.try_lock_shared()).map_err(|e| locked(root, e))?;
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
fn is_restored(receipt: &Receipt, home: &Home) -> Result<bool> {
    let shards = receipt.shards_to_change(home)?;
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

/// The file whose lock is the folder's; of a GGUF its own, of a split one that of the first part.
fn open_lock(root: &Path) -> Result<File> {
    let kept = Kept::of(root);
    if kept.is_of_gguf() {
        return files::open_regular(&kept.model);
    }
    let path = root.join("config.json");
    if !path.exists() {
        let found = match root {
            root if root.is_dir() => "holds no config.json",
            root if root.exists() => "is not a folder",
            _ => "no such folder",
        };
        return Err(Error::file(root, format!("{found}; expected a model folder or a .gguf file")));
    }
    files::open_regular(&path)
}

/// Tries for a moment: a process that another thread starts holds this one's locks until it runs its program.
fn again(lock: impl Fn() -> std::result::Result<(), TryLockError>) -> std::result::Result<(), TryLockError> {
    for _ in 0..10 {
        match lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
    lock()
}

fn locked(root: &Path, error: TryLockError) -> Error {
    match error {
        TryLockError::WouldBlock => {
            Error::file(root, "another achilles-audit is working on it; wait until that is done and try again")
        }
        TryLockError::Error(source) => Error::io(root)(source),
    }
}
