//! Corpora: many texts that a model is measured on.

mod format;
mod hub;
mod parquet;
mod reading;
mod shipped;

pub use format::TextFormat;
pub use reading::{Enough, Reading};
pub use shipped::{KINDS, KindText, SAMPLE, kinds};

use super::text::read_file;
use super::words::strip;
use crate::checkpoint::hex;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Texts, and where they are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// What it was asked for as: a file's path, `hf://…`, or the name of one that is shipped.
    pub name: String,
    /// SHA-256 of the bytes that it was read from, lower-case hex; of several files one after the other.
    pub sha256: String,
    /// Each of them, in order; none is blank.
    pub texts: Vec<String>,
}

impl Corpus {
    /// Opens a corpus by its name: [`SAMPLE`] or [`KINDS`], which are shipped; a file; or, by the hub's client, the split
    /// of a data set (`hf://datasets/ORG/NAME[@REVISION]/CONFIG/SPLIT`) or a file of one (`…/path/to/FILE`).
    ///
    /// # Errors
    /// A file cannot be read or fetched, is not of its format, or holds no text.
    pub fn open(name: &str, reading: &Reading, progress: &dyn Progress) -> Result<Corpus> {
        if let Some(corpus) = shipped::of(name) {
            return corpus;
        }
        match name.strip_prefix(hub::SCHEME) {
            Some(rest) => hub::open(name, rest, reading, progress),
            None => Corpus::of_files(name, [Ok(PathBuf::from(name))], reading),
        }
    }

    /// The sample that is shipped: public-domain English prose.
    ///
    /// # Errors
    /// It is malformed: never, as a test holds.
    pub fn sample() -> Result<Corpus> {
        shipped::sample()
    }

    /// Reads files, one after the other, as far as they are needed.
    fn of_files(name: &str, files: impl IntoIterator<Item = Result<PathBuf>>, reading: &Reading) -> Result<Corpus> {
        let (mut texts, mut sha256, mut format) = (Vec::new(), Sha256::new(), TextFormat::Plain);
        for path in files {
            let path = path?;
            format = reading.format.unwrap_or_else(|| TextFormat::of(&path));
            add_file(&path, format, reading, &mut texts, &mut sha256)?;
            if reading.is_enough(&texts) {
                break;
            }
        }
        Corpus::new(name, &sha256.finalize(), texts, format)
    }

    fn new(name: &str, sha256: &[u8], mut texts: Vec<String>, format: TextFormat) -> Result<Corpus> {
        texts.retain(|text| !strip(text).is_empty());
        match texts.is_empty() {
            true => Err(Error::file(name, format!("holds no text; expected {}", format.described()))),
            false => Ok(Corpus { name: name.to_owned(), sha256: hex(sha256), texts }),
        }
    }
}

/// Adds the texts of a file, and its bytes to the digest.
fn add_file(
    path: &Path,
    format: TextFormat,
    reading: &Reading,
    texts: &mut Vec<String>,
    sha256: &mut Sha256,
) -> Result<()> {
    if format == TextFormat::Parquet {
        add_digest(path, sha256)?;
        return parquet::add_texts(path, reading, texts);
    }
    let text = read_file(path)?;
    sha256.update(&text);
    texts.extend(format.texts(&text, reading.column()).map_err(|problem| Error::file(path, problem))?);
    Ok(())
}

/// Adds a file's bytes to a digest.
fn add_digest(path: &Path, sha256: &mut Sha256) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, files::open_regular(path)?);
    loop {
        let bytes = reader.fill_buf().map_err(Error::io(path))?;
        if bytes.is_empty() {
            return Ok(());
        }
        sha256.update(bytes);
        let read = bytes.len();
        reader.consume(read);
    }
}
