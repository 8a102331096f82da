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

/// Writes `bytes` to `path`, replacing what is there only when all of them are on disk.
///
/// # Errors
/// The system refuses; then `path` is as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".achilles-audit-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(parent(path)?).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::Io { path: path.into(), source: e.error })?;
    Ok(())
}
