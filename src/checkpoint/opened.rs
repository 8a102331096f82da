//! A model's files, each opened and parsed once, whatever is wrong with them.

use super::config::ConfigFile;
use super::gguf::{GgufCheckpoint, GgufFile, parts};
use super::hub::Origin;
use super::index::IndexFile;
use super::kind;
use super::names::Names;
use super::quantization::{self, Quantization};
use super::shard::Shard;
use super::shards::OpenShards;
use super::source::{Folder, Source, is_gguf_name};
use super::stand_in::StandIn;
use super::weight_names::WeightNames;
use super::{CONFIG, GENERATION_CONFIG, LARGEST_NEEDED, TOKENIZER, TOKENIZER_CONFIG, other_tokenizer, python_json};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use tempfile::TempDir;

/// What a command opens once and hands to all that look at a model: its folder or GGUF file, of which each header,
/// config and other file of settings is read when it is first asked for, and kept. What is broken is kept too, as the
/// error that everybody gets who needs it; a [`Checkpoint`](super::Checkpoint) is what is sound.
#[derive(Debug)]
pub struct Opened {
    name: String,
    root: PathBuf,
    origin: Option<Origin>,
    /// None of a folder.
    gguf: Option<Gguf>,
    config: OnceLock<Result<Option<Arc<ConfigFile>>>>,
    quantization: OnceLock<Result<Option<Arc<Quantization>>>>,
    index: OnceLock<Result<Option<IndexFile>>>,
    tokenizer: OnceLock<Result<Option<String>>>,
    settings: Mutex<HashMap<String, Result<Option<Arc<Value>>>>>,
    shards: Arc<OpenShards>,
    /// What its config is called; none of what has none.
    config_name: Option<&'static str>,
    weight_names: OnceLock<WeightNames>,
    /// It is a single safetensors file.
    is_lone: bool,
    /// The folder, where it goes when nobody looks at it any more.
    _passing: Option<Arc<TempDir>>,
}

/// A GGUF: the file, whatever it breaks, and the model that it is where it is sound and of a known family.
#[derive(Debug, Default)]
struct Gguf {
    file: OnceLock<Result<Arc<GgufFile>>>,
    model: OnceLock<Result<Arc<GgufCheckpoint>>>,
}

impl Opened {
    /// Finds MODEL: a directory, a .gguf file or a hub id (`org/name[@revision]`).
    ///
    /// # Errors
    /// There is no such model, or it cannot be fetched, or only an earlier commit of it is at hand.
    pub fn open(model: &str, progress: &dyn Progress) -> Result<Opened> {
        Opened::found(model, |source| source.folder(progress))
    }

    /// As [`Opened::open`]; where the hub cannot be reached, the commit that the cache has, and its origin says so. For
    /// those who tell what they did not examine.
    ///
    /// # Errors
    /// There is no such model, or it cannot be fetched.
    pub fn open_at_hand(model: &str, progress: &dyn Progress) -> Result<Opened> {
        Opened::found(model, |source| source.folder_at_hand(progress))
    }

    /// As [`Opened::open_at_hand`]; of a hub repository that the cache does not hold, the weights' headers alone, and its
    /// origin says of which files.
    ///
    /// # Errors
    /// There is no such model, or it cannot be fetched.
    pub fn open_headers(model: &str, progress: &dyn Progress) -> Result<Opened> {
        Opened::found(model, |source| source.headers_at_hand(progress))
    }

    fn found(model: &str, folder: impl FnOnce(&Source) -> Result<Folder>) -> Result<Opened> {
        match Source::find(model)? {
            Source::Gguf(path) => Ok(Opened { gguf: Some(Gguf::default()), ..Opened::new(model, path, None) }),
            Source::Safetensors(path) => Ok(Opened { is_lone: true, ..Opened::new(model, path, None) }),
            source => folder(&source).map(|Folder { path, origin, passing }| Opened {
                _passing: passing,
                ..Opened::new(model, path, origin)
            }),
        }
    }

