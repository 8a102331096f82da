//! What a patch to a new place makes of which files: a folder of a folder, a file of a GGUF.

use super::Kept;
use super::carried::Carried;
use super::edit::Edit;
use super::plan::Plan;
use super::receipt::{Receipt, Record, undo_bytes};
use crate::checkpoint::source::is_gguf_name;
use crate::error::{Count, Error, Result};
use crate::files::{self, ModelFiles};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What is written.
pub(super) struct Target {
    /// The name of the one file; none of a folder.
    pub file: Option<String>,
    /// What is kept of the patch.
    pub kept: Kept,
}

impl Target {
    /// A folder of a model's folder or of the parts of a GGUF, else a file.
    ///
    /// # Errors
    /// `out` is there, or is not what the model is.
    pub fn of(plan: &Plan, out: &Path) -> Result<Target> {
        let target = Target::named(plan, out)?;
        match &target.file {
            None => files::check_new_folder(out)?,
            Some(file) => target.check_file(plan, file)?,
        }
        Ok(target)
    }

    fn named(plan: &Plan, out: &Path) -> Result<Target> {
        let original = Kept::of(&plan.root);
        if !original.is_of_gguf() {
            return Ok(Target { file: None, kept: Kept::of(out) });
        }
        let parts = original.parts();
        let is_file = is_gguf_name(out);
        if let [_, _, ..] = parts.as_slice() {
            if is_file {
                let problem = format!(
                    "is a file, and the model consists of {}, whose names say so; give a folder, in which they keep them",
                    Count(parts.len(), "part", "parts")
                );
                return Err(Error::file(out, problem));
            }
            let kept = Kept { folder: out.to_owned(), ..original };
            return Ok(Target { file: None, kept });
        }
        let kept = Kept::of(out);
        if !is_file || kept.parts().len() > 1 {
            let expected = "the model is one GGUF; give the name of a new .gguf file, which is not that of a part";
            return Err(Error::file(out, format!("is no name for it: {expected}")));
        }
        Ok(Target { file: kept.parts().pop(), kept })
    }

    /// Refuses a name that is taken. What a run that was killed left of the same patch, just before the model itself came
    /// there, is replaced.
    fn check_file(&self, plan: &Plan, file: &str) -> Result<()> {
        let kept = &self.kept;
        files::check_new_file(&kept.model)?;
        let without =
            |path| Error::file(path, format!("is there without its {file}; put that back, or move this file away"));
        let undo = kept.undo_path();
        if undo.symlink_metadata().is_ok() && files::read_regular(&undo)? != undo_bytes(&plan.edits) {
            return Err(without(undo));
        }
        let of_edit = |edit: &Edit| Record { file: file.to_owned(), ..Record::of(edit) };
        let edits: Vec<Record> = plan.edits.iter().map(of_edit).collect();
        match Receipt::read(&kept.model)? {
            Some(receipt) if receipt.edits != edits => Err(without(kept.receipt_path())),
            _ => Ok(()),
        }
    }

    /// What a file of the original is called.
    pub fn name<'n>(&'n self, original: &'n str) -> &'n str {
        self.file.as_deref().unwrap_or(original)
    }
}

/// The files that are copied.
pub(super) struct Original {
    /// Where they lie.
    pub folder: PathBuf,
    /// Those of a folder.
    pub files: ModelFiles,
    is_gguf: bool,
}

impl Original {
    pub fn of(plan: &Plan) -> Result<Original> {
        let kept = Kept::of(&plan.root);
        let is_gguf = kept.is_of_gguf();
        Ok(Original { files: ModelFiles::of(&kept.folder)?, folder: kept.folder, is_gguf })
    }

    /// A GGUF's files are those that the user named, links or not.
    pub fn open(&self, name: &str) -> Result<File> {
        if self.is_gguf { files::open_regular(&self.folder.join(name)) } else { self.files.open(name) }
    }

    /// Nothing goes with a GGUF.
    pub fn carried(&self, out: &Path) -> Result<Carried> {
        let none = Carried { files: Vec::new(), links: BTreeMap::new(), behind: Vec::new() };
        if self.is_gguf { Ok(none) } else { Carried::of(&self.folder, out) }
    }
}
