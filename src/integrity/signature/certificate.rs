//! X.509 certificates: who may sign, and whether a chain leads to a root that the user trusts.
//!
//! Paths are built and their signatures, dates, basic constraints, path lengths and name constraints are checked by
//! webpki (RFC 5280). What it leaves out is checked here: key usage, extended key usage, and the root itself.
//!
//! Not checked: whether a certificate was revoked (no list is fetched, no responder asked), whether the signature or
//! the certificate stands in a transparency log, and when the signature was made: dates are held against this machine's
//! clock, so that a signature ends with its certificate.

use super::key::{PublicKey, sections};
use crate::error::{Error, Result};
use p521::ecdsa::signature::hazmat::PrehashVerifier;
use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
    alg_id,
};
use sha2::{Digest, Sha384, Sha512};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::time::Time;

/// What holds of a certificate, or why it does not.
type Judged<T> = std::result::Result<T, String>;

/// Extended key usage: code signing (RFC 5280, 4.2.1.12).
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
/// Extended key usage: any.
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// An X.509 certificate that could be parsed, with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    parsed: x509_cert::Certificate,
}

/// The certificates that the user trusts.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Every chain has to end in one of these.
    anchors: Vec<Certificate>,
    /// Not trusted: they may link a chain to its root.
    intermediates: Vec<Certificate>,
    /// Whom the signer's certificate has to name, where not every signer of these roots is accepted.
    identity: Option<String>,
}

impl Certificate {
    /// Reads all certificates of a PEM file.
    ///
    /// # Errors
    /// It cannot be read, holds none, or one that is malformed.
    pub fn read_all(path: &Path) -> Result<Vec<Certificate>> {
        let sections = sections(path)?.into_iter();
        let found: Option<Vec<Certificate>> = sections
            .filter(|(kind, _)| *kind == SectionKind::Certificate)
            .map(|(_, der)| Certificate::from_der(der))
            .collect();
        let all = found.ok_or_else(|| Error::file(path, "holds a malformed X.509 certificate"))?;
        match all.is_empty() {
            true => Err(Error::file(path, "holds no certificate; expected PEM (-----BEGIN CERTIFICATE-----)")),
            false => Ok(all),
        }
    }

    pub(super) fn from_der(der: Vec<u8>) -> Option<Certificate> {
        let parsed = x509_cert::Certificate::from_der(&der).ok()?;
        Some(Certificate { der: der.into(), parsed })
    }

    /// The DER encoding.
    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whom it is about, such as `CN=release,O=Example`.
    pub fn subject(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// Its public key; none where it is not an ECDSA key on a supported curve.
    pub(super) fn key(&self) -> Option<PublicKey> {
        let spki = self.parsed.tbs_certificate().subject_public_key_info().to_der().ok()?;
        PublicKey::from_spki(&spki)
    }

    /// Whether it names itself as its issuer.
    fn is_self_issued(&self) -> bool {
        self.parsed.tbs_certificate().subject() == self.parsed.tbs_certificate().issuer()
    }

    fn check_dates(&self, now: UnixTime) -> Judged<()> {
        let validity = self.parsed.tbs_certificate().validity();
        let seconds = |time: Time| time.to_unix_duration().as_secs();
        if now.as_secs() > seconds(validity.not_after) {
            return Err(format!("the certificate {} expired at {}", self.subject(), validity.not_after));
        }
        if now.as_secs() < seconds(validity.not_before) {
            return Err(format!("the certificate {} is not valid before {}", self.subject(), validity.not_before));
        }
        Ok(())
    }

    /// Its subject alternative names that are text.
    fn names(&self) -> Judged<Vec<String>> {
        let names = self.extension::<SubjectAltName>()?.map(|names| names.0).unwrap_or_default();
        let text = |name: &GeneralName| match name {
            GeneralName::Rfc822Name(text)
            | GeneralName::DnsName(text)
            | GeneralName::UniformResourceIdentifier(text) => Some(text.to_string()),
            _ => None,
        };
        Ok(names.iter().filter_map(text).collect())
    }

    fn check_identity(&self, expected: &str) -> Judged<()> {
        let (subject, names) = (self.subject(), self.names()?);
        // Authorities look at each kind of name in its own way: one does not stand for another.
        let is_subject = expected.contains('=') && !expected.contains("://") && !expected.contains('@');
        if if is_subject { subject == expected } else { names.iter().any(|name| name == expected) } {
            return Ok(());
        }
        let also = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        Err(format!("the certificate is that of {subject}{also}, and only {expected} is accepted"))
    }

    /// Extended key usage codeSigning, where any is given.
    fn check_is_for_code(&self) -> Judged<()> {
        match self.extension::<ExtendedKeyUsage>()? {
            Some(usage) if !usage.0.iter().any(|purpose| [CODE_SIGNING, ANY_USAGE].contains(purpose)) => Err(format!(
                "the certificate {} is not one for signing models: its extended key usage lacks codeSigning",
                self.subject()
            )),
            _ => Ok(()),
        }
    }

    /// Key usage digitalSignature, or extended key usage codeSigning.
    fn check_may_sign(&self) -> Judged<()> {
        self.check_is_for_code()?;
        let usage = self.extension::<KeyUsage>()?;
        let extended = self.extension::<ExtendedKeyUsage>()?;
        if usage.is_some_and(|u| u.digital_signature()) || extended.is_some_and(|e| e.0.contains(&CODE_SIGNING)) {
            return Ok(());
        }
        Err(format!(
            "the certificate {} is not one for signatures: it has neither the key usage digitalSignature nor the \
             extended key usage codeSigning",
            self.subject()
        ))
    }

    /// Key usage keyCertSign, where any key usage is given.
    fn check_may_issue(&self) -> Judged<()> {
        match self.extension::<KeyUsage>()? {
            Some(usage) if !usage.key_cert_sign() => {
                Err(format!("the certificate {} may not issue others: its key usage lacks keyCertSign", self.subject()))
            }
            _ => Ok(()),
        }
    }

    /// That it is an authority's, for a path of so many intermediate certificates.
    fn check_is_authority(&self, intermediates: usize) -> Judged<()> {
        match self.extension::<BasicConstraints>()? {
            Some(BasicConstraints { ca: true, path_len_constraint: limit }) => match limit {
                Some(limit) if usize::from(limit) < intermediates => Err(too_long(&self.subject())),
                _ => Ok(()),
            },
            _ => Err(not_an_authority(&self.subject())),
        }
    }

    fn extension<'a, T>(&'a self) -> Judged<Option<T>>
    where
        T: Decode<'a, Error = x509_cert::der::Error> + x509_cert::der::oid::AssociatedOid,
    {
        let malformed = |e| format!("the certificate {} has a malformed extension: {e}", self.subject());
        self.parsed.tbs_certificate().get_extension::<T>().map(|found| found.map(|(_, value)| value)).map_err(malformed)
    }
}

