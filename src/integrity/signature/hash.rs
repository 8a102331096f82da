//! SHA-256 of many files, or pieces of them, at once.

use crate::checkpoint::stand_in::StandIn;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
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

/// The digest of each span. Those that are one by several names or links are read once.
///
/// # Errors
/// A file cannot be read or is shorter than its span, or the user asked to stop.
pub(super) fn sha256_all(spans: &[Span], progress: &dyn Progress) -> Result<Vec<[u8; 32]>> {
    let (mut firsts, mut places, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
    for span in spans {
        let next = firsts.len();
        let identity = std::fs::metadata(span.file).ok().and_then(|about| files::identity(&about));
        let key = identity.map(|identity| (identity, span.bytes.start, span.bytes.end));
        let place = key.map_or(next, |key| *seen.entry(key).or_insert(next));
        if place == next {
            if span.bytes.start == 0 {
                StandIn::refuse_holes(&files::open_regular(span.file)?, span.file)?;
            }
            firsts.push(span);
        }
        places.push(place);
    }
    let total = firsts.iter().map(|s| s.bytes.end - s.bytes.start).fold(0, u64::saturating_add);
    progress.begin("SHA-256", total, "bytes");
    // One span a task: their sizes differ by orders of magnitude.
    let digests: Result<Vec<[u8; 32]>> = firsts.par_iter().with_max_len(1).map(|span| sha256(span, progress)).collect();
    progress.end();
    let digests = digests?;
    Ok(places.into_iter().filter_map(|at| digests.get(at).copied()).collect())
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
