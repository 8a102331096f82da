//! The one error type. Every message names the thing, what was expected and, where it helps, what to do.

mod bytes;
mod header;

pub use bytes::Bytes;
pub use header::HeaderError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a job could not be done. Each prints as one line.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {}", path.display(), said(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A file or folder is not what it has to be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, what was found, what to do.
        problem: String,
    },
    /// There is no such file or folder.
    #[error("{}: {problem}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What was expected there.
        problem: String,
    },
    /// A model that is sound as far as it is known, and of a kind that this version does not compute.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file that says what it is: its config.json or the GGUF.
        path: PathBuf,
        /// What is not supported, and what is.
        what: String,
    },
    /// A safetensors header breaks the format.
    #[error("{}: {problem}; such a file is not read: fetch it again from its source", path.display())]
    Header {
        /// The safetensors file.
        path: PathBuf,
        /// The rule it breaks.
        problem: HeaderError,
    },
    /// A tensor is missing, or is not what the config says.
    #[error("{}: tensor {tensor}: {problem}", path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in the checkpoint.
        tensor: String,
        /// What was expected and found.
        problem: String,
    },
    /// A neuron or site that does not parse or that the model does not have.
    #[error("{what} {text:?}: {problem}")]
    Name {
        /// `neuron` or `site`.
        what: &'static str,
        /// The text as given.
        text: String,
        /// What was expected.
        problem: String,
    },
    /// A hub repository could not be fetched.
    #[error("hub {id}: {problem}")]
    Hub {
        /// `org/name@revision`.
        id: String,
        /// What happened and what to do.
        problem: String,
    },
    /// A setting or a text that makes no sense.
    #[error("{0}")]
    Input(String),
    /// The job would need more memory than there is.
    #[error("{what} needs about {} of memory, but {} can be had: {advice}", Bytes(*needed), Bytes(*available))]
    Memory {
        /// What would be allocated.
        what: String,
        /// Bytes needed, an estimate.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
        /// What whoever ran into this can do, in a phrase.
        advice: &'static str,
    },
    /// The tensor library failed.
    #[error("computation failed: {0}")]
    Compute(String),
    /// What runs a file that comes with a checkpoint was ended from outside, which says nothing of the file.
    #[error("{}: could not be examined: {problem}; try again", path.display())]
    Ended {
        /// The file that could not be examined.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What the system said, in the words that are used here.
fn said(source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::NotFound => "is not there".to_owned(),
        _ => source.to_string(),
    }
}

impl Error {
    /// For `map_err` on a system call that touched `path`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { path, source: Arc::new(source) }
    }

    /// A file that is not what it has to be.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().to_owned(), problem: problem.into() }
    }

    /// There is nothing at `path`; `problem` says what was expected.
    pub fn not_found(path: impl AsRef<Path>, problem: impl Into<String>) -> Error {
        Error::NotFound { path: path.as_ref().to_owned(), problem: problem.into() }
    }

    /// A kind of model that this version does not compute.
    pub fn unsupported(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Unsupported { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// A tensor that is not what it has to be.
    pub fn tensor(path: impl AsRef<Path>, tensor: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Tensor { path: path.as_ref().to_owned(), tensor: tensor.into(), problem: problem.into() }
    }

    /// A setting or a text that makes no sense.
    pub fn input(problem: impl Into<String>) -> Error {
        Error::Input(problem.into())
    }
}

/// Prints a number for people: `0.25`, `3.0e37`; with a precision, as many digits after the
/// point, but for numbers of more than nine before it.
#[derive(Debug, Clone, Copy)]
pub struct Figure(
    /// The number.
    pub f64,
);

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figure(value) = *self;
        let magnitude = value.abs();
        match f.precision() {
            Some(_) if (1e9..f64::INFINITY).contains(&magnitude) => write!(f, "{value:.1e}"),
            Some(digits) => write!(f, "{value:.digits$}"),
            None if magnitude.is_finite() && magnitude > 0.0 && !(1e-4..1e6).contains(&magnitude) => {
                write!(f, "{value:.1e}")
            }
            None => write!(f, "{value}"),
        }
    }
}

/// Prints a count of things for people: `1 edit`, `2 edits`.
#[derive(Debug, Clone, Copy)]
pub struct Count(
    /// The number itself.
    pub usize,
    /// What one is called.
    pub &'static str,
    /// And several.
    pub &'static str,
);

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { self.1 } else { self.2 })
    }
}

#[cfg(test)]
mod tests {
    use super::Figure;

    #[test]
    fn large_numbers_are_powers_of_ten() {
        let told = [0.0, 0.25, -1e-7, 999_999.0, 3e37, -3.3895e38, f64::NAN].map(|value| Figure(value).to_string());
        assert_eq!(told, ["0", "0.25", "-1.0e-7", "999999", "3.0e37", "-3.4e38", "NaN"]);
        assert_eq!([0.3, 1e-5, 3e37].map(|value| format!("{:.3}", Figure(value))), ["0.300", "0.000", "3.0e37"]);
        assert_eq!(format!("{:.0}", Figure(999_999_999.0)), "999999999");
    }
}
