//! What digests a fingerprint holds, and by which names.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What tensors and rows are digested by, and the lists of tensors and weights. Files always are by SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// In `achilles-audit/fingerprint/v1`, which is read and no longer made.
    Sha256,
    /// In `achilles-audit/fingerprint/v2`.
    Blake3,
}

impl Algorithm {
    /// As keys of documents name it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Blake3 => "blake3",
        }
    }

    /// What documents are called whose digests of tensors are by it.
    pub(super) fn schema(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "achilles-audit/fingerprint/v1",
            Algorithm::Blake3 => "achilles-audit/fingerprint/v2",
        }
    }

    /// The inverse of [`Algorithm::schema`].
    pub(super) fn of_schema(schema: &str) -> Option<Algorithm> {
        [Algorithm::Sha256, Algorithm::Blake3].into_iter().find(|algorithm| algorithm.schema() == schema)
    }

    /// Of all of it.
    pub(super) fn digest(self, bytes: &[u8]) -> [u8; 32] {
        match self {
            Algorithm::Sha256 => Sha256::digest(bytes).into(),
            Algorithm::Blake3 => blake3::hash(bytes).into(),
        }
    }

    /// Of what it is given piece by piece.
    pub(super) fn hasher(self) -> Hasher {
        match self {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Blake3 => Hasher::Blake3(Box::default()),
        }
    }
}

/// A digest of bytes that come piece by piece.
pub(super) enum Hasher {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: impl AsRef<[u8]>) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Blake3(hasher) => _ = hasher.update(bytes.as_ref()),
        }
    }

    /// Of what came; the next begins anew.
    pub(super) fn finish(&mut self) -> [u8; 32] {
        match self {
            Hasher::Sha256(hasher) => hasher.finalize_reset().into(),
            Hasher::Blake3(hasher) => {
                let digest = hasher.finalize().into();
                hasher.reset();
                digest
            }
        }
    }
}
