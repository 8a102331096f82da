//! Statements and bundles that a holder of the key, or nobody, would make; certificates at other times.

use super::bundle::{Bundle, Material, pae_prefix};
use super::certificate::{Certificate, Roots, check};
use super::key::{PrivateKey, PublicKey};
use super::manifest::{Manifest, Method, Policy, Resource};
use super::verify::{Trust, authentic};
use super::{Signer, Stop, hex};
use crate::error::Error;
use proptest::prelude::*;
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CURVES: [&str; 3] = ["p256", "p384", "p521"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oms").join(name)
}

fn public(name: &str) -> PublicKey {
    PublicKey::read(&fixture(&format!("keys/{name}.pub.pem"))).unwrap()
}

fn private(name: &str) -> PrivateKey {
    PrivateKey::read(&fixture(&format!("keys/{name}.pem"))).unwrap()
}

/// `payload` signed by the test key on P-256.
fn signed(payload: &[u8]) -> Bundle {
    let key = private("p256");
    let signature = key.sign(&[pae_prefix(payload).as_bytes(), payload]).unwrap();
    Bundle { material: Material::Key(Some(key.public().hint().unwrap())), payload: payload.to_vec(), signature }
}

fn verdict(bundle: &Bundle) -> Result<Manifest, String> {
    match authentic(bundle, &Trust::Key(public("p256")), Path::new("model.sig")) {
        Ok(manifest) => Ok(manifest),
        Err(Stop::Refused(problem)) => Err(format!("refused: {problem}")),
        Err(Stop::Failed(error)) => Err(format!("failed: {error}")),
    }
}

/// A statement about the files `names`, whose root is right.
fn statement(names: &[&str]) -> Value {
    let digests: Vec<[u8; 32]> = names.iter().map(|name| Sha256::digest(name).into()).collect();
    let root: Vec<u8> = digests.concat();
    let listed = names.iter().zip(&digests);
    let resources: Vec<Value> =
        listed.map(|(name, d)| json!({"name": name, "algorithm": "sha256", "digest": hex(d)})).collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": hex(&Sha256::digest(root))}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "resources": resources,
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false,
                "ignore_paths": [".git"]},
        },
    })
}

fn of(statement: &Value) -> Result<Manifest, String> {
    verdict(&signed(statement.to_string().as_bytes()))
}

/// A statement with the value at `at` replaced.
fn with(mut statement: Value, at: &str, value: Value) -> Value {
    *statement.pointer_mut(at).unwrap() = value;
    statement
}

fn resource(path: &str, range: Option<std::ops::Range<u64>>) -> Resource {
    Resource { path: path.into(), range, sha256: Sha256::digest(path).into() }
}

#[test]
fn manifests_read_back_as_they_were_written() {
    for (method, range) in [(Method::Files, None), (Method::Shards { bytes: 1_000_000_000 }, Some(0..7))] {
        let policy = Policy { method, allow_symlinks: true, ignore_paths: vec!["a".into(), "é/\"b".into()] };
        let resources = vec![resource("b-c", range.clone()), resource("b/\u{1}é\"", range)];
        let manifest = Manifest { name: "modèle".into(), policy, resources };
        let bundle = signed(&manifest.to_statement().unwrap());
        let file = bundle.to_json().unwrap();
        assert_eq!(Bundle::parse(&file).unwrap(), bundle);
        assert_eq!(verdict(&bundle).unwrap(), manifest);
    }
}