impl Roots {
    /// Reads PEM files. Self-signed certificates are trusted; others only link a chain to one of them.
    ///
    /// # Errors
    /// A file cannot be read, or no certificate is self-signed.
    pub fn read(paths: &[PathBuf]) -> Result<Roots> {
        let mut all = Vec::new();
        for path in paths {
            all.extend(Certificate::read_all(path)?);
        }
        let (anchors, intermediates): (Vec<_>, Vec<_>) = all.into_iter().partition(Certificate::is_self_issued);
        match (anchors.as_slice(), intermediates.first()) {
            ([], Some(other)) => Err(Error::input(format!(
                "none of the certificates of --cert-roots is self-signed, and only such are trusted: {} was issued by \
                 {}; give the certificate of that one, and so on to the root",
                other.subject(),
                other.parsed.tbs_certificate().issuer()
            ))),
            ([], None) => Err(Error::input("--cert-roots names no certificate")),
            _ => Ok(Roots { anchors, intermediates, identity: None }),
        }
    }

    /// Accepts only a signer whose certificate has this subject (as [`Certificate::subject`] writes it) or this
    /// alternative name: an email address, a URI or a DNS name, to the letter.
    pub fn with_identity(self, identity: Option<String>) -> Roots {
        Roots { identity, ..self }
    }

    /// Whom the signer's certificate has to name.
    pub(super) fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The certificates that are trusted.
    pub(super) fn trusted(&self) -> &[Certificate] {
        &self.anchors
    }

    /// What the signer's own chain leads to: its self-signed certificates, or where it has none, all that follow the
    /// signer's.
    pub(super) fn of_chain(chain: &[Certificate]) -> Roots {
        let mut anchors: Vec<Certificate> = chain.iter().filter(|c| c.is_self_issued()).cloned().collect();
        if anchors.is_empty() {
            anchors = if chain.len() > 1 { chain[1..].to_vec() } else { chain.to_vec() };
        }
        Roots { anchors, intermediates: Vec::new(), identity: None }
    }
}

/// The key of a chain's first certificate, where it may sign and the chain leads to a root at the time `now`; else why
/// it does not.
pub(super) fn check(chain: &[Certificate], roots: &Roots, now: UnixTime) -> Judged<PublicKey> {
    let leaf = chain.first().ok_or("the signature holds no certificate")?;
    leaf.check_dates(now)?;
    leaf.check_may_sign()?;
    let key = leaf.key().ok_or_else(|| {
        format!("the certificate {} has another key than ECDSA on P-256, P-384 or P-521", leaf.subject())
    })?;
    if !roots.anchors.iter().any(|root| root.der == leaf.der) {
        check_path(leaf, &chain[1..], roots, now)?;
    }
    roots.identity().map_or(Ok(()), |identity| leaf.check_identity(identity))?;
    Ok(key)
}