    /// What lies in a model folder, of which nothing is read yet.
    pub fn folder_at(path: &Path) -> Opened {
        Opened::new(&path.to_string_lossy(), path.to_owned(), None)
    }

    /// A model folder or a .gguf file, of which nothing is read yet.
    pub fn at(path: &Path) -> Opened {
        let gguf = (is_gguf_name(path) && !path.is_dir()).then(Gguf::default);
        Opened { gguf, ..Opened::folder_at(path) }
    }

    /// A checkpoint of its own within what was opened, whose files of weights stay open for both: that of `folder` whose
    /// config and weights are called so.
    pub fn part(&self, folder: &Path, config_name: Option<&'static str>, weights: WeightNames) -> Opened {
        let part = Opened::folder_at(folder);
        Opened { shards: self.shards.clone(), config_name, weight_names: OnceLock::from(weights), ..part }
    }

    /// The same by another name.
    #[cfg(test)]
    pub(crate) fn called(self, name: &str) -> Opened {
        Opened { name: name.into(), ..self }
    }

    fn new(name: &str, root: PathBuf, origin: Option<Origin>) -> Opened {
        Opened {
            name: name.into(),
            root,
            origin,
            gguf: None,
            config: OnceLock::new(),
            quantization: OnceLock::new(),
            index: OnceLock::new(),
            tokenizer: OnceLock::new(),
            settings: Mutex::default(),
            shards: Arc::default(),
            config_name: Some(CONFIG),
            weight_names: OnceLock::new(),
            is_lone: false,
            _passing: None,
        }
    }

    /// What the user called it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the model lies: the folder, or the .gguf file.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Which commit of a hub repository it is, if it is one.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Whether it is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    /// Whether it is one file (or what one was split into), and no folder.
    pub fn is_file(&self) -> bool {
        self.is_gguf() || self.is_lone
    }

    /// The folder, for what is done with folders alone.
    ///
    /// # Errors
    /// It is a file.
    pub fn folder(&self) -> Result<&Path> {
        if self.is_file() { Err(Source::no_folder(&self.root)) } else { Ok(&self.root) }
    }

    /// What its files of weights are called.
    pub fn weight_names(&self) -> &WeightNames {
        self.weight_names.get_or_init(|| match self.is_lone {
            true => WeightNames { single: files::name_of(&self.root), index: String::new() },
            false => WeightNames::of_folder(files::names_in(&self.root).iter().map(String::as_str)),
        })
    }

    /// What the GGUF holds; none of a folder.
    ///
    /// # Errors
    /// It cannot be read as a model.
    pub fn gguf(&self) -> Result<Option<&Arc<GgufCheckpoint>>> {
        let Some(gguf) = &self.gguf else { return Ok(None) };
        let read = || GgufCheckpoint::of(self.needed_gguf_file()?.clone()).map(Arc::new);
        kept(gguf.model.get_or_init(read)).map(Some)
    }

    /// The GGUF file, whatever it breaks and whatever family it holds; none of a folder.
    ///
    /// # Errors
    /// It cannot be read, or its header cannot be followed.
    pub fn gguf_file(&self) -> Result<Option<&Arc<GgufFile>>> {
        self.gguf.as_ref().map(|_| self.needed_gguf_file()).transpose()
    }

    fn needed_gguf_file(&self) -> Result<&Arc<GgufFile>> {
        let gguf = self.gguf.as_ref().ok_or_else(|| Error::file(&self.root, "is a folder, expected a GGUF"))?;
        kept(gguf.file.get_or_init(|| GgufFile::examine(&self.root).map(Arc::new)))
    }

    /// The folder that paths of its files are told from: that of a file is the one that it lies in.
    pub fn base(&self) -> &Path {
        if self.is_file() { self.root.parent().unwrap_or(Path::new("")) } else { &self.root }
    }

    /// The folder, or the file with those that it was split into.
    pub fn places(&self) -> Vec<PathBuf> {
        if self.is_gguf() { parts::paths(&self.root) } else { vec![self.root.clone()] }
    }