#[test]
fn what_no_model_can_be_is_refused_even_when_signed() {
    let good = || statement(&["a", "b"]);
    assert_eq!(of(&good()).unwrap().resources.len(), 2);
    let mut reordered = good();
    reordered["predicate"]["resources"].as_array_mut().unwrap().reverse();
    let mut dropped = good();
    dropped["predicate"]["resources"].as_array_mut().unwrap().pop();
    let shards = |size: Value| {
        let one = with(statement(&["a:0:8"]), "/predicate/serialization/method", "shards".into());
        let mut one = with(one, "/predicate/resources/0/algorithm", "sha256".into());
        one["predicate"]["serialization"]["shard_size"] = size;
        one
    };
    for size in [json!(8), json!(8.0)] {
        assert_eq!(of(&shards(size)).unwrap().policy.method, Method::Shards { bytes: 8 });
    }
    let cases = [
        (reordered, "refused: the signature contradicts itself: the digest of its list of files, in its order, is "),
        (dropped, "refused: the signature contradicts itself"),
        (statement(&["../a"]), "refused: the signature lists \"../a\", which leads out of the model"),
        (statement(&["a/../../b"]), "refused: the signature lists \"a/../../b\", which leads out of the model"),
        (statement(&["/etc/passwd"]), "refused: the signature lists \"/etc/passwd\", which is absolute"),
        (statement(&["a\\b"]), "refused: the signature lists \"a\\\\b\", which holds a backslash"),
        (statement(&["a\0b"]), "refused: the signature lists \"a\\0b\", which holds a NUL"),
        (statement(&["a//b"]), "refused: the signature lists \"a//b\", which is not in plain form"),
        (statement(&[""]), "refused: the signature lists \"\", which is not in plain form"),
        (statement(&["a", "b", "a"]), "refused: the signature lists \"a\" twice"),
        (statement(&[]), "refused: the signature lists no files"),
        (shards(json!(0)), "refused: the signature has shards of 0 bytes"),
        (shards(json!(-8)), "refused: the signature has shards of -8 bytes"),
        (shards(json!(8.5)), "refused: the signature has shards of 8.5 bytes"),
        (shards(json!(1e300)), "refused: the signature has shards of 1e+300 bytes"),
        (shards(Value::Null), "refused: the signature is by shards and does not say how large"),
        (
            with(shards(json!(8)), "/predicate/resources/0/name", "a:+0:8".into()),
            "refused: the signature lists \"a:+0:8\", expected PATH:START:END",
        ),
        (with(good(), "/_type", "x".into()), "refused: what was signed has the type \"x\", expected https://in-toto"),
        (with(good(), "/predicateType", "x".into()), "refused: what was signed has the predicate type \"x\""),
        (with(good(), "/subject", json!([])), "refused: what was signed has 0 subjects"),
        (with(good(), "/predicate/resources/0/digest", "00".into()), "refused: the signature has the digest \"00\""),
        (
            with(good(), "/predicate/resources/0/algorithm", "md5".into()),
            "refused: the signature has a digest \"md5\" for \"a\", expected sha256",
        ),
        (with(good(), "/predicate/serialization/hash_type", "blake3".into()), "failed: model.sig: uses the digest"),
        (with(good(), "/predicate/serialization/method", "tensors".into()), "failed: model.sig: lists resources by"),
        (json!({"_type": 1}), "refused: what was signed is not a statement about a model"),
        (
            json!({"predicateType": "https://model_signing/Digests/v0.1"}),
            "failed: model.sig: was written by model_signing before 1.0",
        ),
    ];
    for (statement, expected) in cases {
        let found = of(&statement).unwrap_err();
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn a_payload_counts_as_it_was_received() {
    // Another order of keys, white space and upper-case digits are what the signer wrote.
    let text = serde_json::to_string_pretty(&statement(&["b", "a"])).unwrap();
    assert_eq!(verdict(&signed(text.as_bytes())).unwrap().resources[0].path, "b");
    let mut changed = signed(text.as_bytes());
    changed.payload.push(b' ');
    assert!(verdict(&changed).unwrap_err().starts_with("refused: the signature does not match what it is to sign"));
    // Two readers of a duplicate key could disagree.
    let twice = text.replacen("\"subject\":", "\"subject\": [], \"subject\":", 1);
    assert!(verdict(&signed(twice.as_bytes())).unwrap_err().contains("duplicate field"));
}

#[test]
fn bundles_of_other_kinds_are_refused_by_name() {
    let good = signed(statement(&["a"]).to_string().as_bytes()).to_json().unwrap();
    let good = || serde_json::from_slice::<Value>(&good).unwrap();
    let material = |value: Value| with(good(), "/verificationMaterial", value);
    let cases = [
        (with(good(), "/mediaType", "application/json".into()), "is a bundle of the type \"application/json\""),
        (with(good(), "/dsseEnvelope", Value::Null), "holds no dsseEnvelope"),
        (with(good(), "/dsseEnvelope/signatures", json!([])), "holds 0 signatures"),
        (with(good(), "/dsseEnvelope/payloadType", "x".into()), "holds a payload of the type \"x\""),
        (with(good(), "/dsseEnvelope/payload", "ä".into()), "its payload is not base64"),
        (with(good(), "/verificationMaterial/tlogEntries", json!([{}])), "is a keyless (Sigstore) signature"),
        (material(json!({"certificate": {"rawBytes": "AA=="}})), "is a keyless (Sigstore) signature"),
        (material(json!({})), "names neither a key nor a certificate"),
        (material(json!({"x509CertificateChain": {"certificates": []}})), "names neither a key nor a certificate"),
        (
            material(json!({"x509CertificateChain": {"certificates": vec![json!({"rawBytes": "AA=="}); 17]}})),
            "holds 17 certificates, expected at most 16",
        ),
        (json!([]), "is not a model signature"),
    ];
    for (bundle, expected) in cases {
        let found = Bundle::parse(bundle.to_string().as_bytes()).unwrap_err();
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    // Bundles before model_signing 1.1 name no hint.
    let old = material(json!({"publicKey": {"rawBytes": "AA==", "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}));
    let old = Bundle::parse(old.to_string().as_bytes()).unwrap();
    assert_eq!(old.material, Material::Key(None));
    assert!(verdict(&old).is_ok());
}

#[test]
fn keys_of_every_curve_and_form_sign_and_verify() {
    for curve in CURVES {
        let key = private(curve);
        assert_eq!(PrivateKey::read(&fixture(&format!("keys/{curve}.sec1.pem"))).unwrap().public(), key.public());
        assert_eq!(public(curve), key.public());
        let signature = key.sign(&[b"ab", b"c"]).unwrap();
        assert!(public(curve).verifies(&[b"a", b"bc"], &signature));
        assert!(!public(curve).verifies(&[b"abd"], &signature));
        assert!(
            CURVES.iter().filter(|other| **other != curve).all(|other| !public(other).verifies(&[b"abc"], &signature))
        );
    }
}

#[test]
fn keys_of_other_kinds_are_refused_by_name() {
    let key = |name: &str| fixture(&format!("keys/{name}.pem"));
    let private = [
        ("encrypted", "encrypted private key"),
        ("encrypted.sec1", "encrypted private key"),
        ("p256.pub", "public key, expected a private one"),
        ("rsa", "another kind of private key"),
        ("k256", "another kind of private key"),
        ("../certificates/p256", "holds a certificate"),
        ("../model/config.json", "is not there"),
    ];
    for (name, expected) in private {
        let found = PrivateKey::read(&key(name)).unwrap_err().to_string();
        assert!(found.contains(expected), "{name}: {found}");
    }
    for (name, expected) in [("p256", "holds a private key"), ("../certificates/p256", "--cert-roots")] {
        let found = PublicKey::read(&key(name)).unwrap_err().to_string();
        assert!(found.contains(expected), "{name}: {found}");
    }
    let not_pem = PublicKey::read(&fixture("model/config.json")).unwrap_err().to_string();
    assert!(not_pem.contains("holds no public key in PEM form"), "{not_pem}");
}

fn chain(names: &[&str]) -> Vec<Certificate> {
    let path = |name: &&str| fixture(&format!("certificates/{name}.pem"));
    names.iter().flat_map(|name| Certificate::read_all(&path(name)).unwrap()).collect()
}

fn roots(names: &[&str]) -> Roots {
    let paths: Vec<PathBuf> = names.iter().map(|name| fixture(&format!("certificates/{name}.pem"))).collect();
    Roots::read(&paths).unwrap()
}

/// The first second of a year.
fn year(year: u64) -> UnixTime {
    let leap_days = (1970..year).filter(|y| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0)).count() as u64;
    UnixTime::since_unix_epoch(Duration::from_secs(((year - 1970) * 365 + leap_days) * 86_400))
}

#[test]
fn chains_lead_to_a_trusted_root_and_nowhere_else() {
    let accepted: [(&[&str], &[&str]); 12] = [
        (&["p256", "intermediate"], &["root"]),
        (&["p384", "intermediate"], &["root"]),
        (&["p521", "intermediate", "root"], &["root"]),
        // In any order, and with others among them.
        (&["p256", "root-rsa", "root", "intermediate"], &["root-rsa", "root"]),
        (&["p256"], &["root", "intermediate"]),
        (&["p256-of-p521", "intermediate-p521"], &["root-p521"]),
        (&["p256-of-rsa", "intermediate-rsa"], &["root-rsa"]),
        (&["p256-self-signed"], &["p256-self-signed"]),
        (&["p256-code-signing", "intermediate"], &["root"]),
        (&["p256-any-usage"], &["root-usage"]),
        (&["p256-named"], &["root-usage"]),
        (&["p256-of-code", "intermediate-code"], &["root-usage"]),
    ];
    for (names, trusted) in accepted {
        let found = check(&chain(names), &roots(trusted), year(2026));
        assert_eq!(found.as_ref(), Ok(&public(&names[0][..4])), "{names:?}");
    }
    let refused: [(&[&str], &[&str], u64, &str); 24] = [
        (&["p256", "intermediate"], &["root"], 2019, "p256 is not valid before 2020-01-01T00:00:00Z"),
        (&["p256", "intermediate"], &["root"], 2121, "p256 expired at 2120-01-01T00:00:00Z"),
        (&["p256-expired", "intermediate"], &["root"], 2026, "p256-expired expired at 2021-01-01T00:00:00Z"),
        (&["p256-future", "intermediate"], &["root"], 2026, "p256-future is not valid before 2119-01-01"),
        (&["p256-of-expired", "intermediate-expired"], &["root"], 2026, "intermediate-expired expired at 2021"),
        (&["p256-of-root-expired"], &["root-expired"], 2026, "root-expired expired at 2021"),
        (&["p256"], &["root"], 2026, "leads to none of the roots: CN=test p256 was issued by CN=test intermediate"),
        (&["p256", "intermediate"], &["root-rsa"], 2026, "CN=test intermediate was issued by CN=test root, which"),
        // A root that comes with the signature is not trusted.
        (&["p256", "intermediate", "root"], &["root-rsa"], 2026, "leads to none of the roots"),
        (&["p256-self-signed"], &["root"], 2026, "leads to none of the roots"),
        // Of a root's key, and not of that root.
        (&["p256-code-signing"], &["p256-self-signed"], 2026, "leads to none of the roots"),
        (&["p256", "intermediate-forged"], &["root"], 2026, "is forged"),
        (&["p256-no-usage", "intermediate"], &["root"], 2026, "is not one for signatures"),
        (&["p256-usage-unsaid", "intermediate"], &["root"], 2026, "is not one for signatures"),
        (&["p256-of-not-an-authority", "not-an-authority"], &["root"], 2026, "not-an-authority is not an authority's"),
        (&["p256-of-root-not-an-authority"], &["root-not-an-authority"], 2026, "root-not-an-authority is not an auth"),
        (&["p256-of-may-not-issue", "may-not-issue"], &["root"], 2026, "its key usage lacks keyCertSign"),
        (&["p256-of-too-deep", "too-deep", "intermediate"], &["root"], 2026, "the chain is longer than"),
        (&["p256-of-short", "intermediate-of-short"], &["root-short"], 2026, "longer than CN=test root-short allows"),
        (&["intermediate"], &["root"], 2026, "is not one for signatures"),
        // For TLS servers, or issued by an authority of such.
        (&["p256-server"], &["root-usage"], 2026, "p256-server is not one for signing models"),
        (&["p256-of-server", "intermediate-server"], &["root-usage"], 2026, "intermediate-server is not one for"),
        (&["p256-of-root-server"], &["root-server"], 2026, "root-server is not one for signing models"),
        (&["may-not-issue"], &["root"], 2026, "may-not-issue is an authority's, not a signer's"),
    ];
    for (names, trusted, at, expected) in refused {
        let found = check(&chain(names), &roots(trusted), year(at)).unwrap_err();
        assert!(found.contains(expected), "{names:?}: {found}");
    }
    assert!(check(&[], &roots(&["root"]), year(2026)).is_err());
}

#[test]
fn an_identity_is_the_signers_subject_or_one_of_its_names() {
    let of = |name: &str, identity: &str| {
        let roots = roots(&["root-usage"]).with_identity(Some(identity.to_owned()));
        check(&chain(&[name]), &roots, year(2026)).map(drop)
    };
    for identity in ["CN=test p256-named", "release@example.org", "https://example.org/release", "example.org"] {
        assert_eq!(of("p256-named", identity), Ok(()), "{identity}");
    }
    for identity in ["test p256-named", "CN=test p256", "Release@example.org", "example.org.", "CN=test root-usage", ""]
    {
        assert!(of("p256-named", identity).unwrap_err().ends_with("is accepted"), "{identity}");
    }
    let found = of("p256-any-usage", "release@example.org").unwrap_err();
    assert_eq!(found, "the certificate is that of CN=test p256-any-usage, and only release@example.org is accepted");
}

#[test]
fn only_self_signed_certificates_are_roots() {
    let paths = [fixture("certificates/intermediate.pem")];
    let found = Roots::read(&paths).unwrap_err().to_string();
    assert!(found.contains("none of the certificates of --cert-roots is self-signed"), "{found}");
    assert!(found.contains("CN=test intermediate was issued by CN=test root"), "{found}");
    let none = Roots::read(&[fixture("keys/p256.pub.pem")]).unwrap_err().to_string();
    assert!(none.contains("holds no certificate"), "{none}");
}

#[test]
fn a_certificate_is_that_of_the_key() {
    let read = |key: &str, cert: &str| {
        Signer::read(&fixture(&format!("keys/{key}.pem")), Some(&fixture(&format!("certificates/{cert}.pem"))), &[])
    };
    assert!(read("p256", "p256").is_ok());
    let found = read("p384", "p256").map(drop).unwrap_err().to_string();
    assert!(found.contains("the certificate of CN=test p256 is not one for the key"), "{found}");
}

/// Signature files of the Python implementation.
fn python_signatures() -> Vec<Vec<u8>> {
    let names = ["key-p256", "key-p521", "certificate-p384", "shards-p256", "certificate-p256-of-rsa"];
    names.iter().map(|name| std::fs::read(fixture(&format!("signatures/{name}.sig"))).unwrap()).collect()
}

/// Bytes replaced, inserted or removed at random, or the end cut off.
fn mutated(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    (bytes, prop::collection::vec(edit, 1..6)).prop_map(|(mut bytes, edits)| {
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len().max(1));
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if byte < 16 => bytes.truncate(at),
                _ => {}
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_mutated_bundle_never_verifies_as_another_model(file in mutated(prop::sample::select(python_signatures()))) {
        if let Ok(bundle) = Bundle::parse(&file) {
            let trust = match bundle.material {
                Material::Key(_) => Trust::Key(public("p256")),
                Material::Certificates(_) => Trust::Roots(roots(&["root", "root-rsa"])),
            };
            if authentic(&bundle, &trust, Path::new("x")).is_ok() {
                prop_assert!(python_signatures().iter().any(|f| Bundle::parse(f).unwrap().payload == bundle.payload));
            }
        }
    }

    #[test]
    fn a_mutated_statement_that_is_signed_never_panics(
        text in mutated(Just(statement(&["a", "b/c"]).to_string().into_bytes()))
    ) {
        let unsupported = |problem| Error::input(problem);
        if let Ok(manifest) = Manifest::from_statement(&text, &unsupported) {
            prop_assert!(manifest.resources.iter().all(|r| super::manifest::bad_path(&r.path).is_none()));
            let again = Manifest::from_statement(&manifest.to_statement().unwrap(), &unsupported);
            prop_assert_eq!(again.unwrap(), manifest);
        }
    }

    #[test]
    fn mutated_certificates_never_panic(der in mutated(Just(chain(&["p256"])[0].der().to_vec()))) {
        if let Some(leaf) = Certificate::from_der(der) {
            let good = chain(&["p256", "intermediate"]);
            let found = check(&[leaf.clone(), good[1].clone()], &roots(&["root"]), year(2026));
            prop_assert!(found.is_err() || leaf.der() == good[0].der());
        }
    }
}
