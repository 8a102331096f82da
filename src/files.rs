//! Files that appear whole or not at all: written beside, synced, renamed.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
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

/// The largest file that is read whole, in bytes.
const LARGEST_READ: u64 = 1 << 30;

/// Opens a file of a checkpoint, which may be anything: looked at first, as opening a pipe would wait for a writer.
///
/// # Errors
/// It is not a regular file, or the system refuses.
pub fn open_regular(path: &Path) -> Result<File> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::file(path, "expected a file, found a folder, pipe or device"));
    }
    File::open(path).map_err(Error::io(path))
}

/// Reads a file of a checkpoint whole.
///
/// # Errors
/// As [`open_regular`]; also where it is absurdly large.
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, LARGEST_READ)
}

/// Reads a file whole that has no more than `largest` bytes.
///
/// # Errors
/// As [`open_regular`]; also where it is larger.
pub fn read_at_most(path: &Path, largest: u64) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let too_large = |length| Error::file(path, format!("has {length} bytes, expected at most {largest}"));
    if length > largest {
        return Err(too_large(length));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // It may grow meanwhile.
    file.take(largest + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > largest { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Reads a text file of a checkpoint whole.
///
/// # Errors
/// As [`read_regular`]; also where it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = read_regular(path)?;
    let not_text = |e: std::string::FromUtf8Error| {
        Error::file(path, format!("is not UTF-8 (byte {}), expected text", e.utf8_error().valid_up_to()))
    };
    String::from_utf8(bytes).map_err(not_text)
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
    tempfile::tempfile_in(parent(&behind_links(path))?).map(drop).map_err(Error::io(path))
}

/// A pipe or device: it is written to, not replaced.
fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Where a link leads, so that the link stays one.
fn behind_links(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Writes `bytes` to `path`, replacing what is there only when all of them are on disk.
///
/// # Errors
/// The system refuses; then `path` is as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_special(path) {
        return std::fs::write(path, bytes).map_err(Error::io(path));
    }
    let path = &behind_links(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".achilles-audit-");
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

/// A folder that appears whole or not at all: filled under another name beside its place, then renamed. What is not
/// finished is removed.
#[derive(Debug)]
pub struct NewFolder {
    out: PathBuf,
    parent: PathBuf,
    folder: tempfile::TempDir,
}

impl NewFolder {
    /// An empty folder beside `out`.
    ///
    /// # Errors
    /// `out` is there and is not an empty folder, or the folder it is to lie in does not exist.
    pub fn begin(out: &Path) -> Result<NewFolder> {
        match std::fs::symlink_metadata(out) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(out)(e)),
            Ok(found) if !found.is_dir() => {
                return Err(Error::file(
                    out,
                    "is there already and is not a folder; choose another place for the result",
                ));
            }
            Ok(_) if std::fs::read_dir(out).map_err(Error::io(out))?.next().is_some() => {
                return Err(Error::file(out, "is there already and is not empty; choose another place for the result"));
            }
            Ok(_) => {}
        }
        let parent = parent(out)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".achilles-audit-");
        // The folder will be the user's: as open as those they make themselves (the umask still applies).
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let folder = builder.tempdir_in(&parent).map_err(Error::io(&parent))?;
        Ok(NewFolder { out: out.to_owned(), parent, folder })
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

/// Makes the names in a folder durable, where the system can.
pub fn sync_folder(path: &Path) {
    if let Ok(folder) = std::fs::File::open(path) {
        let _ = folder.sync_all();
    }
}
