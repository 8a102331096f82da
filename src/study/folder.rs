//! The folder that results go to, and what of it need not be measured again.

use super::{Context, STUDIES, Study, StudyReport};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::files;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The largest result that is read, in bytes.
const LARGEST: u64 = 256 << 20;

/// A folder of results.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it, where it is not there.
    ///
    /// # Errors
    /// It cannot be made, or is no folder.
    pub fn open(path: &Path) -> Result<Folder> {
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        Ok(Folder(path.into()))
    }

    /// The study's result, where it is of the context's model, by this version with the same settings, and younger than
    /// every file of the model.
    ///
    /// # Errors
    /// A file of the model cannot be seen.
    pub fn holds(&self, study: &Study, context: &Context) -> Result<Option<Document<StudyReport>>> {
        let path = self.0.join(format!("{}.json", study.name));
        let Ok(written) = std::fs::metadata(&path).and_then(|meta| meta.modified()) else { return Ok(None) };
        // What cannot be read is measured again.
        let Some(found) = files::read_text(&path, LARGEST).ok().and_then(|text| serde_json::from_str(&text).ok())
        else {
            return Ok(None);
        };
        let found: Document<StudyReport> = found;
        let model = context.model();
        let same = found.tool == crate::tool::Tool::this()
            && found.model == model.identity().or_no_hub()
            && found.settings == context.settings()
            && youngest(model.checkpoint().root())? < written;
        Ok(same.then_some(found))
    }

    /// All results of the context's model and settings that it holds, in the order of [`STUDIES`].
    ///
    /// # Errors
    /// As [`Folder::holds`].
    pub fn all(&self, context: &Context) -> Result<Vec<Document<StudyReport>>> {
        STUDIES.iter().filter_map(|study| self.holds(study, context).transpose()).collect()
    }

    /// Writes files, each whole or not at all, in this order.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write(&self, files: &[(String, String)]) -> Result<()> {
        files.iter().try_for_each(|(name, text)| files::write_whole(&self.0.join(name), text.as_bytes()))
    }
}

/// When the youngest file of a model was changed.
fn youngest(root: &Path) -> Result<SystemTime> {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).map_err(Error::io(path));
    if !root.is_dir() {
        return modified(root);
    }
    let mut latest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(root).map_err(Error::io(root))? {
        latest = latest.max(modified(&entry.map_err(Error::io(root))?.path())?);
    }
    Ok(latest)
}
