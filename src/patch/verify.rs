//! Proves that a patched checkpoint differs from its original in the receipt's bytes only.

use super::carried::Carried;
use super::home::Home;
use super::receipt::Receipt;
use super::{Kept, RECEIPT, UNDO, believe, folder, journal};
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::stand_in::StandIn;
use crate::checkpoint::walk::{Kind, is_left_out, walk};
use crate::checkpoint::{Checkpoint, sha256_hex};
use crate::error::{Count, Error, Result};
use crate::files;
use crate::progress::{Progress, Silent};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What was compared, and what differs that should not.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// How many files of both folders were compared.
    pub files: usize,
    /// Bytes of these files together.
    pub bytes: u64,
    /// Bytes that the receipt's edits cover.
    pub edited_bytes: u64,
    /// One line each; empty where all is as the receipt says.
    pub differences: Vec<String>,
}

/// Compares the patched folder or GGUF with the original, file by file.
///
/// # Errors
/// There is no receipt, it is not one of a patch, a run was stopped half-way, or a file cannot be read.
pub fn verify(patched: &Path, original: &Checkpoint, progress: &dyn Progress) -> Result<Verified> {
    folder::check_settled(patched)?;
    let home = Home::of(patched)?;
    let kept = &home.kept;
    let receipt = Receipt::read(patched)?.ok_or_else(|| {
        Error::file(patched, format!("there is no {}: nothing to verify", kept.receipt_path().display()))
    })?;
    receipt.shards(kept, &|name| files::open_regular(&kept.folder.join(name)))?;
    let undo = journal::read_undo(&home, &receipt)?;
    let undo = undo.ok_or_else(|| {
        Error::file(patched, format!("there is no {}: the patch cannot be undone", kept.undo_path().display()))
    })?;
    let changed = Checkpoint::open(&patched.to_string_lossy(), &Silent)?;
    believe::check(&receipt, patched, &undo)?;
    let mut found = Verified { files: 0, bytes: 0, edited_bytes: 0, differences: Vec::new() };
    let pairs = match (kept.is_of_gguf(), original.opened().is_gguf()) {
        (true, true) => parts(kept, original, &mut found)?,
        (false, false) => in_folders(patched, original, &changed, &receipt, &mut found)?,
        (is_gguf, _) => {
            let [one, other] = if is_gguf { ["a GGUF", "a folder"] } else { ["a folder", "a GGUF"] };
            let problem = format!("is {one}, and the original {other}; give the model that it was made from");
            return Err(Error::file(patched, problem));
        }
    };
    progress.begin("comparing", pairs.len() as u64, "files");
    for (name, [a, b]) in pairs {
        let length = |path: &Path| std::fs::metadata(path).map(|m| m.len()).map_err(Error::io(path));
        found.files += 1;
        found.bytes += length(&b)?;
        if length(&a)? != length(&b)? {
            found.differences.push(format!("{name} has {} bytes, the original {}", length(&b)?, length(&a)?));
        } else if length(&a)? > 0 {
            compare(&name, &receipt, &opened(&a)?, &opened(&b)?, &mut found);
        }
        progress.advance(1)?;
    }
    progress.end();
    Ok(found)
}

/// Files to be compared: the patched one's name, the original's path and its own.
type Pairs = Vec<(String, [PathBuf; 2])>;

/// The parts of two GGUF files, which need not be named alike.
fn parts(kept: &Kept, original: &Checkpoint, found: &mut Verified) -> Result<Pairs> {
    let (ours, theirs) = (kept.parts(), original.opened().places());
    if ours.len() != theirs.len() {
        let parts = |count| Count(count, "file", "files");
        found.differences.push(format!("has {}, the original {}", parts(ours.len()), parts(theirs.len())));
    }
    Ok(ours.into_iter().zip(theirs).map(|(name, path)| (name.clone(), [path, kept.folder.join(name)])).collect())
}

