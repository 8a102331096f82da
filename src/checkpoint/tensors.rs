//! A checkpoint's tensors: where each lies, and its values as the file stores them.

use super::gguf::GgufCheckpoint;
use super::header::Header;
use super::index::{INDEX, read_index};
use super::map::MappedFile;
use crate::error::{Error, Result};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The file name of a checkpoint that is one file.
pub const SINGLE: &str = "model.safetensors";

/// Where multimodal checkpoints keep their text model (transformers 4 and 5).
const TEXT_MODELS: &[&str] = &["language_model.model.", "model.language_model."];

/// All tensors of a checkpoint by name.
#[derive(Debug)]
pub struct Tensors {
    root: PathBuf,
    entries: BTreeMap<String, Entry>,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Safetensors(Vec<MappedFile>),
    Gguf(Box<GgufCheckpoint>),
}

/// What is known of a tensor without reading its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The element type; for a GGUF F32, what its blocks are widened to.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Its name in the file, where that is another: see [`Tensors::as_text_model`].
    pub stored_as: Option<String>,
    /// Index of the shard in [`Tensors::files`], and the absolute byte range within it; none for a GGUF, whose tensors
    /// are not stored as they are read.
    pub place: Option<(usize, Range<u64>)>,
}

/// Values of a tensor's rows.
#[derive(Debug)]
pub enum Values<'a> {
    /// Little-endian elements as the file holds them.
    Stored {
        /// Their type.
        dtype: Dtype,
        /// The bytes in the map.
        bytes: &'a [u8],
    },
    /// Dequantized elements.
    F32(Vec<f32>),
}

impl Tensors {
    /// Opens the safetensors of a model folder: `model.safetensors`, else the shards that the index names, as
    /// transformers does.
    ///
    /// # Errors
    /// There are none, a shard is missing, or a header breaks the format.
    pub fn open_directory(root: &Path) -> Result<Tensors> {
        let single = root.join(SINGLE);
        let index = root.join(INDEX);
        if single.exists() {
            return Tensors::open_files(root, vec![single]);
        }
        if !index.exists() {
            return Err(Error::file(root, what_to_do_without_safetensors(root)));
        }
        let weight_map = read_index(&index)?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in &shards {
            if !root.join(shard).exists() {
                let problem = format!("names the shard {shard}, which is missing; fetch the checkpoint again");
                return Err(Error::file(&index, problem));
            }
        }
        let tensors = Tensors::open_files(root, shards.iter().map(|s| root.join(s)).collect())?;
        for (name, shard) in &weight_map {
            let found = tensors.entries.get(name).and_then(|e| e.place.as_ref()).map(|p| tensors.files()[p.0].path());
            if found != Some(root.join(shard).as_path()) {
                let problem = format!("the index puts it into {shard}, which does not hold it");
                return Err(Error::tensor(&index, name, problem));
            }
        }
        for name in tensors.entries.keys().filter(|n| !weight_map.contains_key(*n)) {
            tracing::warn!("{}: tensor {name} lies in a shard but is not in the index", root.display());
        }
        Ok(tensors)
    }

    fn open_files(root: &Path, paths: Vec<PathBuf>) -> Result<Tensors> {
        let mut entries = BTreeMap::new();
        let mut files = Vec::with_capacity(paths.len());
        for (at, path) in paths.iter().enumerate() {
            let file = MappedFile::open(path)?;
            let header = Header::read(file.bytes()).map_err(|problem| Error::Header { path: path.clone(), problem })?;
            files.push(file);
            for t in header.tensors {
                let entry = Entry { dtype: t.dtype, shape: t.shape, stored_as: None, place: Some((at, t.bytes)) };
                if let Some(Entry { place: Some((first, _)), .. }) = entries.insert(t.name.clone(), entry) {
                    let problem = format!("is also in {}; remove one of the two", paths[first].display());
                    return Err(Error::tensor(path, t.name, problem));
                }
            }
        }
        Ok(Tensors { root: root.into(), entries, backing: Backing::Safetensors(files) })
    }

