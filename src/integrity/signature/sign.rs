//! Signing a model.

use super::bundle::{Bundle, LARGEST, Material, pae_prefix};
use super::certificate::{Certificate, Roots};
use super::hash::{Span, sha256_all};
use super::key::PrivateKey;
use super::manifest::{Manifest, Method, Policy, Resource, bad_path};
use super::model::Model;
use super::verify::{Trust, authentic};
use super::{FILES_ONLY, HUB_CACHE, IGNORED, Stop};
use crate::checkpoint::walk::{Entry, Kind};
use crate::error::{Bytes, Error, Result};
use crate::files;
use crate::files::kind::is_weights;
use crate::progress::Progress;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Files or shards that one signature lists at most.
const MOST_RESOURCES: u64 = 1 << 20;

/// A private key, and the certificates that vouch for it, if any.
#[derive(Debug)]
pub struct Signer {
    key: PrivateKey,
    /// The signer's certificate first; empty where the key signs for itself.
    chain: Vec<Certificate>,
}

/// How a model is signed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignSettings {
    /// Whether a link to a file is signed as that file; else it is an error.
    pub allow_symlinks: bool,
    /// Sign pieces of so many bytes instead of whole files.
    pub shard_bytes: Option<u64>,
    /// Files and folders below the model that are left out.
    pub ignore: Vec<String>,
}

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// How many files the signature lists.
    pub files: usize,
    /// Bytes of these files together.
    pub bytes: u64,
    /// The model's digest: SHA-256 over the digests of its files.
    pub root_sha256: String,
    /// Who signed: the certificate's subject, or the key's curve and hint.
    pub signer: String,
}

impl Signer {
    /// Reads a private key and, where the signature is to be one by certificate, the certificates: `cert` is the
    /// signer's (others in its file join the chain), `chain` those that lead from it to a root.
    ///
    /// # Errors
    /// A file cannot be read, or the certificate is not that of the key.
    pub fn read(key: &Path, cert: Option<&Path>, chain: &[PathBuf]) -> Result<Signer> {
        let private = PrivateKey::read(key)?;
        let mut all = Vec::new();
        if let Some(cert) = cert {
            all = Certificate::read_all(cert)?;
            if all[0].key() != Some(private.public()) {
                let (subject, key) = (all[0].subject(), key.display());
                return Err(Error::file(cert, format!("the certificate of {subject} is not one for the key {key}")));
            }
            for path in chain {
                all.extend(Certificate::read_all(path)?);
            }
        }
        Ok(Signer { key: private, chain: all })
    }

    fn describe(&self) -> Result<String> {
        match self.chain.first() {
            Some(certificate) => Ok(certificate.subject()),
            None => Ok(format!("{} key {}", self.key.public().curve(), self.key.public().hint()?)),
        }
    }

    fn material(&self) -> Result<Material> {
        if self.chain.is_empty() {
            return Ok(Material::Key(Some(self.key.public().hint()?)));
        }
        Ok(Material::Certificates(self.chain.iter().map(|c| c.der().to_vec()).collect()))
    }

    /// What a verifier who trusts this signer trusts.
    fn trust(&self) -> Trust {
        if self.chain.is_empty() {
            return Trust::Key(self.key.public());
        }
        Trust::Roots(Roots::of_chain(&self.chain))
    }
}

/// Signs every file of `model` (a folder or a file) but the signature itself, the folder's version control, what the
/// hub's client notes in it and what is to be ignored, and writes the signature, which is verified before it is
/// written.
///
/// # Errors
/// The model cannot be read, is empty, or holds what cannot be signed; the signature cannot be written or would replace
/// something that is none; the certificates do not stand the check.
pub fn sign(
    model: &Path,
    signature: &Path,
    signer: &Signer,
    settings: &SignSettings,
    progress: &dyn Progress,
) -> Result<Signed> {
    let opened = Model::open(model)?;
    check_place(signature)?;
    if !signer.chain.is_empty() {
        super::verify::check_certificates(&signer.chain, &signer.trust()).map_err(into_error)?;
    }
    let method = match settings.shard_bytes {
        None => Method::Files,
        Some(0) => return Err(Error::input("the size of shards is 0, expected at least 1 byte")),
        Some(bytes) => Method::Shards { bytes },
    };
    let own = opened.below(signature);
    let tools = IGNORED.iter().chain(&[HUB_CACHE]).map(|path| (*path).to_owned());
    let ignore_paths = tools.chain(own).chain(ignored(&settings.ignore)?).collect();
    let policy = Policy { method, allow_symlinks: settings.allow_symlinks, ignore_paths };
    let (manifest, files, bytes) = manifest(model, &opened, policy, progress)?;

    let payload = manifest.to_statement()?;
    let made = signer.key.sign(&[pae_prefix(&payload).as_bytes(), &payload])?;
    let json = Bundle { material: signer.material()?, payload, signature: made }.to_json()?;
    if json.len() as u64 > LARGEST {
        let problem = format!("would have {}, and no more than {} are read", Bytes(json.len() as u64), Bytes(LARGEST));
        return Err(Error::file(signature, format!("{problem}; sign fewer files, or larger shards")));
    }
    // As a verifier reads it.
    let read_back = Bundle::parse(&json).map_err(Error::input)?;
    let found = authentic(&read_back, &signer.trust(), signature).map_err(into_error)?;
    if found != manifest {
        return Err(Error::input("the signature does not read back as it was made; nothing was written"));
    }
    files::write_whole(signature, &json)?;
    Ok(Signed { files, bytes, root_sha256: manifest.root(), signer: signer.describe()? })
}

