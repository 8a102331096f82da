//! The two ways to write a plan: to a new folder, and in place with a journal.

use super::disk::{Disk, System};
use super::edit::{Edit, Plan};
use super::folder::{self, Folder};
use super::receipt::{ChangedFile, Receipt, State, header_sha256, undo_bytes};
use super::{RECEIPT, UNDO};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::NewFolder;
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

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
    let new = NewFolder::begin(out)?;
    let mut copies = Vec::new();
    let changed = plan.files();
    let shards: Vec<&Path> = checkpoint.tensors().files().iter().map(|f| f.path()).collect();
    let sizes = shards.iter().map(|p| std::fs::metadata(p).map(|m| m.len()).map_err(Error::io(p)));
    progress.begin("writing the checkpoint", sizes.sum::<Result<u64>>()?, "bytes");
    for name in carried(&plan.root)? {
        copies.push(copy(&plan.root.join(&name), &new.path().join(&name))?);
    }
    for from in shards {
        let name = from.file_name().unwrap_or_default();
        let to = new.path().join(name);
        let changes = name.to_str().is_some_and(|name| changed.contains(name));
        // A link to a link would lead nowhere once the hub's cache is cleaned.
        let linked = settings.link
            && !changes
            && from
                .canonicalize()
                .and_then(|from| std::fs::hard_link(from, &to))
                .map_err(Error::io(&to))
                .map(|()| true)?;
        if !linked {
            copies.push(copy(from, &to)?);
        }
        progress.advance(std::fs::metadata(from).map_err(Error::io(from))?.len())?;
    }
    let files = changed_files(plan, settings)?;
    write_edits(new.path(), &plan.edits, disk)?;
    // Last: by now the system has long begun to write the first ones.
    for path in &copies {
        let file = std::fs::OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
        disk.sync(&file, path)?;
    }
    let receipt = Receipt::new(plan, files, State::Applied);
    disk.write_whole(&new.path().join(UNDO), &undo_bytes(&plan.edits))?;
    disk.write_whole(&new.path().join(RECEIPT), &receipt.json()?)?;
    new.finish()?;
    progress.end();
    Ok(receipt)
}

/// Patches the checkpoint where it lies. `plan` has to be made after `folder` was locked.
///
/// # Errors
/// As [`check_in_place`]: nothing is changed. A file cannot be written: the original bytes are put back, or where that
/// fails too, the next run does so.
pub fn in_place(folder: &Folder, plan: &Plan, settings: Settings) -> Result<Receipt> {
    in_place_with(folder, plan, settings, &mut System)
}

pub(super) fn in_place_with(folder: &Folder, plan: &Plan, settings: Settings, disk: &mut dyn Disk) -> Result<Receipt> {
    check_in_place(plan)?;
    write_journalled(folder.root(), plan, settings, State::Applied, disk)
}

/// Whether a plan can be written where the checkpoint lies.
///
/// # Errors
/// As [`check_unpatched`]; also where the files that change are not the folder's own, or where another reader would
/// load other weights than those patched.
pub fn check_in_place(plan: &Plan) -> Result<()> {
    check_unpatched(plan)?;
    refuse_other_weights(&plan.root, plan)?;
    plan.files().iter().try_for_each(|name| folder::check_own(&plan.root.join(name)))
}

/// Whether a plan can be written to the new folder `out`.
///
/// # Errors
/// As [`check_unpatched`]; also where `out` is there and is not an empty folder.
pub fn check_to_folder(plan: &Plan, out: &Path) -> Result<()> {
    check_unpatched(plan)?;
    crate::files::check_new_folder(out)
}

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
    root: &Path,
    plan: &Plan,
    settings: Settings,
    done: State,
    disk: &mut dyn Disk,
) -> Result<Receipt> {
    if root.join(UNDO).exists() {
        let problem = format!("is there without its {RECEIPT}; put that back, or move this file away");
        return Err(Error::file(root.join(UNDO), problem));
    }
    let mut receipt = Receipt::new(plan, changed_files(plan, settings)?, State::Applying);
    disk.write_whole(&root.join(RECEIPT), &receipt.json()?)?;
    let written = disk
        .write_whole(&root.join(UNDO), &undo_bytes(&plan.edits))
        .and_then(|()| write_edits(root, &plan.edits, disk))
        .and_then(|()| {
            let done = Receipt { state: done, ..receipt.clone() };
            disk.write_whole(&root.join(RECEIPT), &done.json()?)
        });
    if let Err(error) = written {
        // Where this fails too, the receipt still says that the edits are unfinished.
        return Err(match folder::roll_back(root, &receipt, disk) {
            Ok(()) => Error::file(root, format!("the bytes are as they were before, as writing failed: {error}")),
            Err(_) => {
                let problem = format!(
                    "writing failed half-way: {error}; `achilles-audit unpatch` on the folder puts the bytes back as \
                     they were before"
                );
                Error::file(root, problem)
            }
        });
    }
    receipt.state = done;
    Ok(receipt)
}

fn write_edits(root: &Path, edits: &[Edit], disk: &mut dyn Disk) -> Result<()> {
    let edits: Vec<_> = edits.iter().map(|e| (e.file.as_str(), e.span, e.after.as_slice())).collect();
    folder::write(root, &edits, disk)
}

