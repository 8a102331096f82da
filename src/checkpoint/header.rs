//! Strict reader of safetensors headers.

/// The rule of the format that a header breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {}