/// The paths that the user leaves out.
fn ignored(paths: &[String]) -> Result<Vec<String>> {
    let plain = |path: &String| {
        let path = path.trim_end_matches('/').to_owned();
        match bad_path(&path).or((path == ".").then_some("is the whole model")) {
            Some(problem) => {
                Err(Error::input(format!("--ignore-path {path:?}: it {problem}; expected a path below the model")))
            }
            None => Ok(path),
        }
    };
    paths.iter().map(plain).collect()
}

/// Where something else than a signature is, none is written.
fn check_place(signature: &Path) -> Result<()> {
    files::check_writable(signature)?;
    if std::fs::metadata(signature).is_ok_and(|about| about.is_file() && about.len() > 0) {
        let read = files::read_at_most(signature, LARGEST);
        if !read.is_ok_and(|bytes| Bundle::parse(&bytes).is_ok()) {
            return Err(Error::file(signature, "is there already and is not a signature; choose another name with -o"));
        }
    }
    Ok(())
}

fn into_error(stop: Stop) -> Error {
    match stop {
        Stop::Refused(problem) => Error::input(format!("{problem}; nothing was signed")),
        Stop::Failed(error) => error,
    }
}

/// The manifest of a model with its files and bytes counted.
fn manifest(shown: &Path, model: &Model, policy: Policy, progress: &dyn Progress) -> Result<(Manifest, usize, u64)> {
    let mut pieces: Vec<(String, PathBuf, Option<Range<u64>>, u64)> = Vec::new();
    let (mut files, mut total) = (0, 0);
    for entry in model.entries()? {
        let place = model.place(&entry.path);
        if let Some(by) = policy.ignored_by(&entry) {
            if is_weights(&entry.path) && by != ".git" && by != HUB_CACHE {
                let problem = "holds weights by its name, and no signature that leaves out weights is accepted";
                let advice = match IGNORED.contains(&by) {
                    true => format!("{by:?} is always left out, so move it from there"),
                    false => format!("do not ignore {by:?}"),
                };
                return Err(Error::file(place, format!("{problem}; {advice}")));
            }
            continue;
        }
        if let Some(name) = entry.path.split('/').next().filter(|name| FILES_ONLY.contains(name)) {
            let problem = format!("other verifiers leave out whatever is called {name}, and only a file may be");
            return Err(Error::file(place, format!("{problem}; remove or rename it")));
        }
        let bytes = signable(&entry, &place, &policy)?;
        files += 1;
        total += bytes;
        let more = policy.method.count(bytes);
        if more > MOST_RESOURCES - pieces.len() as u64 {
            let problem = format!("has more than {MOST_RESOURCES} files or shards, too many for one signature");
            return Err(Error::file(shown, problem));
        }
        for range in policy.method.ranges(bytes) {
            pieces.push((entry.path.clone(), place.clone(), range, bytes));
        }
    }
    if pieces.is_empty() {
        return Err(Error::file(shown, "holds no files to sign"));
    }
    let spans: Vec<Span> = pieces
        .iter()
        .map(|(_, place, range, bytes)| Span { file: place, bytes: range.clone().unwrap_or(0..*bytes) })
        .collect();
    let digests = sha256_all(&spans, progress)?;
    let resources = pieces.into_iter().zip(digests);
    let resources = resources.map(|((path, _, range, _), sha256)| Resource { path, range, sha256 }).collect();
    Ok((Manifest { name: model.name.clone(), policy, resources }, files, total))
}

/// The size of what is signed for an entry.
fn signable(entry: &Entry, place: &Path, policy: &Policy) -> Result<u64> {
    let wrong = |problem: &str| Err(Error::file(place, problem));
    if let Some(problem) = bad_path(&entry.path) {
        return wrong(&format!("the name {problem}, and no verifier would accept it; rename it"));
    }
    let bytes = match entry.kind {
        Kind::File => entry.bytes,
        Kind::Link if !policy.allow_symlinks => {
            return wrong("is a symbolic link; --allow-symlinks signs the file it leads to");
        }
        Kind::Link => match std::fs::metadata(place) {
            Ok(about) if about.is_file() => about.len(),
            _ => return wrong("is a link to no file, and only links to files can be signed"),
        },
        Kind::Special => return wrong("is a pipe, socket or device, and only files can be signed"),
        Kind::NotUtf8 => return wrong("its name is not UTF-8, and cannot be signed; rename it"),
    };
    match policy.method {
        Method::Shards { .. } if bytes == 0 => wrong("is empty, and signing by shards does not cover empty files"),
        Method::Shards { .. } if entry.path.contains(':') => {
            wrong("has a colon in its name, which signing by shards cannot tell from a range; rename it")
        }
        _ => Ok(bytes),
    }
}
