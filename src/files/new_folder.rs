//! Folders that appear whole or not at all.

use super::folder::OpenFolder;
use super::open::read_open;
use super::way;
use crate::error::{Error, Result};
use cap_fs_ext::DirExt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What files and folders are called until they are whole.
pub(crate) const UNFINISHED: &str = ".achilles-audit-";

/// A name that nobody else uses, for what then gets its place in one step.
pub(crate) fn unfinished_name() -> String {
    format!("{UNFINISHED}{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// The file in an unfinished folder that holds the folder's name: only what bears it is ever removed.
pub(crate) const MARKER: &str = ".achilles-audit-unfinished";

/// A folder that appears whole or not at all: filled under another name beside its place, then renamed. What is not
/// finished is removed, by the next run where this one is killed.
#[derive(Debug)]
pub struct NewFolder {
    out: PathBuf,
    folder: OpenFolder,
    _lock: Option<File>,
    beside: Beside,
}

/// The folder's place for now. Dropped, it is removed.
#[derive(Debug)]
struct Beside {
    parent: OpenFolder,
    name: Option<String>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = self.parent.dir.remove_dir_all(name);
        }
    }
}

impl NewFolder {
    /// An empty folder beside `out`. Those that killed runs left there are removed.
    ///
    /// # Errors
    /// As [`check_new_folder`]; also where the folder cannot be made.
    pub fn begin(out: &Path) -> Result<NewFolder> {
        check_new_folder(out)?;
        let parent = OpenFolder::open(&way::place(out)?)?;
        remove_unfinished(&parent);
        let name = unfinished_name();
        let path = parent.path().join(&name);
        // As open as a folder that the user makes (the umask applies).
        parent.dir.create_dir(&name).map_err(Error::io(&path))?;
        let beside = Beside { parent, name: Some(name.clone()) };
        let dir = match beside.parent.dir.open_dir_nofollow(&name) {
            // Another run took it for a killed one's.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return NewFolder::begin(out),
            dir => dir.map_err(Error::io(&path))?,
        };
        let folder = OpenFolder::of(dir, &path);
        if !is_own(&folder) {
            return Err(Error::file(&path, "is not the folder that was made: somebody else writes here, too"));
        }
        let lock = lock(&folder);
        folder.create_new(MARKER)?.write_all(name.as_bytes()).map_err(Error::io(&path))?;
        Ok(NewFolder { out: out.to_owned(), folder, _lock: lock, beside })
    }

    /// The folder as it is for now.
    pub fn folder(&self) -> &OpenFolder {
        &self.folder
    }

    /// Puts files of the folder, which are on disk, beside it, one after the other: the last one whole or not at all. The
    /// others replace what is there.
    ///
    /// # Errors
    /// The system refuses, as where something has the last one's name by now.
    pub fn finish_beside(self, names: &[&str]) -> Result<()> {
        let (from, to) = (&self.folder, &self.beside.parent);
        for (at, name) in names.iter().enumerate() {
            if at + 1 == names.len() {
                to.sync();
                check_new_file(&to.path().join(name))?;
            }
            from.dir.rename(name, &to.dir, name).map_err(Error::io(to.path().join(name)))?;
        }
        to.sync();
        Ok(())
    }

    /// Puts the folder, whose files are on disk, in its place.
    ///
    /// # Errors
    /// The system refuses, as where something has appeared there in the meantime.
    pub fn finish(self) -> Result<()> {
        let NewFolder { out, mut beside, folder, _lock } = self;
        // Between these two and the renaming there is as little as can be: whoever is killed there leaves a folder that
        // nobody knows for a left-over.
        folder.sync();
        folder.remove(MARKER)?;
        // Some systems rename no folder that is open.
        drop((folder, _lock));
        let parent = &beside.parent.dir;
        let (Some(from), Some(to)) = (&beside.name, out.file_name()) else {
            return Err(Error::file(out, "is no name for a folder"));
        };
        if parent.symlink_metadata(to).is_ok() {
            parent.remove_dir(to).map_err(Error::io(&out))?;
        }
        parent.rename(from, parent, to).map_err(Error::io(&out))?;
        beside.name = None;
        beside.parent.sync();
        Ok(())
    }
}

/// Whether a new file can be written to `out`.
///
/// # Errors
/// There is something of this name, or the folder it is to lie in does not exist or is behind a link in a model's folder.
pub fn check_new_file(out: &Path) -> Result<()> {
    match std::fs::symlink_metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => way::place(out).map(drop),
        Err(e) => Err(Error::io(out)(e)),
        Ok(_) => Err(Error::file(out, "is there already; choose another name for the result")),
    }
}