    /// Its config.json, or what a GGUF's metadata say in that form; none where there is none.
    ///
    /// # Errors
    /// It cannot be read or is not a JSON object.
    pub fn config(&self) -> Result<Option<&Arc<ConfigFile>>> {
        let read = || match self.gguf()? {
            Some(gguf) => Ok(Some(Arc::new(ConfigFile::from_map(&self.root, gguf.config().clone())))),
            None => match self.config_name {
                Some(name) => self.if_there(name, |path| ConfigFile::read(path).map(Arc::new)),
                None => Ok(None),
            },
        };
        kept(self.config.get_or_init(read)).map(Option::as_ref)
    }

    /// As [`Opened::config`], for what cannot do without one.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn needed_config(&self) -> Result<&Arc<ConfigFile>> {
        self.config()?.ok_or_else(|| Error::file(&self.root, kind::without_config(&self.root)))
    }

    /// What the names of its tensors mean: as the config has it; without one, those of a text model.
    ///
    /// # Errors
    /// The config cannot be read.
    pub fn names(&self) -> Result<Names> {
        Ok(self.config()?.map(|config| Names::of(config)).unwrap_or_default())
    }

    /// What its config says of how weights are packed, or a file beside it that quantizers write; none where nothing does.
    ///
    /// # Errors
    /// The config cannot be read, or what it says cannot be.
    pub fn quantization(&self) -> Result<Option<Arc<Quantization>>> {
        let read = || {
            let of_config = self.config()?.map(|config| Quantization::read(config)).transpose()?.flatten();
            if of_config.is_some() || self.is_gguf() {
                return Ok(of_config.map(Arc::new));
            }
            let beside = quantization::FILES.iter().map(|name| self.root.join(name)).find(|path| path.exists());
            beside.map(|path| Quantization::of_file(&ConfigFile::read(&path)?).map(Arc::new)).transpose()
        };
        self.quantization.get_or_init(read).clone()
    }

    /// The folder's index of shards; none where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn index(&self) -> Result<Option<&IndexFile>> {
        let read = || self.if_there(&self.weight_names().index, IndexFile::read);
        kept(self.index.get_or_init(read)).map(Option::as_ref)
    }

    /// A safetensors file of the folder. One that has several names is mapped and parsed once, unless it changed since.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn shard(&self, path: &Path) -> Result<Shard> {
        self.shard_of(&files::open_regular(path)?, path)
    }

    /// As [`Opened::shard`], of a file that is open; it then stands at its beginning.
    pub(crate) fn shard_of(&self, file: &File, path: &Path) -> Result<Shard> {
        self.shards.of(file, path, self.only_header(path))
    }

    /// The size of a file of weights on the hub, of which the header alone was fetched; none of all others.
    pub fn only_header(&self, path: &Path) -> Option<u64> {
        let origin = self.origin.as_ref()?;
        let path = path.strip_prefix(&self.root).ok()?;
        origin.headers.iter().find(|file| Path::new(&file.path) == path)?.bytes
    }

    /// Its tokenizer.json as it is written, or what a GGUF's metadata say in that form; none where there is none.
    ///
    /// # Errors
    /// It cannot be read or is no text.
    pub fn tokenizer_text(&self) -> Result<Option<&str>> {
        let read = || match self.gguf_file()? {
            Some(gguf) => gguf.tokenizer_json().map(|json| Some(json.to_string())),
            None => self.if_there(TOKENIZER, |path| files::read_text(path, LARGEST_NEEDED)),
        };
        kept(self.tokenizer.get_or_init(read)).map(Option::as_deref)
    }

    /// The tokenizer.json that loaders take.
    ///
    /// # Errors
    /// It has none, or loaders take another file, or it cannot be read.
    pub fn tokenizer_json(&self) -> Result<&str> {
        if self.is_gguf() {
            return Ok(self.tokenizer_text()?.unwrap_or_default());
        }
        let path = self.root.join(TOKENIZER);
        if !path.exists() {
            let problem = "no tokenizer.json in this folder; write it with transformers: \
                           AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
            return Err(Error::file(&self.root, problem));
        }
        let config: Option<Map<String, Value>> = self.settings(TOKENIZER_CONFIG)?;
        if let Some(other) = config.as_ref().and_then(other_tokenizer) {
            let problem = format!(
                "has the transformers library read {other} in place of tokenizer.json (fast_tokenizer_files); make that \
                 the tokenizer.json, or take the key out"
            );
            return Err(Error::file(self.root.join(TOKENIZER_CONFIG), problem));
        }
        let text = self.tokenizer_text()?.unwrap_or_default();
        match StandIn::of_text(text.as_bytes()) {
            Some(stand_in) => Err(Error::file(&path, stand_in.to_string())),
            None => Ok(text),
        }
    }

    /// A file of settings beside the config, such as tokenizer_config.json, as Python reads it, or what a GGUF's
    /// metadata say in that form; none where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is not what `T` expects.
    pub fn settings<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let mut all = self.settings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let value = match all.get(name) {
            Some(known) => known.clone(),
            None => all.entry(name.to_owned()).or_insert(self.read_settings(name)).clone(),
        };
        drop(all);
        let malformed = |e| match self.is_gguf() {
            true => Error::file(&self.root, format!("makes a malformed {name}: {e}")),
            false => Error::file(self.root.join(name), format!("is malformed: {e}")),
        };
        value?.map(|value| T::deserialize(&*value).map_err(malformed)).transpose()
    }

    fn read_settings(&self, name: &str) -> Result<Option<Arc<Value>>> {
        let value = match (self.gguf_file()?, name) {
            (None, _) => python_json::read(&self.root.join(name))?,
            (Some(gguf), GENERATION_CONFIG) => Some(gguf.generation_config_json()?),
            (Some(gguf), TOKENIZER_CONFIG) => Some(gguf.tokenizer_config_json()?),
            (Some(_), _) => None,
        };
        Ok(value.map(Arc::new))
    }

    /// What a file of the folder holds, if it is there.
    fn if_there<T>(&self, name: &str, read: impl FnOnce(&Path) -> Result<T>) -> Result<Option<T>> {
        let path = self.root.join(name);
        (!name.is_empty() && path.exists()).then(|| read(&path)).transpose()
    }
}

