//! OpenSSF Model Signing v1 (OMS): a signature over the digests of a model's files, in a Sigstore bundle, by an ECDSA
//! key or a certificate. Keyless (Sigstore) signatures are not made and not verified.
//!
//! Format: <https://github.com/ossf/model-signing-spec>; the Python package `model-signing` 1.1.1 is followed where the
//! two differ, and interoperates both ways.

mod bundle;
mod certificate;
mod hash;
mod key;
mod manifest;
mod model;
mod sign;
mod statement;
#[cfg(test)]
mod tests;
mod verify;

pub use certificate::{Certificate, Roots};
pub use key::{PrivateKey, PublicKey};
pub use manifest::{Method, Policy};
pub use sign::{SignSettings, Signed, Signer, sign};
pub use verify::{
    Difference, DifferenceKind, LeftOut, ReportModel, SignatureReport, SignatureSettings, SignatureVerdict, Trust, Why,
    verify,
};

use crate::checkpoint::hex;
use crate::error::Error;
use std::path::{Path, PathBuf};

/// What is ignored by default: the folder's own version control.
pub const IGNORED: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// Those of them that are files: a folder of such a name is not version control's.
const FILES_ONLY: [&str; 2] = [".gitattributes", ".gitignore"];

/// What the hub's client notes of its downloads, in the folder that they went to. No loader reads it, and neither a
/// signature nor a fingerprint covers it.
const HUB_CACHE: &str = ".cache/huggingface";

/// Where a model's signature lies unless told otherwise: `model.sig` in a folder, `NAME.sig` beside a single file.
pub fn default_path(model: &Path) -> PathBuf {
    if model.is_dir() {
        return model.join("model.sig");
    }
    let mut name = model.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Reads a signature file's bytes and the statement in it, without asking who signed.
///
/// # Errors
/// What is wrong with them.
pub fn examine(file: &[u8]) -> std::result::Result<(), String> {
    let bundle = bundle::Bundle::parse(file)?;
    match manifest::Manifest::from_statement(&bundle.payload, &Error::input) {
        Ok(_) => Ok(()),
        Err(Stop::Refused(problem)) => Err(problem),
        Err(Stop::Failed(error)) => Err(error.to_string()),
    }
}

/// A step of a verification.
type Checked<T> = std::result::Result<T, Stop>;

/// Why a verification ends early.
#[derive(Debug)]
enum Stop {
    /// The signature is not accepted: a result.
    Refused(String),
    /// The job cannot be done.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

fn refused(problem: impl Into<String>) -> Stop {
    Stop::Refused(problem.into())
}
