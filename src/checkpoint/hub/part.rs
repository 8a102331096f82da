//! A file on its way into the cache.

use super::cache::{Blobs, is_ours};
use super::content::{ContentName, Naming};
use crate::error::{Error, Result};
use crate::files;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};

/// A download on its way, used only through its descriptor. Dropped unfinished, it is kept under a name by which the
/// next one finds it.
pub(super) struct Part<'a> {
    blobs: &'a Blobs,
    content: &'a ContentName,
    own: String,
    kept: String,
    file: File,
    pub(super) bytes: u64,
    size: u64,
    naming: Naming,
    finished: bool,
}

impl<'a> Part<'a> {
    /// Goes on with what an earlier download left, where that is a file of the user's own and no longer than the whole.
    /// Renaming claims it: of two processes one gets it, and none writes into the other's.
    pub(super) fn claim(blobs: &'a Blobs, content: &'a ContentName, size: u64) -> Result<Part<'a>> {
        let own = format!("{}{}.incomplete", content.as_str(), files::unfinished_name());
        let kept = format!("{}.achilles.incomplete", content.as_str());
        let claimed = match blobs.rename(&kept, &own) {
            Ok(()) => blobs.open_to_append(&own).ok().filter(|file| is_ours(file, size)),
            Err(_) => None,
        };
        let file = match claimed {
            Some(file) => file,
            None => {
                let _ = blobs.remove(&own);
                blobs.create(&own).map_err(Error::io(blobs.path().join(&own)))?
            }
        };
        let mut part =
            Part { blobs, content, own, kept, file, bytes: 0, size, naming: content.naming(size), finished: false };
        part.read_again()?;
        Ok(part)
    }

    /// Digests what is there.
    fn read_again(&mut self) -> Result<()> {
        let mut reader = BufReader::new(&self.file);
        loop {
            let chunk = reader.fill_buf().map_err(Error::io(self.blobs.path().join(&self.own)))?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.naming.update(chunk);
            let read = chunk.len();
            self.bytes += read as u64;
            reader.consume(read);
        }
    }

    pub(super) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io(self.blobs.path().join(&self.own)))?;
        (self.bytes, self.naming) = (0, self.content.naming(self.size));
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(self.blobs.path().join(&self.own)))?;
        self.naming.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// What the content is called that has arrived.
    pub(super) fn name(&self) -> ContentName {
        self.naming.clone().finish()
    }

    /// Gives it its place among the blobs.
    pub(super) fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(self.blobs.path().join(&self.own)))?;
        let blob = self.content.as_str();
        self.blobs.rename(&self.own, blob).map_err(Error::io(self.blobs.path().join(blob)))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = match self.bytes {
                0 => self.blobs.remove(&self.own),
                _ => self.blobs.rename(&self.own, &self.kept),
            };
        }
    }
}
