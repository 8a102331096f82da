//! Whether what is examined stays as it is meanwhile. A scan looks at files more than once: what its parts saw is one
//! checkpoint's only if none of them changed in between.

use crate::checkpoint::walk::{is_left_out, walk};
use crate::error::{Error, Result};
use crate::files::Stamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model's file, or all files of its folder, as they were.
pub struct Unchanged {
    place: PathBuf,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

impl Unchanged {
    /// # Errors
    /// A folder cannot be read.
    pub fn since_now(place: &Path) -> Result<Unchanged> {
        let paths = match place.is_dir() {
            true => walk(place, &|path| is_left_out(place, path))?.into_iter().map(|e| place.join(e.path)).collect(),
            false => vec![place.to_owned()],
        };
        let stamp = |path: &Path| std::fs::metadata(path).ok().and_then(|about| Stamp::of(&about));
        let stamps = paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect();
        Ok(Unchanged { place: place.to_owned(), stamps })
    }

    /// # Errors
    /// A file changed, came or went.
    pub fn check(&self) -> Result<()> {
        let now = Unchanged::since_now(&self.place)?.stamps;
        let changed = self.stamps.iter().find(|(path, was)| now.get(*path) != Some(was)).map(|(path, _)| path);
        match changed.or_else(|| now.keys().find(|path| !self.stamps.contains_key(*path))) {
            None => Ok(()),
            Some(path) => {
                let problem = "was changed while the model was examined, so nothing is said of it; scan it again when \
                               nothing writes to it";
                Err(Error::file(path, problem))
            }
        }
    }
}
