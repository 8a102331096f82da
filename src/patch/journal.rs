//! Edits written in place under a journal, and taken back by it: the receipt says that they are unfinished until the
//! last of them is on disk.

use super::disk::Disk;
use super::edit::Edit;
use super::home::Home;
use super::plan::Plan;
use super::receipt::{ChangedFile, Receipt, State, undo_bytes};
use super::shard::{OpenShard, OpenShards, Pieces};
use crate::checkpoint::listing::Listing;
use crate::checkpoint::packing::Span;
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{self, OpenFolder};
use crate::integrity::receipt::Kept;
use std::collections::BTreeMap;
use std::fs::File;

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteSettings {
    /// To a new folder: shards that do not change become hard links.
    pub link: bool,
    /// The files that change get their SHA-256, before and after, into the receipt: all their bytes are read for it.
    /// Without, the receipt still holds that of their headers and of every range that changes.
    pub digests: bool,
}

/// Writes the edits between a journal, the receipt, that says they are unfinished, and one that says `done`.
pub(super) fn write_journalled(
    home: &Home,
    plan: &Plan,
    settings: WriteSettings,
    done: State,
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    let Home { open: folder, kept } = home;
    if folder.holds(&kept.undo) {
        let problem = format!("is there without its {}; put that back, or move this file away", kept.receipt);
        return Err(Error::file(kept.undo_path(), problem));
    }
    let shards = open_shards(plan, folder)?;
    let mut receipt = Receipt::new(plan, kept, changed_files(plan, &shards, settings)?, State::Applying);
    disk.write_whole(folder, &kept.receipt, &receipt.json()?)?;
    let written = disk
        .write_whole(folder, &kept.undo, &undo_bytes(&plan.edits))
        .and_then(|()| write_edits(folder, shards, &plan.edits, disk))
        .and_then(|()| {
            let done = Receipt { state: done, ..receipt.clone() };
            disk.write_whole(folder, &kept.receipt, &done.json()?)
        });
    if let Err(error) = written {
        // Where this fails too, the receipt still says that the edits are unfinished.
        return Err(match roll_back(home, &receipt, &|_, _| Ok(()), disk) {
            Ok(()) => {
                Error::file(&kept.model, format!("the bytes are as they were before, as writing failed: {error}"))
            }
            Err(_) => {
                let problem = format!(
                    "writing failed half-way: {error}; {} puts the bytes back as they were before",
                    match done {
                        State::Restored => "`achilles-audit restore` on it, with the same vault,",
                        _ => "`achilles-audit unpatch` on it",
                    }
                );
                Error::file(&kept.model, problem)
            }
        });
    }
    receipt.state = done;
    Ok(receipt)
}

pub(super) fn write_edits(folder: &OpenFolder, shards: OpenShards, edits: &[Edit], disk: &mut dyn Disk) -> Result<()> {
    let edits: Vec<_> = edits.iter().map(|e| (e.file.as_str(), e.span, e.after.as_slice())).collect();
    write(folder, shards, &edits, disk)
}

/// Opens the files that change, in the folder where they do.
pub(super) fn open_shards(plan: &Plan, folder: &OpenFolder) -> Result<OpenShards> {
    let open = |name: &str| Ok((name.to_owned(), OpenShard::of(folder.change(name)?, &folder.path().join(name))?));
    plan.files().into_iter().map(open).collect()
}

/// What the receipt says of the files that change, read once before anything is written.
pub(super) fn changed_files(plan: &Plan, shards: &OpenShards, settings: WriteSettings) -> Result<Vec<ChangedFile>> {
    let folder = Kept::of(&plan.root).folder;
    let of = |(name, shard): (&String, &OpenShard)| {
        let edits: Vec<&Edit> = plan.edits.iter().filter(|e| e.file == *name).collect();
        if edits.iter().any(|e| e.span.read(shard.bytes()).as_ref() != Some(&e.before)) {
            let problem = "was changed by someone else in the meantime; nothing was written";
            return Err(Error::file(folder.join(name), problem));
        }
        let data = Listing::read(&folder.join(name), shard.bytes())?.data;
        let (mut before, mut after) = (None, None);
        if settings.digests {
            let (old, new) = shard.sha256_before_and_after(&Pieces::of(&edits))?;
            (before, after) = (Some(old), Some(new));
        }
        Ok(ChangedFile {
            name: name.to_owned(),
            bytes: shard.bytes().len() as u64,
            header_sha256: sha256_hex(shard.bytes().get(..data).unwrap_or_default()),
            sha256_before: before,
            sha256_after: after,
        })
    };
    shards.iter().map(of).collect()
}

