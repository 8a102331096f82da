//! JSON, for programs.

use crate::error::{Error, Result};
use crate::escape;
use serde::Serialize;

/// The document, indented, with a newline at its end; what does not show in its strings is escaped.
///
/// # Errors
/// The value cannot be written as JSON.
pub fn document(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::input(format!("cannot write JSON: {e}")))?;
    Ok(escape::json(&text) + "\n")
}
