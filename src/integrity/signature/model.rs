//! A model as files: a folder, or a single file.

use crate::checkpoint::snapshot::Snapshot;
use crate::checkpoint::walk::{Entry, Kind, below, walk};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// What a model that is a single file is called in its signature.
pub(super) const SINGLE: &str = ".";

/// Where a model lies.
#[derive(Debug)]
pub(super) struct Model {
    root: PathBuf,
    single: bool,
    /// The last part of its path.
    pub(super) name: String,
}

impl Model {
    /// Finds a folder or a file.
    pub(super) fn open(path: &Path) -> Result<Model> {
        let root = match std::fs::canonicalize(path) {
            Ok(root) => root,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let problem = "no such file or folder; expected a model on this machine (one of the hub: first fetch \
                               it into a folder of its own)";
                return Err(Error::not_found(path, problem));
            }
            Err(e) => return Err(Error::io(path)(e)),
        };
        let about = std::fs::metadata(&root).map_err(Error::io(path))?;
        if !about.is_file() && !about.is_dir() {
            return Err(Error::file(path, "expected a model folder or a file, found a pipe or device"));
        }
        let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Model { root, single: about.is_file(), name })
    }

    /// Whether it is a file.
    pub(super) fn is_single(&self) -> bool {
        self.single
    }

    /// Its files, links and whatever else is there. A link of the Hugging Face cache to its own blob is a file.
    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        if self.single {
            let bytes = std::fs::metadata(&self.root).map_err(Error::io(&self.root))?.len();
            return Ok(vec![Entry { path: SINGLE.to_owned(), kind: Kind::File, bytes }]);
        }
        let mut entries = walk(&self.root, &|_| false)?;
        if let Some(snapshot) = Snapshot::of(&self.root) {
            for entry in entries.iter_mut().filter(|entry| entry.kind == Kind::Link) {
                let place = self.root.join(&entry.path);
                if snapshot.blob(&place).is_some() {
                    entry.kind = Kind::File;
                    entry.bytes = std::fs::metadata(&place).map_err(Error::io(&place))?.len();
                }
            }
        }
        Ok(entries)
    }

    /// Where an entry lies.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        if self.single { self.root.clone() } else { self.root.join(path) }
    }

    /// The path of `file`, which need not be there, below the model's folder; none where it lies elsewhere.
    pub(super) fn below(&self, file: &Path) -> Option<String> {
        below(&self.root, file).filter(|_| !self.single)
    }
}
