//! A checkpoint's tensors: where each lies, and its values as the file stores them.

use super::gguf::header::TensorInfo;
use super::gguf::{GgufCheckpoint, GgufFile};
use super::header::TensorEntry;
use super::index::Unindexed;
use super::kind::what_to_do_without_safetensors;
use super::map::MappedFile;
use super::names::{Meaning, Names};
use super::opened::Opened;
use super::quantization::{Method, Quantization, Scheme};
use super::shard::Shard;
use super::stand_in::StandIn;
use super::walk;
use super::weight_names::WeightNames;
use crate::error::{Error, Result};
use crate::files;
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All tensors of a checkpoint by name.
#[derive(Debug)]
pub struct Tensors {
    root: PathBuf,
    entries: BTreeMap<String, Entry>,
    /// Names of tensors that no part of the config's model has: see [`Tensors::named`].
    unknown: Vec<String>,
    backing: Backing,
    /// What the config says of how weights are packed.
    quantization: Result<Option<Arc<Quantization>>>,
}

#[derive(Debug)]
enum Backing {
    Safetensors(Vec<MappedFile>),
    /// Under Hugging Face's names.
    Gguf(Arc<GgufCheckpoint>),
    /// Under its own names.
    GgufFile(Arc<GgufFile>),
}

/// What is known of a tensor without reading its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The element type; for a GGUF F32, what its blocks are widened to.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Its name in the file, where that is another: see [`Tensors::named`].
    pub stored_as: Option<String>,
    /// Index of the shard in [`Tensors::files`], and the absolute byte range within it; none for a GGUF, whose tensors
    /// are not stored as they are read.
    pub place: Option<(usize, Range<u64>)>,
}

impl Opened {
    /// The tensors of a folder by their names in its files: those of `model.safetensors`, else of the shards that the
    /// index names, as transformers does, else of numbered shards that are all there, as vLLM does. Those of a GGUF, as
    /// they are stored.
    ///
    /// # Errors
    /// There are none, a shard is missing, or a header breaks the format.
    pub fn tensors(&self) -> Result<Tensors> {
        match self.gguf_file()? {
            None => Tensors::of_folder(self),
            Some(file) => file.sound().map(|()| Tensors::of_gguf_file(file.clone())),
        }
    }

    /// As [`Opened::tensors`]; of a folder that holds no weights of its own but those of several models, all of them, with
    /// the folder of each before its name.
    ///
    /// # Errors
    /// As there.
    pub fn all_tensors(&self) -> Result<Tensors> {
        match self.tensors() {
            Err(error) if !self.is_file() && !WeightNames::is_there(self.root()) => Tensors::of_all(self)?.ok_or(error),
            tensors => tensors,
        }
    }

    /// The tensors of a folder's text model, by their names where that stands alone.
    ///
    /// # Errors
    /// As [`Opened::tensors`]; the config cannot be read, or two stored tensors end at one name.
    pub fn text_tensors(&self) -> Result<Tensors> {
        self.folder()?;
        self.tensors()?.named(&self.names()?)
    }

    /// Its tensors by the names that transformers gives them: of a GGUF decoded, of a folder the text model's.
    ///
    /// # Errors
    /// As [`Opened::gguf`] and [`Opened::text_tensors`].
    pub fn named_tensors(&self) -> Result<Tensors> {
        self.gguf()?.map_or_else(|| self.text_tensors(), |gguf| Ok(Tensors::from_gguf(gguf.clone())))
    }
}

