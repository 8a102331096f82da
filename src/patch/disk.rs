//! The steps that change a folder, so that tests can let any of them fail.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What writes.
pub(super) trait Disk {
    /// Writes `bytes` into an existing file.
    fn write_at(&mut self, file: &mut File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Waits until a file's bytes are on disk.
    fn sync(&mut self, file: &File, path: &Path) -> Result<()>;
    /// Makes a small file appear whole or not at all, for good.
    fn write_whole(&mut self, path: &Path, bytes: &[u8]) -> Result<()>;
    /// Removes a file for good.
    fn remove(&mut self, path: &Path) -> Result<()>;
}

/// The system.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct System;

impl Disk for System {
    fn write_at(&mut self, file: &mut File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)).map_err(Error::io(path))
    }

    fn sync(&mut self, file: &File, path: &Path) -> Result<()> {
        file.sync_all().map_err(Error::io(path))
    }

    fn write_whole(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        // Not a random name: the next run finds what a stopped one left. Never an existing file, which may be a link.
        let partial = partial(path);
        remove_if_there(&partial)?;
        let mut file = File::create_new(&partial).map_err(Error::io(&partial))?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| std::fs::rename(&partial, path)) {
            remove_if_there(&partial)?;
            return Err(Error::io(path)(error));
        }
        sync_folder_of(path);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        std::fs::remove_file(path).map_err(Error::io(path))?;
        sync_folder_of(path);
        Ok(())
    }
}

/// What a file is called until all of it is on disk.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Removes a file, or does nothing where there is none.
pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io(path)),
    }
}

fn sync_folder_of(path: &Path) {
    if let Ok(folder) = crate::files::parent(path) {
        crate::files::sync_folder(&folder);
    }
}
