//! The two ways to write a plan: to a new folder, and in place with a journal.

use super::carried::{self, Carried};
use super::disk::{Disk, System};
use super::edit::{Edit, Plan, file_name};
use super::folder::{self, Folder};
use super::receipt::{ChangedFile, Receipt, State, header_sha256, undo_bytes};
use super::shard::{Pieces, Shard, Shards};
use super::{RECEIPT, UNDO};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::{self, ModelFiles, NewFolder, OpenFolder};
use crate::progress::Progress;
use std::collections::BTreeSet;
use std::path::Path;

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// To a new folder: shards that do not change become hard links.
    pub link: bool,
    /// The files that change get their SHA-256, before and after, into the receipt: all their bytes are read for it.
    /// Without, the receipt still holds that of their headers and of every range that changes.
    pub digests: bool,
}

/// Writes the patched checkpoint to the folder `out`, which appears whole or not at all.
///
/// # Errors
/// As [`check_to_folder`]; also where a file cannot be read or written, another run changes the checkpoint, or the user
/// asked to stop.
pub fn to_folder(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    settings: Settings,
    progress: &dyn Progress,
) -> Result<Receipt> {
    to_folder_with(checkpoint, plan, out, settings, progress, &mut System)
}

pub(super) fn to_folder_with(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    settings: Settings,
    progress: &dyn Progress,
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    let _lock = folder::lock_shared(&plan.root)?;
    check_unpatched(plan)?;
    let model = ModelFiles::of(&plan.root)?;
    let Carried { files: carried, links, .. } = Carried::of(&plan.root, out)?;
    let new = NewFolder::begin(out)?;
    let mut copies = Vec::new();
    let changed = plan.files();
    let shards: Vec<String> = checkpoint.tensors().files().iter().map(|f| file_name(f.path())).collect();
    let bytes = |name: &String| -> Result<u64> {
        Ok(model.open(name)?.metadata().map_err(Error::io(plan.root.join(name)))?.len())
    };
    let sizes = carried.iter().chain(&shards).map(bytes).collect::<Result<Vec<_>>>()?;
    progress.begin("writing the checkpoint", sizes.iter().sum(), "bytes");
    for (name, bytes) in carried.into_iter().chain(shards.iter().cloned()).zip(sizes) {
        if settings.link && shards.contains(&name) && !changed.contains(name.as_str()) {
            // The file itself: a link to a link would lead nowhere once the hub's cache is cleaned.
            model.hard_link(&name, new.folder())?;
        } else {
            new.folder().make_way(&name)?;
            files::copy(&model.open(&name)?, new.folder(), &name)?;
            copies.push(name);
        }
        progress.advance(bytes)?;
    }
    for (name, target) in &links {
        new.folder().make_way(name)?;
        new.folder().link(name, &carried::way(name, target))?;
    }
    let shards = open_shards(plan, new.folder())?;
    let files = changed_files(plan, &shards, settings)?;
    write_edits(new.folder(), shards, &plan.edits, disk)?;
    // Last: by now the system has long begun to write the first ones.
    for name in &copies {
        disk.sync(&new.folder().change(name)?, &new.folder().path().join(name))?;
    }
    let folders: BTreeSet<&Path> =
        copies.iter().chain(links.keys()).flat_map(|name| Path::new(name).ancestors().skip(1)).collect();
    folders.into_iter().for_each(|folder| new.folder().sync_below(folder));
    let receipt = Receipt::new(plan, files, State::Applied);
    disk.write_whole(new.folder(), UNDO, &undo_bytes(&plan.edits))?;
    disk.write_whole(new.folder(), RECEIPT, &receipt.json()?)?;
    new.finish()?;
    progress.end();
    Ok(receipt)
}

/// Patches the checkpoint where it lies. `plan` has to be made after `folder` was locked.
///
/// # Errors
/// As [`check_in_place`]: nothing is changed. A file cannot be written: the original bytes are put back, or where that
/// fails too, the next `unpatch` does so.
pub fn in_place(folder: &Folder, plan: &Plan, settings: Settings) -> Result<Receipt> {
    in_place_with(folder, plan, settings, &mut System)
}

pub(super) fn in_place_with(folder: &Folder, plan: &Plan, settings: Settings, disk: &mut dyn Disk) -> Result<Receipt> {
    check_in_place(plan)?;
    write_journalled(&folder.open, plan, settings, State::Applied, disk)
}

/// Whether a plan can be written where the checkpoint lies.
///
/// # Errors
/// As [`check_unpatched`]; also where the files that change are not the folder's own, where another reader would load
/// other weights than those patched, or where values would be lost that are no numbers.
pub fn check_in_place(plan: &Plan) -> Result<()> {
    check_unpatched(plan)?;
    refuse_other_weights(&plan.root, plan)?;
    if let Some(edit) = plan.edits.iter().find(|edit| edit.removes_not_finite()) {
        let problem = "holds values that are infinite or not a number, which `unpatch` would not put back; patch to a \
                       new folder with -o";
        return Err(Error::tensor(plan.root.join(&edit.file), &edit.stored_as, problem));
    }
    open_shards(plan, &OpenFolder::open(&plan.root)?).map(drop)
}

