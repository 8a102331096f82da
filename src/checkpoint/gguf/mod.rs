//! GGUF files: read in place, one row at a time, as if they were a Hugging Face checkpoint; or imported as one.

mod architecture;
mod config;
mod dequantize;
pub mod file;
pub mod import;
mod rope;
mod tokenizer;
pub mod types;

#[cfg(test)]
mod writer;

use crate::error::{Error, Result};
use architecture::interleaved_row;
use config::Layout;
pub use file::GgufFile;
pub use import::{ImportDtype, ImportSummary, import};
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::Path;

/// What a check gives: its error is one line that does not name the file yet.
type Checked<T> = std::result::Result<T, String>;

/// A GGUF under Hugging Face's names: rows are dequantized when they are asked for.
#[derive(Debug)]
pub struct GgufCheckpoint {
    file: GgufFile,
    layout: Layout,
}

impl GgufCheckpoint {
    /// Opens a file: reads its header, not its tensors.
    ///
    /// # Errors
    /// It breaks the format, holds another family of models than this tool reads, a tensor it should hold is missing
    /// or has another shape, or one has a type that cannot be read.
    pub fn open(path: &Path) -> Result<GgufCheckpoint> {
        let file = GgufFile::open(path)?;
        let layout = Layout::read(&file)?;
        Ok(GgufCheckpoint { file, layout })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file itself.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// What its metadata say, as config.json would.
    pub fn config(&self) -> &Map<String, Value> {
        &self.layout.config
    }

    /// Its tokenizer, as tokenizer.json would hold it.
    ///
    /// # Errors
    /// The file has none, or one of a kind that is not supported.
    pub fn tokenizer_json(&self) -> Result<Value> {
        tokenizer::tokenizer_json(&self.file)
    }

    /// Special tokens and the chat template, as tokenizer_config.json would hold them.
    ///
    /// # Errors
    /// A special token's number is not in the vocabulary.
    pub fn tokenizer_config_json(&self) -> Result<Value> {
        tokenizer::tokenizer_config_json(&self.file, self.config())
    }

    /// The tokens that begin and end a text, as generation_config.json would hold them.
    ///
    /// # Errors
    /// A key has the wrong type.
    pub fn generation_config_json(&self) -> Result<Value> {
        tokenizer::generation_config_json(&self.file)
    }

    /// Names and shapes in order of name; shapes are outermost first.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.layout.tensors.iter().map(|(name, source)| (name.as_str(), source.shape.as_slice()))
    }

    /// Rows `rows` of a tensor under its Hugging Face name, in Hugging Face's order: (rows, inner dimensions), f32.
    /// A row of a vector is one element.
    ///
    /// # Errors
    /// There is no such tensor or no such rows.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let missing = || Error::tensor(self.path(), name, "is not in this model");
        let source = self.layout.tensors.get(name).ok_or_else(missing)?;
        if !source.interleaved {
            return self.file.rows(&source.gguf, rows);
        }
        let width = self.file.row_width(&source.gguf, rows.end)?;
        let mut out = vec![0.0; rows.len() * width];
        out.par_chunks_mut(width.max(1)).zip(rows).try_for_each(|(row, at)| {
            self.file.rows_into(&source.gguf, interleaved_row(at, self.layout.head_size), row)
        })?;
        Ok(out)
    }
}
