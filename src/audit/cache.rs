//! What running a model gave, kept: a second scan of the same bytes need not run it again.
//!
//! The key is a BLAKE3 digest of every byte that the result depends on: the weights, the config, the tokenizer, the base, the
//! baseline, the prompts, and all settings. Whether there is a result for it depends on nothing else, so nothing is
//! believed of times or sizes there. A result is kept only if the digest is the same after the run as it was before it,
//! and no time of a file tells that it was another in between (what such times can tell: see `files::Stamp`).
//!
//! What is trusted is the cache's folder: whoever can write to it can put any result there. It is the user's own.

use super::base;
use super::baseline;
use super::measured::{BaseModel, Run, RunResult, Wanted};
use crate::checkpoint::Checkpoint;
use crate::compare::BaseName;
use crate::error::{Error, Result};
use crate::files::{self, Stamp};
use crate::rules::Rules;
use crate::tool::Tool;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What keys are made of and by; it changes with either.
const FORM: &str = "achilles-audit/scan-result/v2, BLAKE3";

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The place of one result.
pub struct Cache {
    path: PathBuf,
    key: String,
    wanted: Wanted,
    /// Of the weights that the key is of; none where a change of some would not show.
    stamps: Option<Vec<Stamp>>,
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    key: String,
    ran: T,
}

impl Cache {
    /// The place of what this run gives: `achilles-audit/scan` in the user's cache folder.
    ///
    /// # Errors
    /// There is no such folder and it cannot be made, or something that the result depends on cannot be read.
    pub fn of(
        checkpoint: &Checkpoint,
        base: Option<&BaseModel>,
        run: &Run,
        wanted: Wanted,
        rules: &Rules,
    ) -> Result<Cache> {
        let file = |path: &Path| files::read_regular(path).map(|bytes| digest(&bytes));
        let mut stamps = checkpoint.stamps();
        let base = match (base, run.base.as_ref().filter(|_| wanted.base)) {
            (Some(base), _) => {
                let base = base.checkpoint()?;
                stamps = stamps.zip(base.stamps()).map(|(model, base)| [model, base].concat());
                base.blake3()?
            }
            (None, Some(BaseName::CriticalSet(path))) => file(path)?,
            (None, Some(BaseName::Published(name))) => name.clone(),
            (None, _) => String::new(),
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
        let model = checkpoint.blake3()?;
        let key = serde_json::json!([FORM, tool, model, run.text, settings, names, base, watched]);
        let key = digest(key.to_string().as_bytes());
        Ok(Cache { path: files::user_cache("scan")?.join(&key).with_extension("json"), key, wanted, stamps })
    }

    /// Whether all was the same when `before` was taken, and could not have been other in between.
    pub fn is_still(&self, before: &Cache) -> bool {
        self.key == before.key && self.stamps.is_some() && self.stamps == before.stamps
    }

    /// What was kept, if it is whole.
    pub fn get(&self) -> Option<RunResult> {
        let kept: Kept<RunResult> = serde_json::from_slice(&files::read_regular(&self.path).ok()?).ok()?;
        (kept.key == self.key && kept.ran.holds(self.wanted)).then_some(kept.ran)
    }

    /// Keeps a result; one that cannot be kept will be computed again.
    pub fn put(&self, ran: &RunResult) {
        let write = || {
            if self.path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
                return Err(Error::file(&self.path, "is not a file; remove it"));
            }
            let bytes = serde_json::to_vec(&Kept { key: self.key.clone(), ran })
                .map_err(|e| Error::file(&self.path, format!("cannot write JSON: {e}")))?;
            files::write_whole(&self.path, &bytes)
        };
        if let Err(error) = write() {
            tracing::warn!("the result is not kept: {error}");
        }
    }
}