impl Tensors {
    /// The safetensors of a model folder: `model.safetensors`, else the shards that the index names, as
    /// transformers does, else numbered shards that are all there, as vLLM does.
    ///
    /// # Errors
    /// There are none, a shard is missing, or a header breaks the format.
    fn of_folder(opened: &Opened) -> Result<Tensors> {
        let (root, names) = (opened.base(), opened.weight_names());
        if root.join(&names.single).exists() {
            return Tensors::of_files(opened, &[names.single.as_str()]);
        }
        let Some(index_file) = opened.index()? else { return Tensors::unindexed(opened) };
        let (index, weight_map) = (root.join(&names.index), index_file.weight_map()?);
        let shards: BTreeSet<&str> = weight_map.values().copied().collect();
        for shard in &shards {
            if !root.join(shard).exists() {
                let problem = format!("names the shard {shard}, which is missing; fetch the checkpoint again");
                return Err(Error::file(&index, problem));
            }
        }
        let tensors = Tensors::of_files(opened, &shards.into_iter().collect::<Vec<_>>())?;
        for (name, shard) in &weight_map {
            let found = tensors.entries.get(*name).and_then(|e| e.place.as_ref()).map(|p| tensors.files()[p.0].path());
            if found != Some(root.join(shard).as_path()) {
                let problem = format!("the index puts it into {shard}, which does not hold it");
                return Err(Error::tensor(&index, *name, problem));
            }
        }
        for name in tensors.entries.keys().filter(|n| !weight_map.contains_key(n.as_str())) {
            tracing::warn!("{}: tensor {name} lies in a shard but is not in the index", root.display());
        }
        Ok(tensors)
    }

    fn unindexed(opened: &Opened) -> Result<Tensors> {
        let root = opened.root();
        let names = files::names_in(root);
        match Unindexed::of(names.iter().map(String::as_str)) {
            Unindexed::Whole(shards) => {
                Tensors::of_files(opened, &shards.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Unindexed::Lacking(missing) => {
                let problem = format!("the shard {} is missing; fetch the checkpoint again", missing.join(", "));
                Err(Error::file(root, problem))
            }
            Unindexed::None => Err(Error::file(root, what_to_do_without_safetensors(&names))),
        }
    }

    fn of_files(opened: &Opened, names: &[&str]) -> Result<Tensors> {
        let mut entries = BTreeMap::new();
        let mut files: Vec<MappedFile> = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            let shard = opened.shard(&opened.base().join(name))?;
            files.push(shard.file().clone());
            for TensorEntry { name, dtype, shape, bytes } in shard.sound_header()?.tensors.iter().cloned() {
                let entry = Entry { dtype, shape, stored_as: None, place: Some((at, bytes)) };
                if let Some(Entry { place: Some((first, _)), .. }) = entries.insert(name.clone(), entry) {
                    let problem = format!("is also in {}; remove one of the two", files[first].path().display());
                    return Err(Error::tensor(files[at].path(), name, problem));
                }
            }
        }
        Ok(Tensors {
            root: opened.root().into(),
            entries,
            unknown: Vec::new(),
            backing: Backing::Safetensors(files),
            quantization: opened.quantization(),
        })
    }

    /// Those of every safetensors file in a folder and the folders in it; none where there are none. Of files of one folder
    /// that hold the same name each has its own before it.
    fn of_all(opened: &Opened) -> Result<Option<Tensors>> {
        let root = opened.root();
        let files: Vec<String> = walk::walk(root, &|path| walk::is_left_out(root, path))?
            .into_iter()
            .map(|entry| entry.path)
            .filter(|path| path.ends_with(".safetensors"))
            .collect();
        let (mut found, mut maps) = (Vec::new(), Vec::with_capacity(files.len()));
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            let shard = opened.shard(&root.join(file))?;
            let folder = file.rfind('/').map_or("", |end| &file[..=end]);
            for TensorEntry { name, dtype, shape, bytes } in shard.sound_header()?.tensors.iter().cloned() {
                let whole = format!("{folder}{name}");
                *counts.entry(whole.clone()).or_default() += 1;
                found.push((whole, Entry { dtype, shape, stored_as: Some(name), place: Some((at, bytes)) }));
            }
            maps.push(shard.file().clone());
        }
        let named = |(whole, entry): (String, Entry)| {
            let file = entry.place.as_ref().and_then(|(at, _)| files.get(*at));
            let own = || Some(format!("{}/{}", file?, entry.stored_as.as_ref()?));
            let is_one = counts.get(&whole) == Some(&1);
            (own().filter(|_| !is_one).unwrap_or(whole), entry)
        };
        let entries: BTreeMap<String, Entry> = found.into_iter().map(named).collect();
        let (root, quantization) = (root.to_owned(), Ok(None));
        let tensors = Tensors { root, entries, unknown: Vec::new(), backing: Backing::Safetensors(maps), quantization };
        Ok((!files.is_empty()).then_some(tensors))
    }

