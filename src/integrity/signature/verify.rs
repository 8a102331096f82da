//! Verifying a model's signature.

use super::bundle::{Bundle, Material, pae_prefix};
use super::certificate::{Certificate, Roots, check};
use super::hash::{Span, sha256_all};
use super::key::PublicKey;
use super::manifest::{Manifest, Method, Policy, Resource};
use super::model::{Model, SINGLE};
use super::{Checked, HUB_CACHE, Stop, hex, refused, statement};
use crate::checkpoint::sha256_hex;
use crate::checkpoint::walk::{Entry, Kind};
use crate::document::{Document, Kind as DocumentKind};
use crate::error::{Error, Result};
use crate::files::kind::is_weights;
use crate::progress::Progress;
use rustls_pki_types::UnixTime;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Whose signature is accepted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// One by this key.
    Key(PublicKey),
    /// One by a certificate that leads to one of these roots now.
    Roots(Roots),
}

/// What came of a verification (`achilles-audit/signature/v1`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureReport {
    /// Whether the files are those that somebody trusted signed.
    pub verdict: SignatureVerdict,
    /// Why the signature is not accepted, where it is not.
    pub refusal: Option<String>,
    /// Who signed: the certificate's subject, or the key's curve and hint; none where the signature is not accepted.
    pub signer: Option<String>,
    /// What was signed: SHA-256 over the digests of the model's files.
    pub root_sha256: Option<String>,
    /// Files that are as they were signed.
    pub files: usize,
    /// Bytes of these files together.
    pub bytes: u64,
    /// Everything that is not as it was signed, by path.
    pub differences: Vec<Difference>,
    /// Everything that nobody vouches for although the verification passes, by path.
    pub left_out: Vec<LeftOut>,
}

impl DocumentKind for SignatureReport {
    const SCHEMA: &'static str = "achilles-audit/signature/v1";
    type Model = ReportModel;
    type Settings = SignatureSettings;
}

/// Something that is there and that the signature does not vouch for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// A file, or a folder with all that lies in it.
    pub path: String,
    /// How many files lie there.
    pub files: usize,
    /// Bytes of these files together.
    pub bytes: u64,
    /// The reason for which it is left out.
    pub why: Why,
}

/// Why something is not vouched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Why {
    /// The signed policy ignores it.
    Policy,
    /// The hub's client keeps it for itself.
    HubCache,
    /// It is not signed, and such files are to be let be.
    Unsigned,
    /// It is a link, which the signed policy allows: the bytes it leads to are signed, where it leads is not.
    Link,
}

impl Why {
    /// As reports print it, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Policy => "the signature leaves it out",
            Why::HubCache => "what the hub's client notes is left out",
            Why::Unsigned => "it is not signed, and unsigned files are ignored",
            Why::Link => "its bytes are signed, but it is a link, and where it leads is not",
        }
    }
}

/// A model and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportModel {
    /// As it was named on the command line.
    pub source: String,
    /// The signature's file, as it was named.
    pub signature: String,
}

/// How a signature was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureSettings {
    /// `key` or `certificate`.
    pub trust: &'static str,
    /// Digests of what was trusted: the key's hint, or SHA-256 of each root in DER.
    pub trusted_sha256: Vec<String>,
    /// Whether files that the signature does not list were left alone.
    pub ignore_unsigned_files: bool,
    /// Whom the signer's certificate had to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// Whether somebody who is trusted vouches for these files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureVerdict {
    /// The signature is accepted and the model is what was signed.
    Verified,
    /// The signature is accepted and the model is not what was signed.
    Differs,
    /// The signature is not accepted: nothing is known of the model.
    Refused,
}

/// Something that is not as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, below the model; `.` is a model that is a single file.
    pub path: String,
    /// In what way the file is not as it was signed.
    pub kind: DifferenceKind,
    /// What is wrong, in a sentence.
    pub problem: String,
}

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DifferenceKind {
    /// Signed, and not there.
    Missing,
    /// There, and not signed.
    Extra,
    /// Other bytes than were signed.
    Changed,
    /// A link or something else that is not a file, where the signature allows only files.
    Irregular,
    /// Weights that the signature leaves out.
    #[serde(rename = "left-out")]
    LeftOut,
}

