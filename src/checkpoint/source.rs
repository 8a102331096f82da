//! What MODEL on the command line means.

use super::hub::{self, HubId, HubSettings, Origin};
use crate::error::{Error, Result};
use crate::progress::Progress;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// A folder in Hugging Face form.
    Directory(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A safetensors file.
    Safetensors(PathBuf),
    /// A hub repository.
    Hub(HubId),
}

impl Source {
    /// A path that exists is that path; `org/name[@revision]` is a hub id; anything else is an error.
    ///
    /// # Errors
    /// Nothing is there and it is not a hub id, or it is a file of another kind.
    pub fn find(model: &str) -> Result<Source> {
        let path = Path::new(model);
        if path.is_dir() {
            return Ok(Source::Directory(path.into()));
        }
        if path.exists() {
            let is_safetensors = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
            return match (is_gguf_name(path), is_safetensors) {
                (true, _) => Ok(Source::Gguf(path.into())),
                (_, true) => Ok(Source::Safetensors(path.into())),
                _ => Err(Error::file(path, "expected a model folder, a .gguf or a .safetensors file")),
            };
        }
        let looks_like_a_path = model.starts_with(['.', '/', '~']) || model.ends_with(['/', '\\']) || {
            let extension = path.extension().map(|e| e.to_ascii_lowercase());
            extension.is_some_and(|e| e == "gguf" || e == "safetensors")
        };
        match model.parse() {
            Ok(id) if !looks_like_a_path => Ok(Source::Hub(id)),
            _ => Err(Error::not_found(
                path,
                "no such file or folder; expected a model folder, a .gguf or .safetensors file or a hub id (org/name[@revision])",
            )),
        }
    }

    /// The folder that holds the files, fetched where it is on the hub.
    ///
    /// # Errors
    /// It is a file, or cannot be fetched, or only an earlier commit of it is at hand.
    pub fn folder(&self, progress: &dyn Progress) -> Result<Folder> {
        match self {
            Source::Hub(id) => hub::fetch(id, &HubSettings::from_env()?, progress)?.current().map(Folder::from),
            other => other.folder_at_hand(progress),
        }
    }

    /// As [`folder`](Source::folder); where the hub cannot be reached, of the commit that the cache has, and its origin
    /// says so. For those who tell what they did not examine.
    ///
    /// # Errors
    /// It is a file, or cannot be fetched.
    pub fn folder_at_hand(&self, progress: &dyn Progress) -> Result<Folder> {
        match self {
            Source::Directory(path) => Ok(Folder { path: path.clone(), origin: None, passing: None }),
            Source::Hub(id) => hub::fetch(id, &HubSettings::from_env()?, progress).map(Folder::from),
            Source::Gguf(path) | Source::Safetensors(path) => Err(Source::no_folder(path)),
        }
    }

    /// As [`folder_at_hand`](Source::folder_at_hand), with no more of the weights than their headers where the cache does
    /// not hold them.
    ///
    /// # Errors
    /// It is a file, or cannot be fetched.
    pub(super) fn headers_at_hand(&self, progress: &dyn Progress) -> Result<Folder> {
        match self {
            Source::Hub(id) => hub::fetch_headers(id, &HubSettings::from_env()?, progress).map(Folder::from),
            other => other.folder_at_hand(progress),
        }
    }

    pub(super) fn no_folder(file: &Path) -> Error {
        let problem = match file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            true => "is a GGUF; expected a model folder: make one with `achilles-audit import`",
            false => {
                "is a file of weights alone; expected a model folder with config.json, tokenizer.json and *.safetensors"
            }
        };
        Error::file(file, problem)
    }
}

/// Whether a file is a GGUF, by its name.
pub fn is_gguf_name(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// A model folder at hand, and where it came from.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The folder; of a hub repository, the snapshot in its cache.
    pub path: PathBuf,
    /// Which commit of a hub repository it is, if it is one.
    pub origin: Option<Origin>,
    /// The folder, where it goes with the last who holds this.
    pub(super) passing: Option<Arc<TempDir>>,
}

impl From<hub::Snapshot> for Folder {
    fn from(snapshot: hub::Snapshot) -> Folder {
        Folder { path: snapshot.folder, origin: Some(snapshot.origin), passing: snapshot.passing }
    }
}
