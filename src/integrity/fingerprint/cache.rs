//! Keeps what was read of a file, so that one that has not changed is not read again.
//!
//! What is trusted: that a file whose size, times, inode and device are as they were holds the bytes that it held. On
//! Linux and a local disk that is so for all who cannot set the clock or write to the disk beneath the file system:
//! pages that somebody has mapped are written back before a stamp is taken, and files that were changed a moment ago or
//! lie in memory get none. A network's file system is believed what it says of times, and so is every other system than
//! Linux. And that the cache's folder is written to by nobody but its user. To guard against more than that, do
//! without.

use super::Algorithm;
use super::read::{FileRead, is_safetensors};
use super::stored::{File, Tensor};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{self, Stamp};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A folder with one JSON file for each file that was read.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// A file as it is now.
#[derive(Serialize, Deserialize, PartialEq)]
pub(super) struct Key {
    tool: String,
    /// Of documents that hold such records.
    schema: String,
    /// What tensors and rows are digested by.
    algorithm: Algorithm,
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
        let kept: Kept = serde_json::from_str(&files::read_text(&self.place(key), files::LARGEST_READ).ok()?).ok()?;
        if kept.key != *key {
            return None;
        }
        let mut file = kept.file.check().ok()?;
        file.path = path.to_owned();
        let tensors = kept
            .tensors
            .into_iter()
            .map(|t| t.check(key.algorithm).ok().map(|t| super::TensorRecord { file: path.into(), ..t }));
        Some(FileRead { file, tensors: tensors.collect::<Option<_>>()?, problem: None })
    }

    /// Keeps what was read. One that cannot be kept will be read again.
    pub(super) fn put(&self, key: Key, read: &FileRead) {
        let place = self.place(&key);
        let tensors = read.tensors.iter().map(|tensor| Tensor::of(tensor, key.algorithm)).collect();
        let kept = Kept { key, file: (&read.file).into(), tensors };
        if let Ok(text) = serde_json::to_string(&kept) {
            let _ = files::write_whole(&place, text.as_bytes());
        }
    }

    fn place(&self, key: &Key) -> PathBuf {
        let name = format!("{}\0{}\0{}", key.path, key.safetensors, key.schema);
        self.folder.join(sha256_hex(name.as_bytes())).with_extension("json")
    }
}

impl Key {
    /// Of the file at `full` that was opened; none where it cannot be told apart from others.
    pub(super) fn of(
        stamp: Stamp,
        full: &Path,
        path: &str,
        (algorithm, row_digests): (Algorithm, &[String]),
    ) -> Option<Key> {
        let target = full.canonicalize().ok()?.to_str()?.to_owned();
        let tool = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned();
        let safetensors = is_safetensors(path);
        let (schema, row_digests) = (algorithm.schema().to_owned(), row_digests.to_vec());
        Some(Key { tool, schema, algorithm, path: target, safetensors, stamp, row_digests })
    }
}