/// Whether a new folder can be written to `out`.
///
/// # Errors
/// `out` is there and is not an empty folder, or the folder it is to lie in does not exist or is behind a link in a
/// model's folder.
pub fn check_new_folder(out: &Path) -> Result<()> {
    match std::fs::symlink_metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => way::place(out).map(drop),
        Err(e) => Err(Error::io(out)(e)),
        Ok(found) if !found.is_dir() => {
            Err(Error::file(out, "is there already and is not a folder; choose another place for the result"))
        }
        Ok(_) if std::fs::read_dir(out).map_err(Error::io(out))?.next().is_some() => {
            Err(Error::file(out, "is there already and is not empty; choose another place for the result"))
        }
        Ok(_) => Ok(()),
    }
}

/// Says that a folder is somebody's. Not every file system can; there nobody removes anything either.
fn lock(folder: &OpenFolder) -> Option<File> {
    let file = folder.dir.open(".").ok()?.into_std();
    file.try_lock().ok().map(|()| file)
}

/// Removes the folders of runs that were killed: they bear the marker, and nobody holds their lock. What cannot be
/// removed stays.
fn remove_unfinished(parent: &OpenFolder) {
    for entry in parent.dir.entries().into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(UNFINISHED)
            && is_left_over(parent, &name).is_some()
            && parent.dir.remove_dir_all(&name).is_ok()
        {
            tracing::warn!("{}: removed what a stopped run had left", parent.path().join(&name).display());
        }
    }
}

/// The lock of a folder that a run of this user left unfinished.
fn is_left_over(parent: &OpenFolder, name: &str) -> Option<File> {
    let dir = parent.dir.open_dir_nofollow(name).ok()?;
    let folder = OpenFolder::of(dir, &parent.path().join(name));
    let marked = match folder.read(MARKER).ok()? {
        // It may have been killed before all of it was written.
        Some(marker) => read_open(&marker, folder.path(), 64).is_ok_and(|marker| name.as_bytes().starts_with(&marker)),
        None => is_new(&folder, name),
    };
    if marked && is_own(&folder) { lock(&folder) } else { None }
}

/// Whether a run was killed before it could write its marker: an empty folder of such a name, with which nothing is
/// lost.
fn is_new(folder: &OpenFolder, name: &str) -> bool {
    let number = name.strip_prefix(UNFINISHED).unwrap_or_default();
    let is_ours = number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit());
    is_ours && folder.dir.entries().is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether the user made the folder.
#[cfg(unix)]
fn is_own(folder: &OpenFolder) -> bool {
    let user = rustix::process::geteuid().as_raw();
    folder.dir.dir_metadata().is_ok_and(|about| cap_std::fs::MetadataExt::uid(&about) == user)
}

#[cfg(not(unix))]
fn is_own(_: &OpenFolder) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_killed_runs_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let folders =
            [".achilles-audit-killed", ".achilles-audit-cache", ".achilles-audit-moved", ".achilles-other", "kept"];
        for name in folders {
            std::fs::create_dir_all(at(name).join("below")).unwrap();
            std::fs::write(at(name).join("below/file"), name).unwrap();
        }
        std::fs::write(at(".achilles-audit-killed").join(MARKER), ".achilles-audit-killed").unwrap();
        // One that somebody renamed, or that came in an archive, is somebody's.
        std::fs::write(at(".achilles-audit-moved").join(MARKER), ".achilles-audit-killed").unwrap();
        std::fs::write(at("kept").join(MARKER), ".achilles-audit-link").unwrap();
        std::os::unix::fs::symlink(at("kept"), at(".achilles-audit-link")).unwrap();
        std::fs::write(at(".achilles-audit-file"), "").unwrap();
        let first = NewFolder::begin(&at("first")).unwrap();
        first.folder().create_new("file").unwrap();
        let second = NewFolder::begin(&at("second")).unwrap();
        assert!(first.folder().path().join("file").exists() && second.folder().path().exists());
        first.finish().unwrap();
        drop(second);
        let names = |folder: &str| {
            let entries = std::fs::read_dir(at(folder)).unwrap();
            let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let left = [
            ".achilles-audit-cache",
            ".achilles-audit-file",
            ".achilles-audit-link",
            ".achilles-audit-moved",
            ".achilles-other",
            "first",
            "kept",
        ];
        assert_eq!(names(""), left);
        assert_eq!(names("first"), ["file"]);
        for folder in [".achilles-audit-cache", ".achilles-audit-moved", "kept"] {
            assert!(at(folder).join("below/file").exists(), "{folder}");
        }
    }
}
