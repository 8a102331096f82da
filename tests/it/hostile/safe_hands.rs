//! A model's folder belongs to somebody else: nothing in it makes the tool read, write, copy or delete what lies
//! outside of it, and nothing is kept of what may have changed meanwhile.

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

/// A row of the tiny model, its receipt as a patch writes it, and the folder.
struct Forger {
    place: Place,
    receipt: Value,
    clean: Vec<u8>,
    lesioned: Vec<u8>,
    row: std::ops::Range<usize>,
}

impl Forger {
    fn new() -> Forger {
        let place = Place::new();
        let weights = || std::fs::read(place.model().join("model.safetensors")).unwrap();
        let clean = weights();
        assert_eq!(run(&place, &["patch", "{model}", "--in-place", "--neuron", NEURON]).0, 0);
        let lesioned = weights();
        let receipt = std::fs::read(place.model().join("achilles-patch.json")).unwrap();
        let receipt: Value = serde_json::from_slice(&receipt).unwrap();
        let span = &receipt["edits"][0]["span"];
        let number = |key: &str| span[key].as_u64().unwrap() as usize;
        let row = number("offset")..number("offset") + number("piece_bytes");
        Forger { receipt, clean, lesioned, row, place }
    }

    /// Puts weights, a receipt and the bytes that it is to put back into the folder.
    fn put(&self, weights: &[u8], receipt: &Value, undo: &[u8]) {
        let mut receipt = receipt.clone();
        receipt["undo"] = json!({"name": "achilles-patch.undo", "bytes": undo.len(), "sha256": sha256_hex(undo)});
        std::fs::write(self.place.model().join("model.safetensors"), weights).unwrap();
        std::fs::write(self.place.model().join("achilles-patch.json"), receipt.to_string()).unwrap();
        std::fs::write(self.place.model().join("achilles-patch.undo"), undo).unwrap();
    }

    /// The receipt of a change from one row to another.
    fn receipt(&self, state: &str, before: &[u8], after: &[u8]) -> Value {
        let mut receipt = self.receipt.clone();
        receipt["state"] = state.into();
        receipt["edits"][0]["sha256_before"] = sha256_hex(before).into();
        receipt["edits"][0]["sha256_after"] = sha256_hex(after).into();
        receipt
    }
}

