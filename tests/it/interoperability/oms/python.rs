//! Signatures exchanged with the Python implementation itself, which `make oms` fetches.

use super::signing::{Way, refs, ways};
use super::{BY_ROOT, CURVES, FIXTURES, Scratch, remove, signature, write};
use std::path::Path;
use std::process::Command;

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/oms");

/// Its command line knows no shards.
pub const VERIFY_SHARDS: &str = "
import sys, model_signing
model, key = sys.argv[1:]
verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key)
verifier.verify(model, model + '/model.sig')
";

const SIGN_SHARDS: &str = "
import sys, model_signing
model, key = sys.argv[1:]
hashing = model_signing.hashing.Config().use_shard_serialization(shard_size=7)
hashing.set_ignored_paths(paths=['model.sig'])
signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
signer.set_hashing_config(hashing).sign(model, model + '/model.sig')
";

impl Scratch {
    /// What the Python implementation answers: whether it succeeded, and what it said.
    fn python(&self, args: &[&str]) -> (bool, String) {
        let module = Path::new(PYTHON).join("model_signing");
        assert!(module.exists(), "{} is missing: run `make oms` first", module.display());
        let mut command = Command::new("python3");
        command.args(args.iter().map(|a| self.full(a))).env("PYTHONPATH", PYTHON).current_dir(self.0.path());
        let output = command.output().unwrap();
        (output.status.success(), format!("{output:?}"))
    }

    fn python_does(&self, args: &[&str]) {
        let (success, said) = self.python(args);
        assert!(success && !said.contains("failed"), "{args:?}: {said}");
    }
}

#[test]
#[ignore = "needs `make oms`"]
fn python_verifies_what_was_signed() {
    for Way { sign, fit, python: verify, .. } in ways() {
        let scratch = Scratch::new();
        fit.iter().for_each(|fit| fit(&scratch.model()));
        scratch.sign(&refs(&sign));
        let verify = refs(&verify);
        let run = || match verify.as_slice() {
            ["-c", ..] => scratch.python(&verify),
            [method, more @ ..] => {
                let signature = ["--signature", "{m}/model.sig"];
                scratch.python(&[&["-m", "model_signing", "verify", method, "{m}"], &signature[..], more].concat())
            }
            [] => unreachable!(),
        };
        let (good, said) = run();
        assert!(good, "{sign:?}: {said}");
        // And would not verify anything else.
        write("b/y.txt", b"z\n")(&scratch.model());
        let (good, said) = run();
        assert!(!good && said.contains("b/y.txt"), "{sign:?}: {said}");
    }
    let scratch = Scratch::new();
    scratch.run(&["sign", "{m}/weights.bin", "--private-key", "{f}/keys/p384.pem"]);
    let key = ["--public_key", "{f}/keys/p384.pub.pem"];
    let verify = ["-m", "model_signing", "verify", "key", "{m}/weights.bin", "--signature", "{m}/weights.bin.sig"];
    scratch.python_does(&[&verify[..], &key].concat());
}

#[test]
#[ignore = "needs `make oms`"]
fn what_python_signs_now_verifies() {
    for curve in CURVES {
        let scratch = Scratch::new();
        let (private, public) = (format!("{{f}}/keys/{curve}.pem"), format!("{{f}}/keys/{curve}.pub.pem"));
        let sign = ["-m", "model_signing", "sign"];
        let to = ["{m}", "--signature", "{m}/model.sig", "--private_key", &private];
        scratch.python_does(&[&sign[..], &["key"], &to].concat());
        scratch.verified(&["--public-key", &public]);
        let certificate = format!("{{f}}/certificates/{curve}.pem");
        let by = ["--signing_certificate", &certificate, "--certificate_chain", "{f}/certificates/intermediate.pem"];
        scratch.python_does(&[&sign[..], &["certificate"], &to, &by].concat());
        scratch.verified(&BY_ROOT);
        remove("empty.txt")(&scratch.model());
        scratch.python_does(&["-c", SIGN_SHARDS, "{m}", &private]);
        scratch.verified(&["--public-key", &public]);
    }
}

/// The two agree on every chain, but on dates: Python takes the day on which the signer's certificate became valid for
/// the day of the signature, so that there nothing ever expires.
#[test]
#[ignore = "needs `make oms`"]
fn python_judges_chains_alike_but_for_dates() {
    let scratch = Scratch::new();
    let names: Vec<String> = std::fs::read_dir(format!("{FIXTURES}/signatures"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_prefix("certificate-")?.strip_suffix(".sig")?.to_owned()))
        .collect();
    assert!(names.len() > 15);
    let roots = ["root", "root-p521", "root-rsa", "root-short", "root-expired", "root-not-an-authority"]
        .map(|root| format!("{{f}}/certificates/{root}.pem"));
    let ours: Vec<&str> = ["--cert-roots"].into_iter().chain(roots.iter().map(String::as_str)).collect();
    let theirs: Vec<&str> = roots.iter().flat_map(|root| ["--certificate_chain", root]).collect();
    for name in names {
        let signature = signature(&format!("certificate-{name}"));
        let signature = [signature[0].as_str(), signature[1].as_str()];
        let (code, said) = scratch.verify(&[&signature[..], &ours].concat());
        let verify = ["-m", "model_signing", "verify", "certificate", "{m}"];
        let (python, python_said) = scratch.python(&[&verify[..], &signature, &theirs].concat());
        let dated = ["p256-expired", "p256-future", "p256-of-expired", "p256-of-root-expired"].contains(&name.as_str());
        assert_eq!(code == 0, python && !dated, "{name}: {said}{python_said}");
        assert!(python || !dated, "{name}: {python_said}");
    }
}
