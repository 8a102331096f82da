//! The program that wrote a document.

use serde::{Deserialize, Serialize};

/// The program that wrote a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// The name in the file.
    pub name: String,
    /// Its version, as in Cargo.toml.
    pub version: String,
}

impl Tool {
    /// This crate, of this version.
    pub fn this() -> Tool {
        Tool { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}
