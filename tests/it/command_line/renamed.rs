//! Old names of options: understood for one release, with a warning.

use crate::tiny::{Place, TEXT};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms/keys");
const GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama-spm.gguf");

/// Exit code, standard output, and the warnings of old names on standard error, of a run that did its job.
fn run(place: &Place, args: &[&str]) -> (i32, String, Vec<String>) {
    let output = place.run(args);
    let (code, told) = (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(code < 2, "{args:?}: {told}");
    let warnings = told.lines().filter(|line| line.contains(" is called ")).map(str::to_owned).collect();
    (code, String::from_utf8(output.stdout).unwrap(), warnings)
}

fn warning(old: &str, new: &str) -> String {
    format!("achilles-audit: WARN {old} is called {new} now; the old name is understood for one more release")
}

#[test]
fn an_option_is_understood_by_its_old_name() {
    let place = Place::new();
    let prompts = |from| (from..from + 300).map(|n| format!("The capital of {n} is {}\n", n * n)).collect::<String>();
    std::fs::write(place.out().join("recorded.txt"), prompts(0)).unwrap();
    std::fs::write(place.out().join("others.txt"), prompts(300)).unwrap();
    let (private, public) = (format!("={KEYS}/p256.pem"), format!("={KEYS}/p256.pub.pem"));
    let signed_by = format!("--private-key{private}");
    let ranking = ["--ranking=magnitude", "--text", TEXT];
    let sign = ["sign", "{model}", "-o", "{out}/model.sig"];
    let check = ["monitor", "check", "{model}", "--baseline={out}/base.json"];
    let cases: [(&[&str], &str, &str, &str); 12] = [
        (&["monitor", "record", "{model}", "-o", "{out}/base.json"], "--text", "--prompts", "={out}/recorded.txt"),
        (&check, "--text", "--prompts", "={out}/others.txt"),
        (&[&check[..], &["--prompts={out}/others.txt"]].concat(), "--alpha", "--false-alarm-rate", "=0.05"),
        (&[&["scan", "{model}"], &ranking[..]].concat(), "--cache", "--result-cache", ""),
        (&["fingerprint", "{model}", "-o", "{out}/print.json"], "--cache", "--digest-cache", ""),
        (&["verify", "{model}", "{out}/print.json"], "--cache", "--digest-cache", ""),
        (&sign, "--key", "--private-key", &private),
        (&["verify-signature", "{model}", "--signature={out}/model.sig"], "--key", "--public-key", &public),
        (&["scan", "{model}", "--static", "--signature={out}/model.sig"], "--key", "--public-key", &public),
        (&[&sign[..], &[&signed_by]].concat(), "--ignore", "--ignore-path", "=notes"),
        (&["import", GGUF, "-o", "{out}/imported"], "--dtype", "--weights-dtype", "=f32"),
        (&["perplexity", "{model}", "--text", TEXT], "--stream", "--weights stream", ""),
    ];
    for (command, old, new, value) in cases {
        let run = |name: &str| {
            let _ = std::fs::remove_dir_all(place.out().join("imported"));
            run(&place, &[command, &format!("{name}{value}").split(' ').collect::<Vec<_>>()].concat())
        };
        let (code, shown, warnings) = run(new);
        assert_eq!(warnings, Vec::<String>::new(), "{command:?} {new}");
        assert_eq!(run(old), (code, shown, vec![warning(old, new)]), "{command:?} {old}");
    }
}

#[test]
fn a_value_is_no_option() {
    let place = Place::new();
    std::fs::create_dir(place.out().join("--cache")).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(place.model().join(file), place.out().join("--cache").join(file)).unwrap();
    }
    let output = place.command(&["fingerprint", "-o", "print.json", "--", "--cache"]).current_dir(place.out()).output();
    let output = output.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !told.contains("WARN"), "{told}");
}

#[test]
fn patch_verifies_as_verify_patch_does() {
    let place = Place::new();
    run(&place, &["patch", "{model}", "-o", "{out}/patched", "--neuron", "L1.mlp.down_proj:out:3"]);
    let both = |code| {
        let new = run(&place, &["verify-patch", "{out}/patched", "--original", "{model}"]);
        let old = run(&place, &["patch", "--verify", "{out}/patched", "--original", "{model}"]);
        assert_eq!((new.0, &new.2), (code, &vec![]));
        assert_eq!(old, (code, new.1, vec![warning("patch --verify", "verify-patch")]));
    };
    both(0);
    std::fs::write(place.out().join("patched/config.json"), "{}").unwrap();
    both(1);
    // Half of either is a mistake in the command line, told in terms of the new one.
    for args in [&["verify-patch", "{out}/patched"][..], &["patch", "--verify", "{out}/patched"]] {
        let output = place.run(args);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains("--original <"), "{args:?}");
    }
}
