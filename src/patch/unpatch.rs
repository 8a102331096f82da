//! The way back by the receipt.

use super::believe::EditBytes;
use super::disk::{Disk, System};
use super::folder::Folder;
use super::receipt::Receipt;
use super::shard::OpenShards;
use super::{believe, journal};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files;
use std::path::Path;

/// What unpatching did.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpatched {
    /// The receipt that was undone; none where an unfinished patch was rolled back instead.
    pub receipt: Option<Receipt>,
    /// Whether config.json is another than when the patch was made. A patch does not touch it, nor does the way back.
    pub config_changed: bool,
}

/// Puts the original bytes back into a patched folder or GGUF and removes receipt and undo file. The edited ranges, and the
/// size and header of the files that hold them, have to be as the receipt says; all other bytes of these files as well
/// where it holds their digests.
///
/// # Errors
/// There is no receipt, or what is there is not what the receipt says; then nothing is changed. Another run holds the
/// lock, or a file cannot be written; then the next one finishes.
pub fn unpatch(root: &Path) -> Result<Unpatched> {
    unpatch_with(root, &mut System)
}

/// A patch, or its undoing, can be worked out from its own receipt; a restore cannot.
pub(super) fn vouch(root: &Path) -> impl Fn(&Receipt, &OpenShards, &[u8]) -> Result<Option<EditBytes>> {
    |receipt, _, undo| (!receipt.asked.is_empty()).then(|| believe::check(receipt, root, undo)).transpose()
}

pub(super) fn unpatch_with(root: &Path, disk: &mut dyn Disk) -> Result<Unpatched> {
    let folder = Folder::lock_with(root, &vouch(root), disk)?;
    if folder.rolled_back() {
        return Ok(Unpatched { receipt: None, config_changed: false });
    }
    let home = &folder.home;
    let kept = &home.kept;
    let Some(receipt) = home.receipt()? else {
        return Err(Error::file(root, format!("there is no {}: nothing to undo", kept.receipt_path().display())));
    };
    let shards = receipt.shards_to_change(home)?;
    for record in &receipt.edits {
        if record.sha256_now(&shards).as_ref() != Some(&record.sha256_after) {
            let problem = format!(
                "{} {} is not as {} says it was left: it was changed since; nothing was changed now",
                record.axis.as_str(),
                record.index,
                kept.receipt
            );
            return Err(Error::tensor(kept.folder.join(&record.file), &record.tensor, problem));
        }
    }
    for (file, shard) in receipt.files.iter().filter_map(|file| Some((file, shards.get(&file.name)?))) {
        if let Some(expected) = &file.sha256_after
            && shard.sha256()? != *expected
        {
            let problem = format!(
                "was changed since {} was written, outside of its edits; nothing was changed now",
                kept.receipt
            );
            return Err(Error::file(kept.folder.join(&file.name), problem));
        }
    }
    let undo = journal::read_undo(home, &receipt)?.ok_or_else(|| {
        Error::file(root, format!("{} is missing; without it only the original checkpoint can help", kept.undo))
    })?;
    believe::check(&receipt, root, &undo)?;
    // What a GGUF says of itself is in the header, which is as it was.
    let config = (!kept.is_of_gguf()).then(|| files::read_regular(&root.join("config.json"))).transpose()?;
    let config_changed = config.is_some_and(|config| sha256_hex(&config) != receipt.model.config_sha256);
    Ok(Unpatched { receipt: Some(journal::undo(home, receipt, shards, &undo, disk)?), config_changed })
}
