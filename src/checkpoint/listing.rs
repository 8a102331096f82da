//! What a file of weights, safetensors or GGUF, says before its data: which tensors it holds, as they are stored.

use super::gguf;
use super::header::{Header, TensorEntry};
use super::source::is_gguf_name;
use crate::error::{Error, Result};
use std::path::Path;

/// The tensors of one file.
#[derive(Debug)]
pub struct Listing {
    /// In any order; of a GGUF under its own names, blocks as bytes.
    pub tensors: Vec<TensorEntry>,
    /// Where their data begin: all before is the header.
    pub data: usize,
}

impl Listing {
    /// That of a whole file.
    ///
    /// # Errors
    /// It breaks its format.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Listing> {
        if is_gguf_name(path) {
            let (tensors, data) = gguf::listing(bytes).map_err(|problem| Error::file(path, problem))?;
            return Ok(Listing { tensors, data });
        }
        let header = Header::read(bytes).map_err(|problem| Error::Header { path: path.into(), problem })?;
        let length = bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
        Ok(Listing { tensors: header.tensors, data: length as usize + 8 })
    }
}
