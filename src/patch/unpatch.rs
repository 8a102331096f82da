//! The way back by the receipt.

use super::believe::EditBytes;
use super::disk::{Disk, System};
use super::folder::Folder;
use super::receipt::Receipt;
use super::shard::OpenShards;
use super::{RECEIPT, UNDO, believe, journal};
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

/// A patch, or its undoing, can be worked out from its own receipt; a restore cannot.
pub(super) fn vouch(root: &Path) -> impl Fn(&Receipt, &OpenShards, &[u8]) -> Result<Option<EditBytes>> {
    |receipt, _, undo| (!receipt.asked.is_empty()).then(|| believe::check(receipt, root, undo)).transpose()
}

pub(super) fn unpatch_with(root: &Path, disk: &mut dyn Disk) -> Result<Unpatched> {
    let folder = Folder::lock_with(root, &vouch(root), disk)?;
    if folder.rolled_back() {
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
    let undo = journal::read_undo(open, &receipt)?.ok_or_else(|| {
        Error::file(root, format!("{UNDO} is missing; without it only the original checkpoint can help"))
    })?;
    believe::check(&receipt, root, &undo)?;
    let config_changed = sha256_hex(&files::read_regular(&root.join("config.json"))?) != receipt.model.config_sha256;
    Ok(Unpatched { receipt: Some(journal::undo(open, receipt, shards, &undo, disk)?), config_changed })
}
