//! One repository's folder in the cache, laid out as the Python `huggingface_hub` lays it out: `blobs/<etag>`,
//! `snapshots/<commit>/<file>` as relative links to blobs, `refs/<revision>` with a commit.

use super::{CONFIG, HubId, INDEX, SINGLE, TOKENIZER, shards_of};
use crate::error::{Error, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) struct RepoCache {
    revision: String,
    root: PathBuf,
}

impl RepoCache {
    pub(super) fn new(id: &HubId, cache: &Path) -> Result<RepoCache> {
        let cache = std::path::absolute(cache).map_err(Error::io(cache))?;
        let root = cache.join(format!("models--{}", id.repo().replace('/', "--")));
        Ok(RepoCache { revision: id.revision().to_owned(), root })
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The snapshot of the revision, where it has all that a checkpoint needs; else what it lacks.
    pub(super) fn complete_snapshot(&self) -> std::result::Result<PathBuf, String> {
        let nothing = || format!("the cache {} has nothing of revision {}", self.root.display(), self.revision);
        // A commit has no file in refs.
        let noted = fs::read_to_string(self.ref_path()).ok().map(|text| text.trim().to_owned());
        let commit = noted.filter(|c| is_commit(c)).unwrap_or_else(|| self.revision.clone());
        let folder = self.snapshot(&commit);
        if !is_commit(&commit) || !folder.is_dir() {
            return Err(nothing());
        }
        let has = |file: &str| folder.join(file).is_file();
        let lacks = |file: &str| format!("the cache lacks {file} in {}", folder.display());
        if let Some(file) = [CONFIG, TOKENIZER].into_iter().find(|f| !has(f)) {
            return Err(lacks(file));
        }
        if !has(SINGLE) {
            if !has(INDEX) {
                return Err(lacks(&format!("{SINGLE} (or {INDEX})")));
            }
            let shards = shards_of(&folder.join(INDEX)).map_err(|e| e.to_string())?;
            if let Some(shard) = shards.iter().find(|s| !has(s)) {
                return Err(lacks(shard));
            }
        }
        Ok(folder)
    }

    pub(super) fn prepare(&self, commit: &str) -> Result<()> {
        for folder in [self.blobs(), self.snapshot(commit)] {
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        }
        Ok(())
    }

    pub(super) fn holds(&self, commit: &str, file: &str, size: Option<u64>) -> bool {
        has_size(&self.snapshot(commit).join(file), size)
    }

    pub(super) fn blob(&self, etag: &str, size: Option<u64>) -> Option<PathBuf> {
        let path = self.blobs().join(etag);
        has_size(&path, size).then_some(path)
    }

    /// Makes the blob appear in the snapshot, in one step.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        let beside = pointer.with_file_name(format!(".{file}.{}", std::process::id()));
        symlink(&Path::new("../../blobs").join(etag), &beside)
            .and_then(|()| fs::rename(&beside, &pointer))
            // No links here (Windows, some network disks): the file itself moves, as the Python tools do it.
            .or_else(|_| fs::rename(self.blobs().join(etag), &pointer))
            .map_err(Error::io(&pointer))
    }

    /// Notes which commit the revision is, for those who come offline. A cache that cannot be written still serves.
    pub(super) fn point_to(&self, commit: &str) {
        let path = self.ref_path();
        if self.revision == commit || fs::read_to_string(&path).is_ok_and(|noted| noted == commit) {
            return;
        }
        let beside = self.root.join(format!(".ref.{}", std::process::id()));
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&beside, commit))
            .and_then(|()| fs::rename(&beside, &path));
        if let Err(error) = written {
            tracing::warn!("{}: {error}; offline this revision will not be found", path.display());
        }
    }

    fn ref_path(&self) -> PathBuf {
        self.root.join("refs").join(&self.revision)
    }
}

/// A Git object name, SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn has_size(path: &Path, size: Option<u64>) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && size.is_none_or(|size| size == found.len()))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
