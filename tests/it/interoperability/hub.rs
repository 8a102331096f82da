//! Hub ids on the command line, against a hub on the loopback.

use crate::tiny::{Place, TEXT};
use serde_json::Value;
use server::{COMMIT, Files, Server};
use std::path::Path;

// The library's own tests use the rest of it.
#[allow(dead_code)]
#[path = "../../../src/checkpoint/hub/tests/server.rs"]
pub mod server;

/// The tiny model as a repository.
pub fn hub(place: &Place, more: &[(&str, &[u8])]) -> Server {
    let files = ["config.json", "model.safetensors", "tokenizer.json"];
    let read = |name: &str| (name.to_owned(), std::fs::read(place.model().join(name)).unwrap());
    let mut files: Files = files.into_iter().map(read).collect();
    files.extend(more.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())));
    Server::new(files)
}

/// A file that the hub says is too large to be fetched for its own sake.
fn large(hub: &Server, name: &str) {
    hub.set(|s| {
        s.files.insert(name.into(), b"large".to_vec());
        s.sizes.insert(name.into(), 40 << 20);
    });
}

/// The exit code, standard output as JSON if it is some, and standard error.
pub fn run(place: &Place, hub: &Server, args: &[&str]) -> (i32, Value, String) {
    let output = place.command(args).env("HF_ENDPOINT", &hub.endpoint).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default(), told)
}

fn table(place: &Place, hub: &Server, args: &[&str]) -> String {
    let output = place.command(args).env("HF_ENDPOINT", &hub.endpoint).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

fn ids(found: &Value) -> Vec<(&str, &str)> {
    let findings = found["findings"].as_array().unwrap().iter();
    findings
        .map(|f| (f["id"].as_str().unwrap(), f["location"]["file"].as_str().unwrap()))
        .filter(|(id, _)| *id != "lesion-not-examined")
        .collect()
}

const SCAN: [&str; 5] = ["scan", "org/tiny", "--static", "--format", "json"];
const LINT: [&str; 4] = ["lint", "org/tiny", "--format", "json"];

#[test]
fn a_clean_repository_passes_and_the_report_tells_its_commit() {
    let place = Place::new();
    let hub = hub(&place, &[("README.md", b"# Tiny"), ("assets/logo.png", b"\x89PNG"), ("LICENSE", b"")]);
    for args in [&SCAN[..], &LINT[..]] {
        let (code, found, told) = run(&place, &hub, args);
        assert_eq!((code, told.as_str()), (0, ""), "{found}");
        assert_eq!(found["model"]["hub"]["commit"], COMMIT);
        assert_eq!(found["model"]["hub"]["state"], "current");
        assert_eq!(found["model"]["hub"]["not_fetched"], Value::Array(vec![]));
        assert_eq!(found["not_examined"], Value::Array(vec![]));
    }
    for args in [&SCAN[..3], &LINT[..2]] {
        assert!(table(&place, &hub, args).contains(&format!("hub: org/tiny main is commit {COMMIT}\n")));
    }
    // The same from the cache, where that was asked for.
    for args in [&SCAN[..], &LINT[..]] {
        let output = place.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &found["model"]["hub"]["state"]), (Some(0), &"offline".into()));
        assert_eq!(found["model"]["hub"]["commit"], COMMIT);
    }
}

