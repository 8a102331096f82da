//! The memory maps, and all that is `unsafe` in the crate.

use crate::error::{Error, Result};
use crate::files::{self, Stamp};
use std::fs::{File, Metadata};
use std::io::Seek;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files up to this size are read, not mapped: it costs as little, and they cannot become shorter while they are used.
const READ_UP_TO: u64 = 1 << 20;

/// A file's bytes, mapped read-only where they are many.
///
/// Somebody who writes to a mapped file meanwhile changes the bytes seen here; somebody who shortens it ends the
/// process with SIGBUS, as it does every reader of mapped weights. No exit code 0 can come of that.
#[derive(Debug, Clone)]
pub struct MappedFile {
    path: PathBuf,
    bytes: Arc<Bytes>,
    opened: Option<Stamp>,
}

#[derive(Debug)]
enum Bytes {
    Read(Vec<u8>),
    Mapped(memmap2::Mmap),
}

impl MappedFile {
    /// Maps a regular file.
    ///
    /// # Errors
    /// The file cannot be opened or is not a regular file.
    pub fn open(path: &Path) -> Result<MappedFile> {
        MappedFile::of(&files::open_regular(path)?, path)
    }

    /// Maps an open file, which then stands at its beginning; `path` is for messages.
    ///
    /// # Errors
    /// The system refuses, or the file changes its size meanwhile.
    pub fn of(file: &File, path: &Path) -> Result<MappedFile> {
        MappedFile::with(file, path, READ_UP_TO)
    }

    /// As [`MappedFile::of`], of one of many files that stay open: whatever its size it takes no memory of its own.
    pub(super) fn of_many(file: &File, path: &Path) -> Result<MappedFile> {
        MappedFile::with(file, path, 0)
    }

    #[allow(unsafe_code)]
    fn with(mut file: &File, path: &Path, read_up_to: u64) -> Result<MappedFile> {
        let about = file.metadata().map_err(Error::io(path))?;
        let bytes = if about.len() <= read_up_to {
            let bytes = files::read_open(file, path, READ_UP_TO)?;
            file.rewind().map_err(Error::io(path))?;
            Bytes::Read(bytes)
        } else {
            // SAFETY: the map is read-only and private to this value. The bytes are read as plain numbers of which
            // every bit pattern is valid, so a writer that changes the file meanwhile can change results but not break
            // memory safety; one that shortens it ends the process, see above.
            Bytes::Mapped(unsafe { memmap2::Mmap::map(file) }.map_err(Error::io(path))?)
        };
        Ok(MappedFile { path: path.to_owned(), bytes: Arc::new(bytes), opened: Stamp::of(&about) })
    }

    /// The same with other bytes at some offsets, in memory alone: pages that do not change are the file's.
    ///
    /// # Errors
    /// The file cannot be mapped once more, or changed since.
    #[allow(unsafe_code)]
    pub fn with_bytes<'b>(&self, changes: impl Iterator<Item = (u64, &'b [u8])>) -> Result<MappedFile> {
        let put = |bytes: &mut [u8]| -> Result<()> {
            for (at, new) in changes {
                let place = bytes.get_mut(at as usize..).and_then(|rest| rest.get_mut(..new.len()));
                place
                    .ok_or_else(|| Error::file(&self.path, "ends before a byte that is to change"))?
                    .copy_from_slice(new);
            }
            Ok(())
        };
        let bytes = match &*self.bytes {
            Bytes::Read(bytes) => {
                let mut bytes = bytes.clone();
                put(&mut bytes)?;
                Bytes::Read(bytes)
            }
            Bytes::Mapped(_) => {
                let file = files::open_regular(&self.path)?;
                if !self.is_still(&file.metadata().map_err(Error::io(&self.path))?) {
                    return Err(Error::file(&self.path, "changed while it was read"));
                }
                // SAFETY: as above; what is written goes to copies of pages that are this value's alone.
                let mut map = unsafe { memmap2::MmapOptions::new().map_copy(&file) }.map_err(Error::io(&self.path))?;
                put(&mut map)?;
                Bytes::Mapped(map.make_read_only().map_err(Error::io(&self.path))?)
            }
        };
        Ok(MappedFile { bytes: Arc::new(bytes), ..self.clone() })
    }

    /// The same by another of its names.
    pub(super) fn at(&self, path: &Path) -> MappedFile {
        MappedFile { path: path.to_owned(), ..self.clone() }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file was when it was opened; none where the system does not tell.
    pub fn opened(&self) -> Option<&Stamp> {
        self.opened.as_ref()
    }

    /// Whether a file that is open now is as this one was when it was opened.
    pub(crate) fn is_still(&self, now: &Metadata) -> bool {
        self.opened.as_ref().is_some_and(|opened| Stamp::of(now).as_ref() == Some(opened))
    }

    /// Bytes of memory that it takes: those that were read and not mapped.
    pub(super) fn in_memory(&self) -> u64 {
        match &*self.bytes {
            Bytes::Read(bytes) => bytes.len() as u64,
            Bytes::Mapped(_) => 0,
        }
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        match &*self.bytes {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_that_becomes_shorter_is_still_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        for length in [0, 1, READ_UP_TO] {
            let bytes = vec![7; length as usize];
            std::fs::write(&path, &bytes).unwrap();
            let (of, open) = (File::open(&path).unwrap(), MappedFile::open(&path).unwrap());
            let map = MappedFile::of(&of, &path).unwrap();
            assert_eq!(map.in_memory(), length);
            assert_eq!(MappedFile::of_many(&of, &path).unwrap().in_memory(), 0);
            std::fs::write(&path, "").unwrap();
            assert!(map.bytes() == bytes && open.bytes() == bytes, "{length}");
            assert_ne!(open.opened(), Stamp::of(&std::fs::metadata(&path).unwrap()).as_ref());
        }
        std::fs::write(&path, vec![7; READ_UP_TO as usize + 1]).unwrap();
        assert!(matches!(*MappedFile::open(&path).unwrap().bytes, Bytes::Mapped(_)));
    }

    #[test]
    fn bytes_change_in_memory_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        for length in [100, READ_UP_TO as usize + 100] {
            std::fs::write(&path, vec![7; length]).unwrap();
            let file = MappedFile::open(&path).unwrap();
            let changed = file.with_bytes([(3, &[1u8, 2][..]), (length as u64 - 1, &[9])].into_iter()).unwrap();
            assert_eq!((&changed.bytes()[2..6], changed.bytes()[length - 1]), (&[7, 1, 2, 7][..], 9));
            assert!(file.bytes().iter().chain(&std::fs::read(&path).unwrap()).all(|byte| *byte == 7));
            assert!(file.with_bytes([(length as u64, &[1u8][..])].into_iter()).is_err());
        }
    }
}
