//! Files that somebody else may have put there, opened with care; and files that appear whole or not at all: written
//! beside, synced, renamed.

mod open;

use crate::error::{Error, Result};
pub use open::{open_regular, read_at_most, read_regular, read_text};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder that a file is to lie in.
///
/// # Errors
/// There is no such folder.
pub fn parent(path: &Path) -> Result<PathBuf> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(Error::file(path, "the folder it is to lie in does not exist; create it first"));
    }
    Ok(parent.to_owned())
}

/// A folder of the user's cache, `achilles-audit/NAME` in `$XDG_CACHE_HOME`, else in `~/.cache`; it is made where it is
/// not there.
///
/// # Errors
/// Neither variable is set, or the folder cannot be made.
pub fn user_cache(name: &str) -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    let base = base.ok_or_else(|| Error::input("no place for the cache: set XDG_CACHE_HOME or HOME"))?;
    let folder = base.join("achilles-audit").join(name);
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    Ok(folder)
}

/// Fails where [`write_whole`] would: before the work, not after it.
///
/// # Errors
/// `path` is a folder, or its folder is missing or cannot be written to.
pub fn check_writable(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, "is a folder, expected the name of a file"));
    }
    if is_special(path) {
        return Ok(());
    }
    tempfile::tempfile_in(parent(&behind_links(path)?)?).map(drop).map_err(Error::io(path))
}

/// A pipe or device: it is written to, not replaced.
fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Where a link leads, so that the link stays one.
fn behind_links(path: &Path) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(_) if path.is_symlink() => Err(Error::file(path, "is a link that leads nowhere; remove it first")),
        Err(_) => Ok(path.to_owned()),
    }
}

/// Writes `bytes` to `path`, replacing what is there only when all of them are on disk.
///
/// # Errors
/// The system refuses; then `path` is as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_special(path) {
        return std::fs::write(path, bytes).map_err(Error::io(path));
    }
    let path = &behind_links(path)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(match std::fs::metadata(path) {
        // What was private stays private.
        Ok(replaced) => replaced.permissions(),
        Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
    });
    let mut file = builder.tempfile_in(parent(path)?).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::Io { path: path.into(), source: e.error })?;
    Ok(())
}

/// What files and folders are called until they are whole.
const UNFINISHED: &str = ".achilles-audit-";

/// A folder that appears whole or not at all: filled under another name beside its place, then renamed. What is not
/// finished is removed, by the next run where this one is killed.
#[derive(Debug)]
pub struct NewFolder {
    out: PathBuf,
    parent: PathBuf,
    folder: tempfile::TempDir,
    _lock: Option<File>,
}

impl NewFolder {
    /// An empty folder beside `out`. Those that killed runs left there are removed.
    ///
    /// # Errors
    /// As [`check_new_folder`]; also where the folder cannot be made.
    pub fn begin(out: &Path) -> Result<NewFolder> {
        check_new_folder(out)?;
        let parent = parent(out)?;
        remove_unfinished(&parent);
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED);
        // The folder will be the user's: as open as those they make themselves (the umask still applies).
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        loop {
            let folder = builder.tempdir_in(&parent).map_err(Error::io(&parent))?;
            match lock_folder(folder.path()) {
                // Another run came between the two lines above and took it for a killed one's.
                Err(TryLockError::WouldBlock) => {}
                _ if !folder.path().exists() => {}
                lock => return Ok(NewFolder { out: out.to_owned(), parent, folder, _lock: lock.ok() }),
            }
        }
    }

    /// Where to write for now.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the folder, whose files are on disk, in its place.
    ///
    /// # Errors
    /// The system refuses, as where something has appeared there in the meantime.
    pub fn finish(self) -> Result<()> {
        sync_folder(self.folder.path());
        if self.out.exists() {
            std::fs::remove_dir(&self.out).map_err(Error::io(&self.out))?;
        }
        std::fs::rename(self.folder.path(), &self.out).map_err(Error::io(&self.out))?;
        let _ = self.folder.keep();
        sync_folder(&self.parent);
        Ok(())
    }
}

/// Whether a new folder can be written to `out`.
///
/// # Errors
/// `out` is there and is not an empty folder, or the folder it is to lie in does not exist.
pub fn check_new_folder(out: &Path) -> Result<()> {
    match std::fs::symlink_metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => parent(out).map(drop),
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
fn lock_folder(path: &Path) -> std::result::Result<File, TryLockError> {
    let folder = File::open(path).map_err(TryLockError::Error)?;
    folder.try_lock().map(|()| folder)
}

/// Removes the folders of runs that were killed: nobody holds their lock. What cannot be removed stays.
fn remove_unfinished(parent: &Path) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let lock = lock_folder(&entry.path());
        if lock.is_ok() && std::fs::remove_dir_all(entry.path()).is_ok() {
            tracing::warn!("{}: removed what a stopped run had left", entry.path().display());
        }
    }
}

/// Makes the names in a folder durable, where the system can.
pub fn sync_folder(path: &Path) {
    if let Ok(folder) = std::fs::File::open(path) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_killed_runs_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in [".achilles-audit-killed", ".achilles-other", "kept"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("file"), name).unwrap();
        }
        std::os::unix::fs::symlink(at("kept"), at(".achilles-audit-link")).unwrap();
        std::fs::write(at(".achilles-audit-file"), "").unwrap();
        let first = NewFolder::begin(&at("first")).unwrap();
        std::fs::write(first.path().join("file"), "first").unwrap();
        let second = NewFolder::begin(&at("second")).unwrap();
        assert!(first.path().join("file").exists() && second.path().exists());
        first.finish().unwrap();
        drop(second);
        let mut names: Vec<String> =
            std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".achilles-audit-file", ".achilles-audit-link", ".achilles-other", "first", "kept"]);
        assert!(at("kept/file").exists());
    }
}