/// Files that are judged where they are found in a folder.
const ODD: &[(&str, &[u8])] = &[
    ("modeling_evil.py", b"import os\n"),
    ("custom_generate/generate.py", b"import os\n"),
    ("pytorch_model.bin", b"\x80\x04\x95\x00"),
    ("original/consolidated.00.pth", b"\x80\x04\x95\x00"),
    ("data.txt", b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a."),
    ("consolidated.safetensors", b"x"),
    ("extra.safetensors", b"y"),
    ("chat_template.json", br#"{"chat_template": "{{ x.__class__.__mro__ }}"}"#),
    ("additional_chat_templates/tool.jinja", b"{{ x.__class__ }}"),
    ("achilles-patch.json", b"{}"),
    ("model.h5", b"x"),
];

#[test]
fn a_repository_is_judged_as_its_folder_is() {
    let place = Place::new();
    let hub = hub(&place, ODD);
    for (name, bytes) in ODD {
        let path = place.model().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let output = place.run(&["lint", "{model}", "--format", "json"]);
    let folder: Value = serde_json::from_slice(&output.stdout).unwrap();
    for args in [&SCAN[..], &LINT[..]] {
        let (code, found, told) = run(&place, &hub, args);
        assert_eq!((code, told.as_str()), (1, ""));
        let (mut of_hub, mut of_folder) = (ids(&found), ids(&folder));
        of_hub.sort();
        of_folder.sort();
        assert_eq!(of_hub, of_folder);
        assert_eq!(found["not_examined"], Value::Array(vec![]), "each is judged");
    }
    let requests = hub.requests();
    let asked = |name: &str| requests.iter().any(|r| r.path.contains(name));
    assert!(asked("generate.py") && !asked("pytorch_model") && !asked("consolidated.00.pth"));
}

#[test]
fn what_was_not_fetched_and_no_name_tells_of_is_not_examined() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    large(&hub, "recordings.dat");
    for args in [&SCAN[..], &LINT[..]] {
        let (code, found, _) = run(&place, &hub, args);
        assert_eq!(code, 2, "{found}");
        assert_eq!(ids(&found), []);
        assert_eq!(found["model"]["hub"]["not_fetched"][0]["path"], "recordings.dat");
        assert_eq!(found["model"]["hub"]["not_fetched"][0]["bytes"], 40 << 20);
        let why = found["not_examined"][0].to_string();
        assert!(why.contains("1 file of the repository (40.0 MiB) was not fetched"), "{why}");
        assert!(why.contains(&format!("hf download org/tiny --revision {COMMIT}")) && why.contains("recordings.dat"));
    }
    assert!(table(&place, &hub, &SCAN[..3]).contains("NOT EXAMINED: lint: 1 file of the repository"));
    assert!(table(&place, &hub, &LINT[..2]).contains("NOT EXAMINED: 1 file of the repository"));
}

#[test]
fn a_commit_from_before_does_not_pass_for_the_current_one() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    assert_eq!(run(&place, &hub, &LINT).0, 0);
    hub.set(|s| s.refuse = Some((503, "")));
    for args in [&SCAN[..], &LINT[..]] {
        let (code, found, _) = run(&place, &hub, args);
        assert_eq!(code, 2, "{found}");
        let why = found["not_examined"][0].to_string();
        assert!(why.contains("the hub cannot be reached") && why.contains(COMMIT), "{why}");
        assert_eq!(found["model"]["hub"]["commit"], COMMIT);
    }
    // Those that have no way to say so refuse.
    for args in [
        &["fingerprint", "org/tiny"][..],
        &["diff", "org/tiny", "{model}"],
        &["perplexity", "org/tiny", "--text", TEXT],
        &["compare", "org/tiny", "{model}", "--text", TEXT],
    ] {
        let (code, _, told) = run(&place, &hub, args);
        assert!(code == 2 && told.contains("cannot reach the hub") && told.contains("HF_HUB_OFFLINE=1"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn fingerprints_and_differences_count_what_was_not_fetched() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    let print = ["fingerprint", "org/tiny", "-o", "{out}/print.json"];
    assert_eq!(run(&place, &hub, &print).0, 0);
    let written: Value = serde_json::from_slice(&std::fs::read(place.out().join("print.json")).unwrap()).unwrap();
    assert_eq!(written["hub"]["commit"], COMMIT);
    let verify = ["verify", "org/tiny", "{out}/print.json", "--format", "json"];
    let diff = ["diff", "org/tiny", "org/tiny", "--format", "json"];
    for args in [&verify[..], &diff] {
        let (code, found, told) = run(&place, &hub, args);
        assert_eq!((code, told.as_str()), (0, ""), "{found}");
        assert!(found.to_string().contains(COMMIT));
    }
    large(&hub, "pytorch_model.bin");
    for args in [&verify[..], &diff] {
        let (code, found, _) = run(&place, &hub, args);
        assert!(code == 2 && found["not_examined"][0].to_string().contains("pytorch_model.bin"), "{found}");
    }
    let told = run(&place, &hub, &print).2;
    assert!(told.contains("NOT EXAMINED: 1 file") && told.contains("pytorch_model.bin"), "{told}");
}

#[test]
fn every_document_of_a_model_tells_its_commit() {
    let place = Place::new();
    let hub = hub(&place, &[("pytorch_model.bin", b"x")]);
    let quick = ["--samples=2", "--max-neurons=20", "--epsilon=0.02", "--format=json", "--text"];
    let text = "Pitchfork called it daring";
    let (code, found, told) = run(&place, &hub, &[&["compare", "org/tiny", "org/tiny"][..], &quick, &[text]].concat());
    assert_eq!(code, 0, "{told}");
    for at in ["/base/hub", "/variants/0/located/model/hub"] {
        let origin = found.pointer(at).unwrap();
        assert_eq!(
            (&origin["commit"], &origin["not_fetched"][0]["path"]),
            (&COMMIT.into(), &"pytorch_model.bin".into())
        );
    }
    for args in [
        &["locate", "org/tiny", "--samples=2", "--max-neurons=2", "--format=json", "--text", TEXT][..],
        &["perplexity", "org/tiny", "--format=json", "--text", TEXT],
    ] {
        let (code, found, told) = run(&place, &hub, args);
        assert_eq!((code, &found["model"]["hub"]["commit"]), (0, &COMMIT.into()), "{told}");
    }
}

#[test]
fn hostile_repositories_are_one_line_and_nothing_is_written() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    let before = place.snapshot();
    let elsewhere = tempfile::tempdir().unwrap();
    let absolute = elsewhere.path().join("x.json");
    let absolute = absolute.to_str().unwrap();
    for name in ["../../../../out/x.json", absolute, "a\\..\\x", "a\u{1b}]0;x\u{7}", "CONFIG.JSON", "config.json/x"] {
        hub.set(|s| _ = s.files.insert(name.into(), b"{}".to_vec()));
        let (code, _, told) = run(&place, &hub, &SCAN);
        assert_eq!((code, told.lines().count()), (2, 1), "{name}: {told}");
        assert!(!told.contains('\u{1b}') && told.contains("does not answer as a hub does"), "{told}");
        hub.set(|s| _ = s.files.remove(name));
    }
    hub.set(|s| s.list = Some(vec![b' '; 50 << 20]));
    let (code, _, told) = run(&place, &hub, &SCAN);
    assert_eq!((code, told.lines().count()), (2, 1), "{told}");
    assert_eq!(place.snapshot(), before);
    assert!(!Path::new(absolute).exists());
}
