//! ECDSA keys: P-256 with SHA-256, P-384 with SHA-384, P-521 with SHA-512.

use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files;
use p256::ecdsa::signature::{MultipartSigner, MultipartVerifier};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding};
use rustls_pki_types::pem::{PemObject, SectionKind};
use std::fmt;
use std::path::Path;

/// The largest file of keys or certificates that is read, in bytes.
pub(super) const LARGEST_PEM: u64 = 4 << 20;

/// What is expected of a key.
const EXPECTED: &str = "expected an ECDSA key on P-256, P-384 or P-521 (a new one: openssl ecparam -name prime256v1 \
                        -genkey -noout -out key.pem, and openssl ec -in key.pem -pubout -out key.pub.pem)";

/// An ECDSA key that signatures are verified with: P-256, P-384 or P-521.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicKey(Public);

#[derive(Debug, Clone, PartialEq)]
enum Public {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
}

/// An ECDSA key that signs, on P-256, P-384 or P-521; its bytes are never shown.
pub struct PrivateKey(Private);

enum Private {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
}

impl PublicKey {
    /// Reads a PEM file (`PUBLIC KEY`).
    ///
    /// # Errors
    /// It cannot be read or holds no public key on a supported curve.
    pub fn read(path: &Path) -> Result<PublicKey> {
        let sections = sections(path)?;
        let wrong = |problem: &str| Error::file(path, format!("{problem}; {EXPECTED}"));
        let found = sections.iter().find(|(kind, _)| *kind == SectionKind::PublicKey);
        let Some((_, der)) = found else {
            return Err(match sections.first().map(|(kind, _)| kind) {
                Some(SectionKind::PrivateKey | SectionKind::EcPrivateKey) => Error::file(
                    path,
                    "holds a private key; give the public one (openssl ec -in KEY -pubout), keep this one to yourself",
                ),
                Some(SectionKind::Certificate) => {
                    Error::file(path, "holds a certificate, expected a public key; for certificates use --cert-roots")
                }
                _ => wrong("holds no public key in PEM form"),
            });
        };
        PublicKey::from_spki(der).ok_or_else(|| wrong("holds another kind of public key"))
    }

    /// The key of a DER SubjectPublicKeyInfo; none where it is of another kind.
    pub(super) fn from_spki(der: &[u8]) -> Option<PublicKey> {
        use Public::{P256, P384, P521};
        let p256 = || p256::PublicKey::from_public_key_der(der).ok().map(|key| P256(key.into()));
        let p384 = || p384::PublicKey::from_public_key_der(der).ok().map(|key| P384(key.into()));
        let p521 = || p521::PublicKey::from_public_key_der(der).ok().map(|key| P521(key.into()));
        p256().or_else(p384).or_else(p521).map(PublicKey)
    }

    /// Whether `signature`, in DER, is one of this key over the parts of a message one after the other.
    pub(super) fn verifies(&self, message: &[&[u8]], signature: &[u8]) -> bool {
        let verified = match &self.0 {
            Public::P256(key) => {
                p256::ecdsa::Signature::from_der(signature).and_then(|s| key.multipart_verify(message, &s))
            }
            Public::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).and_then(|s| key.multipart_verify(message, &s))
            }
            Public::P521(key) => {
                p521::ecdsa::Signature::from_der(signature).and_then(|s| key.multipart_verify(message, &s))
            }
        };
        verified.is_ok()
    }

    /// What bundles call the key: lower-case hex SHA-256 of its PEM text with the newline at its end.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn hint(&self) -> Result<String> {
        let pem = match &self.0 {
            Public::P256(key) => p256::PublicKey::from(key).to_public_key_pem(LineEnding::LF),
            Public::P384(key) => p384::PublicKey::from(key).to_public_key_pem(LineEnding::LF),
            Public::P521(key) => p521::PublicKey::from(key).to_public_key_pem(LineEnding::LF),
        };
        let pem = pem.map_err(|e| Error::input(format!("a public key cannot be encoded: {e}")))?;
        Ok(sha256_hex(pem.as_bytes()))
    }

    /// `P-256`, `P-384` or `P-521`.
    pub fn curve(&self) -> &'static str {
        match &self.0 {
            Public::P256(_) => "P-256",
            Public::P384(_) => "P-384",
            Public::P521(_) => "P-521",
        }
    }
}

