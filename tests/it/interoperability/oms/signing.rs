//! What `sign` writes.

use super::*;

/// One thing that `sign` can do.
pub struct Way {
    pub sign: Vec<String>,
    /// What makes the model fit for it.
    pub fit: Option<Change>,
    /// What `verify-signature` is given.
    pub verify: Vec<String>,
    /// What Python's `verify` is given, or `-c` with a program.
    pub python: Vec<String>,
}

pub fn ways() -> Vec<Way> {
    let list = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
    let mut ways = Vec::new();
    for curve in CURVES {
        let (private, public) = (format!("{{f}}/keys/{curve}.pem"), format!("{{f}}/keys/{curve}.pub.pem"));
        let sec1 = format!("{{f}}/keys/{curve}.sec1.pem");
        let python = list(&["key", "--public_key", &public]);
        ways.push(Way {
            sign: list(&["--private-key", &sec1]),
            fit: None,
            verify: list(&["--public-key", &public]),
            python,
        });
        let certificate = format!("{{f}}/certificates/{curve}.pem");
        let chain = ["--chain", "{f}/certificates/intermediate.pem"];
        let sign = [&["--private-key", &private, "--cert", &certificate], &chain[..]].concat();
        let python = list(&["certificate", "--certificate_chain", "{f}/certificates/root.pem"]);
        ways.push(Way { sign: list(&sign), fit: None, verify: list(&BY_ROOT), python });
    }
    let key = ["--private-key", "{f}/keys/p256.pem"];
    let python = ["key", "--public_key", "{f}/keys/p256.pub.pem"];
    let links: Change = Box::new(|model| {
        write("../outside", b"outside")(model);
        link("b/link.bin", "../../outside")(model);
    });
    ways.push(Way {
        sign: list(&[&key[..], &["--allow-symlinks"]].concat()),
        fit: Some(links),
        verify: list(&BY_KEY),
        python: list(&[&python[..], &["--allow_symlinks"]].concat()),
    });
    ways.push(Way {
        sign: list(&[&key[..], &["--shard-size", "8"]].concat()),
        fit: Some(remove("empty.txt")),
        verify: list(&BY_KEY),
        python: list(&["-c", python::VERIFY_SHARDS, "{m}", "{f}/keys/p256.pub.pem"]),
    });
    ways
}

pub fn refs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

#[test]
fn what_was_signed_verifies() {
    for Way { sign, fit, verify, .. } in ways() {
        let scratch = Scratch::new();
        fit.iter().for_each(|fit| fit(&scratch.model()));
        scratch.sign(&refs(&sign));
        scratch.verified(&refs(&verify));
        // Signed anew, the old signature is no part of the model.
        scratch.sign(&refs(&sign));
        scratch.verified(&refs(&verify));
        // The signature is found by its name only.
        std::fs::rename(scratch.model().join("model.sig"), scratch.model().join("other.sig")).unwrap();
        scratch.verified(&[&["--signature", "{m}/other.sig"], &refs(&verify)[..]].concat());
        write("b/y.txt", b"z\n")(&scratch.model());
        let (code, said) = scratch.verify(&[&["--signature", "{m}/other.sig"], &refs(&verify)[..]].concat());
        assert!(code == 1 && said.starts_with("changed b/y.txt: "), "{said}");
    }
}

#[test]
fn shards_added_or_cut_off_are_noticed() {
    let scratch = Scratch::new();
    remove("empty.txt")(&scratch.model());
    write("weights.bin", &[7; 16])(&scratch.model());
    scratch.sign(&["--private-key", "{f}/keys/p256.pem", "--shard-size", "8"]);
    scratch.verified(&BY_KEY);
    for bytes in [&[7; 24][..], &[7; 17], &[7; 15], &[7; 8], &[]] {
        std::fs::write(scratch.model().join("weights.bin"), bytes).unwrap();
        let (code, said) = scratch.verify(&BY_KEY);
        assert!(code == 1 && said.starts_with("changed weights.bin: has "), "{said}");
    }
}

#[test]
fn a_single_file_is_signed_beside_itself() {
    let scratch = Scratch::new();
    for more in [&[][..], &["--shard-size", "7"]] {
        let signed = scratch.run(&[&["sign", "{m}/weights.bin", "--private-key", "{f}/keys/p256.pem"], more].concat());
        assert_eq!(signed.status.code(), Some(0), "{signed:?}");
        assert!(scratch.model().join("weights.bin.sig").exists());
        let verify = |model: &str| scratch.run(&[&["verify-signature", model], &BY_KEY[..]].concat()).status.code();
        assert_eq!(verify("{m}/weights.bin"), Some(0));
        std::fs::copy(scratch.model().join("weights.bin.sig"), scratch.model().join("config.json.sig")).unwrap();
        assert_eq!(verify("{m}/config.json"), Some(1));
    }
}

#[test]
fn nothing_is_signed_that_could_not_be_verified() {
    let scratch = Scratch::new();
    scratch.sign(&["--private-key", "{f}/keys/p256.pem"]);
    let before = std::fs::read(scratch.model().join("model.sig")).unwrap();
    let certificate = |name: &'static str, chain: &'static str| {
        vec!["--private-key", "{f}/keys/p256.pem", "--cert", name, "--chain", chain]
    };
    let key = || vec!["--private-key", "{f}/keys/p256.pem"];
    let (cert, other) = ("{f}/certificates/p256.pem", "{f}/certificates/may-not-issue.pem");
    let between = "{f}/certificates/intermediate.pem";
    let cases: Vec<(Vec<&str>, Change, &str)> = vec![
        (certificate("{f}/certificates/p256-expired.pem", between), write("z", b""), "expired at 2021"),
        (certificate(cert, other), write("z", b""), "leads to none of the roots"),
        (certificate("{f}/certificates/p256-no-usage.pem", between), write("z", b""), "is not one for signatures"),
        (key(), link("z", "config.json"), "model/z: is a symbolic link; --allow-symlinks signs the file"),
        ([key(), vec!["--allow-symlinks"]].concat(), link("z", "b"), "model/z: is a link to no file"),
        (key(), socket("z"), "model/z: is a pipe, socket or device"),
        (key(), write("z\\y", b""), "model/z\\y: the name holds a backslash"),
        ([key(), vec!["--shard-size", "8"]].concat(), write("z", b""), "empty.txt: is empty, and signing by shards"),
    ];
    for (args, change, expected) in cases {
        let _ = std::fs::remove_file(scratch.model().join("z"));
        change(&scratch.model());
        let output = scratch.run(&[&["sign", "{m}"], &args[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
        assert_eq!(std::fs::read(scratch.model().join("model.sig")).unwrap(), before);
        let _ = std::fs::remove_file(scratch.model().join("z\\y"));
    }
}
