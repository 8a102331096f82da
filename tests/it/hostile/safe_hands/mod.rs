//! A model's folder belongs to somebody else: nothing in it makes the tool read, write, copy or delete what lies
//! outside of it, and nothing is kept of what may have changed meanwhile.

mod changes;
mod receipts;

use crate::tiny::{self, Place, wait};
use achilles_audit::checkpoint::{Checkpoint, sha256_hex};
use achilles_audit::progress::Silent;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const NEURON: &str = "L1.mlp.down_proj:out:3";

/// What a run within 20 seconds gives: the exit code, standard output and standard error.
fn run(place: &Place, args: &[&str]) -> (i32, String, String) {
    told(wait(place.command(args).spawn().unwrap(), 20).unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn refused(place: &Place, args: &[&str], says: &str) {
    let (code, _, error) = run(place, args);
    assert!(code == 2 && error.contains(says) && error.lines().count() == 1, "{args:?}: {code}: {error}");
}

fn replace_by_link(path: &Path, to: impl AsRef<Path>) {
    let _ = std::fs::remove_file(path);
    symlink(to, path).unwrap();
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_kernel_makes_up_is_neither_read_nor_told() {
    let scan: &[&str] = &["scan", "{model}", "--static"];
    let run_it: &[&str] = &["scan", "{model}", "--ranking=magnitude", "--text=The capital"];
    let fingerprint: &[&str] = &["fingerprint", "{model}"];
    for (name, target, args) in [
        ("config.json", "/proc/self/pagemap", scan),
        ("config.json", "/proc/self/environ", scan),
        ("config.json", "/proc/self/environ", &["patch", "{model}", "--dry-run", "--neuron", NEURON]),
        ("config.json", "/proc/kmsg", &["unpatch", "{model}"]),
        ("tokenizer.json", "/proc/self/pagemap", run_it),
        ("tokenizer.json", "/proc/self/environ", run_it),
        ("achilles-patch.json", "/proc/self/pagemap", &["lint", "{model}"]),
        ("achilles-patch.json", "/proc/self/environ", &["unpatch", "{model}"]),
        ("generation_config.json", "/proc/self/environ", &["probe", "{model}", "--neuron", NEURON]),
        ("tokenizer_config.json", "/proc/self/environ", &["lint", "{model}"]),
        ("model.safetensors.index.json", "/proc/self/environ", scan),
        ("extra.bin", "/proc/self/pagemap", fingerprint),
        ("extra.json", "/proc/kmsg", fingerprint),
        ("extra.json", "/proc/kmsg", &["lint", "{model}"]),
        ("extra.bin", "/sys/kernel/tracing/trace_pipe", &["lint", "{model}"]),
        ("extra.safetensors", "/proc/self/environ", scan),
        ("chat_template.jinja", "/proc/self/environ", &["lint", "{model}"]),
    ] {
        let place = Place::new();
        replace_by_link(&place.model().join(name), target);
        let mut command = place.command(args);
        command.env("CI_TOKEN", "synthetic-secret");
        let (code, out, error) = told(wait(command.spawn().unwrap(), 20).unwrap());
        assert!(code == 1 || code == 2, "{name} {target} {args:?}: {code}: {error}");
        assert!(
            !out.contains("synthetic-secret") && !error.contains("synthetic-secret"),
            "{name} {args:?}: {out}{error}"
        );
    }
}

#[test]
fn results_are_not_written_through_links_or_into_pipes() {
    let place = Place::new();
    let theirs = place.out().join("theirs");
    std::fs::write(&theirs, "theirs").unwrap();
    let key = place.out().join("key.pem");
    let make = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"];
    let signs = Command::new("openssl").args(make).arg(&key).status().is_ok_and(|status| status.success());
    std::fs::write(place.model().join("../text.txt"), "The capital of France\n".repeat(300)).unwrap();
    let commands: [&[&str]; 7] = [
        &["scan", "{model}", "--static", "--format=sarif", "-o", "{out}/result"],
        &["lint", "{model}", "-o", "{out}/result"],
        &["fingerprint", "{model}", "-o", "{out}/result"],
        &["vault", "{model}", "--neuron", NEURON, "-o", "{out}/result"],
        &["monitor", "record", "{model}", "--prompts={in}/text.txt", "-o", "{out}/result"],
        &["perplexity", "{model}", "--text", tiny::TEXT, "-o", "{out}/result"],
        &["sign", "{model}", "--private-key={out}/key.pem", "-o", "{out}/result"],
    ];
    let result = place.out().join("result");
    for args in commands.into_iter().filter(|args| signs || args[0] != "sign") {
        for to in [theirs.as_path(), Path::new("theirs"), Path::new("gone"), Path::new("/dev/stdout")] {
            replace_by_link(&result, to);
            refused(&place, args, "results are not written through links");
            assert!(result.is_symlink() && std::fs::read(&theirs).unwrap() == b"theirs");
        }
        std::fs::remove_file(&result).unwrap();
        pipe(&result);
        refused(&place, args, "is a pipe");
        std::fs::remove_file(&result).unwrap();
        std::fs::remove_file(place.out().join("gone")).unwrap_err();
    }
    // The signature's own place is in the folder.
    if signs {
        replace_by_link(&place.model().join("model.sig"), "../../out/empty");
        std::fs::write(place.out().join("empty"), "").unwrap();
        refused(&place, &["sign", "{model}", "--private-key={out}/key.pem"], "results are not written through links");
        assert_eq!(std::fs::read(place.out().join("empty")).unwrap(), b"");
        std::fs::remove_file(place.model().join("model.sig")).unwrap();
        pipe(&place.model().join("model.sig"));
        refused(&place, &["sign", "{model}", "--private-key={out}/key.pem"], "is a pipe");
    }
}

/// Neither of the model that is read, nor of what else the command line names.
#[test]
fn no_result_replaces_what_the_run_reads() {
    let place = Place::new();
    std::fs::write(place.out().join("rules.yaml"), "rules: {}\n").unwrap();
    assert_eq!(run(&place, &["fingerprint", "{model}", "-o", "{out}/f.json"]).0, 0);
    let before = place.snapshot();
    for (args, says) in [
        (&["lint", "{model}", "-o", "{model}/model.safetensors"] as &[&str], "that loaders of models read"),
        (&["scan", "{model}", "--static", "-o", "{model}/config.json"], "that loaders of models read"),
        (&["fingerprint", "{model}", "-o", "{model}/tokenizer.json"], "that loaders of models read"),
        (&["verify", "{model}", "{out}/f.json", "-o", "{out}/./f.json"], "is to be read by this run"),
        (&["scan", "{model}", "--static", "--rules", "{out}/rules.yaml", "--output={out}/rules.yaml"], "is to be read"),
        (&["perplexity", "{model}", "--text-file", "{out}/f.json", "-o", "{out}/f.json"], "is to be read"),
    ] {
        refused(&place, args, says);
        assert!(place.snapshot() == before, "{args:?}");
    }
    // A result of an earlier run is replaced.
    for _ in 0..2 {
        assert_eq!(run(&place, &["lint", "{model}", "-o", "{model}/lint.json", "--format", "json"]).0, 0);
    }
}

/// The streams that a user names are written to, and what is behind them is not replaced.
#[test]
fn streams_that_the_user_names_are_written_to() {
    let place = Place::new();
    let to = |to: &str| ["perplexity", "{model}", "--text", tiny::TEXT, "-o", to].map(str::to_owned);
    let command = |to_: &str| place.command(&to(to_).iter().map(String::as_str).collect::<Vec<_>>());
    let (code, out, error) = told(command("/dev/stdout").output().unwrap());
    assert!(code == 0 && out.starts_with("perplexity"), "{error}");
    let log = place.out().join("log");
    std::fs::write(&log, "before\n").unwrap();
    let append = std::fs::File::options().append(true).open(&log).unwrap();
    assert!(command("/dev/stdout").stdout(append).status().unwrap().success());
    assert!(std::fs::read_to_string(&log).unwrap().starts_with("before\nperplexity"));
    assert!(command("/dev/null").status().unwrap().success());
    assert!(!Path::new("/dev/null").is_file());
}

#[test]
fn what_a_link_brings_from_elsewhere_is_not_copied() {
    for (name, target) in [
        ("tokenizer.extra", "../secret"),
        ("merges.txt", "/proc/self/environ"),
        ("modeling_x.py", "/etc/passwd"),
        ("model.safetensors", "../weights"),
        ("tokenizer.json", "tokenizer.link"),
    ] {
        let place = Place::new();
        let input = |name: &str| place.model().join("..").join(name);
        std::fs::write(input("secret"), "synthetic-secret").unwrap();
        std::fs::copy(place.model().join("model.safetensors"), input("weights")).unwrap();
        std::fs::copy(place.model().join("tokenizer.json"), input("tokenizer")).unwrap();
        symlink("../tokenizer", place.model().join("tokenizer.link")).unwrap();
        replace_by_link(&place.model().join(name), target);
        for more in [&[][..], &["--link"]] {
            let args = [&["patch", "{model}", "-o", "{out}/p", "--neuron", NEURON], more].concat();
            refused(&place, &args, "is a link out of the model's folder");
            assert_eq!(std::fs::read_dir(place.out()).unwrap().count(), 0);
        }
    }
    // What stays inside stays a link, but for weights.
    let place = Place::new();
    std::fs::create_dir(place.model().join("files")).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::rename(place.model().join(name), place.model().join("files").join(name)).unwrap();
        symlink(Path::new("files").join(name), place.model().join(name)).unwrap();
    }
    let (code, _, error) = run(&place, &["patch", "{model}", "-o", "{out}/p", "--neuron", NEURON]);
    assert_eq!(code, 0, "{error}");
    let out = place.out().join("p");
    for name in ["config.json", "tokenizer.json"] {
        assert_eq!(std::fs::read_link(out.join(name)).unwrap(), Path::new("files").join(name));
    }
    assert!(!out.join("model.safetensors").is_symlink());
    assert_eq!(run(&place, &["verify-patch", "{out}/p", "--original", "{model}"]).0, 0);
    assert_eq!(run(&place, &["unpatch", "{out}/p"]).0, 0);
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights(&out), weights(&place.model()));
    // In place, what a link leads to would change.
    refused(&place, &["patch", "{model}", "--in-place", "--neuron", NEURON], "is a link");
}

#[test]
fn folders_that_others_named_alike_are_kept() {
    let place = Place::new();
    for name in [".achilles-audit-keys", ".achilles-audit-cache/scan"] {
        std::fs::create_dir_all(place.out().join(name)).unwrap();
        std::fs::write(place.out().join(name).join("precious"), "x").unwrap();
    }
    let gguf = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama.gguf");
    for args in [&["patch", "{model}", "-o", "{out}/p", "--neuron", NEURON][..], &["import", gguf, "-o", "{out}/i"]] {
        let (code, _, error) = run(&place, args);
        assert_eq!((code, error.contains("removed")), (0, false), "{error}");
        assert!(place.out().join(".achilles-audit-keys/precious").exists());
        assert!(place.out().join(".achilles-audit-cache/scan/precious").exists());
    }
    assert_eq!(std::fs::read_dir(place.out()).unwrap().count(), 4);
}

#[test]
fn no_result_goes_through_a_folder_that_the_model_links_to() {
    let place = Place::new();
    let victim = place.out().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("scan.json"), "precious").unwrap();
    symlink(&victim, place.model().join("reports")).unwrap();
    for args in [
        &["scan", "{model}", "--static", "-o", "{model}/reports/scan.json"] as &[&str],
        &["lint", "{model}", "-o", "{model}/reports/lint.json"],
        &["fingerprint", "{model}", "-o", "{model}/reports/print.json"],
        &["patch", "{model}", "-o", "{model}/reports/new", "--neuron", NEURON],
    ] {
        refused(&place, args, "is a link in a model's folder");
    }
    assert_eq!(std::fs::read(victim.join("scan.json")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1);
    // A link of one's own is followed.
    symlink(&victim, place.out().join("mine")).unwrap();
    let (code, _, error) = run(&place, &["lint", "{model}", "-o", "{out}/mine/lint.txt"]);
    assert!(code != 2 && victim.join("lint.txt").exists(), "{error}");
}