fn check_path(leaf: &Certificate, chain: &[Certificate], roots: &Roots, now: UnixTime) -> Judged<()> {
    let malformed = |c: &Certificate, e| format!("the certificate {} cannot be used: {e:?}", c.subject());
    let end = EndEntityCert::try_from(&leaf.der).map_err(|e| malformed(leaf, e))?;
    let anchors: Vec<TrustAnchor> = roots
        .anchors
        .iter()
        .map(|root| webpki::anchor_from_trusted_cert(&root.der).map_err(|e| malformed(root, e)))
        .collect::<std::result::Result<_, _>>()?;
    let links: Vec<&Certificate> = chain.iter().chain(&roots.intermediates).collect();
    let intermediates: Vec<CertificateDer> = links.iter().map(|c| c.der.clone()).collect();
    let algorithms: Vec<_> = webpki::ALL_VERIFICATION_ALGS.iter().chain(P521_ALGORITHMS).copied().collect();
    // Of a path that webpki accepts, what is wrong with it nonetheless.
    let objection = RefCell::new(None);
    let judge = |path: &VerifiedPath| {
        let anchor = anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        let problem = check_authorities(path, anchor.and_then(|at| roots.anchors.get(at)), now).err();
        problem.map_or(Ok(()), |problem| {
            objection.replace(Some(problem));
            Err(webpki::Error::UnknownIssuer)
        })
    };
    let path = end.verify_for_usage(&algorithms, &anchors, &intermediates, now, AnyUsage, None, Some(&judge));
    let Err(error) = path else { return Ok(()) };
    Err(objection.take().unwrap_or_else(|| explain(&error, leaf, &links, now)))
}

/// What webpki does not look at.
fn check_authorities(path: &VerifiedPath, root: Option<&Certificate>, now: UnixTime) -> Judged<()> {
    let mut intermediates = 0;
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der().to_vec();
        let authority = Certificate::from_der(der).ok_or("the chain holds a malformed certificate")?;
        authority.check_may_issue()?;
        authority.check_is_for_code()?;
        intermediates += 1;
    }
    let root = root.ok_or("the chain leads to none of the roots")?;
    root.check_dates(now)?;
    root.check_is_authority(intermediates)?;
    root.check_is_for_code()?;
    root.check_may_issue()
}

/// Why there is no path.
fn explain(error: &webpki::Error, leaf: &Certificate, links: &[&Certificate], now: UnixTime) -> String {
    use webpki::Error as E;
    let last = unlinked(leaf, links);
    match error {
        E::CertExpired { .. } | E::CertNotValidYet { .. } => links
            .iter()
            .find_map(|link| link.check_dates(now).err())
            .unwrap_or_else(|| "a certificate of the chain is not valid now".to_owned()),
        E::InvalidSignatureForPublicKey => {
            format!(
                "the chain of {} is forged: a certificate in it was not signed by the issuer it names",
                leaf.subject()
            )
        }
        E::CaUsedAsEndEntity => format!("the certificate {} is an authority's, not a signer's", leaf.subject()),
        E::EndEntityUsedAsCa => {
            let issuer = |link: &&&Certificate| link.check_is_authority(0).is_err();
            not_an_authority(&links.iter().find(issuer).unwrap_or(&last).subject())
        }
        E::PathLenConstraintViolated => too_long("an authority in it"),
        E::UnknownIssuer => format!(
            "the certificate {} leads to none of the roots: {} was issued by {}, which is not among them",
            leaf.subject(),
            last.subject(),
            last.parsed.tbs_certificate().issuer()
        ),
        other => format!("the chain of {} is not valid: {other:?}", leaf.subject()),
    }
}

/// The certificate at which a chain, followed by names, ends.
fn unlinked<'a>(leaf: &'a Certificate, links: &[&'a Certificate]) -> &'a Certificate {
    let mut last = leaf;
    for _ in links {
        let issuer = last.parsed.tbs_certificate().issuer();
        match links.iter().find(|link| link.parsed.tbs_certificate().subject() == issuer) {
            Some(next) if !next.is_self_issued() => last = next,
            _ => break,
        }
    }
    last
}

fn not_an_authority(subject: &str) -> String {
    format!("the certificate {subject} is not an authority's (basic constraints), yet issued another")
}

fn too_long(authority: &str) -> String {
    format!("the chain is longer than {authority} allows (path length)")
}

/// Usage of the signer's certificate is checked here; webpki would hold issuers to it too.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> std::result::Result<(), webpki::Error> {
        Ok(())
    }
}

/// ECDSA on P-521, which ring does not have.
#[derive(Debug)]
struct P521 {
    signature: AlgorithmIdentifier,
    hash: fn(&[u8]) -> Vec<u8>,
}

static P521_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    &P521 { signature: alg_id::ECDSA_SHA512, hash: |message| Sha512::digest(message).to_vec() },
    &P521 { signature: alg_id::ECDSA_SHA384, hash: |message| Sha384::digest(message).to_vec() },
];

impl SignatureVerificationAlgorithm for P521 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> std::result::Result<(), InvalidSignature> {
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = p521::ecdsa::Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        key.verify_prehash(&(self.hash)(message), &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}