impl DifferenceKind {
    /// `missing`, `extra`, `changed`, `irregular` or `left-out`.
    pub fn as_str(self) -> &'static str {
        match self {
            DifferenceKind::Missing => "missing",
            DifferenceKind::Extra => "extra",
            DifferenceKind::Changed => "changed",
            DifferenceKind::Irregular => "irregular",
            DifferenceKind::LeftOut => "left-out",
        }
    }
}

/// Verifies that `model` (a folder or a file) is what `signature` says, and that the signature is one that `trust`
/// accepts. Every difference is reported; `ignore_unsigned_files` leaves files alone that the signature does not list.
///
/// # Errors
/// A file cannot be read, the signature is not one of a model, or it is of a kind that is not verified here.
pub fn verify(
    model: &Path,
    signature: &Path,
    trust: &Trust,
    ignore_unsigned_files: bool,
    progress: &dyn Progress,
) -> Result<Document<SignatureReport>> {
    let opened = Model::open(model)?;
    let bundle = Bundle::read(signature)?;
    let identity = ReportModel { source: model.display().to_string(), signature: signature.display().to_string() };
    let settings = trust.settings(ignore_unsigned_files)?;
    let mut report = SignatureReport {
        verdict: SignatureVerdict::Refused,
        refusal: None,
        signer: None,
        root_sha256: None,
        files: 0,
        bytes: 0,
        differences: Vec::new(),
        left_out: Vec::new(),
    };
    let manifest = match authentic(&bundle, trust, signature) {
        Ok(manifest) => manifest,
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Refused(problem)) => {
            report.refusal = Some(problem);
            return Ok(Document::new(identity, settings, report));
        }
    };
    report.signer = Some(trust.signer(&bundle)?);
    drop(bundle);
    report.root_sha256 = Some(manifest.root());
    let except = (opened.below(signature), ignore_unsigned_files);
    compare(&opened, manifest, except, &mut report, progress)?;
    report.differences.sort_by(|a, b| a.path.cmp(&b.path));
    report.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    report.verdict = if report.differences.is_empty() { SignatureVerdict::Verified } else { SignatureVerdict::Differs };
    Ok(Document::new(identity, settings, report))
}

impl Trust {
    fn settings(&self, ignore_unsigned_files: bool) -> Result<SignatureSettings> {
        let (trust, trusted_sha256) = match self {
            Trust::Key(key) => ("key", vec![key.hint()?]),
            Trust::Roots(roots) => ("certificate", roots.trusted().iter().map(|r| sha256_hex(r.der())).collect()),
        };
        let identity = match self {
            Trust::Key(_) => None,
            Trust::Roots(roots) => roots.identity().map(str::to_owned),
        };
        Ok(SignatureSettings { trust, trusted_sha256, ignore_unsigned_files, identity })
    }

    fn signer(&self, bundle: &Bundle) -> Result<String> {
        match (self, &bundle.material) {
            (Trust::Roots(_), Material::Certificates(chain)) => {
                let leaf = chain.first().and_then(|der| Certificate::from_der(der.clone()));
                Ok(leaf.map(|leaf| leaf.subject()).unwrap_or_default())
            }
            (Trust::Key(key), _) => Ok(format!("{} key {}", key.curve(), key.hint()?)),
            _ => Ok(String::new()),
        }
    }
}

