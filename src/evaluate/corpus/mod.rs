//! Corpora: many texts that a model is measured on.

mod format;
mod shipped;

pub use format::TextFormat;
pub use shipped::{KINDS, KindText, SAMPLE, kinds};

use super::text::read_file;
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use std::path::Path;

/// Texts, and where they are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// What it was asked for as: a file's path, or the name of one that is shipped.
    pub name: String,
    /// SHA-256 of the bytes that it was read from, lower-case hex.
    pub sha256: String,
    /// Each of them, in order; none is blank.
    pub texts: Vec<String>,
}

impl Corpus {
    /// Opens a corpus by its name: [`SAMPLE`] or [`KINDS`], which are shipped, or a file. Without a format, the file's
    /// name tells it.
    ///
    /// # Errors
    /// As [`Corpus::read`].
    pub fn open(name: &str, format: Option<TextFormat>) -> Result<Corpus> {
        match shipped::of(name) {
            Some(corpus) => corpus,
            None => Corpus::read(Path::new(name), format),
        }
    }

    /// Reads a file. Without a format, its name tells it: see [`TextFormat::of`].
    ///
    /// # Errors
    /// It cannot be read, is not UTF-8, has a line that is not of its format, or holds no text.
    pub fn read(path: &Path, format: Option<TextFormat>) -> Result<Corpus> {
        let text = read_file(path)?;
        Corpus::parse(&path.to_string_lossy(), &text, format.unwrap_or_else(|| TextFormat::of(path)))
    }

    /// The texts of a file that is at hand.
    ///
    /// # Errors
    /// A line is not of the format, or there is no text.
    pub fn parse(name: &str, text: &str, format: TextFormat) -> Result<Corpus> {
        let texts = format.texts(text).map_err(|problem| Error::file(name, problem))?;
        if texts.is_empty() {
            return Err(Error::file(name, format!("holds no text; expected {}", format.described())));
        }
        Ok(Corpus { name: name.to_owned(), sha256: sha256_hex(text.as_bytes()), texts })
    }

    /// The sample that is shipped: public-domain English prose.
    ///
    /// # Errors
    /// As [`Corpus::parse`]: never, as a test holds.
    pub fn sample() -> Result<Corpus> {
        shipped::sample()
    }
}