    /// The tensors of files of a folder, broken ones too, as far as their bytes are there: of two of one name the first.
    pub fn of_shards<'s>(opened: &Opened, shards: impl Iterator<Item = &'s Shard>) -> Tensors {
        let (mut entries, mut files) = (BTreeMap::new(), Vec::new());
        for shard in shards {
            for tensor in shard.header().tensors.iter().filter(|tensor| shard.bytes(tensor).is_some()) {
                let TensorEntry { name, dtype, shape, bytes } = tensor.clone();
                let entry = Entry { dtype, shape, stored_as: None, place: Some((files.len(), bytes)) };
                entries.entry(name).or_insert(entry);
            }
            files.push(shard.file().clone());
        }
        Tensors {
            root: opened.root().into(),
            entries,
            unknown: Vec::new(),
            backing: Backing::Safetensors(files),
            quantization: opened.quantization(),
        }
    }

    /// The tensors of a GGUF under their Hugging Face names.
    pub(super) fn from_gguf(gguf: Arc<GgufCheckpoint>) -> Tensors {
        let entries = gguf
            .tensors()
            .map(|(name, shape)| {
                (name.to_owned(), Entry { dtype: Dtype::F32, shape: shape.to_vec(), stored_as: None, place: None })
            })
            .collect();
        let (root, backing) = (gguf.path().to_owned(), Backing::Gguf(gguf));
        Tensors { root, entries, unknown: Vec::new(), backing, quantization: Ok(None) }
    }

    /// The tensors of a GGUF under its own names, as they are stored.
    pub(super) fn of_gguf_file(file: Arc<GgufFile>) -> Tensors {
        let entry = |(name, info): (&str, &TensorInfo)| {
            let (dtype, shape) = info.stored();
            let place = Some((info.part, info.bytes.start as u64..info.bytes.end as u64));
            (name.to_owned(), Entry { dtype, shape, stored_as: None, place })
        };
        let (root, entries) = (file.path().to_owned(), file.tensors().map(entry).collect());
        Tensors { root, entries, unknown: Vec::new(), backing: Backing::GgufFile(file), quantization: Ok(None) }
    }

    /// Names the tensors as those of a text model alone (`language_model.model.norm.weight` of a multimodal checkpoint
    /// becomes `model.norm.weight`) and keeps only these.
    ///
    /// # Errors
    /// Two stored tensors end at one name.
    pub fn named(mut self, names: &Names) -> Result<Tensors> {
        for (stored, entry) in std::mem::take(&mut self.entries) {
            let name = match names.meaning(&stored) {
                Meaning::Text(name) => name,
                Meaning::OtherPart(_) => continue,
                Meaning::Unknown => {
                    self.unknown.push(stored);
                    continue;
                }
            };
            let first = self.entries.get(&name).map(|first| first.stored_as.as_deref().unwrap_or(&name));
            if let Some(first) = first {
                let problem =
                    format!("is the same weight as {first}: loaders differ in which of the two they take; remove one");
                return Err(Error::tensor(&self.root, stored, problem));
            }
            let stored_as = (name != stored).then_some(stored);
            self.entries.insert(name, Entry { stored_as, ..entry });
        }
        Ok(self)
    }

    /// Names of tensors, as stored, that no part of the model is known to have.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// Calls the tensors of module `from` those of `to`.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let of_module = |name: &&String| name.strip_prefix(from).is_some_and(|rest| rest.starts_with('.'));
        let names: Vec<String> = self.entries.keys().filter(of_module).cloned().collect();
        for name in names {
            let Some(entry) = self.entries.remove(&name) else { continue };
            let renamed = format!("{to}{}", &name[from.len()..]);
            let stored_as = entry.stored_as.clone().unwrap_or(name);
            self.entries.insert(renamed, Entry { stored_as: Some(stored_as), ..entry });
        }
    }

    /// The name of a tensor in the file.
    pub fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.entries.get(name).and_then(|e| e.stored_as.as_deref()).unwrap_or(name)
    }

    /// The folder or the .gguf file.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names and entries in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The entry of a tensor, if there is such a tensor.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Refuses files that are mostly holes, as [`StandIn::refuse_holes`], before they are read as zeros.
    ///
    /// # Errors
    /// One of them is, or cannot be opened.
    pub fn refuse_holes(&self) -> Result<()> {
        let mut paths = self.files().iter().map(MappedFile::path);
        paths.try_for_each(|path| StandIn::refuse_holes(&files::open_regular(path)?, path))
    }

    /// Puts other bytes at offsets of files, by their names, in memory alone. Of a GGUF nothing changes.
    ///
    /// # Errors
    /// As [`MappedFile::with_bytes`].
    pub(super) fn change(&mut self, changes: &[(&str, u64, &[u8])]) -> Result<()> {
        let Backing::Safetensors(files) = &mut self.backing else { return Ok(()) };
        for file in files {
            let of_file = |(name, at, bytes): &(&str, u64, _)| {
                file.path().file_name().is_some_and(|of| of == *name).then_some((*at, *bytes))
            };
            let mut own = changes.iter().filter_map(of_file).peekable();
            if own.peek().is_some() {
                *file = file.with_bytes(own)?;
            }
        }
        Ok(())
    }

    /// The mapped safetensors files; none for a GGUF.
    pub fn files(&self) -> &[MappedFile] {
        match &self.backing {
            Backing::Safetensors(files) => files,
            Backing::GgufFile(file) => file.maps(),
            Backing::Gguf(_) => &[],
        }
    }

    /// All files that the values lie in.
    pub fn mapped(&self) -> &[MappedFile] {
        match &self.backing {
            Backing::Safetensors(files) => files,
            Backing::GgufFile(file) => file.maps(),
            Backing::Gguf(gguf) => gguf.file().maps(),
        }
    }

    /// The bytes of a tensor as the file stores them; none for a GGUF, or where there is no such tensor.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (file, range) = self.entries.get(name)?.place.as_ref()?;
        self.files().get(*file)?.bytes().get(range.start as usize..range.end as usize)
    }

    /// What packed the weights, by the config.
    pub(super) fn method(&self) -> Option<&Method> {
        Some(&self.quantization.as_ref().ok()?.as_ref()?.method)
    }

    /// Why no packed weight is read: what the config says of how they are packed is not known, or cannot be.
    pub(super) fn refusal(&self) -> Option<String> {
        match &self.quantization {
            Ok(settings) => settings.as_ref()?.refusal().map(|why| format!("is {why}")),
            Err(e) => Some(format!("cannot be read: {e}")),
        }
    }

    /// How the config says that a module's weights are packed. The error is what is wrong with what it says.
    pub(super) fn scheme(&self, module: &str) -> std::result::Result<Scheme, String> {
        match &self.quantization {
            Ok(settings) => Ok(settings.as_ref().map(|of| of.scheme(module)).unwrap_or_default()),
            Err(e) => Err(format!("cannot be read: {e}")),
        }
    }

    /// A tensor's entry, and its name as kept here.
    pub(super) fn entry(&self, name: &str) -> Option<(&str, &Entry)> {
        self.entries.get_key_value(name).map(|(name, entry)| (name.as_str(), entry))
    }

    /// The GGUF, where it is one.
    pub(super) fn gguf(&self) -> Option<&GgufCheckpoint> {
        match &self.backing {
            Backing::Gguf(gguf) => Some(gguf),
            Backing::Safetensors(_) | Backing::GgufFile(_) => None,
        }
    }

    /// The GGUF, where its tensors have its own names.
    pub(super) fn gguf_file(&self) -> Option<&GgufFile> {
        match &self.backing {
            Backing::GgufFile(file) => Some(file),
            Backing::Safetensors(_) | Backing::Gguf(_) => None,
        }
    }
}
