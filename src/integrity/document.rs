//! What `diff` and `verify` find, as documents.

use super::diff::{self, Diff};
use super::difference;
use super::fingerprint::{Cache, Fingerprint};
use super::verify::{self, Verification};
use crate::checkpoint::Opened;
use crate::checkpoint::hub::Origin;
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::Result;
use crate::progress::Progress;
use serde::Serialize;
use std::path::Path;

/// How two models differ (`achilles-audit/diff/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiffDocument {
    /// Which commits of hub repositories they are.
    pub hub: Hubs,
    /// What of these was not examined.
    pub not_examined: Vec<String>,
    /// The differences.
    pub result: Diff,
}

/// Which commits two models are; none of what is from no hub.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hubs {
    /// The hub commit of what was before; none where it is no such.
    pub before: Option<Origin>,
    /// The hub commit of what is now; none where it is no such.
    pub after: Option<Origin>,
}

/// What was compared, and how.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiffSettings {
    /// The first model, as it was named.
    pub before: String,
    /// The second model, as it was named.
    pub after: String,
    /// Rows, columns or elements of a tensor that are listed at most.
    pub listed_lines: usize,
}

impl Kind for DiffDocument {
    const SCHEMA: &'static str = "achilles-audit/diff/v1";
    type Model = ();
    type Settings = DiffSettings;
}

/// Compares two models; see [`diff::diff`].
///
/// # Errors
/// As there; also where there is no such model.
pub fn diff_models(before: &str, after: &str, progress: &dyn Progress) -> Result<Document<DiffDocument>> {
    let settings = DiffSettings { before: before.into(), after: after.into(), listed_lines: difference::LISTED };
    let (before, after) = (Opened::open(before, progress)?, Opened::open(after, progress)?);
    let result = diff::diff(&before, &after, progress)?;
    let origins = [before.origin(), after.origin()];
    let not_examined = origins.into_iter().flatten().flat_map(not_fetched).collect();
    let [before, after] = origins.map(|origin| origin.cloned());
    let hub = Hubs { before, after };
    Ok(Document::new((), settings, DiffDocument { hub, not_examined, result }))
}

/// A model beside its fingerprint (`achilles-audit/verification/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerificationDocument {
    /// It is as it was, as far as was asked.
    pub passed: bool,
    /// What of a hub repository was not examined.
    pub not_examined: Vec<String>,
    /// What differs.
    pub result: Verification,
}

/// What a model was held against, and how.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerificationSettings {
    /// The fingerprint's file.
    pub fingerprint: String,
    /// A checkpoint passes whose tensors are the same but lie in other weight files.
    pub allow_resharding: bool,
    /// Rows, columns or elements of a tensor that are listed at most.
    pub listed_lines: usize,
}

impl Kind for VerificationDocument {
    const SCHEMA: &'static str = "achilles-audit/verification/v1";
    type Model = ModelIdentity;
    type Settings = VerificationSettings;
}

/// Holds a model against the fingerprint in a file; see [`verify::verify`].
///
/// # Errors
/// As there; also where there is no such model or the file is no fingerprint.
pub fn verify_model(
    model: &str,
    fingerprint: &Path,
    allow_resharding: bool,
    cache: Option<&Cache>,
    progress: &dyn Progress,
) -> Result<Document<VerificationDocument>> {
    let before = Fingerprint::read(fingerprint)?;
    let opened = Opened::open(model, progress)?;
    let origin = opened.origin();
    let result = verify::verify(&opened, &before, Some(fingerprint), cache, progress)?;
    let passed = result.intact || allow_resharding && result.is_resharding();
    let not_examined = origin.into_iter().flat_map(not_fetched).collect();
    let identity = ModelIdentity { source: model.into(), hub: Some(origin.cloned()), ..ModelIdentity::default() };
    let fingerprint = fingerprint.to_string_lossy().into_owned();
    let settings = VerificationSettings { fingerprint, allow_resharding, listed_lines: difference::LISTED };
    Ok(Document::new(identity, settings, VerificationDocument { passed, not_examined, result }))
}

/// What of a checkpoint from the hub is not examined, where every file counts.
fn not_fetched(origin: &Origin) -> Vec<String> {
    origin.not_examined(&origin.not_fetched)
}
