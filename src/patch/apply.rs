//! The two ways to write a plan: to a new place, and in place with a journal.

use super::Kept;
use super::carried::{self, Carried};
use super::disk::{Disk, System};
use super::edit::file_name;
use super::folder::{self, Folder};
use super::journal::{self, WriteSettings};
use super::plan::Plan;
use super::receipt::{Receipt, State, undo_bytes};
use super::target::{Original, Target};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::{self, NewFolder, OpenFolder};
use crate::progress::Progress;
use std::collections::BTreeSet;
use std::path::Path;

/// Writes the patched checkpoint to `out`, a new folder or, of a GGUF of one file, a new .gguf file: it appears whole or
/// not at all.
///
/// # Errors
/// As [`check_new`]; also where a file cannot be read or written, another run changes the checkpoint, or the user asked
/// to stop.
pub fn write_new(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    settings: WriteSettings,
    progress: &dyn Progress,
) -> Result<Receipt> {
    write_new_with(checkpoint, plan, out, settings, progress, &mut System)
}

pub(super) fn write_new_with(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    settings: WriteSettings,
    progress: &dyn Progress,
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    let _lock = folder::lock_shared(&plan.root)?;
    check_unpatched(plan)?;
    let target = Target::of(plan, out)?;
    let model = Original::of(plan)?;
    let Carried { files: carried, links, .. } = model.carried(out)?;
    let new = NewFolder::begin(out)?;
    let mut copies = Vec::new();
    let changed = plan.files();
    let shards: Vec<String> = checkpoint.tensors().mapped().iter().map(|f| file_name(f.path())).collect();
    let bytes = |name: &String| -> Result<u64> {
        Ok(model.open(name)?.metadata().map_err(Error::io(model.folder.join(name)))?.len())
    };
    let sizes = carried.iter().chain(&shards).map(bytes).collect::<Result<Vec<_>>>()?;
    progress.begin("writing the checkpoint", sizes.iter().sum(), "bytes");
    for (name, bytes) in carried.into_iter().chain(shards.iter().cloned()).zip(sizes) {
        if settings.link && shards.contains(&name) && !changed.contains(name.as_str()) {
            // The file itself: a link to a link would lead nowhere once the hub's cache is cleaned.
            model.files.hard_link(&name, new.folder())?;
        } else {
            new.folder().make_way(&name)?;
            files::copy(&model.open(&name)?, new.folder(), target.name(&name))?;
            copies.push(target.name(&name).to_owned());
        }
        progress.advance(bytes)?;
    }
    for (name, target) in &links {
        new.folder().make_way(name)?;
        new.folder().link(name, &carried::way(name, target))?;
    }
    let mut plan = plan.clone();
    plan.edits.iter_mut().for_each(|edit| edit.file = target.name(&edit.file).to_owned());
    let shards = journal::open_shards(&plan, new.folder())?;
    let files = journal::changed_files(&plan, &shards, settings)?;
    journal::write_edits(new.folder(), shards, &plan.edits, disk)?;
    // Last: by now the system has long begun to write the first ones.
    for name in &copies {
        disk.sync(&new.folder().change(name)?, &new.folder().path().join(name))?;
    }
    let folders: BTreeSet<&Path> =
        copies.iter().chain(links.keys()).flat_map(|name| Path::new(name).ancestors().skip(1)).collect();
    folders.into_iter().for_each(|folder| new.folder().sync_below(folder));
    let Kept { receipt: name, undo, .. } = &target.kept;
    let receipt = Receipt::new(&plan, &target.kept, files, State::Applied);
    disk.write_whole(new.folder(), undo, &undo_bytes(&plan.edits))?;
    disk.write_whole(new.folder(), name, &receipt.json()?)?;
    match &target.file {
        None => new.finish()?,
        // The model last: what is there without it says nothing of any weights, and the next run puts the same there.
        Some(file) => new.finish_beside(&[undo, name, file])?,
    }
    progress.end();
    Ok(receipt)
}

/// Patches the checkpoint where it lies. `plan` has to be made after `folder` was locked.
///
/// # Errors
/// As [`check_in_place`]: nothing is changed. A file cannot be written: the original bytes are put back, or where that
/// fails too, the next `unpatch` does so.
pub fn in_place(folder: &Folder, plan: &Plan, settings: WriteSettings) -> Result<Receipt> {
    in_place_with(folder, plan, settings, &mut System)
}

pub(super) fn in_place_with(
    folder: &Folder,
    plan: &Plan,
    settings: WriteSettings,
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    check_in_place(plan)?;
    journal::write_journalled(&folder.home, plan, settings, State::Applied, disk)
}

/// Whether a plan can be written where the checkpoint lies.
///
/// # Errors
/// As [`check_unpatched`]; also where the files that change are not the folder's own, where another reader would load
/// other weights than those patched, or where values would be lost that are no numbers.
pub fn check_in_place(plan: &Plan) -> Result<()> {
    check_unpatched(plan)?;
    let kept = Kept::of(&plan.root);
    if !kept.is_of_gguf() {
        refuse_other_weights(&plan.root, plan)?;
    }
    if let Some(edit) = plan.edits.iter().find(|edit| edit.removes_not_finite()) {
        let problem = "holds values that are infinite or not a number, which `unpatch` would not put back; patch to a \
                       new place with -o";
        return Err(Error::tensor(kept.folder.join(&edit.file), &edit.stored_as, problem));
    }
    journal::open_shards(plan, &OpenFolder::open(&kept.folder)?).map(drop)
}

/// Whether a plan can be written to `out`, a new folder or .gguf file. Gives what stays behind: other weights, hidden
/// folders, what is no file, and what has the name of a file that is written.
///
/// # Errors
/// As [`check_unpatched`]; also where `out` is there and is not an empty folder, or is not what the checkpoint is, a
/// file that would be copied is a link out of the checkpoint's folder, or files by many names would become many files.
pub fn check_new(plan: &Plan, out: &Path) -> Result<Vec<String>> {
    check_unpatched(plan)?;
    Target::of(plan, out)?;
    let model = Original::of(plan)?;
    let Carried { files, mut behind, .. } = model.carried(out)?;
    let (mut seen, mut once, mut again) = (BTreeSet::new(), 0, 0);
    for name in files.iter().chain(&plan.shards) {
        let about = model.open(name)?.metadata().map_err(Error::io(model.folder.join(name)))?;
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
    check_unpatched_at(&plan.root)
}

/// As [`check_unpatched`], before a plan is made.
///
/// # Errors
/// As there.
pub fn check_unpatched_at(root: &Path) -> Result<()> {
    folder::check_settled(root)?;
    if Receipt::read(root)?.is_none() {
        return Ok(());
    }
    let problem = format!(
        "is patched already; undo that with `achilles-audit unpatch` and patch all neurons at once, or remove {} to take \
         these weights for the original",
        Kept::of(root).receipt
    );
    Err(Error::file(root, problem))
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
