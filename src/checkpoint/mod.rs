//! What a model directory, a hub id or a GGUF file opens to.

pub mod gguf;
pub mod header;
pub mod map;