/// The files that are in both folders; what is in one of them alone is told.
fn in_folders(
    patched: &Path,
    original: &Checkpoint,
    changed: &Checkpoint,
    receipt: &Receipt,
    found: &mut Verified,
) -> Result<Pairs> {
    let names = |c: &Checkpoint| -> Result<BTreeSet<String>> {
        let shards = c.tensors().files().iter().filter_map(|f| f.path().file_name());
        let mut names: BTreeSet<String> = shards.map(|n| n.to_string_lossy().into_owned()).collect();
        let carried = Carried::of(c.root(), patched)?;
        names.extend(carried.files.into_iter().chain(carried.links.into_keys()));
        Ok(names)
    };
    let (ours, theirs) = (names(changed)?, names(original)?);
    for name in ours.symmetric_difference(&theirs) {
        let side = if ours.contains(name) { "patched" } else { "original" };
        found.differences.push(format!("{name} is in the {side} checkpoint only"));
    }
    let links = |root: &Path| -> Result<BTreeSet<String>> {
        let entries = walk(root, &|path| is_left_out(root, path))?.into_iter();
        Ok(entries.filter(|entry| entry.kind == Kind::Link).map(|entry| entry.path).collect())
    };
    for name in links(patched)?.difference(&links(original.root())?) {
        found.differences.push(format!("{name} is a link in the patched checkpoint only"));
    }
    // What is not carried along (other weights, hidden folders) need not be there, but nothing may be there that was
    // not.
    let others = |root: &Path| -> Result<BTreeSet<String>> {
        let skip = |path: &str| path == RECEIPT || path == UNDO || is_left_out(root, path);
        Ok(walk(root, &skip)?.into_iter().map(|entry| entry.path).collect())
    };
    let (every, were) = (others(patched)?, others(original.root())?);
    for name in every.difference(&were).filter(|name| !ours.contains(*name)) {
        found.differences.push(format!("{name} is in the patched checkpoint only"));
    }
    for name in receipt.files.iter().map(|f| &f.name).filter(|name| !ours.contains(*name)) {
        found.differences.push(format!("{name} is in the receipt, and no loader reads it"));
    }
    let both: BTreeSet<&String> = ours.intersection(&theirs).chain(every.intersection(&were)).collect();
    Ok(both.into_iter().map(|name| (name.clone(), [original.root().join(name), patched.join(name)])).collect())
}

/// Maps a file that is not mostly holes: to compare these would take as long as if they had been written.
fn opened(path: &Path) -> Result<MappedFile> {
    let file = files::open_regular(path)?;
    StandIn::refuse_holes(&file, path)?;
    MappedFile::of(&file, path)
}

/// Compares files of one length.
fn compare(name: &str, receipt: &Receipt, original: &MappedFile, patched: &MappedFile, found: &mut Verified) {
    let mut edited: BTreeMap<u64, u64> = BTreeMap::new();
    for record in receipt.edits.iter().filter(|r| r.file == name) {
        for (map, expected, which) in
            [(original, &record.sha256_before, "original"), (patched, &record.sha256_after, "patched")]
        {
            if record.span.read(map.bytes()).map(|bytes| sha256_hex(&bytes)).as_ref() != Some(expected) {
                let (axis, index) = (record.axis.as_str(), record.index);
                let what = format!("{name}: {axis} {index} of {}", record.tensor);
                found.differences.push(format!("{what} is not what the receipt says of the {which} checkpoint"));
            }
        }
        for offset in record.span.offsets() {
            let end = edited.entry(offset).or_default();
            *end = (*end).max(offset + record.span.piece_bytes);
        }
    }
    let (mut at, length) = (0, original.bytes().len() as u64);
    for (start, end) in edited.into_iter().chain([(length, length)]) {
        if start > at {
            let range = at as usize..start as usize;
            let (a, b) = (&original.bytes()[range.clone()], &patched.bytes()[range]);
            if a != b {
                let first = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0) as u64 + at;
                found.differences.push(format!("{name}: byte {first} differs, outside of the receipt's edits"));
            }
        }
        found.edited_bytes += end.saturating_sub(start.max(at));
        at = at.max(end);
    }
}
