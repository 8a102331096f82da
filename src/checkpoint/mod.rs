//! What a model directory, a hub id or a GGUF file opens to: config, tokenizer, and tensors read from the map.

pub mod config;
pub mod gguf;
pub mod header;
pub mod hub;
pub mod index;
mod loose;
pub mod map;
pub mod names;
pub mod packing;
pub mod python_json;
pub mod snapshot;
pub mod source;
pub mod stand_in;
pub mod tensors;
pub mod walk;

use crate::error::{Error, Result};
use crate::files::{self, Stamp};
use crate::progress::Progress;
pub use config::ConfigFile;
use hub::Origin;
use map::MappedFile;
use names::Names;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
pub use source::{Folder, Source};
use stand_in::StandIn;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
pub use tensors::Tensors;

/// No tokenizer or index is larger, in bytes.
pub(crate) const LARGEST_NEEDED: u64 = 256 << 20;

/// The tokenizer, in a form that every library reads.
const TOKENIZER: &str = "tokenizer.json";

/// An opened checkpoint. Opening reads headers only; tensor values stay in the map until they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    root: PathBuf,
    origin: Option<Origin>,
    config: ConfigFile,
    /// Read when it is first asked for: what does without it is not to fail for it.
    tokenizer_json: OnceLock<String>,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens MODEL: a directory, a .gguf file or a hub id (`org/name[@revision]`).
    ///
    /// # Errors
    /// There is no such model, a file it needs is missing, or one breaks its format.
    pub fn open(model: &str, progress: &dyn Progress) -> Result<Checkpoint> {
        match Source::find(model)? {
            Source::Gguf(path) => Checkpoint::open_gguf(model, &path),
            source => Checkpoint::open_folder(model, &source.folder(progress)?),
        }
    }

    pub(crate) fn open_folder(name: &str, Folder { path: root, origin }: &Folder) -> Result<Checkpoint> {
        let config_path = root.join("config.json");
        if !config_path.exists() {
            let problem = "no config.json in this folder; expected a Hugging Face model folder with config.json, \
                           tokenizer.json and *.safetensors";
            return Err(Error::file(root, problem));
        }
        let config = ConfigFile::read(&config_path)?;
        let tensors = Tensors::open_directory(root)?.named(&Names::of(&config))?;
        let (name, origin) = (name.into(), origin.clone());
        Ok(Checkpoint { name, root: root.into(), origin, config, tokenizer_json: OnceLock::new(), tensors })
    }

    pub(crate) fn open_gguf(name: &str, path: &Path) -> Result<Checkpoint> {
        let gguf = gguf::GgufCheckpoint::open(path)?;
        let config = ConfigFile::from_map(path, gguf.config().clone());
        let tokenizer_json = gguf.tokenizer_json()?.to_string().into();
        Ok(Checkpoint {
            name: name.into(),
            root: path.into(),
            origin: None,
            config,
            tokenizer_json,
            tensors: Tensors::from_gguf(gguf),
        })
    }

    /// What the user called it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder or the .gguf file.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Which commit of a hub repository it is, if it is one.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
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
        if let Some(json) = self.tokenizer_json.get() {
            return Ok(json);
        }
        let path = self.root.join(TOKENIZER);
        if !path.exists() {
            let problem = "no tokenizer.json in this folder; write it with transformers: \
                           AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
            return Err(Error::file(&self.root, problem));
        }
        if let Some(other) =
            self.tokenizer_config::<Map<String, Value>>()?.and_then(|c| other_tokenizer(&c).map(str::to_owned))
        {
            let problem = format!(
                "has the transformers library read {other} in place of tokenizer.json (fast_tokenizer_files); make that \
                 the tokenizer.json, or take the key out"
            );
            return Err(Error::file(self.root.join("tokenizer_config.json"), problem));
        }
        let json = files::read_text(&path, LARGEST_NEEDED)?;
        if let Some(stand_in) = StandIn::of_text(json.as_bytes()) {
            return Err(Error::file(&path, stand_in.to_string()));
        }
        Ok(self.tokenizer_json.get_or_init(|| json))
    }

    /// SHA-256 over all that its answers depend on: every byte of the weights' files, the config and the tokenizer.
    ///
    /// # Errors
    /// It has no tokenizer.
    pub fn sha256(&self) -> Result<String> {
        let files = self.tensors.mapped().par_iter();
        let mut digests: Vec<[u8; 32]> = files.map(|file| Sha256::digest(file.bytes()).into()).collect();
        digests.push(Sha256::digest(self.config.sha256()).into());
        digests.push(Sha256::digest(self.tokenizer_json()?).into());
        Ok(sha256_hex(digests.as_flattened()))
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
        self.side_file("generation_config.json", gguf::GgufCheckpoint::generation_config_json)
    }

    /// Its tokenizer_config.json, likewise.
    ///
    /// # Errors
    /// It cannot be read, or is not what `T` expects.
    pub fn tokenizer_config<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.side_file("tokenizer_config.json", gguf::GgufCheckpoint::tokenizer_config_json)
    }

    fn side_file<T: DeserializeOwned>(
        &self,
        name: &str,
        of_gguf: fn(&gguf::GgufCheckpoint) -> Result<Value>,
    ) -> Result<Option<T>> {
        if self.root.is_file() {
            let value = of_gguf(&gguf::GgufCheckpoint::open(&self.root)?)?;
            let malformed = |e| Error::file(&self.root, format!("makes a malformed {name}: {e}"));
            return serde_json::from_value(value).map(Some).map_err(malformed);
        }
        python_json::read(&self.root.join(name))
    }

    /// Its tensors.
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

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
