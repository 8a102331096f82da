//! What running a model gave, kept: a second scan of the same bytes need not run it again.
//!
//! The key is a digest of every byte that the result depends on: the weights, the config, the tokenizer, the base, the
//! baseline, the prompts, and all settings. Nothing is believed of times or sizes.

use super::base;
use super::baseline;
use super::run::{Ran, Run, Wanted};
use crate::checkpoint::{Checkpoint, sha256_hex};
use crate::compare::BaseName;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::rules::Rules;
use crate::tool::Tool;
use std::path::{Path, PathBuf};

/// The place of one result.
pub struct Cache {
    path: PathBuf,
}

impl Cache {
    /// The place of what this run gives: `achilles-audit/scan` in the user's cache folder.
    ///
    /// # Errors
    /// There is no such folder and it cannot be made, or something that the result depends on cannot be read.
    pub fn of(
        checkpoint: &Checkpoint,
        run: &Run,
        wanted: Wanted,
        rules: &Rules,
        progress: &dyn Progress,
    ) -> Result<Cache> {
        let file = |path: &Path| files::read_regular(path).map(|bytes| sha256_hex(&bytes));
        let base = match run.base.as_ref().filter(|_| wanted.base) {
            Some(BaseName::Model(name)) => Checkpoint::open(name, progress)?.sha256()?,
            Some(BaseName::CriticalSet(path)) => file(path)?,
            Some(BaseName::Published(name)) => name.clone(),
            None => String::new(),
        };
        let mut watched = Vec::new();
        if let Some(watch) = run.baseline.as_ref().filter(|_| wanted.baseline) {
            watched = std::iter::once(&watch.file).chain(&watch.prompts).map(|p| file(p)).collect::<Result<_>>()?;
        }
        let tool = Tool::this();
        let (limits, alpha) = (base::limits(rules), baseline::alpha(rules));
        // As Debug writes them: a setting that is added later is part of the key by itself.
        let settings = format!("{:?} {:?} {wanted:?} {limits:?} {alpha:?}", run.model, run.locate);
        let names = format!("{:?} {:?}", checkpoint.name(), run.base);
        let model = checkpoint.sha256()?;
        let key = serde_json::json!([tool, model, run.text, settings, names, base, watched]);
        let folder = files::user_cache("scan")?;
        Ok(Cache { path: folder.join(sha256_hex(key.to_string().as_bytes())).with_extension("json") })
    }

    /// What was kept, if it is whole.
    pub fn get(&self) -> Option<Ran> {
        serde_json::from_slice(&files::read_regular(&self.path).ok()?).ok()
    }

    /// Keeps a result; one that cannot be kept will be computed again.
    pub fn put(&self, ran: &Ran) {
        let kept = serde_json::to_vec(ran).map_err(|e| Error::input(e.to_string()));
        if let Err(error) = kept.and_then(|bytes| files::write_whole(&self.path, &bytes)) {
            tracing::warn!("the result is not kept: {error}");
        }
    }
}