#[test]
fn a_receipt_that_does_not_follow_from_what_was_asked_is_not_followed() {
    let forger = Forger::new();
    let (clean, lesioned) = (&forger.clean[forger.row.clone()], &forger.lesioned[forger.row.clone()]);
    let half: Vec<u8> =
        clean.chunks(4).flat_map(|b| (f32::from_le_bytes(b.try_into().unwrap()) / 2.0).to_le_bytes()).collect();
    let asked = |mut receipt: Value, neuron: &str, beta: Value| {
        receipt["asked"] = json!([{"neuron": neuron, "beta": beta, "set_to": null}]);
        receipt["edits"][0]["neurons"] = json!([neuron]);
        receipt
    };
    let full = "model.layers.1.mlp.down_proj:out:3";
    let swapped = forger.receipt("applied", lesioned, clean);
    let mut no_neuron = swapped.clone();
    no_neuron["asked"] = json!([]);
    let mut both = swapped.clone();
    both["asked"][0]["set_to"] = 0.5.into();
    let mut twice = forger.receipt.clone();
    let edit = twice["edits"][0].clone();
    twice["edits"].as_array_mut().unwrap().push(edit);
    for (what, weights, receipt, undo) in [
        ("before and after are swapped", &forger.clean, swapped.clone(), lesioned),
        ("another factor", &forger.clean, asked(swapped.clone(), full, 3.0.into()), half.as_slice()),
        (
            "another neuron",
            &forger.lesioned,
            asked(forger.receipt.clone(), "model.layers.1.mlp.down_proj:out:4", 0.into()),
            clean,
        ),
        ("no neuron", &forger.clean, no_neuron, lesioned),
        ("two things at once", &forger.clean, both, lesioned),
        ("an edit that is there twice", &forger.lesioned, twice, &[clean, clean].concat()),
        ("half-way, swapped", &forger.clean, forger.receipt("applying", lesioned, clean), lesioned),
        ("half-way back, swapped", &forger.clean, forger.receipt("undoing", lesioned, clean), lesioned),
        ("half-way, from bytes that lead elsewhere", &forger.clean, forger.receipt("applying", &half, lesioned), &half),
        (
            "half-way back, from bytes that lead elsewhere",
            &forger.clean,
            forger.receipt("undoing", &half, lesioned),
            &half,
        ),
    ] {
        forger.put(weights, &receipt, undo);
        let model = forger.place.model();
        let before = forger.place.snapshot();
        let (code, _, error) = run(&forger.place, &["unpatch", "{model}"]);
        assert!(code == 2 && error.lines().count() == 1, "{what}: {code}: {error}");
        assert!(forger.place.snapshot() == before, "{what}");
        if receipt["state"] != "applied" {
            let (code, _, error) = run(&forger.place, &["patch", "{model}", "--in-place", "--neuron", NEURON]);
            assert!(code == 2 && error.lines().count() == 1, "{what}: {code}: {error}");
            assert!(forger.place.snapshot() == before, "{what}");
        }
        let original = forger.place.out().join("original");
        std::fs::create_dir_all(&original).unwrap();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(model.join(name), original.join(name)).unwrap();
        }
        let mut theirs = weights.clone();
        theirs[forger.row.clone()].copy_from_slice(&undo[..clean.len()]);
        std::fs::write(original.join("model.safetensors"), theirs).unwrap();
        let (code, _, error) = run(&forger.place, &["verify-patch", "{model}", "--original", "{out}/original"]);
        assert_eq!(code, 2, "{what}: {error}");
    }
    // The true one, of today or of an earlier day, still leads back; so does one half-way.
    let mixed = [&forger.lesioned[..forger.row.start + 8], &forger.clean[forger.row.start + 8..]].concat();
    for (state, weights) in [("applied", &forger.lesioned), ("applying", &mixed), ("undoing", &mixed)] {
        forger.put(weights, &forger.receipt(state, clean, lesioned), clean);
        let (code, _, error) = run(&forger.place, &["unpatch", "{model}"]);
        assert_eq!(code, 0, "{error}");
        assert!(std::fs::read(forger.place.model().join("model.safetensors")).unwrap() == forger.clean);
    }
}

