//! Bakes masks and β-scaling of neurons into a checkpoint's weights: a plan of byte edits, two ways to write it, a
//! receipt, and two ways back: by the receipt, and by a vault of the original weights.

mod apply;
mod believe;
mod carried;
mod disk;
mod document;
mod edit;
mod folder;
mod journal;
mod packed;
mod plan;
mod receipt;
mod request;
mod restore;
#[cfg(test)]
mod restore_tests;
mod shard;
#[cfg(test)]
mod tests;
mod unpatch;
pub mod vault;
mod verify;

pub use crate::integrity::receipt::{RECEIPT, Receipt, Requested, Rounding, State, UNDO};
pub use apply::{check_in_place, check_to_folder, check_unpatched, in_place, to_folder};
pub use document::{PlanDocument, PlannedEdit, RestoreDocument, ShownPart};
pub use edit::Edit;
pub use folder::Folder;
pub use journal::WriteSettings;
pub use plan::Plan;
pub use restore::{RestoreSettings, Restored, RestoredPart, restore};
pub use unpatch::{Unpatched, unpatch};
pub use verify::{Verified, verify};

use crate::error::{Error, Result};
use crate::neuron::Neuron;
use std::path::Path;

/// The critical neurons of a `critical-set.json`, in the order of the ranking, for a model of `architecture`.
///
/// # Errors
/// It cannot be read, is not such a document, says that it was located in another architecture, or holds no critical
/// set.
pub fn critical_neurons(path: &Path, architecture: &str) -> Result<Vec<Neuron>> {
    const SCHEMA: &str = "achilles-audit/critical-set/v1";
    #[derive(serde::Deserialize)]
    struct Document {
        schema: String,
        model: Option<Model>,
        critical_set: Option<Set>,
    }
    #[derive(serde::Deserialize)]
    struct Model {
        architecture: String,
    }
    #[derive(serde::Deserialize)]
    struct Set {
        neurons: Vec<Neuron>,
    }
    let text = crate::files::read_text(path, crate::files::LARGEST_READ)?;
    let not_one =
        |problem: String| Error::file(path, format!("{problem}; expected what `locate --format json` writes"));
    let document: Document = serde_json::from_str(&text).map_err(|e| not_one(format!("is not a critical set: {e}")))?;
    if document.schema != SCHEMA {
        return Err(not_one(format!("has the schema {:?}", document.schema)));
    }
    if let Some(other) = document.model.map(|model| model.architecture).filter(|other| other != architecture) {
        let problem = format!("is the critical set of a {other:?}, expected one of a {architecture}");
        return Err(Error::file(path, format!("{problem}; locate it in this model")));
    }
    let none = "holds no critical set, as nothing collapsed when it was located; name neurons with --neuron";
    Ok(document.critical_set.ok_or_else(|| Error::file(path, none))?.neurons)
}