/// What a bundle says of a model, where it was signed by whom `trust` accepts. `path` is the signature file, for
/// errors.
pub(super) fn authentic(bundle: &Bundle, trust: &Trust, path: &Path) -> Checked<Manifest> {
    let key = match (&bundle.material, trust) {
        (Material::Key(hint), Trust::Key(key)) => {
            let given = key.hint()?;
            if hint.as_ref().is_some_and(|hint| *hint != given) {
                let made = hint.as_deref().unwrap_or_default();
                return Err(refused(format!("it was made with another key: {made}, and the key given is {given}")));
            }
            key.clone()
        }
        (Material::Certificates(chain), Trust::Roots(_)) => {
            let chain: Option<Vec<Certificate>> = chain.iter().map(|der| Certificate::from_der(der.clone())).collect();
            let chain = chain.ok_or_else(|| Error::file(path, "holds a malformed X.509 certificate"))?;
            check_certificates(&chain, trust)?
        }
        (Material::Key(_), Trust::Roots(_)) => {
            return Err(
                Error::file(path, "was made with a key, not with a certificate; give --public-key PUB.pem").into()
            );
        }
        (Material::Certificates(_), Trust::Key(_)) => {
            return Err(Error::file(path, "was made with a certificate; give --cert-roots ROOT.pem").into());
        }
    };
    let prefix = pae_prefix(&bundle.payload);
    if !key.verifies(&[prefix.as_bytes(), &bundle.payload], &bundle.signature) {
        if statement::is_before_v1(&bundle.payload) {
            return Err(Error::file(path, statement::before_v1()).into());
        }
        let problem =
            "the signature does not match what it is to sign: one of them was changed, or another key made it";
        return Err(refused(problem));
    }
    Manifest::from_statement(&bundle.payload, &|problem| Error::file(path, problem))
}

/// The signer's key, where the chain stands the check now.
pub(super) fn check_certificates(chain: &[Certificate], trust: &Trust) -> Checked<PublicKey> {
    match trust {
        Trust::Roots(roots) => check(chain, roots, UnixTime::now()).map_err(Stop::Refused),
        Trust::Key(key) => Ok(key.clone()),
    }
}

/// What is signed for one path, by range.
type Expected = BTreeMap<String, Vec<Resource>>;

/// Compares a model with what was signed; of its other files, the signature's own and, if so told, all are let be.
fn compare(
    model: &Model,
    manifest: Manifest,
    (signature, ignore_unsigned_files): (Option<String>, bool),
    report: &mut SignatureReport,
    progress: &dyn Progress,
) -> Result<()> {
    let Manifest { policy, resources, .. } = manifest;
    let mut expected = Expected::new();
    for mut resource in resources {
        // The specification names a single file, the Python implementation writes a dot.
        if model.is_single() && resource.path == model.name {
            SINGLE.clone_into(&mut resource.path);
        }
        expected.entry(resource.path.clone()).or_default().push(resource);
    }
    expected.values_mut().for_each(|pieces| pieces.sort_by_key(|r| r.range.as_ref().map(|range| range.start)));
    let mut regular: Vec<(String, PathBuf, u64, Vec<Resource>)> = Vec::new();
    for entry in model.entries()? {
        let place = model.place(&entry.path);
        // What is signed is verified whatever else is said of it.
        let Some(pieces) = expected.remove(&entry.path) else {
            let is_signature = entry.kind == Kind::File && signature.as_ref() == Some(&entry.path);
            if !is_signature {
                report.unsigned(&entry, &policy, ignore_unsigned_files);
            }
            continue;
        };
        match readable(&entry, &place, policy.allow_symlinks) {
            Ok(bytes) => {
                if entry.kind == Kind::Link {
                    report.leave_out(&entry.path, bytes, Why::Link);
                }
                regular.push((entry.path, place, bytes, pieces));
            }
            Err(problem) => report.push(entry.path, DifferenceKind::Irregular, problem),
        }
    }
    for path in expected.into_keys() {
        report.push(path, DifferenceKind::Missing, "is signed and not there");
    }
    // Where pieces are not those of a file of this size, it need not be read.
    let (same_size, other_size): (Vec<_>, Vec<_>) = regular.into_iter().partition(|(_, _, bytes, pieces)| {
        policy.method.ranges(*bytes).take(pieces.len() + 1).eq(pieces.iter().map(|piece| piece.range.clone()))
    });
    for (path, _, bytes, _) in other_size {
        report.push(path, DifferenceKind::Changed, format!("has {bytes} bytes, and other pieces are signed"));
    }
    let spans: Vec<Span> = same_size
        .iter()
        .flat_map(|(_, place, bytes, pieces)| {
            pieces.iter().map(|piece| Span { file: place, bytes: piece.range.clone().unwrap_or(0..*bytes) })
        })
        .collect();
    let mut found = sha256_all(&spans, progress)?.into_iter();
    for (path, _, bytes, pieces) in same_size {
        let found: Vec<[u8; 32]> = found.by_ref().take(pieces.len()).collect();
        match pieces.iter().zip(found).find(|(piece, found)| piece.sha256 != *found) {
            None => {
                report.files += 1;
                report.bytes += bytes;
            }
            Some((piece, found)) => report.push(path, DifferenceKind::Changed, changed(piece, &found)),
        }
    }
    Ok(())
}

