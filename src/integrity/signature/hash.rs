//! SHA-256 of many files, or pieces of them, at once.

use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// Bytes read at a time, in each thread.
const CHUNK: u64 = 1 << 20;

/// Some bytes of a file.
pub(super) struct Span<'a> {
    pub(super) file: &'a Path,
    pub(super) bytes: Range<u64>,
}

/// The digest of each span.
///
/// # Errors
/// A file cannot be read or is shorter than its span, or the user asked to stop.
pub(super) fn sha256_all(spans: &[Span], progress: &dyn Progress) -> Result<Vec<[u8; 32]>> {
    let total = spans.iter().map(|s| s.bytes.end - s.bytes.start).fold(0, u64::saturating_add);
    progress.begin("SHA-256", total, "bytes");
    // One span a task: their sizes differ by orders of magnitude.
    let digests = spans.par_iter().with_max_len(1).map(|span| sha256(span, progress)).collect();
    progress.end();
    digests
}

fn sha256(span: &Span, progress: &dyn Progress) -> Result<[u8; 32]> {
    let io = || Error::io(span.file);
    let mut file = files::open_regular(span.file)?;
    if span.bytes.start > 0 {
        file.seek(SeekFrom::Start(span.bytes.start)).map_err(io())?;
    }
    let mut left = span.bytes.end - span.bytes.start;
    let mut buffer = vec![0; left.min(CHUNK) as usize];
    let mut digest = Sha256::new();
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK) as usize];
        file.read_exact(chunk).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => {
                Error::file(span.file, "became shorter while it was read; let nothing write to it meanwhile")
            }
            _ => io()(e),
        })?;
        digest.update(&*chunk);
        left -= chunk.len() as u64;
        progress.advance(chunk.len() as u64)?;
    }
    Ok(digest.finalize().into())
}
