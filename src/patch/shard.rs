//! The files of weights that a receipt or a plan names: each is opened once, checked, and changed through that.

use super::edit::Edit;
use crate::checkpoint::hex;
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::packing::Span;
use crate::checkpoint::stand_in::StandIn;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

/// Open files of weights, by name.
pub(super) type OpenShards = BTreeMap<String, OpenShard>;

/// One of them.
#[derive(Debug)]
pub(super) struct OpenShard {
    pub file: File,
    pub map: MappedFile,
}

impl OpenShard {
    pub fn of(file: File, path: &Path) -> Result<OpenShard> {
        StandIn::refuse_holes(&file, path)?;
        let map = MappedFile::of(&file, path)?;
        Ok(OpenShard { file, map })
    }

    pub fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// SHA-256 of the file as it is.
    pub fn sha256(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        self.each_piece(|bytes, _| hasher.update(bytes))?;
        Ok(hex(&hasher.finalize()))
    }

    /// SHA-256 of the file as it is, and as it will be with the edits' bytes.
    pub fn sha256_before_and_after(&self, pieces: &Pieces) -> Result<(String, String)> {
        let (mut before, mut after) = (Sha256::new(), Sha256::new());
        let mut new = Vec::new();
        self.each_piece(|old, at| {
            new.clear();
            new.extend(old);
            pieces.lay_over(&mut new, at);
            rayon::join(|| before.update(old), || after.update(&new));
        })?;
        Ok((hex(&before.finalize()), hex(&after.finalize())))
    }

    fn each_piece(&self, mut each: impl FnMut(&[u8], u64)) -> Result<()> {
        let failed = |e| Error::io(self.map.path())(e);
        let mut file = &self.file;
        file.rewind().map_err(failed)?;
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(()),
                count => each(&buffer[..count], at),
            }
            at = file.stream_position().map_err(failed)?;
        }
    }
}

/// The bytes that a span holds now.
pub(super) fn bytes_now(shards: &OpenShards, file: &str, span: Span) -> Option<Vec<u8>> {
    span.read(shards.get(file)?.bytes())
}

/// What edits make of a file, by offset.
#[derive(Debug, Default)]
pub(super) struct Pieces<'a> {
    pieces: BTreeMap<u64, &'a [u8]>,
    longest: u64,
}

impl<'a> Pieces<'a> {
    /// Of edits of one file.
    pub fn of(edits: &[&'a Edit]) -> Pieces<'a> {
        let mut of = Pieces::default();
        for edit in edits {
            of.longest = of.longest.max(edit.span.piece_bytes);
            for (at, piece) in edit.span.offsets().zip(edit.after.chunks_exact(edit.span.piece_bytes as usize)) {
                // Where a row and a column begin at one element, the row says more.
                let known = of.pieces.entry(at).or_insert(piece);
                if known.len() < piece.len() {
                    *known = piece;
                }
            }
        }
        of
    }

    /// Writes what falls into `buffer`, the file's bytes from `at` on.
    pub fn lay_over(&self, buffer: &mut [u8], at: u64) {
        let end = at + buffer.len() as u64;
        for (&offset, piece) in self.pieces.range(at.saturating_sub(self.longest)..end) {
            let (from, to) = (offset.max(at), (offset + piece.len() as u64).min(end));
            if from < to {
                let piece = &piece[(from - offset) as usize..(to - offset) as usize];
                buffer[(from - at) as usize..(to - at) as usize].copy_from_slice(piece);
            }
        }
    }
}
