//! Files that appear whole or not at all: written beside, synced, renamed.

use crate::error::{Error, Result};
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
        return Err(Error::file(path, "the folder it is to lie in does not exist"));
    }
    Ok(parent.to_owned())
}

/// The largest file that is read whole, in bytes.
const LARGEST_READ: u64 = 1 << 30;

/// Reads a text file of a checkpoint, which may be anything.
///
/// # Errors
/// It is not a regular file, it is absurdly large, it is not UTF-8, or the system refuses.
pub fn read_text(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "expected a file, found a folder, pipe or device"));
    }
    if metadata.len() > LARGEST_READ {
        let problem = format!("has {} bytes, expected at most {LARGEST_READ}", metadata.len());
        return Err(Error::file(path, problem));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
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
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(parent(path)?).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::Io { path: path.into(), source: e.error })?;
    Ok(())
}
