//! The safetensors files of a checkpoint that are open.

use super::map::MappedFile;
use super::shard::Shard;
use crate::error::{Error, Result};
use crate::files;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Each is mapped and parsed once, whatever its names, unless it changed since.
#[derive(Debug, Default)]
pub(super) struct OpenShards(Mutex<Shards>);

#[derive(Debug, Default)]
struct Shards {
    known: HashMap<ShardKey, Shard>,
    /// Bytes of small ones that were read whole.
    in_memory: u64,
}

/// Where small files that were read have so many bytes together, others are mapped: a hostile folder has thousands.
const MOST_IN_MEMORY: u64 = 64 << 20;

/// What tells one file from another, whatever its names.
#[derive(Debug, PartialEq, Eq, Hash)]
enum ShardKey {
    Identity(u64, u64),
    /// Where the system does not say.
    Path(PathBuf),
}

impl ShardKey {
    fn of(about: &Metadata, path: &Path) -> ShardKey {
        let identity = files::identity(about).map(|(device, inode)| ShardKey::Identity(device, inode));
        identity.unwrap_or_else(|| ShardKey::Path(path.to_owned()))
    }
}

impl OpenShards {
    /// That of an open file, which then stands at its beginning; see [`Shard::of`].
    pub fn of(&self, file: &File, path: &Path, whole: Option<u64>) -> Result<Shard> {
        let about = file.metadata().map_err(Error::io(path))?;
        let mut shards = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = ShardKey::of(&about, path);
        if let Some(shard) = shards.known.get(&key).filter(|known| known.file().is_still(&about)) {
            return Ok(shard.at(path));
        }
        let map = if shards.in_memory < MOST_IN_MEMORY { MappedFile::of } else { MappedFile::of_many };
        let shard = Shard::of(file, map(file, path)?, whole)?;
        shards.in_memory += shard.file().in_memory();
        shards.known.insert(key, shard.clone());
        Ok(shard)
    }
}
