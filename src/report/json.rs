//! JSON, for programs.

use crate::error::{Error, Result};
use crate::patch::Restored;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// The document, indented, with a newline at its end.
///
/// # Errors
/// The value cannot be written as JSON.
pub fn document(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::input(format!("cannot write JSON: {e}")))?;
    Ok(text + "\n")
}

/// What restoring from a vault did to `folder`: `achilles-audit/restore/v1`.
pub fn restored(restored: &Restored, folder: &Path, dry_run: bool) -> Value {
    let part = |part: &crate::patch::RestoredPart| {
        json!({"neurons": part.neurons, "tensor": part.place.tensor, "shape": part.place.shape,
            "axis": part.place.axis, "index": part.place.index, "file": part.file, "bytes": part.bytes,
            "changed_bytes": part.changed_bytes})
    };
    json!({
        "schema": "achilles-audit/restore/v1",
        "tool": tool(),
        "folder": folder,
        "dry_run": dry_run,
        "parts": restored.parts.iter().map(part).collect::<Vec<_>>(),
        "other_tensors_differ": restored.other_tensors,
        "patch_undone": restored.patch_undone,
        "rolled_back": restored.rolled_back,
    })
}

fn tool() -> Value {
    json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")})
}
