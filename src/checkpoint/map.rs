//! The one memory map, and the one `unsafe` block of the crate.

use crate::error::{Error, Result};
use crate::files;
use std::path::{Path, PathBuf};

/// A file mapped read-only.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps a regular file.
    ///
    /// # Errors
    /// The file cannot be opened or is not a regular file.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<MappedFile> {
        let file = files::open_regular(path)?;
        // SAFETY: the map is read-only and private to this value. The bytes are read as plain numbers of which every
        // bit pattern is valid, so a writer that changes the file meanwhile can change results but not break memory
        // safety; one that shortens it ends the process with SIGBUS, as it does for every reader of mapped weights.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(MappedFile { path: path.to_owned(), map })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}
