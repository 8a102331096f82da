//! What a model directory, a hub id or a GGUF file opens to: config, tokenizer, and tensors read from the map.

pub mod config;
pub mod gguf;
pub mod header;
pub mod hub;
pub mod index;
pub mod kind;
pub mod listing;
mod loose;
pub mod map;
pub mod model_card;
pub mod names;
pub mod number;
mod opened;
pub mod packing;
pub mod python_json;
pub mod quantization;
mod shard;
mod shards;
pub mod snapshot;
pub mod source;
mod special_token;
pub mod stand_in;
pub mod tensors;
pub mod walk;
pub mod weight_names;

use crate::error::Result;
use crate::files::{self, Stamp};
use crate::progress::Progress;
pub use config::ConfigFile;
use hub::Origin;
use map::MappedFile;
pub use opened::Opened;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
pub use shard::Shard;
pub use source::{Folder, Source};
pub(crate) use special_token::SpecialToken;
use std::path::Path;
use std::sync::Arc;
pub use tensors::Tensors;

/// No tokenizer or index is larger, in bytes.
pub(crate) const LARGEST_NEEDED: u64 = 256 << 20;

pub(crate) const CONFIG: &str = "config.json";
/// The tokenizer, in a form that every library reads.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// A sound checkpoint: its config is understood as JSON and its headers keep to the format. Tensor values stay in the
/// map until they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    opened: Arc<Opened>,
    config: Arc<ConfigFile>,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens MODEL: a directory, a .gguf file or a hub id (`org/name[@revision]`).
    ///
    /// # Errors
    /// There is no such model, a file it needs is missing, or one breaks its format.
    pub fn open(model: &str, progress: &dyn Progress) -> Result<Checkpoint> {
        Checkpoint::of(&Arc::new(Opened::open(model, progress)?))
    }

    /// That of what was opened.
    ///
    /// # Errors
    /// A file it needs is missing, or one breaks its format.
    pub fn of(opened: &Arc<Opened>) -> Result<Checkpoint> {
        let config = opened.needed_config()?;
        let tensors = match opened.gguf()? {
            None => opened.text_tensors()?,
            Some(gguf) => {
                opened.tokenizer_json()?;
                Tensors::from_gguf(gguf.clone())
            }
        };
        Ok(Checkpoint { opened: opened.clone(), config: config.clone(), tensors })
    }

    /// The same with other bytes at offsets of its files, given by name, in memory alone: what it would be once they are
    /// written. Not of a GGUF.
    ///
    /// # Errors
    /// A file changed meanwhile, or ends before such a byte.
    pub fn with_bytes(&self, changes: &[(&str, u64, &[u8])]) -> Result<Checkpoint> {
        let mut changed = Checkpoint::of(&self.opened)?;
        changed.tensors.change(changes)?;
        Ok(changed)
    }

    /// What it was made from.
    pub fn opened(&self) -> &Arc<Opened> {
        &self.opened
    }

    /// What the user called it.
    pub fn name(&self) -> &str {
        self.opened.name()
    }

    /// The folder or the .gguf file.
    pub fn root(&self) -> &Path {
        self.opened.root()
    }

    /// Which commit of a hub repository it is, if it is one.
    pub fn origin(&self) -> Option<&Origin> {
        self.opened.origin()
    }

    /// Its config.json, or what a GGUF's metadata say in that form.
    pub fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// Its tokenizer.json.
    ///
    /// # Errors
    /// It has none, or it cannot be read.
    pub fn tokenizer_json(&self) -> Result<&str> {
        self.opened.tokenizer_json()
    }

    /// BLAKE3, lower-case hex, over the digests of all that its answers depend on: every byte of the weights' files, in
    /// which all cores share, then the config and the tokenizer.
    ///
    /// # Errors
    /// It has no tokenizer.
    pub fn blake3(&self) -> Result<String> {
        let of = |bytes: &[u8]| <[u8; 32]>::from(blake3::Hasher::new().update_rayon(bytes).finalize());
        let mut digests: Vec<[u8; 32]> = self.tensors.mapped().par_iter().map(|file| of(file.bytes())).collect();
        digests.push(of(self.config.sha256().as_bytes()));
        digests.push(of(self.tokenizer_json()?.as_bytes()));
        Ok(hex(&of(digests.as_flattened())))
    }

    /// Stamps of the weights' files that every change from here on will change; none where that cannot be promised, or
    /// one changed since it was opened.
    pub fn stamps(&self) -> Option<Vec<Stamp>> {
        let stamp = |file: &MappedFile| {
            let stamp = Stamp::lasting(&files::open_regular(file.path()).ok()?);
            stamp.filter(|now| file.opened() == Some(now))
        };
        self.tensors.mapped().iter().map(stamp).collect()
    }

    /// Its generation_config.json, or what a GGUF's metadata say in that form, as far as `T` reads it; none where there
    /// is none.
    ///
    /// # Errors
    /// It cannot be read, or is not what `T` expects.
    pub fn generation_config<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.opened.settings(GENERATION_CONFIG)
    }

    /// Its tokenizer_config.json, likewise.
    ///
    /// # Errors
    /// It cannot be read, or is not what `T` expects.
    pub fn tokenizer_config<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.opened.settings(TOKENIZER_CONFIG)
    }

    /// Its text model's tensors, by the names that they have where that stands alone.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    pub(crate) fn tensors_mut(&mut self) -> &mut Tensors {
        &mut self.tensors
    }
}

/// The file that transformers may read in place of tokenizer.json, by a tokenizer_config.json: of those whose names
/// hold `tokenizer.VERSION.json` the newest that is not newer than itself.
pub fn other_tokenizer(tokenizer_config: &Map<String, Value>) -> Option<&str> {
    let files = tokenizer_config.get("fast_tokenizer_files")?.as_array()?;
    files.iter().filter_map(Value::as_str).find(|name| *name != TOKENIZER)
}

/// Lower-case hex SHA-256.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as lower-case hex, two digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