impl PrivateKey {
    /// Reads a PEM file: PKCS#8 (`PRIVATE KEY`) or SEC1 (`EC PRIVATE KEY`).
    ///
    /// # Errors
    /// It cannot be read, is encrypted, or holds no private key on a supported curve.
    pub fn read(path: &Path) -> Result<PrivateKey> {
        let sections = sections(path)?;
        let private = |kind: &SectionKind| matches!(kind, SectionKind::PrivateKey | SectionKind::EcPrivateKey);
        let Some((kind, der)) = sections.iter().find(|(kind, _)| private(kind)) else {
            let found = match sections.first().map(|(kind, _)| kind) {
                Some(SectionKind::PublicKey) => "holds a public key, expected a private one",
                Some(SectionKind::Certificate) => "holds a certificate, expected a private key; give it with --cert",
                Some(SectionKind::RsaPrivateKey) => "holds an RSA key",
                _ => "holds no private key in PEM form",
            };
            return Err(Error::file(path, format!("{found}; {EXPECTED}")));
        };
        let key = match kind {
            SectionKind::PrivateKey => Private::from_pkcs8(der),
            _ => Private::from_sec1(der),
        };
        key.map(PrivateKey).ok_or_else(|| Error::file(path, format!("holds another kind of private key; {EXPECTED}")))
    }

    /// The public key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(match &self.0 {
            Private::P256(key) => Public::P256(*key.verifying_key()),
            Private::P384(key) => Public::P384(*key.verifying_key()),
            Private::P521(key) => Public::P521(*key.verifying_key()),
        })
    }

    /// The signature, in DER, over the parts of a message one after the other (deterministic, RFC 6979).
    pub(super) fn sign(&self, message: &[&[u8]]) -> Result<Vec<u8>> {
        let signature = match &self.0 {
            Private::P256(key) => {
                key.try_multipart_sign(message).map(|s: p256::ecdsa::Signature| s.to_der().as_bytes().to_vec())
            }
            Private::P384(key) => {
                key.try_multipart_sign(message).map(|s: p384::ecdsa::Signature| s.to_der().as_bytes().to_vec())
            }
            Private::P521(key) => {
                key.try_multipart_sign(message).map(|s: p521::ecdsa::Signature| s.to_der().as_bytes().to_vec())
            }
        };
        signature.map_err(|e| Error::input(format!("the key cannot sign: {e}")))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().curve())
    }
}

impl Private {
    fn from_pkcs8(der: &[u8]) -> Option<Private> {
        use Private::{P256, P384, P521};
        let p256 = || p256::SecretKey::from_pkcs8_der(der).ok().map(|key| P256(key.into()));
        let p384 = || p384::SecretKey::from_pkcs8_der(der).ok().map(|key| P384(key.into()));
        let p521 = || p521::SecretKey::from_pkcs8_der(der).ok().map(|key| P521(key.into()));
        p256().or_else(p384).or_else(p521)
    }

    fn from_sec1(der: &[u8]) -> Option<Private> {
        use Private::{P256, P384, P521};
        let p256 = || p256::SecretKey::from_sec1_der(der).ok().map(|key| P256(key.into()));
        let p384 = || p384::SecretKey::from_sec1_der(der).ok().map(|key| P384(key.into()));
        let p521 = || p521::SecretKey::from_sec1_der(der).ok().map(|key| P521(key.into()));
        p256().or_else(p384).or_else(p521)
    }
}

/// The sections of a PEM file whose kind is known.
///
/// # Errors
/// It cannot be read, is not PEM, or a key in it is encrypted.
pub(super) fn sections(path: &Path) -> Result<Vec<(SectionKind, Vec<u8>)>> {
    let bytes = files::read_at_most(path, LARGEST_PEM)?;
    if [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"].iter().any(|mark| contains(&bytes, mark)) {
        let problem = "holds an encrypted private key, and passwords are not asked for; decrypt it first: openssl \
                       pkey -in KEY -out PLAIN";
        return Err(Error::file(path, problem));
    }
    <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::file(path, format!("is not a PEM file: {e}")))
}

pub(super) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
