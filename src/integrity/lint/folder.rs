//! What lies in the folder: links, special files, and what has no place there by its name.

use super::check::Check;
use super::observation::{Found, Location};
use crate::checkpoint::walk::{DEEPEST, MOST_ENTRIES, too_many};
use crate::error::{Error, Result};
use crate::patch::{RECEIPT, Receipt, UNDO};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A regular file, or a link to one.
#[derive(Debug)]
pub(super) struct File {
    /// Relative to the checkpoint's folder, with `/` between its parts.
    pub name: String,
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

impl File {
    pub fn location(&self) -> Location {
        Location::file(&self.name)
    }
}

/// All files in the folder and the folders in it, in order of name. Folders named `.git` are left out.
pub(super) fn walk(root: &Path, found: &mut Found) -> Result<Vec<File>> {
    let canonical = std::fs::canonicalize(root).map_err(Error::io(root))?;
    let allowed = [Some(canonical.clone()), blobs(&canonical)];
    let mut files = Vec::new();
    let mut entries = 0;
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            entries += 1;
            if entries > MOST_ENTRIES || depth > DEEPEST {
                return Err(too_many(root));
            }
            let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = format!("{prefix}{base}");
            let location = Location::file(&name);
            if base.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
                found.say(Check::OddFileName, location.clone(), format!("is named {base:?}"));
            }
            let own = std::fs::symlink_metadata(&path).map_err(Error::io(&path))?;
            if own.is_symlink() && !follow(&path, &allowed, &location, found) {
                continue;
            }
            let metadata = std::fs::metadata(&path).map_err(Error::io(&path))?;
            if metadata.is_file() {
                by_name(root, &base, &prefix, &location, found);
                files.push(File { name, path, bytes: metadata.len() });
            } else if metadata.is_dir() {
                // A folder behind a link is either met on its own or not part of the checkpoint.
                if !own.is_symlink() && base != ".git" {
                    folders.push((path, format!("{name}/"), depth + 1));
                }
            } else {
                found.say(Check::SpecialFile, location, "is a pipe, socket or device; it was not opened");
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Whether a link leads anywhere, and what is to be said of it.
fn follow(link: &Path, allowed: &[Option<PathBuf>; 2], location: &Location, found: &mut Found) -> bool {
    let told = std::fs::read_link(link).map(|t| t.display().to_string()).unwrap_or_default();
    match std::fs::canonicalize(link) {
        Ok(target) => {
            if !allowed.iter().flatten().any(|folder| target.starts_with(folder)) {
                let evidence = json!({"target": told});
                found.add(Check::LinkOutside, location.clone(), format!("is a link to {told:?}"), evidence);
            }
            true
        }
        Err(e) => {
            let message = format!("is a link to {told:?}, which cannot be followed: {e}");
            found.add(Check::DanglingLink, location.clone(), message, json!({"target": told}));
            false
        }
    }
}

/// Where a snapshot in the hub's cache (`models--org--name/snapshots/COMMIT`) keeps its files.
fn blobs(root: &Path) -> Option<PathBuf> {
    let snapshots = root.parent().filter(|p| p.file_name().is_some_and(|n| n == "snapshots"))?;
    let repository = snapshots.parent()?;
    let name = repository.file_name()?.to_str()?;
    name.starts_with("models--").then(|| repository.join("blobs"))
}

fn by_name(root: &Path, base: &str, prefix: &str, location: &Location, found: &mut Found) {
    if base.starts_with(".achilles-audit-")
        || base.strip_suffix(".partial").is_some_and(|n| [RECEIPT, UNDO].contains(&n))
    {
        found.say(Check::LeftoverFile, location.clone(), "was left by a run of this tool that was stopped; remove it");
    }
    if base.ends_with(".py") {
        found.say(Check::CustomCode, location.clone(), "is Python code");
    }
    let lower = base.to_ascii_lowercase();
    if [".h5", ".hdf5", ".keras"].iter().any(|end| lower.ends_with(end)) {
        found.say(Check::KerasFile, location.clone(), "is a Keras or HDF5 model by its name");
    }
    if base == RECEIPT && prefix.is_empty() {
        receipt(root, location, found);
    }
}

fn receipt(root: &Path, location: &Location, found: &mut Found) {
    let (message, evidence) = match Receipt::read(root) {
        Ok(Some(receipt)) => {
            let neurons: Vec<String> = receipt.asked.iter().take(10).map(|a| a.neuron.to_string()).collect();
            let count = receipt.asked.len();
            let message = format!("lists {count} changed neuron(s) and {} edit(s)", receipt.edits.len());
            (message, json!({"neurons": neurons, "count": count, "state": receipt.state, "time_utc": receipt.time_utc}))
        }
        Ok(None) => return,
        Err(e) => ("is named as a receipt of this tool and is none".to_owned(), json!({"problem": e.to_string()})),
    };
    found.add(Check::LesionReceipt, location.clone(), message, evidence);
}
