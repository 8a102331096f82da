//! What a model directory, a hub id or a GGUF file opens to.

pub mod header;
pub mod hub;
pub mod map;
