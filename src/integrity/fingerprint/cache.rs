//! Keeps what was read of a file, so that one that has not changed is not read again.
//!
//! Whether it has changed is told by size, times and inode. Whoever can set those can hide a change: so a cache is for
//! the machine that made the fingerprint, not for one that guards against others.

use super::read::{FileRead, is_safetensors};
use super::stored::{File, Tensor};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A folder with one JSON file for each file that was read.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// A file as it is now.
#[derive(Serialize, Deserialize, PartialEq)]
pub(super) struct Key {
    tool: String,
    /// Behind all links.
    path: String,
    /// Whether it was read for tensors: the same file may be linked to under another kind of name.
    safetensors: bool,
    stamp: Stamp,
    row_digests: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: Key,
    file: File,
    tensors: Vec<Tensor>,
}

/// What tells a changed file, in bytes and nanoseconds since 1970.
#[derive(Serialize, Deserialize, PartialEq)]
struct Stamp {
    bytes: u64,
    modified: u128,
    changed: i128,
    device: u64,
    inode: u64,
}

/// A file that was written this short a time ago may be written again without its time changing.
const SETTLED: Duration = Duration::from_secs(2);

impl Cache {
    /// The user's: `achilles-audit/fingerprint` in `$XDG_CACHE_HOME`, else in `~/.cache`.
    ///
    /// # Errors
    /// Neither variable is set, or the folder cannot be made.
    pub fn of_user() -> Result<Cache> {
        Ok(Cache { folder: files::user_cache("fingerprint")? })
    }

    /// One in a folder of its own, which is made where it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn in_folder(folder: &Path) -> Result<Cache> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(Cache { folder: folder.to_owned() })
    }

    /// What is kept of the file of this key.
    pub(super) fn get(&self, key: &Key, path: &str) -> Option<FileRead> {
        let kept: Kept = serde_json::from_str(&files::read_text(&self.place(key)).ok()?).ok()?;
        if kept.key != *key {
            return None;
        }
        let mut file = kept.file.check().ok()?;
        file.path = path.to_owned();
        let tensors =
            kept.tensors.into_iter().map(|t| t.check().ok().map(|t| super::TensorRecord { file: path.into(), ..t }));
        Some(FileRead { file, tensors: tensors.collect::<Option<_>>()?, problem: None })
    }

    /// Keeps what was read, if the file is still as it was before it was read. One that cannot be kept will be read
    /// again.
    pub(super) fn put(&self, key: Key, full: &Path, read: &FileRead) {
        let modified = std::fs::metadata(full).ok().and_then(|m| m.modified().ok());
        let age = modified.and_then(|t| SystemTime::now().duration_since(t).ok());
        let changed = Key::of(full, &read.file.path, &key.row_digests).as_ref() != Some(&key);
        if changed || read.problem.is_some() || age.is_none_or(|age| age < SETTLED) {
            return;
        }
        let place = self.place(&key);
        let kept = Kept { key, file: (&read.file).into(), tensors: read.tensors.iter().map(Into::into).collect() };
        if let Ok(text) = serde_json::to_string(&kept) {
            let _ = files::write_whole(&place, text.as_bytes());
        }
    }

    fn place(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.json", sha256_hex(format!("{}\0{}", key.path, key.safetensors).as_bytes())))
    }
}

impl Key {
    /// None where it cannot be told apart from others.
    pub(super) fn of(full: &Path, path: &str, row_digests: &[String]) -> Option<Key> {
        let target = full.canonicalize().ok()?.to_str()?.to_owned();
        let stamp = Stamp::of(&std::fs::metadata(&target).ok()?)?;
        let tool = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned();
        let safetensors = is_safetensors(path);
        Some(Key { tool, path: target, safetensors, stamp, row_digests: row_digests.to_vec() })
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Option<Stamp> {
        let modified = file.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
        #[cfg(unix)]
        let (changed, device, inode) = {
            use std::os::unix::fs::MetadataExt;
            (i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec()), file.dev(), file.ino())
        };
        #[cfg(not(unix))]
        let (changed, device, inode) = (0, 0, 0);
        Some(Stamp { bytes: file.len(), modified, changed, device, inode })
    }
}
