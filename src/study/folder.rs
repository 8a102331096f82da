//! The folder that results go to, and what of it need not be measured again.

use super::{Context, STUDIES, Study, StudyReport, Table};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::files;
use std::path::{Path, PathBuf};

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
        match std::fs::metadata(path) {
            Ok(there) if !there.is_dir() => {
                Err(Error::file(path, "expected a folder for results; choose another name"))
            }
            _ => std::fs::create_dir_all(path).map_err(Error::io(path)),
        }?;
        Ok(Folder(path.into()))
    }

    /// The study's result, where it is of the context's model, by this version with the same settings, and younger than
    /// every file of the model.
    ///
    /// # Errors
    /// A file of the model cannot be seen.
    pub fn holds(&self, study: &Study, context: &Context) -> Result<Option<Document<StudyReport>>> {
        Ok(self.result(study, context)?.filter(|found| found.settings == context.settings(study)))
    }

    /// The same with whatever settings.
    ///
    /// # Errors
    /// As [`Folder::holds`].
    pub fn result(&self, study: &Study, context: &Context) -> Result<Option<Document<StudyReport>>> {
        let path = self.0.join(format!("{}.json", study.name));
        let written = std::fs::metadata(&path).ok().and_then(|meta| files::Stamp::of(&meta));
        let Some(written) = written.map(|stamp| stamp.last_change()) else { return Ok(None) };
        // What cannot be read is measured again.
        let Some(found) = files::read_text(&path, LARGEST).ok().and_then(|text| serde_json::from_str(&text).ok())
        else {
            return Ok(None);
        };
        let found: Document<StudyReport> = found;
        let model = context.model();
        let mut tables = found.result.outcome.tables.iter().chain(&found.result.paper);
        let same = found.tool == crate::tool::Tool::this()
            && found.model == context.identity()
            && tables.all(Table::is_whole)
            && youngest(model.checkpoint().root())? < written;
        if !same {
            return Ok(None);
        }
        // Other models that it is of.
        for variant in found.settings.variants.iter().map(Path::new).filter(|variant| variant.exists()) {
            if youngest(variant)? >= written {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// All results of the context's model that it holds, each with its own settings, in the order of [`STUDIES`].
    ///
    /// # Errors
    /// As [`Folder::holds`].
    pub fn all(&self, context: &Context) -> Result<Vec<Document<StudyReport>>> {
        STUDIES.iter().filter_map(|study| self.result(study, context).transpose()).collect()
    }

    /// Writes files, each whole or not at all, in this order.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write(&self, files: &[(String, String)]) -> Result<()> {
        files.iter().try_for_each(|(name, text)| files::write_whole(&self.0.join(name), text.as_bytes()))
    }
}

/// When the youngest file of a model, or a link to it, was changed or put there. Folders within it do not count: results
/// may be written to them.
fn youngest(root: &Path) -> Result<u128> {
    let mut paths = vec![root.to_owned()];
    if root.is_dir() {
        let entries = std::fs::read_dir(root).map_err(Error::io(root))?;
        paths.extend(
            entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(Error::io(root))?,
        );
    }
    let mut latest = 0;
    for path in &paths {
        for meta in [std::fs::symlink_metadata(path), std::fs::metadata(path)] {
            let meta = meta.map_err(Error::io(path))?;
            if !meta.is_dir() {
                latest = latest.max(files::Stamp::of(&meta).map_or(u128::MAX, |stamp| stamp.last_change()));
            }
        }
    }
    Ok(latest)
}