fn kept<T>(result: &Result<T>) -> Result<&T> {
    result.as_ref().map_err(Error::clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::index::SINGLE;

    const LLAMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama");

    #[test]
    fn a_file_of_two_names_is_parsed_once_and_anew_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [SINGLE, "other.safetensors"].map(|name| folder.path().join(name));
        std::fs::copy(Path::new(LLAMA).join(SINGLE), &one).unwrap();
        std::fs::hard_link(&one, &other).unwrap();
        let opened = Opened::folder_at(folder.path());
        let [first, again] = [&one, &other].map(|path| opened.shard(path).unwrap());
        assert!(std::ptr::eq(first.header(), again.header()));
        assert_eq!((first.file().path(), again.file().path()), (one.as_path(), other.as_path()));
        std::fs::write(&one, "Entry not found\n").unwrap();
        assert!(opened.shard(&other).unwrap().stand_in().is_some() && first.stand_in().is_none());
    }

    #[test]
    fn what_is_broken_is_the_error_of_those_who_need_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("config.json", "[]");
        write("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n");
        write("generation_config.json", "{");
        let opened = Opened::folder_at(folder.path());
        for _ in 0..2 {
            assert!(opened.config().unwrap_err().to_string().contains("is not a model config"));
            assert!(opened.tokenizer_text().unwrap().is_some() && opened.tokenizer_json().is_err());
            assert!(opened.settings::<Value>("generation_config.json").is_err());
            assert_eq!(opened.settings::<Value>("tokenizer_config.json").unwrap(), None);
            write("config.json", "{}");
        }
    }
}
