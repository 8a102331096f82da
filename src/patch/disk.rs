//! The steps that change a folder, so that tests can let any of them fail.

use crate::error::{Error, Result};
use crate::files::OpenFolder;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// What writes.
pub(super) trait Disk {
    /// Writes `bytes` into an existing file.
    fn write_at(&mut self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Waits until a file's bytes are on disk.
    fn sync(&mut self, file: &File, path: &Path) -> Result<()>;
    /// Makes a small file appear whole or not at all, for good.
    fn write_whole(&mut self, folder: &OpenFolder, name: &str, bytes: &[u8]) -> Result<()>;
    /// Removes a file for good.
    fn remove(&mut self, folder: &OpenFolder, name: &str) -> Result<()>;
}

/// The system.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct System;

impl Disk for System {
    fn write_at(&mut self, mut file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)).map_err(Error::io(path))
    }

    fn sync(&mut self, file: &File, path: &Path) -> Result<()> {
        file.sync_all().map_err(Error::io(path))
    }

    fn write_whole(&mut self, folder: &OpenFolder, name: &str, bytes: &[u8]) -> Result<()> {
        // Not a random name: the next run finds what a stopped one left. Never an existing file, which may be a link.
        let partial = partial(name);
        folder.remove_if_there(&partial)?;
        let mut file = folder.create_new(&partial)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(folder.path().join(name)));
        drop(file);
        if let Err(error) = written.and_then(|()| folder.rename(&partial, name)) {
            folder.remove_if_there(&partial)?;
            return Err(error);
        }
        folder.sync();
        Ok(())
    }

    fn remove(&mut self, folder: &OpenFolder, name: &str) -> Result<()> {
        folder.remove(name)?;
        folder.sync();
        Ok(())
    }
}

/// What a file is called until all of it is on disk.
pub(super) fn partial(name: &str) -> String {
    format!("{name}.partial")
}
