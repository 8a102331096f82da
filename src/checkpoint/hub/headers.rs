//! Headers of weights, without the weights.

use super::remote::{Asked, Remote};
use super::{Fetching, NotFetched, Origin, Snapshot};
use crate::checkpoint::header::MAX_HEADER_BYTES;
use crate::error::{Error, Result};
use crate::progress::Progress;
use std::path::Path;
use std::sync::Arc;

/// Files of weights up to this size are fetched whole: that is as quick as their header.
pub(super) const WHOLE: u64 = 256 << 10;
/// Bytes that are asked for first: the header of a layer or a few.
const FIRST: u64 = 16 << 10;

/// A folder with copies of the small files of a commit, and the beginnings of `absent`, its large files of weights.
pub(super) fn beside(
    remote: &Remote,
    fetching: &Fetching,
    snapshot: Snapshot,
    absent: &[&String],
    progress: &dyn Progress,
) -> Result<Snapshot> {
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let place = |file: &str| -> Result<_> {
        let path = folder.path().join(file);
        let parent = path.parent().unwrap_or(folder.path());
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        Ok(path)
    };
    for file in fetching.small.iter().chain(&fetching.weights).filter(|file| !absent.contains(file)) {
        let to = place(file)?;
        std::fs::copy(snapshot.folder.join(file), &to).map_err(Error::io(&to))?;
    }
    progress.begin(&format!("headers of {}", remote.id().repo()), absent.len() as u64, "files");
    let mut headers = Vec::new();
    for file in absent {
        progress.advance(0)?;
        let (commit, listed) = (&snapshot.origin.commit, fetching.listed(file));
        let size = match listed.size {
            Some(size) => size,
            None => remote.head(commit, file, &listed, remote.deadline(1, 0), progress)?.size,
        };
        header(remote, &Asked { commit, file, size }, &place(file)?, progress)?;
        headers.push(NotFetched { path: (*file).clone(), bytes: Some(size) });
        progress.advance(1)?;
    }
    progress.end();
    let origin = Origin { headers, ..snapshot.origin };
    Ok(Snapshot { folder: folder.path().to_owned(), origin, passing: Some(Arc::new(folder)) })
}

/// Writes a file's length and header; of what says that it has none, or a longer one than any, the beginning.
fn header(remote: &Remote, asked: &Asked, to: &Path, progress: &dyn Progress) -> Result<()> {
    let size = asked.size;
    let mut bytes = remote.range(asked, 0..size.min(FIRST), progress)?;
    if let Some(length) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length)) {
        let end = length.saturating_add(8).min(size);
        if length <= MAX_HEADER_BYTES && end > FIRST {
            bytes.extend(remote.range(asked, FIRST..end, progress)?);
        }
        bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    }
    std::fs::write(to, bytes).map_err(Error::io(to))
}