/// Puts `undo`, the original bytes that the receipt was written with, back and removes both files.
pub(super) fn undo(
    home: &Home,
    mut receipt: Receipt,
    shards: OpenShards,
    undo: &[u8],
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    if !matches!(read_undo(home, &receipt), Ok(Some(found)) if found == undo) {
        disk.write_whole(&home.open, &home.kept.undo, undo)?;
    }
    receipt.state = State::Undoing;
    disk.write_whole(&home.open, &home.kept.receipt, &receipt.json()?)?;
    put_back(home, &receipt, shards, undo, disk)?;
    receipt.state = State::Applied;
    Ok(receipt)
}

/// Puts the original bytes back after a run was stopped, once `believe` agrees to them.
pub(super) fn roll_back(
    home: &Home,
    receipt: &Receipt,
    believe: &dyn Fn(&OpenShards, &[u8]) -> Result<()>,
    disk: &mut dyn Disk,
) -> Result<()> {
    let shards = receipt.shards_to_change(home)?;
    match read_undo(home, receipt)? {
        Some(undo) => {
            believe(&shards, &undo)?;
            put_back(home, receipt, shards, &undo, disk)
        }
        // The run was stopped before it wrote the undo file, or after it removed it: no byte is new.
        None if receipt.edits.iter().all(|r| r.sha256_now(&shards).as_ref() == Some(&r.sha256_before)) => {
            disk.remove(&home.open, &home.kept.receipt)
        }
        None => {
            let undo = &home.kept.undo;
            let problem =
                format!("an unfinished patch cannot be rolled back as {undo} is missing; fetch the checkpoint again");
            Err(Error::file(&home.kept.model, problem))
        }
    }
}

/// The original bytes; none where there is no undo file.
pub(super) fn read_undo(home: &Home, receipt: &Receipt) -> Result<Option<Vec<u8>>> {
    let path = home.kept.undo_path();
    let Some(file) = home.open.read(&home.kept.undo)? else { return Ok(None) };
    let bytes = files::read_open(&file, &path, files::LARGEST_READ)?;
    let needed: u64 = receipt.edits.iter().map(|r| r.span.bytes()).sum();
    if bytes.len() as u64 != needed || sha256_hex(&bytes) != receipt.undo.sha256 {
        let problem = format!("is not the file that {} was written with; nothing was changed", home.kept.receipt);
        return Err(Error::file(path, problem));
    }
    Ok(Some(bytes))
}

fn put_back(home: &Home, receipt: &Receipt, shards: OpenShards, undo: &[u8], disk: &mut dyn Disk) -> Result<()> {
    let pieces = pieces(receipt, &home.kept, undo)?;
    let edits: Vec<_> = receipt.edits.iter().zip(pieces).map(|(r, bytes)| (r.file.as_str(), r.span, bytes)).collect();
    write(&home.open, shards, &edits, disk)?;
    forget(home, disk)
}

/// Removes what nothing is left to be done with. Without its undo file a receipt whose bytes are the old ones is still
/// understood, not the other way round.
pub(super) fn forget(Home { open, kept }: &Home, disk: &mut dyn Disk) -> Result<()> {
    if open.holds(&kept.undo) {
        disk.remove(open, &kept.undo)?;
    }
    disk.remove(open, &kept.receipt)
}

/// Writes spans, given in order of file, and syncs each file.
pub(super) fn write(
    folder: &OpenFolder,
    shards: OpenShards,
    edits: &[(&str, Span, &[u8])],
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

/// Cuts the original bytes into those of each edit, whose digests they have to have.
pub(super) fn pieces<'a>(receipt: &Receipt, kept: &Kept, mut before: &'a [u8]) -> Result<Vec<&'a [u8]>> {
    let mut pieces = Vec::with_capacity(receipt.edits.len());
    for record in &receipt.edits {
        let cut = usize::try_from(record.span.bytes()).ok().and_then(|length| before.split_at_checked(length));
        match cut {
            Some((piece, rest)) if sha256_hex(piece) == record.sha256_before => {
                pieces.push(piece);
                before = rest;
            }
            _ => {
                let problem = format!("and {} contradict each other; nothing was changed", kept.undo);
                return Err(Error::file(kept.receipt_path(), problem));
            }
        }
    }
    Ok(pieces)
}