/// Whether a plan can be written to the new folder `out`. Gives what stays behind: other weights, hidden folders, what
/// is no file, and what has the name of a file that is written.
///
/// # Errors
/// As [`check_unpatched`]; also where `out` is there and is not an empty folder, a file that would be copied is a link
/// out of the checkpoint's folder, or files by many names would become many files.
pub fn check_to_folder(plan: &Plan, out: &Path) -> Result<Vec<String>> {
    check_unpatched(plan)?;
    files::check_new_folder(out)?;
    let model = ModelFiles::of(&plan.root)?;
    let Carried { files, mut behind, .. } = Carried::of(&plan.root, out)?;
    let (mut seen, mut once, mut again) = (BTreeSet::new(), 0, 0);
    for name in files.iter().chain(&plan.shards) {
        let about = model.open(name)?.metadata().map_err(Error::io(plan.root.join(name)))?;
        let is_new = files::identity(&about).is_none_or(|identity| seen.insert(identity));
        *if is_new { &mut once } else { &mut again } += about.len();
    }
    if again > once.saturating_add(MOST_AGAIN) {
        let problem = format!(
            "its files have {once} bytes, and some of them several names (links), by which {again} more would be \
             written; remove those that the model does not need"
        );
        return Err(Error::file(&plan.root, problem));
    }
    behind.retain(|name| !plan.shards.contains(name));
    Ok(behind)
}

/// Bytes of small files that a repository holds by several names.
const MOST_AGAIN: u64 = 1 << 28;

/// Whether a plan begins from a checkpoint that is not patched: a receipt leads back to where its patch began, and
/// nobody could tell that from the original.
///
/// # Errors
/// It is patched, or half so.
pub fn check_unpatched(plan: &Plan) -> Result<()> {
    folder::check_settled(&plan.root)?;
    if Receipt::read(&plan.root)?.is_none() {
        return Ok(());
    }
    let problem = format!(
        "is patched already; undo that with `achilles-audit unpatch` and patch all neurons at once, or remove {RECEIPT} \
         to take these weights for the original"
    );
    Err(Error::file(&plan.root, problem))
}

/// Writes the edits between a journal, the receipt, that says they are unfinished, and one that says `done`.
pub(super) fn write_journalled(
    folder: &OpenFolder,
    plan: &Plan,
    settings: Settings,
    done: State,
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    if folder.holds(UNDO) {
        let problem = format!("is there without its {RECEIPT}; put that back, or move this file away");
        return Err(Error::file(folder.path().join(UNDO), problem));
    }
    let shards = open_shards(plan, folder)?;
    let mut receipt = Receipt::new(plan, changed_files(plan, &shards, settings)?, State::Applying);
    disk.write_whole(folder, RECEIPT, &receipt.json()?)?;
    let written = disk
        .write_whole(folder, UNDO, &undo_bytes(&plan.edits))
        .and_then(|()| write_edits(folder, shards, &plan.edits, disk))
        .and_then(|()| {
            let done = Receipt { state: done, ..receipt.clone() };
            disk.write_whole(folder, RECEIPT, &done.json()?)
        });
    if let Err(error) = written {
        // Where this fails too, the receipt still says that the edits are unfinished.
        return Err(match folder::roll_back(folder, &receipt, &|_, _| Ok(()), disk) {
            Ok(()) => {
                Error::file(folder.path(), format!("the bytes are as they were before, as writing failed: {error}"))
            }
            Err(_) => {
                let problem = format!(
                    "writing failed half-way: {error}; {} puts the bytes back as they were before",
                    match done {
                        State::Restored => "`achilles-audit restore` on the folder, with the same vault,",
                        _ => "`achilles-audit unpatch` on the folder",
                    }
                );
                Error::file(folder.path(), problem)
            }
        });
    }
    receipt.state = done;
    Ok(receipt)
}

fn write_edits(folder: &OpenFolder, shards: Shards, edits: &[Edit], disk: &mut dyn Disk) -> Result<()> {
    let edits: Vec<_> = edits.iter().map(|e| (e.file.as_str(), e.span, e.after.as_slice())).collect();
    folder::write(folder, shards, &edits, disk)
}

/// Opens the files that change, in the folder where they do.
fn open_shards(plan: &Plan, folder: &OpenFolder) -> Result<Shards> {
    let open = |name: &str| Ok((name.to_owned(), Shard::of(folder.change(name)?, &folder.path().join(name))?));
    plan.files().into_iter().map(open).collect()
}

/// vLLM loads every *.safetensors of a folder and prefers consolidated ones.
fn refuse_other_weights(root: &Path, plan: &Plan) -> Result<()> {
    for entry in std::fs::read_dir(root).map_err(Error::io(root))? {
        let name = entry.map_err(Error::io(root))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") && !plan.shards.contains(&name) {
            let problem = "holds weights that vLLM would load instead of the patched ones; patch to a new folder with \
                           -o, which leaves it behind, or remove it";
            return Err(Error::file(root.join(name), problem));
        }
    }
    Ok(())
}

/// What the receipt says of the files that change, read once before anything is written.
fn changed_files(plan: &Plan, shards: &Shards, settings: Settings) -> Result<Vec<ChangedFile>> {
    let of = |(name, shard): (&String, &Shard)| {
        let edits: Vec<&Edit> = plan.edits.iter().filter(|e| e.file == *name).collect();
        if edits.iter().any(|e| e.span.read(shard.bytes()).as_ref() != Some(&e.before)) {
            let problem = "was changed by someone else in the meantime; nothing was written";
            return Err(Error::file(plan.root.join(name), problem));
        }
        let (mut before, mut after) = (None, None);
        if settings.digests {
            let (old, new) = shard.sha256_before_and_after(&Pieces::of(&edits))?;
            (before, after) = (Some(old), Some(new));
        }
        Ok(ChangedFile {
            name: name.to_owned(),
            bytes: shard.bytes().len() as u64,
            header_sha256: header_sha256(shard.bytes()),
            sha256_before: before,
            sha256_after: after,
        })
    };
    shards.iter().map(of).collect()
}