/// A factor of 0 leaves nothing that the original bytes could be worked out from.
#[test]
fn forged_originals_are_put_back_only_where_that_is_asked_for_and_never_as_no_numbers() {
    let forger = Forger::new();
    let (clean, lesioned) = (&forger.clean[forger.row.clone()], &forger.lesioned[forger.row.clone()]);
    let of = |value: f32| -> Vec<u8> { clean.chunks(4).flat_map(|_| value.to_le_bytes()).collect() };
    let now = || std::fs::read(forger.place.model().join("model.safetensors")).unwrap();
    for value in [f32::INFINITY, f32::NAN] {
        for state in ["applied", "applying", "undoing"] {
            forger.put(&forger.lesioned, &forger.receipt(state, &of(value), lesioned), &of(value));
            refused(&forger.place, &["unpatch", "{model}"], "values that are infinite or not a number");
            assert!(now() == forger.lesioned, "{value} {state}");
        }
    }
    for state in ["applying", "undoing"] {
        forger.put(&forger.lesioned, &forger.receipt(state, &of(0.5), lesioned), &of(0.5));
        let before = forger.place.snapshot();
        let patch = ["patch", "{model}", "--in-place", "--neuron", "L0.mlp.down_proj:out:1"];
        refused(
            &forger.place,
            &patch,
            "if that was yours, `achilles-audit unpatch` puts back the bytes that it had kept",
        );
        assert!(forger.place.snapshot() == before, "{state}");
    }
    forger.put(&forger.lesioned, &forger.receipt("applied", &of(0.5), lesioned), &of(0.5));
    let (code, _, error) = run(&forger.place, &["unpatch", "{model}"]);
    assert!(code == 0 && error.contains("bytes are as achilles-patch.undo had them, kept by the patch of"), "{error}");
    // What could not be put back is not taken away.
    let mut infinite = forger.clean.clone();
    infinite[forger.row.clone()][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(forger.place.model().join("model.safetensors"), &infinite).unwrap();
    refused(&forger.place, &["patch", "{model}", "--in-place", "--neuron", NEURON], "patch to a new folder with -o");
    assert!(now() == infinite);
}

/// A journal of a restore is only its vault's business.
#[test]
fn a_restore_half_way_is_not_rolled_back_without_its_vault() {
    let forger = Forger::new();
    let (clean, lesioned) = (&forger.clean[forger.row.clone()], &forger.lesioned[forger.row.clone()]);
    assert_eq!(run(&forger.place, &["unpatch", "{model}"]).0, 0);
    let vault = ["vault", "{model}", "--neuron", NEURON, "-o", "{out}/v.safetensors"];
    assert_eq!(run(&forger.place, &vault).0, 0);
    let journal = |before: &[u8], after: &[u8]| {
        let mut journal = forger.receipt("applying", before, after);
        journal["asked"] = json!([]);
        journal
    };
    let restore = ["restore", "{model}", "--vault={out}/v.safetensors"];
    forger.put(&forger.clean, &journal(lesioned, clean), lesioned);
    let before = forger.place.snapshot();
    refused(&forger.place, &["unpatch", "{model}"], "run `achilles-audit restore` with that again");
    assert!(forger.place.snapshot() == before);
    let (code, _, error) = run(&forger.place, &restore);
    assert_eq!(code, 0, "{error}");
    assert!(std::fs::read(forger.place.model().join("model.safetensors")).unwrap() == forger.clean);
    assert!(!forger.place.model().join("achilles-patch.json").exists());
    forger.put(&forger.lesioned, &journal(clean, lesioned), clean);
    refused(&forger.place, &restore, "is not the journal of a restore from this vault");
}

/// A page that is mapped and dirty can be written again without any time changing.
#[test]
fn a_page_that_was_written_to_is_not_taken_from_the_cache() {
    const WRITER: &str = "import mmap, sys\nf = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); a = int(sys.argv[2])\n\
        m[a] = m[a]; print('dirty', flush=True); sys.stdin.readline()\n\
        m[a:a + 64] = bytes(64); print('written', flush=True); sys.stdin.readline()";
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let fingerprint = "{out}/fingerprint.json";
    assert_eq!(run(&place, &["fingerprint", "{model}", "-o", fingerprint]).0, 0);
    let at = std::fs::read(&weights).unwrap().len() - 64;
    let mut writer = Command::new("python3");
    writer.args(["-c", WRITER]).arg(&weights).arg(at.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut writer) = writer.spawn() else {
        println!("no Python here that could map a file to write to it, so this test shows nothing");
        return;
    };
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "dirty");
    std::thread::sleep(std::time::Duration::from_millis(2200));
    let verify = ["verify", "{model}", fingerprint, "--digest-cache"];
    assert_eq!(run(&place, &verify).0, 0);
    assert_eq!(std::fs::read_dir(place.out().join("../.cache/achilles-audit/fingerprint")).unwrap().count(), 3);
    writer.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "written");
    let (code, out, error) = run(&place, &verify);
    assert_eq!(code, 1, "{out}{error}");
    drop(writer.stdin.take());
    writer.wait().unwrap();
    assert_eq!(run(&place, &verify).0, 1);
}