impl SignatureReport {
    fn push(&mut self, path: String, kind: DifferenceKind, problem: impl Into<String>) {
        self.differences.push(Difference { path, kind, problem: problem.into() });
    }

    fn leave_out(&mut self, path: &str, bytes: u64, why: Why) {
        // Entries come in order of their paths: those of a folder one after the other.
        match self.left_out.last_mut().filter(|left| left.path == path) {
            Some(left) => {
                left.files += 1;
                left.bytes += bytes;
            }
            None => self.left_out.push(LeftOut { path: path.to_owned(), files: 1, bytes, why }),
        }
    }

    /// Something that is there and not signed.
    fn unsigned(&mut self, entry: &Entry, policy: &Policy, ignored: bool) {
        let in_hub_cache = entry.path.strip_prefix(HUB_CACHE).is_some_and(|below| below.starts_with('/'));
        match policy.ignored_by(entry) {
            _ if in_hub_cache => self.leave_out(HUB_CACHE, entry.bytes, Why::HubCache),
            Some(by) if is_weights(&entry.path) && by != ".git" => {
                let problem = format!("holds weights by its name, and the signature leaves out {by:?}");
                self.push(entry.path.clone(), DifferenceKind::LeftOut, problem);
            }
            Some(by) => self.leave_out(by, entry.bytes, Why::Policy),
            None if ignored => {
                self.leave_out(&entry.path, entry.bytes, Why::Unsigned);
            }
            None => self.differences.push(unsigned(entry, policy.method)),
        }
    }
}

fn unsigned(entry: &Entry, method: Method) -> Difference {
    let (kind, problem) = match entry.kind {
        Kind::File if entry.bytes == 0 && method != Method::Files => {
            (DifferenceKind::Extra, "is not signed: it is empty, and signatures by shards do not cover empty files")
        }
        Kind::File => (DifferenceKind::Extra, "is not signed"),
        Kind::Link => (DifferenceKind::Irregular, "is a symbolic link and not signed"),
        Kind::Special => (DifferenceKind::Irregular, "is a pipe, socket or device and not signed"),
        Kind::NotUtf8 => (DifferenceKind::Irregular, "has a name that is not UTF-8 and is not signed"),
    };
    Difference { path: entry.path.clone(), kind, problem: problem.to_owned() }
}

/// The size of the file that an entry stands for, or why it stands for none.
fn readable(entry: &Entry, place: &Path, allow_symlinks: bool) -> std::result::Result<u64, &'static str> {
    match entry.kind {
        Kind::File => Ok(entry.bytes),
        Kind::Link if !allow_symlinks => Err("is a symbolic link, which the signature does not allow"),
        Kind::Link => match std::fs::metadata(place) {
            Ok(about) if about.is_file() => Ok(about.len()),
            _ => Err("is a link to no file"),
        },
        Kind::Special => Err("is a pipe, socket or device, and a file was signed"),
        Kind::NotUtf8 => Err("has a name that is not UTF-8"),
    }
}

fn changed(piece: &Resource, found: &[u8; 32]) -> String {
    let part = piece.range.as_ref().map(|r| format!(" of bytes {} to {}", r.start, r.end)).unwrap_or_default();
    format!("SHA-256{part} is {}, signed was {}", hex(found), hex(&piece.sha256))
}
