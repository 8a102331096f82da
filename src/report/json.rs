//! JSON, for programs.

use crate::error::{Error, Result};
use crate::escape;
use crate::patch::{Asked, Edit, Plan, Restored};
use crate::tool::Tool;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// The document, indented, with a newline at its end; what does not show in its strings is escaped.
///
/// # Errors
/// The value cannot be written as JSON.
pub fn document(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::input(format!("cannot write JSON: {e}")))?;
    Ok(escape::json(&text) + "\n")
}

/// What a patch is going to change: `achilles-audit/patch-plan/v1`.
pub fn patch_plan(plan: &Plan) -> Value {
    let edit = |edit: &Edit| {
        json!({"neurons": edit.neurons, "tensor": edit.stored_as, "dtype": edit.dtype, "shape": edit.place.shape,
            "axis": edit.place.axis, "index": edit.place.index, "file": edit.file, "span": edit.span,
            "bytes": edit.span.bytes(), "changed_bytes": edit.changed_bytes(), "before": edit.values_before(),
            "after": edit.values_after()})
    };
    json!({
        "schema": "achilles-audit/patch-plan/v1",
        "tool": Tool::this(),
        "model": {"source": plan.source, "architecture": plan.architecture, "config_sha256": plan.config_sha256},
        "asked": plan.interventions.iter().map(Asked::of).collect::<Vec<_>>(),
        "rounding": plan.rounding,
        "edits": plan.edits.iter().map(edit).collect::<Vec<_>>(),
    })
}

/// What restoring from a vault did to `folder`: `achilles-audit/restore/v1`.
pub fn restored(restored: &Restored, folder: &Path, dry_run: bool) -> Value {
    let part = |part: &crate::patch::RestoredPart| {
        json!({"neurons": part.neurons, "tensor": part.stored_as, "shape": part.place.shape,
            "axis": part.place.axis, "index": part.place.index, "file": part.file, "bytes": part.bytes,
            "changed_bytes": part.changed_bytes})
    };
    json!({
        "schema": "achilles-audit/restore/v1",
        "tool": Tool::this(),
        "folder": folder.to_string_lossy(),
        "dry_run": dry_run,
        "parts": restored.parts.iter().map(part).collect::<Vec<_>>(),
        "other_tensors_differ": restored.other_tensors,
        "patch_undone": restored.patch_undone,
        "rolled_back": restored.rolled_back,
    })
}