    /// The tensors of a GGUF under their Hugging Face names.
    pub fn from_gguf(gguf: GgufCheckpoint) -> Tensors {
        let entries = gguf
            .tensors()
            .map(|(name, shape)| {
                (name.to_owned(), Entry { dtype: Dtype::F32, shape: shape.to_vec(), stored_as: None, place: None })
            })
            .collect();
        Tensors { root: gguf.path().to_owned(), entries, backing: Backing::Gguf(Box::new(gguf)) }
    }

    /// Names the tensors of a multimodal checkpoint's text model as those of a text model alone:
    /// `language_model.model.norm.weight` becomes `model.norm.weight`. Without such tensors nothing changes.
    pub fn as_text_model(mut self) -> Tensors {
        let Some(prefix) = text_model_prefix(|name| self.entries.contains_key(name)) else { return self };
        let renamed = |name: &str| name_in_text_model(prefix, name);
        self.entries = std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(name, entry)| match renamed(&name) {
                Some(new) => (new, Entry { stored_as: Some(name), ..entry }),
                None => (name, entry),
            })
            .collect();
        self
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

    /// The mapped safetensors files; none for a GGUF.
    pub fn files(&self) -> &[MappedFile] {
        match &self.backing {
            Backing::Safetensors(files) => files,
            Backing::Gguf(_) => &[],
        }
    }

    /// All files that the values lie in.
    pub fn mapped(&self) -> &[MappedFile] {
        match &self.backing {
            Backing::Safetensors(files) => files,
            Backing::Gguf(gguf) => std::slice::from_ref(gguf.file().map()),
        }
    }

    /// The values of rows `rows` (of the first dimension; of the elements where there is one dimension only).
    ///
    /// # Errors
    /// There is no such tensor or no such rows.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Values<'_>> {
        let missing = || Error::tensor(&self.root, name, "is missing from the checkpoint");
        let entry = self.entries.get(name).ok_or_else(missing)?;
        let count = entry.shape.first().copied().unwrap_or(1);
        if rows.start > rows.end || rows.end > count {
            let problem = format!("has {count} rows, asked for {} to {}", rows.start, rows.end);
            return Err(Error::tensor(&self.root, name, problem));
        }
        match (&self.backing, &entry.place) {
            (Backing::Safetensors(files), Some((file, bytes))) => {
                let row_bytes = (bytes.end - bytes.start) as usize / count.max(1);
                let from = bytes.start as usize + rows.start * row_bytes;
                let bytes = files[*file].bytes().get(from..from + rows.len() * row_bytes).ok_or_else(missing)?;
                Ok(Values::Stored { dtype: entry.dtype, bytes })
            }
            (Backing::Gguf(gguf), _) => Ok(Values::F32(gguf.rows(name, rows)?)),
            _ => Err(missing()),
        }
    }
}

/// What the names of a multimodal checkpoint's text model begin with; none where it is a text model alone.
pub fn text_model_prefix(has: impl Fn(&str) -> bool) -> Option<&'static str> {
    TEXT_MODELS.iter().find(|p| has(&format!("{p}embed_tokens.weight"))).copied()
}

/// The name that a tensor of the text model would have if that stood alone; none where it is not one of its tensors.
pub fn name_in_text_model(prefix: &str, name: &str) -> Option<String> {
    match name.strip_prefix(prefix) {
        Some(rest) => Some(format!("model.{rest}")),
        None => name.strip_prefix("language_model.lm_head.").map(|rest| format!("lm_head.{rest}")),
    }
}

fn what_to_do_without_safetensors(root: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(root)
        .map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    let with = |ends: &[&str]| names.iter().find(|n| ends.iter().any(|end| n.ends_with(end)));
    if let Some(pickle) = with(&[".bin", ".pt", ".pth", ".pkl", ".ckpt"]) {
        return format!(
            "holds {pickle} but no {SINGLE}; pickle files can run code and are never read: convert with transformers' \
             save_pretrained"
        );
    }
    if let Some(gguf) = with(&[".gguf"]) {
        return format!(
            "holds {gguf} but no {SINGLE}; give that file itself, or convert it with `achilles-audit import`"
        );
    }
    format!("no weights in this folder; expected {SINGLE} or {INDEX} with its shards")
}
