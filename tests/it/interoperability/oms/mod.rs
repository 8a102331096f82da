//! `sign` and `verify-signature`, on the model of fixtures/oms that the Python implementation signed.

mod python;
mod signing;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms");
const CURVES: [&str; 3] = ["p256", "p384", "p521"];
const BY_KEY: [&str; 2] = ["--public-key", "{f}/keys/p256.pub.pem"];
const BY_ROOT: [&str; 2] = ["--cert-roots", "{f}/certificates/root.pem"];

/// A copy of the model, in which `{m}` stands for it, `{d}` for the folder around it and `{f}` for the fixtures.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        let scratch = Scratch(tempfile::tempdir().unwrap());
        copy(&Path::new(FIXTURES).join("model"), &scratch.model());
        scratch
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model")
    }

    fn full(&self, text: &str) -> String {
        let dir = self.0.path().to_str().unwrap();
        text.replace("{m}", &format!("{dir}/model")).replace("{d}", dir).replace("{f}", FIXTURES)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_achilles-audit"));
        command.args(args.iter().map(|a| self.full(a))).env_clear().output().unwrap()
    }

    /// Exit code and standard output of `verify-signature {m}`.
    fn verify(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(&[&["verify-signature", "{m}"], args].concat());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    fn sign(&self, args: &[&str]) {
        let output = self.run(&[&["sign", "{m}"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]), "{args:?}: {stderr}");
        assert!(stderr.contains(" signed by "), "{stderr}");
    }

    fn verified(&self, args: &[&str]) {
        let (code, said) = self.verify(args);
        assert!(code == 0 && said.contains(": verified: "), "{args:?}: {code} {said}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn signature(name: &str) -> [String; 2] {
    ["--signature".to_owned(), format!("{{f}}/signatures/{name}.sig")]
}

/// The options that verify a fixture's signature.
fn options<'a>(signature: &'a [String; 2], trust: [&'a str; 2]) -> Vec<&'a str> {
    signature.iter().map(String::as_str).chain(trust).collect()
}

#[test]
fn what_python_signed_verifies() {
    let scratch = Scratch::new();
    for curve in CURVES {
        let key = format!("{{f}}/keys/{curve}.pub.pem");
        scratch.verified(&options(&signature(&format!("key-{curve}")), ["--public-key", &key]));
        scratch.verified(&options(&signature(&format!("certificate-{curve}")), BY_ROOT));
    }
    for (name, root) in [
        ("p256-of-p521", "root-p521"),
        ("p256-of-rsa", "root-rsa"),
        ("p256-self-signed", "p256-self-signed"),
        ("p256-code-signing", "root"),
    ] {
        let root = format!("{{f}}/certificates/{root}.pem");
        scratch.verified(&options(&signature(&format!("certificate-{name}")), ["--cert-roots", &root]));
    }
    // Signatures by shards know nothing of empty files.
    let by_shards = signature("shards-p256");
    let (code, said) = scratch.verify(&options(&by_shards, BY_KEY));
    assert!(code == 1 && said.starts_with("extra empty.txt: is not signed: it is empty"), "{said}");
    std::fs::remove_file(scratch.model().join("empty.txt")).unwrap();
    scratch.verified(&options(&by_shards, BY_KEY));

    // A single file may have any name.
    std::fs::copy(scratch.model().join("config.json"), scratch.0.path().join("renamed")).unwrap();
    for name in ["single-file", "single-file-shards"] {
        let signature = signature(name);
        let output = scratch.run(&[vec!["verify-signature", "{d}/renamed"], options(&signature, BY_KEY)].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

type Change = Box<dyn Fn(&Path)>;

fn write(name: &'static str, bytes: &'static [u8]) -> Change {
    Box::new(move |model| {
        let path = model.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    })
}

fn remove(name: &'static str) -> Change {
    Box::new(move |model| std::fs::remove_file(model.join(name)).unwrap())
}

fn link(name: &'static str, to: &'static str) -> Change {
    Box::new(move |model| {
        let _ = std::fs::remove_file(model.join(name));
        std::os::unix::fs::symlink(to, model.join(name)).unwrap();
    })
}

fn socket(name: &'static str) -> Change {
    Box::new(move |model| drop(std::os::unix::net::UnixListener::bind(model.join(name)).unwrap()))
}

#[test]
fn every_difference_is_named() {
    let sha256 = achilles_audit::checkpoint::sha256_hex;
    let (old, new) = (sha256(b"x\n"), sha256(b"y\n"));
    let changed = format!("changed b-c/x.txt: SHA-256 is {new}, signed was {old}\n");
    let changed_shard = format!("changed weights.bin: SHA-256 of bytes 8 to 16 is {}", sha256(b"xxxxxxxx"));
    let several = format!("{changed}missing config.json: is signed and not there\nextra z: is not signed\n");
    let files = "key-p256";
    let cases: Vec<(&str, &str, Vec<Change>, &str)> = vec![
        ("a changed file", files, vec![write("b-c/x.txt", b"y\n")], &changed),
        ("a missing file", files, vec![remove("weights.bin")], "missing weights.bin: is signed and not there\n"),
        ("an extra file", files, vec![write("b/run.py", b"1")], "extra b/run.py: is not signed\n"),
        ("a hidden file", files, vec![write(".env", b"")], "extra .env: is not signed\n"),
        ("a file of a deeper .git", files, vec![write("b/.git/x", b"")], "extra b/.git/x: is not signed\n"),
        ("a link", files, vec![link("z", "config.json")], "irregular z: is a symbolic link and not signed\n"),
        ("a dangling link", files, vec![link("z", "nowhere")], "irregular z: is a symbolic link and not signed\n"),
        (
            "a file that became a link",
            files,
            vec![write("../moved", b"x\n"), link("b-c/x.txt", "../../moved")],
            "irregular b-c/x.txt: is a symbolic link, which the signature does not allow\n",
        ),
        ("a socket", files, vec![socket("z")], "irregular z: is a pipe, socket or device and not signed\n"),
        (
            "a file that became a socket",
            files,
            vec![remove("weights.bin"), socket("weights.bin")],
            "irregular weights.bin: is a pipe, socket or device, and a file was signed\n",
        ),
        (
            "a forged line",
            files,
            vec![write("z\nmodel: verified: 6 files", b"")],
            "extra z\\nmodel: verified: 6 files: is not signed\n",
        ),
        ("several", files, vec![remove("config.json"), write("z", b""), write("b-c/x.txt", b"y\n")], &several),
        (
            "a changed shard",
            "shards-p256",
            vec![remove("empty.txt"), write("weights.bin", b"\0\x01\x02\x03\x04\x05\x06\x07xxxxxxxxxxxx")],
            &changed_shard,
        ),
        (
            "a longer file",
            "shards-p256",
            vec![remove("empty.txt"), write("b-c/x.txt", b"x\n\n")],
            "changed b-c/x.txt: has 3 bytes, and other pieces are signed\n",
        ),
    ];
    for (name, signed, changes, expected) in cases {
        let scratch = Scratch::new();
        changes.iter().for_each(|change| change(&scratch.model()));
        let (code, said) = scratch.verify(&options(&signature(signed), BY_KEY));
        assert!(code == 1 && said.starts_with(expected), "{name}: {code} {said}");
        let last = said.lines().last().unwrap();
        let differences = said.lines().count() - 1;
        assert!(
            last.contains(&format!("NOT VERIFIED: {differences} differences from what P-256 key")),
            "{name}: {said}"
        );
    }
}

#[test]
fn unsigned_files_are_ignored_on_demand_and_those_of_git_always() {
    let scratch = Scratch::new();
    for change in [write(".git/HEAD", b"x"), write(".gitattributes", b"x"), link(".github", "/")] {
        change(&scratch.model());
    }
    let signature = signature("key-p256");
    let mut options = options(&signature, BY_KEY);
    scratch.verified(&options);
    for change in [write("z", b""), link("y", "/"), socket("x")] {
        change(&scratch.model());
    }
    assert_eq!(scratch.verify(&options).0, 1);
    options.push("--ignore-unsigned-files");
    scratch.verified(&options);
    write("b-c/x.txt", b"y\n")(&scratch.model());
    let (code, said) = scratch.verify(&options);
    assert!(code == 1 && said.starts_with("changed b-c/x.txt") && said.lines().count() == 8, "{said}");
    // What nobody vouches for is named.
    let unsigned = "it is not signed, and unsigned files are ignored";
    let policy = "the signature leaves it out";
    for (path, why) in [
        (".git", policy),
        (".gitattributes", policy),
        (".github", policy),
        ("x", unsigned),
        ("y", unsigned),
        ("z", unsigned),
    ] {
        assert!(said.contains(&format!("\nnot vouched for {path}: {why}\n")), "{said}");
    }
}

#[test]
fn what_a_policy_leaves_out_is_listed_and_weights_are_refused() {
    let scratch = Scratch::new();
    write("notes/a.txt", b"1")(&scratch.model());
    write("notes/b.txt", b"2")(&scratch.model());
    write(".cache/huggingface/download/config.json.metadata", b"x")(&scratch.model());
    scratch.sign(&["--private-key", "{f}/keys/p256.pem", "--ignore-path", "notes/", "--ignore-path", "b/y.txt"]);
    let (code, said) = scratch.verify(&[&BY_KEY[..], &["--format", "json"]].concat());
    let found: Value = serde_json::from_str(&said).unwrap();
    let left = |path: &str, files: usize, bytes: usize, why: &str| serde_json::json!({"path": path, "files": files, "bytes": bytes, "why": why});
    let expected =
        [left(".cache/huggingface", 1, 1, "hub-cache"), left("b/y.txt", 1, 2, "policy"), left("notes", 2, 2, "policy")];
    assert_eq!((code, found["left_out"].as_array().unwrap().as_slice()), (0, &expected[..]), "{said}");
    // A signature made where there was none of it vouches no less.
    std::fs::remove_dir_all(scratch.model().join(".cache")).unwrap();
    scratch.verified(
        &options(&signature("key-p256"), BY_KEY).iter().copied().chain(["--ignore-unsigned-files"]).collect::<Vec<_>>(),
    );
    write(".cache/huggingface/x.lock", b"")(&scratch.model());
    write("notes/model.safetensors", b"")(&scratch.model());
    let (code, said) = scratch.verify(&BY_KEY);
    let expected =
        "left-out notes/model.safetensors: holds weights by its name, and the signature leaves out \"notes\"\n";
    assert!(code == 1 && said.starts_with(expected), "{said}");
    for (ignore, expected) in [
        ("notes", "notes/model.safetensors: holds weights by its name"),
        ("weights.bin", "weights.bin: holds weights by its name"),
        ("../model", "--ignore-path \"../model\": it leads out of the model"),
        ("/etc", "--ignore-path \"/etc\": it is absolute"),
        (".", "--ignore-path \".\": it is the whole model"),
        ("", "--ignore-path \"\": it is not in plain form"),
    ] {
        let output = scratch.run(&["sign", "{m}", "--private-key", "{f}/keys/p256.pem", "--ignore-path", ignore]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    }
}

#[test]
fn a_signatures_name_exempts_a_file_and_no_folder() {
    let scratch = Scratch::new();
    scratch.sign(&["--private-key", "{f}/keys/p256.pem"]);
    std::fs::rename(scratch.model().join("model.sig"), scratch.0.path().join("moved.sig")).unwrap();
    let moved = [&["--signature", "{d}/moved.sig"], &BY_KEY[..]].concat();
    scratch.verified(&moved);
    write("model.sig/generate.py", b"")(&scratch.model());
    let (code, said) = scratch.verify(&moved);
    assert!(code == 1 && said.starts_with("extra model.sig/generate.py: is not signed\n"), "{said}");
}

#[test]
fn names_of_version_control_exempt_no_weights_and_those_of_its_files_no_folder() {
    let scratch = Scratch::new();
    scratch.sign(&["--private-key", "{f}/keys/p256.pem"]);
    write(".github/workflows/ci.yml", b"")(&scratch.model());
    write(".git/objects/model.safetensors", b"")(&scratch.model());
    scratch.verified(&BY_KEY);
    for (name, kind) in [
        (".github/model.safetensors", "left-out"),
        (".github/model.pt2.gz", "left-out"),
        (".gitignore/evil.py", "extra"),
        (".gitattributes/model.gguf", "extra"),
    ] {
        write(name, b"")(&scratch.model());
        let (code, said) = scratch.verify(&BY_KEY);
        assert!(code == 1 && said.starts_with(&format!("{kind} {name}: ")), "{said}");
        let output = scratch.run(&["sign", "{m}", "--private-key", "{f}/keys/p256.pem"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(name) && said.lines().count() == 1, "{said}");
        remove(name)(&scratch.model());
    }
    for name in [".gitattributes", ".gitignore"] {
        std::fs::remove_dir(scratch.model().join(name)).unwrap();
        link(name, "config.json")(&scratch.model());
        let (code, said) = scratch.verify(&BY_KEY);
        assert!(code == 1 && said.starts_with(&format!("irregular {name}: is a symbolic link")), "{said}");
        remove(name)(&scratch.model());
    }
}

#[test]
fn signed_links_are_listed() {
    let scratch = Scratch::new();
    write("../outside", b"outside")(&scratch.model());
    link("z", "../outside")(&scratch.model());
    scratch.sign(&["--private-key", "{f}/keys/p256.pem", "--allow-symlinks"]);
    let (code, said) = scratch.verify(&BY_KEY);
    assert!(code == 0 && said.starts_with("not vouched for z: its bytes are signed, but it is a link, "), "{said}");
}

#[test]
fn an_identity_pins_the_signer() {
    let scratch = Scratch::new();
    let trust = ["--cert-roots", "{f}/certificates/root-usage.pem"];
    scratch.sign(&["--private-key", "{f}/keys/p256.pem", "--cert", "{f}/certificates/p256-named.pem"]);
    scratch.verified(&trust);
    scratch.verified(&[&trust[..], &["--identity", "release@example.org"]].concat());
    scratch.verified(&[&trust[..], &["--identity", "CN=test p256-named"]].concat());
    let (code, said) = scratch.verify(&[&trust[..], &["--identity", "other@example.org"]].concat());
    let expected = "NOT VERIFIED: the certificate is that of CN=test p256-named (release@example.org, https://example.org/release, \
                    example.org), and only other@example.org is accepted";
    assert!(code == 1 && said.contains(expected), "{said}");
    let scan = |identity: &str| {
        let output =
            scratch.run(&[&["scan", "{m}", "--static", "--signature", "--identity", identity], &trust[..]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(scan("other@example.org").contains("signature-refused"));
    assert!(!scan("release@example.org").contains("signature-refused"));
    let output = scratch.run(&["verify-signature", "{m}", "--public-key", "{f}/keys/p256.pub.pem", "--identity", "x"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_signature_that_is_not_accepted_says_why() {
    let scratch = Scratch::new();
    let refused = |args: &[&str], expected: &str| {
        let (code, said) = scratch.verify(args);
        assert!(code == 1 && said.contains(expected) && said.lines().count() == 1, "{args:?}: {code} {said}");
        assert!(said.contains(".sig: NOT VERIFIED: "), "{said}");
    };
    let by_p384 = signature("key-p384");
    refused(&options(&by_p384, BY_KEY), "it was made with another key: ");
    let certificates = [
        ("p256-expired", "CN=test p256-expired expired at 2021-01-01T00:00:00Z"),
        ("p256-future", "CN=test p256-future is not valid before 2119-01-01T00:00:00Z"),
        ("p256-of-rsa", "leads to none of the roots: "),
        ("p256-no-usage", "is not one for signatures"),
        ("p256-of-too-deep", "the chain is longer than"),
    ];
    for (name, expected) in certificates {
        refused(&options(&signature(&format!("certificate-{name}")), BY_ROOT), expected);
    }
    for name in ["key-p256", "certificate-p256"] {
        let file = std::fs::read_to_string(format!("{FIXTURES}/signatures/{name}.sig")).unwrap();
        let mut bundle: Value = serde_json::from_str(&file).unwrap();
        let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
        // 64 more bytes of the same are still base64.
        bundle["dsseEnvelope"]["payload"] = format!("{}{payload}", &payload[..64]).into();
        std::fs::write(scratch.0.path().join("changed.sig"), bundle.to_string()).unwrap();
        let trust = if name == "key-p256" { BY_KEY } else { BY_ROOT };
        refused(&[&["--signature", "{d}/changed.sig"], &trust[..]].concat(), "does not match what it is to sign");
    }
}

#[test]
fn the_document_tells_the_same() {
    let scratch = Scratch::new();
    let document = |name: &str, code: i32| -> Value {
        let signature = signature(name);
        let (found, said) = scratch.verify(&[&options(&signature, BY_KEY)[..], &["--format", "json"]].concat());
        assert_eq!(found, code);
        serde_json::from_str(&said).unwrap()
    };
    let good = document("key-p256", 0);
    let bundle = std::fs::read(format!("{FIXTURES}/signatures/key-p256.sig")).unwrap();
    let bundle: Value = serde_json::from_slice(&bundle).unwrap();
    let hint = &bundle["verificationMaterial"]["publicKey"]["hint"];
    let digests = ["b/y.txt", "b/été.txt", "b-c/x.txt", "config.json", "empty.txt", "weights.bin"]
        .map(|name| achilles_audit::checkpoint::sha256_hex(&std::fs::read(scratch.model().join(name)).unwrap()));
    let raw: Vec<u8> =
        digests.iter().flat_map(|d| (0..32).map(|i| u8::from_str_radix(&d[2 * i..2 * i + 2], 16).unwrap())).collect();
    let root = achilles_audit::checkpoint::sha256_hex(&raw);
    let expected = serde_json::json!({
        "schema": "achilles-audit/signature/v1",
        "tool": {"name": "achilles-audit", "version": env!("CARGO_PKG_VERSION")},
        "model": {"source": scratch.full("{m}"), "signature": scratch.full("{f}/signatures/key-p256.sig")},
        "settings": {"trust": "key", "trusted_sha256": [hint], "ignore_unsigned_files": false},
        "verdict": "verified", "refusal": null, "signer": format!("P-256 key {}", hint.as_str().unwrap()),
        "root_sha256": root, "files": 6, "bytes": 53, "differences": [], "left_out": [],
    });
    assert_eq!(good, expected);
    let refused = document("key-p384", 1);
    assert_eq!((&refused["verdict"], &refused["signer"]), (&"refused".into(), &Value::Null));
    write("z", b"")(&scratch.model());
    let differs = document("key-p256", 1);
    assert_eq!(differs["verdict"], "differs");
    let extra = serde_json::json!([{"path": "z", "kind": "extra", "problem": "is not signed"}]);
    assert_eq!(differs["differences"], extra);
}