/// Copies a file, sharing its blocks where the file system can, and returns where to.
fn copy(from: &Path, to: &Path) -> Result<PathBuf> {
    if !copy_at_once(from, to) {
        super::disk::remove_if_there(to)?;
        std::fs::copy(from, to).map_err(Error::io(to))?;
    }
    #[cfg(unix)]
    {
        // The hub's cache is read-only; the copy is to be edited.
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(to).map_err(Error::io(to))?.permissions().mode();
        std::fs::set_permissions(to, PermissionsExt::from_mode(mode | 0o200)).map_err(Error::io(to))?;
    }
    Ok(to.to_owned())
}

/// Lets the system copy as `cp` does. std::fs::copy asks for 1 GiB at a time and is slower by a tenth with large files;
/// it does what this cannot, such as from one file system to another. Either shares blocks where that can be.
#[cfg(target_os = "linux")]
fn copy_at_once(from: &Path, to: &Path) -> bool {
    let copied = || -> std::io::Result<()> {
        let (from, to) = (File::open(from)?, File::create(to)?);
        to.set_permissions(from.metadata()?.permissions())?;
        let all = from.metadata()?.len();
        let mut done = 0;
        while done < all {
            match rustix::fs::copy_file_range(&from, None, &to, None, isize::MAX as usize)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                some => done += some as u64,
            }
        }
        Ok(())
    };
    copied().is_ok()
}

#[cfg(not(target_os = "linux"))]
fn copy_at_once(_: &Path, _: &Path) -> bool {
    false
}

/// The files beside the weights that loaders read, by name.
pub(super) fn carried(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(Error::io(root))? {
        let entry = entry.map_err(Error::io(root))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_carried(&name) && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What transformers and vLLM look for beside the weights.
fn is_carried(name: &str) -> bool {
    const NAMES: [&str; 16] = [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tekken.json",
        "chat_template.json",
        "processor_config.json",
        "preprocessor_config.json",
        "image_processor_config.json",
        "video_preprocessor_config.json",
    ];
    let ends = |end: &[&str]| end.iter().any(|end| name.ends_with(end));
    NAMES.contains(&name) || name.starts_with("tokenizer") || ends(&[".py", ".jinja", ".tiktoken"])
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

/// The files that change, read once before anything is written.
fn changed_files(plan: &Plan, settings: Settings) -> Result<Vec<ChangedFile>> {
    let of = |name: &str| {
        let path = plan.root.join(name);
        let map = crate::checkpoint::map::MappedFile::open(&path)?;
        let edits: Vec<&Edit> = plan.edits.iter().filter(|e| e.file == name).collect();
        if edits.iter().any(|e| e.span.read(map.bytes()).as_ref() != Some(&e.before)) {
            return Err(Error::file(&path, "was changed by someone else in the meantime; nothing was written"));
        }
        let (mut before, mut after) = (None, None);
        if settings.digests {
            let pieces = Pieces::of(&edits);
            let (old, new) = rayon::join(|| sha256_of(&path), || sha256_with(&path, &pieces));
            (before, after) = (Some(old?), Some(new?));
        }
        Ok(ChangedFile {
            name: name.to_owned(),
            bytes: map.bytes().len() as u64,
            header_sha256: header_sha256(map.bytes()),
            sha256_before: before,
            sha256_after: after,
        })
    };
    plan.files().into_iter().map(of).collect()
}

/// SHA-256 of a file.
pub(super) fn sha256_of(path: &Path) -> Result<String> {
    sha256_with(path, &Pieces::default())
}

/// SHA-256 of a file as it will be with other bytes at some offsets.
fn sha256_with(path: &Path, pieces: &Pieces) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = Sha256::new();
    let mut at = 0u64;
    loop {
        let count = file.read(&mut buffer).map_err(Error::io(path))?;
        if count == 0 {
            return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect());
        }
        pieces.lay_over(&mut buffer[..count], at);
        hasher.update(&buffer[..count]);
        at += count as u64;
    }
}

/// What edits make of a file, by offset.
#[derive(Debug, Default)]
pub(super) struct Pieces<'a> {
    pieces: BTreeMap<u64, &'a [u8]>,
    longest: u64,
}

impl<'a> Pieces<'a> {
    /// Of edits of one file.
    pub fn of(edits: &[&'a Edit]) -> Pieces<'a> {
        let mut of = Pieces::default();
        for edit in edits {
            of.longest = of.longest.max(edit.span.piece_bytes);
            for (at, piece) in edit.span.offsets().zip(edit.after.chunks_exact(edit.span.piece_bytes as usize)) {
                // Where a row and a column begin at one element, the row says more.
                let known = of.pieces.entry(at).or_insert(piece);
                if known.len() < piece.len() {
                    *known = piece;
                }
            }
        }
        of
    }

    /// Writes what falls into `buffer`, the file's bytes from `at` on.
    pub fn lay_over(&self, buffer: &mut [u8], at: u64) {
        let end = at + buffer.len() as u64;
        for (&offset, piece) in self.pieces.range(at.saturating_sub(self.longest)..end) {
            let (from, to) = (offset.max(at), (offset + piece.len() as u64).min(end));
            if from < to {
                let piece = &piece[(from - offset) as usize..(to - offset) as usize];
                buffer[(from - at) as usize..(to - at) as usize].copy_from_slice(piece);
            }
        }
    }
}
