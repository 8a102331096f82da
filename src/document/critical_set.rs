//! Reading what `locate --format json` wrote: all of it, or as much as the reader needs.

use crate::error::{Error, Result};
use crate::files;
use crate::neuron::Neuron;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// The schema of the document.
pub const SCHEMA: &str = "achilles-audit/critical-set/v1";

/// What is to be borne in mind of a critical set whose collapse is gradual.
pub const CAUTION: &str = "the collapse is gradual: another text, sample or kin of the model may give another set";

/// The largest file that is read, in bytes: a ranking of a hundred thousand neurons.
const LARGEST: u64 = 64 << 20;

/// Reads a critical set as a `T`, which need not know all of its keys.
///
/// # Errors
/// It cannot be read, or is not such a document.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    #[derive(Deserialize)]
    struct Form {
        schema: String,
    }
    let text = files::read_text(path, LARGEST)?;
    let not_one =
        |problem: String| Error::file(path, format!("{problem}; expected what `locate --format json` writes"));
    let malformed = |e: serde_json::Error| not_one(format!("is not a critical set: {e}"));
    let Form { schema } = serde_json::from_str(&text).map_err(malformed)?;
    match schema == SCHEMA {
        true => serde_json::from_str(&text).map_err(malformed),
        false => Err(not_one(format!("has the schema {schema:?}"))),
    }
}

/// What whoever acts on neurons needs of a critical set.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The critical neurons, in order of the ranking.
    pub neurons: Vec<Neuron>,
    /// Whether [`CAUTION`] is in place, as far as the document says.
    pub gradual: bool,
}

/// The critical neurons of a document, for a model of `architecture`.
///
/// # Errors
/// It cannot be read, is not such a document, says that it was located in another architecture, or holds no critical
/// set.
pub fn neurons(path: &Path, architecture: &str) -> Result<Located> {
    #[derive(Deserialize)]
    struct Whole {
        model: Option<Model>,
        critical_set: Option<Set>,
        sharpness: Option<Sharpness>,
    }
    #[derive(Deserialize)]
    struct Model {
        architecture: String,
    }
    #[derive(Deserialize)]
    struct Set {
        neurons: Vec<Neuron>,
    }
    #[derive(Deserialize)]
    struct Sharpness {
        gradual: bool,
    }
    let whole: Whole = read(path)?;
    if let Some(other) = whole.model.map(|model| model.architecture).filter(|other| other != architecture) {
        let problem = format!("is the critical set of a {other:?}, expected one of a {architecture}");
        return Err(Error::file(path, format!("{problem}; locate it in this model")));
    }
    let none = "holds no critical set, as nothing collapsed when it was located; name neurons with --neuron";
    let Set { neurons } = whole.critical_set.ok_or_else(|| Error::file(path, none))?;
    Ok(Located { neurons, gradual: whole.sharpness.is_some_and(|sharpness| sharpness.gradual) })
}
