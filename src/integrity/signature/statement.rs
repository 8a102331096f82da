//! The in-toto statement that is signed: a manifest as JSON.

use super::manifest::{Manifest, Method, Policy, Resource, bad_path};
use super::{Checked, IGNORED, refused};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashSet;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// What releases of model_signing before 1.0 wrote.
const PREDICATE_BEFORE_V1: &str = "https://model_signing/Digests/v0.1";

#[derive(Serialize, Deserialize)]
struct Statement<'a> {
    #[serde(rename = "_type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    subject: Vec<Subject<'a>>,
    #[serde(rename = "predicateType", borrow)]
    predicate_type: Cow<'a, str>,
    #[serde(borrow)]
    predicate: Predicate<'a>,
}

#[derive(Serialize, Deserialize)]
struct Subject<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    digest: SubjectDigest<'a>,
}

#[derive(Serialize, Deserialize)]
struct SubjectDigest<'a> {
    #[serde(borrow)]
    sha256: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct Predicate<'a> {
    serialization: Serialization,
    #[serde(borrow)]
    resources: Vec<Listed<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    allow_symlinks: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard_size: Option<serde_json::Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_paths: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    algorithm: Cow<'a, str>,
    #[serde(borrow)]
    digest: Cow<'a, str>,
}

impl Manifest {
    /// The statement's bytes.
    pub(super) fn to_statement(&self) -> Result<Vec<u8>> {
        let (method, shard_size) = match self.policy.method {
            Method::Files => ("files", None),
            Method::Shards { bytes } => ("shards", Some(bytes.into())),
        };
        let listed = |r: &Resource| Listed {
            name: r.name().into(),
            algorithm: self.policy.method.algorithm().into(),
            digest: super::hex(&r.sha256).into(),
        };
        let statement = Statement {
            kind: STATEMENT.into(),
            subject: vec![Subject {
                name: self.name.as_str().into(),
                digest: SubjectDigest { sha256: self.root().into() },
            }],
            predicate_type: PREDICATE.into(),
            predicate: Predicate {
                serialization: Serialization {
                    method: method.to_owned(),
                    hash_type: "sha256".to_owned(),
                    allow_symlinks: self.policy.allow_symlinks,
                    shard_size,
                    ignore_paths: Some(self.policy.ignore_paths.clone()),
                },
                resources: self.resources.iter().map(listed).collect(),
            },
        };
        serde_json::to_vec(&statement).map_err(|e| Error::input(format!("the statement cannot be written: {e}")))
    }

    /// Reads what was signed; `unsupported` makes the error of what this version does not know.
    pub(super) fn from_statement(payload: &[u8], unsupported: &dyn Fn(String) -> Error) -> Checked<Manifest> {
        let statement: Statement = serde_json::from_slice(payload).map_err(|e| match is_before_v1(payload) {
            true => unsupported(before_v1()).into(),
            false => refused(format!("what was signed is not a statement about a model: {e}")),
        })?;
        for (what, found, expected) in
            [("type", &statement.kind, STATEMENT), ("predicate type", &statement.predicate_type, PREDICATE)]
        {
            if found != expected {
                return Err(refused(format!("what was signed has the {what} {found:?}, expected {expected}")));
            }
        }
        let [subject] = statement.subject.as_slice() else {
            let problem = format!("what was signed has {} subjects, expected one", statement.subject.len());
            return Err(refused(problem));
        };
        let policy = policy(statement.predicate.serialization, unsupported)?;
        let mut seen = HashSet::new();
        let mut resources = Vec::new();
        for listed in &statement.predicate.resources {
            if !seen.insert(listed.name.as_ref()) {
                return Err(refused(format!("the signature lists {:?} twice", listed.name)));
            }
            resources.push(resource(listed, policy.method)?);
        }
        if resources.is_empty() {
            return Err(refused("the signature lists no files"));
        }
        let manifest = Manifest { name: subject.name.clone().into_owned(), policy, resources };
        let root = manifest.root();
        if !subject.digest.sha256.eq_ignore_ascii_case(&root) {
            return Err(refused(format!(
                "the signature contradicts itself: the digest of its list of files, in its order, is {root}, and it \
                 says {:?}",
                subject.digest.sha256
            )));
        }
        Ok(manifest)
    }
}

/// Whether a payload looks like one that model_signing wrote before 1.0.
pub(super) fn is_before_v1(payload: &[u8]) -> bool {
    super::key::contains(payload, PREDICATE_BEFORE_V1.as_bytes())
}

pub(super) fn before_v1() -> String {
    "was written by model_signing before 1.0, in a form that is not read here; sign the model again".to_owned()
}

fn policy(from: Serialization, unsupported: &dyn Fn(String) -> Error) -> Checked<Policy> {
    if from.hash_type != "sha256" {
        let problem = format!("uses the digest {:?}, and only sha256 is read here; verify it with", from.hash_type);
        return Err(unsupported(format!("{problem} model_signing, or sign the model again")).into());
    }
    let method = match (from.method.as_str(), from.shard_size) {
        ("files", _) => Method::Files,
        ("shards", Some(size)) => Method::Shards { bytes: shard_size(&size)? },
        ("shards", None) => return Err(refused("the signature is by shards and does not say how large they are")),
        (other, _) => return Err(unsupported(format!("lists resources by {other:?}, expected files or shards")).into()),
    };
    let ignore_paths = from.ignore_paths.unwrap_or_else(|| IGNORED.map(str::to_owned).to_vec());
    Ok(Policy { method, allow_symlinks: from.allow_symlinks, ignore_paths })
}

/// A whole number of bytes, which protobuf's JSON writes as `8.0`.
fn shard_size(number: &serde_json::Number) -> Checked<u64> {
    /// From here on not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let from_float = |size: f64| (size.fract() == 0.0 && (1.0..=EXACT).contains(&size)).then_some(size as u64);
    let size = number.as_u64().filter(|size| *size > 0).or_else(|| number.as_f64().and_then(from_float));
    size.ok_or_else(|| refused(format!("the signature has shards of {number} bytes, expected a whole number above 0")))
}

fn resource(listed: &Listed, method: Method) -> Checked<Resource> {
    let name = listed.name.as_ref();
    let (path, range) = match method {
        Method::Files => (name, None),
        Method::Shards { .. } => {
            let not_a_shard = || refused(format!("the signature lists {name:?}, expected PATH:START:END"));
            let (path, range) = split_range(name).ok_or_else(not_a_shard)?;
            (path, Some(range))
        }
    };
    if let Some(problem) = bad_path(path) {
        return Err(refused(format!("the signature lists {path:?}, which {problem}; no model is accepted by it")));
    }
    if listed.algorithm != "sha256" && listed.algorithm != method.algorithm() {
        let (found, expected) = (&listed.algorithm, method.algorithm());
        return Err(refused(format!("the signature has a digest {found:?} for {name:?}, expected {expected}")));
    }
    let not_a_digest = || refused(format!("the signature has the digest {:?} for {name:?}", listed.digest));
    Ok(Resource { path: path.to_owned(), range, sha256: from_hex(&listed.digest).ok_or_else(not_a_digest)? })
}

fn split_range(name: &str) -> Option<(&str, std::ops::Range<u64>)> {
    let (rest, end) = name.rsplit_once(':')?;
    let (path, start) = rest.rsplit_once(':')?;
    // Digits only, so that one range has one name.
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some((path, number(start)?..number(end)?))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| (pair[at] as char).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}