#[test]
fn a_model_that_changes_while_it_is_scanned_gets_no_verdict() {
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    for what in ["replaced by the same", "shortened", "added to"] {
        std::fs::write(&weights, &bytes).unwrap();
        let args = [
            "scan",
            "{model}",
            "--result-cache",
            "--progress=json",
            "--text",
            "Pitchfork called it daring",
            "--samples=2",
        ];
        let mut scan = place.command(&args).spawn().unwrap();
        let mut told = BufReader::new(scan.stderr.take().unwrap());
        // It has begun to look.
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        match what {
            "shortened" => std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap(),
            "added to" => std::fs::write(place.model().join("consolidated.safetensors"), &bytes).unwrap(),
            _ => {
                std::fs::write(place.out().join("new"), &bytes).unwrap();
                std::fs::rename(place.out().join("new"), &weights).unwrap();
            }
        }
        told.read_to_string(&mut line).unwrap();
        let output = wait(scan, 60).unwrap();
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{what}: {line}");
        assert!(line.contains("was changed while the model was examined"), "{what}: {line}");
    }
    let kept = place.out().join("../.cache/achilles-audit/scan");
    assert!(std::fs::read_dir(kept).map_or(0, Iterator::count) == 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_model_that_changes_while_it_is_linted_gets_no_verdict() {
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    // Weights that take a while.
    let header = r#"{"x":{"dtype":"U8","shape":[8192,8192],"data_offsets":[0,67108864]}}"#;
    let mut large = std::fs::File::create(place.model().join("large.safetensors")).unwrap();
    large.write_all(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    large.write_all(&vec![0; 64 << 20]).unwrap();
    let new = place.out().join("new");
    let replace = |bytes: &[u8]| {
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(&new, &weights).unwrap();
    };
    let changes: [(&str, &dyn Fn()); 3] = [
        ("replaced by the same", &|| replace(&bytes)),
        ("shortened", &|| replace(&bytes[..bytes.len() - 2])),
        ("added to", &|| std::fs::write(place.model().join("added.txt"), "").unwrap()),
    ];
    for (what, change) in changes {
        replace(&bytes);
        // A run that ended before it could be stopped tells nothing.
        let mut caught = (0..50).filter_map(|_| {
            let lint = place.command(&["lint", "{model}"]).spawn().unwrap();
            let caught = while_stopped(&lint, "large.safetensors", change);
            let output = wait(lint, 60).unwrap();
            caught.then(|| told(output))
        });
        let (code, out, error) = caught.next().expect("a run that was stopped on its way");
        assert!(code == 2 && out.is_empty(), "{what}: {code}: {out}{error}");
        assert!(error.contains("was changed while the model was examined"), "{what}: {error}");
    }
}

/// Stops `run` while it has `mapped` in its memory, and makes `change` then: true when it was so.
#[cfg(target_os = "linux")]
fn while_stopped(run: &std::process::Child, mapped: &str, change: &dyn Fn()) -> bool {
    let signal = |name: &str| Command::new("kill").args([name, &run.id().to_string()]).status().unwrap().success();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", run.id())).unwrap_or_default();
    let is_mapped = || read("maps").contains(mapped);
    let state = || read("stat").rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    while !is_mapped() {
        if state().is_none_or(|state| state == 'Z') {
            return false;
        }
    }
    signal("-STOP");
    while !matches!(state(), Some('T' | 'Z') | None) {
        std::thread::yield_now();
    }
    let caught = is_mapped();
    if caught {
        change();
    }
    signal("-CONT");
    caught
}

/// What a cache keeps the result of is what was run: the same bytes before and after are not enough.
#[test]
fn weights_that_were_others_in_between_have_other_stamps() {
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let modified = std::fs::metadata(&weights).unwrap().modified().unwrap();
    let open = || Checkpoint::open(place.model().to_str().unwrap(), &Silent).unwrap();
    let checkpoint = open();
    assert_eq!(checkpoint.stamps(), None, "written a moment ago");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let checkpoint = open();
    let stamps = checkpoint.stamps();
    assert!(stamps.is_some() && stamps == checkpoint.stamps());
    for contents in [vec![0; bytes.len()], bytes] {
        let mut file = std::fs::File::options().write(true).open(&weights).unwrap();
        file.write_all(&contents).unwrap();
        file.set_modified(modified).unwrap();
    }
    assert_eq!(checkpoint.stamps(), None);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(checkpoint.stamps(), None, "changed since it was opened");
    assert!(open().stamps().is_some() && open().stamps() != stamps);
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
