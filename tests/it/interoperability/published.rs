//! A model beside what a hub publishes of it, and beside the names in the cache.

use super::hub::server::{COMMIT, Server};
use super::hub::{hub, run};
use crate::tiny::Place;
use serde_json::Value;
use std::path::PathBuf;

/// What differs: a kind and a path each.
fn differences(found: &Value) -> Vec<(&str, &str)> {
    let all = found["differences"].as_array().unwrap_or_else(|| panic!("{found}")).iter();
    all.map(|d| (d["kind"].as_str().unwrap(), d["path"].as_str().unwrap())).collect()
}

fn flip(file: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

const HUB: [&str; 5] = ["verify", "{model}", "--hub=org/tiny", "--format", "json"];

/// With a README, which no model needs, and a template, which one does.
fn with_more(place: &Place) -> Server {
    std::fs::write(place.model().join("chat_template.jinja"), "{{ messages }}").unwrap();
    hub(place, &[("README.md", b"# Tiny"), ("chat_template.jinja", b"{{ messages }}"), ("pytorch_model.bin", b"x")])
}

#[test]
fn a_folder_is_held_against_both_digests() {
    let place = Place::new();
    let hub = with_more(&place);
    let (code, found, told) = run(&place, &hub, &HUB);
    assert_eq!((code, told.as_str()), (0, ""), "{found}");
    assert_eq!(found["schema"], "achilles-audit/published-verification/v1");
    assert_eq!((&found["passed"], &found["commit"]), (&true.into(), &COMMIT.into()));
    assert_eq!(
        (&found["files"], &found["not_here"]),
        (&4.into(), &serde_json::json!(["README.md", "pytorch_model.bin"]))
    );
    assert!(hub.requests().iter().all(|request| request.method == "GET" && request.path.starts_with("/api/")));

    // Git's SHA-1 of a small file, and SHA-256 of a large one: the same size, one bit.
    let weights = place.model().join("model.safetensors");
    let middle = std::fs::metadata(&weights).unwrap().len() as usize / 2;
    for (file, at, by) in [("config.json", 5, "git SHA-1"), ("model.safetensors", middle, "SHA-256")] {
        flip(&place.model().join(file), at);
        let (code, found, _) = run(&place, &hub, &HUB);
        assert_eq!((code, differences(&found)), (1, vec![("file-damaged", file)]));
        let problem = found["differences"][0]["problem"].as_str().unwrap();
        assert!(problem.starts_with(&format!("its bytes are those of {by} ")) && problem.contains(COMMIT), "{problem}");
        flip(&place.model().join(file), at);
    }

    // What is missing, what was added, and what is another thing by its first bytes.
    std::fs::remove_file(place.model().join("chat_template.jinja")).unwrap();
    std::fs::write(place.model().join("modeling_own.py"), "import os").unwrap();
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n").unwrap();
    let (code, found, _) = run(&place, &hub, &HUB);
    let expected = [
        ("file-missing", "chat_template.jinja"),
        ("file-damaged", "model.safetensors"),
        ("file-extra", "modeling_own.py"),
    ];
    assert_eq!((code, differences(&found)), (1, expected.to_vec()));
    assert!(found["differences"][1]["problem"].as_str().unwrap().contains("Git LFS pointer"));
    std::fs::write(&weights, &whole[..100]).unwrap();
    let (_, found, _) = run(&place, &hub, &HUB);
    let problem = found["differences"][1]["problem"].as_str().unwrap();
    assert_eq!(problem, format!("has 100 bytes, and org/tiny publishes it at {COMMIT} with {}", whole.len()));
    let table = String::from_utf8(place.command(&HUB[..3]).env("HF_ENDPOINT", &hub.endpoint).output().unwrap().stdout);
    assert!(table.unwrap().starts_with("NOT INTACT (3 files, "));
}

#[test]
fn a_file_alone_is_held_against_its_namesake() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    let file = place.model().join("model.safetensors");
    let verify = ["verify", "{model}/model.safetensors", "--hub=org/tiny", "--format", "json"];
    let (code, found, told) = run(&place, &hub, &verify);
    assert_eq!((code, &found["files"], told.as_str()), (0, &1.into(), ""));
    flip(&file, 5000);
    assert_eq!(run(&place, &hub, &verify).0, 1);
    std::fs::rename(&file, place.model().join("other.safetensors")).unwrap();
    let other = ["verify", "{model}/other.safetensors", "--hub=org/tiny", "--format", "json"];
    let (code, found, _) = run(&place, &hub, &other);
    assert_eq!((code, differences(&found)), (1, vec![("file-extra", "other.safetensors")]));
}

#[test]
fn a_manifest_is_verified_without_the_hub() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    let write = ["fingerprint", "--hub", "org/tiny@main", "-o", "{out}/tiny.json"];
    let (code, _, told) = run(&place, &hub, &write);
    assert_eq!(code, 0);
    assert!(
        told.contains(": 3 files, ") && told.trim_end().ends_with(&format!("of org/tiny main, commit {COMMIT}")),
        "{told}"
    );
    assert!(hub.requests().iter().all(|request| request.path.starts_with("/api/")), "nothing is downloaded");
    let text = std::fs::read_to_string(place.out().join("tiny.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&written["schema"], &written["commit"]), (&"achilles-audit/published/v1".into(), &COMMIT.into()));
    let offline = |args: &[&str]| {
        let output = place.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), told)
    };
    let verify = ["verify", "{model}", "{out}/tiny.json", "--format", "json"];
    assert_eq!(offline(&verify).0, Some(0));
    flip(&place.model().join("tokenizer.json"), 9);
    let (code, found, _) = offline(&verify);
    assert_eq!((code, differences(&found)), (Some(1), vec![("file-damaged", "tokenizer.json")]));

    let (code, _, told) = offline(&HUB);
    assert!(code == Some(2) && told.contains("HF_HUB_OFFLINE is set") && told.lines().count() == 1, "{told}");
    for (wrong, says) in [
        (text.replace("config.json", "../config.json"), "no path within"),
        (text.replace("\"sha256\": \"", "\"sha256\": \"zz"), "is no manifest"),
        (text.replace("org/tiny", "../tiny"), "the repository is called"),
        (text.replace("published/v1", "published/v9"), "is achilles-audit/published/v9, expected"),
        (text[..text.len() / 2].to_owned(), "is a damaged manifest"),
    ] {
        std::fs::write(place.out().join("tiny.json"), wrong).unwrap();
        let (code, _, told) = offline(&verify);
        assert!(code == Some(2) && told.contains(says) && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn what_the_hub_says_is_not_believed_before_it_is_checked() {
    let place = Place::new();
    let hub = with_more(&place);
    let one_line = |says: &[&str]| {
        let (code, found, told) = run(&place, &hub, &HUB);
        assert_eq!((code, told.lines().count(), found), (2, 1, Value::Null), "{told}");
        assert!(says.iter().all(|part| told.contains(part)), "{told}");
    };
    for (status, code, says) in [
        (401, "GatedRepo", &["is gated", "set HF_TOKEN"][..]),
        (404, "RepoNotFound", &["no such repository"]),
        (404, "RevisionNotFound", &["no such revision"]),
        (503, "", &["cannot reach"]),
    ] {
        hub.set(|s| s.refuse = Some((status, code)));
        one_line(says);
    }
    hub.set(|s| s.refuse = None);

    // A list of names alone is filled in by the pages of the tree.
    hub.set(|s| (s.names_only, s.tree_page) = (true, Some(2)));
    assert_eq!(run(&place, &hub, &HUB).0, 0);
    let pages: Vec<String> =
        hub.requests().into_iter().map(|r| r.path).filter(|path| path.contains("/tree/")).collect();
    assert_eq!(pages.len(), 3, "{pages:?}");
    flip(&place.model().join("chat_template.jinja"), 3);
    assert_eq!(differences(&run(&place, &hub, &HUB).1), [("file-damaged", "chat_template.jinja")]);
    hub.set(|s| s.tree_page = None);
    one_line(&["404"]);

    // Sizes that are not so; and a file that only one of the lists has.
    hub.set(|s| (s.names_only, s.tree_page) = (false, Some(2)));
    hub.set(|s| _ = s.sizes.insert("config.json".into(), 3));
    let (code, found, _) = run(&place, &hub, &HUB);
    assert_eq!((code, differences(&found)[1]), (1, ("file-damaged", "config.json")));
    hub.set(|s| s.sizes.clear());
    let only = r#"{"sha": "COMMIT", "siblings": [{"rfilename": "config.json", "size": 3}]}"#.replace("COMMIT", COMMIT);
    hub.set(|s| s.list = Some(only.clone().into_bytes()));
    one_line(&["it lists config.json with 3 bytes and with"]);
    hub.set(|s| s.list = Some(only.replace("config.json\", \"size\": 3", "gone.json\"").into_bytes()));
    one_line(&["it lists gone.json in one place and not in another"]);
}

/// The cache after a download of the hub's copy.
fn cached(place: &Place, hub: &Server) -> PathBuf {
    let output = place.command(&["lint", "org/tiny"]).env("HF_ENDPOINT", &hub.endpoint).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let found =
        walk(place.out().parent().unwrap()).into_iter().find(|path| path.ends_with(format!("snapshots/{COMMIT}")));
    found.expect("a snapshot")
}

/// All folders and files below a folder; links are not followed.
pub fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let below = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => [vec![entry.path()], walk(&entry.path())].concat(),
        false => vec![entry.path()],
    };
    entries.flat_map(below).collect()
}

#[cfg(unix)]
#[test]
fn a_cache_is_held_against_its_own_names() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    let snapshot = cached(&place, &hub);
    let folder = snapshot.to_str().unwrap();
    let offline = |args: &[&str]| {
        let output = place.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
        (output.status.code().unwrap(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    let verify = ["verify", folder, "--format", "json"];
    let (code, found) = offline(&verify);
    assert_eq!((code, &found["files"], &found["settings"]["against"]), (0, &3.into(), &"cache".into()));
    assert_eq!(offline(&["verify", "org/tiny"]).0, 0, "by its id");
    let (code, found, told) = run(&place, &hub, &["verify", folder, "--format", "json", "--hub"]);
    assert_eq!((code, &found["settings"]["reference"]), (0, &format!("org/tiny@{COMMIT}").into()), "{told}");

    // One bit of the weights, one of the config: by verify, lint and scan alike.
    for file in ["model.safetensors", "config.json"] {
        let blob = snapshot.join(file).canonicalize().unwrap();
        flip(&blob, 300);
        let (code, found) = offline(&verify);
        assert_eq!((code, differences(&found)), (1, vec![("file-damaged", file)]));
        for args in [&["lint", folder, "--format", "json"][..], &["scan", folder, "--static", "--format", "json"]] {
            let (code, found) = offline(args);
            let findings = found["findings"].as_array().unwrap();
            let is_told = findings.iter().any(|f| f["id"] == "blob-digest" && f["location"]["file"] == file);
            assert!(code == 1 && is_told, "{args:?}: {found}");
        }
        flip(&blob, 300);
    }

    // A link that leads nowhere, a pointer, and a file that is no link.
    let (config, weights) = (snapshot.join("config.json"), snapshot.join("model.safetensors"));
    let (config_blob, weights_blob) = (config.canonicalize().unwrap(), weights.canonicalize().unwrap());
    let text = std::fs::read(&config_blob).unwrap();
    std::fs::remove_file(&config_blob).unwrap();
    std::fs::write(&weights_blob, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n").unwrap();
    let (code, found) = offline(&verify);
    let expected = [("file-damaged", "config.json"), ("file-damaged", "model.safetensors")];
    assert_eq!((code, differences(&found)), (1, expected.to_vec()));
    assert!(found["differences"][0]["problem"].as_str().unwrap().contains("leads nowhere"));
    assert!(found["differences"][1]["problem"].as_str().unwrap().contains("Git LFS pointer"), "{found}");
    std::fs::copy(place.model().join("model.safetensors"), &weights_blob).unwrap();
    std::fs::remove_file(&config).unwrap();
    std::fs::write(&config, text).unwrap();
    let (code, found) = offline(&verify);
    assert_eq!((code, differences(&found)), (2, vec![]));
    assert!(found["not_examined"][0].as_str().unwrap().starts_with("config.json is no link to a file of the cache"));
    let table = place.command(&verify[..2]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(String::from_utf8(table.stdout).unwrap().starts_with("NOT ALL EXAMINED: 2 files"));
}

/// A folder in a snapshot is no commit by itself; what the hub has beside what a model needs is no fault.
#[cfg(unix)]
#[test]
fn parts_of_a_snapshot_are_asked_for_by_name() {
    let place = Place::new();
    let hub = hub(&place, &[("onnx/config.json", b"{}"), ("onnx/model.onnx", &[1; 300])]);
    hub.set(|s| _ = s.sizes.insert("onnx/model.onnx".into(), 40 << 20));
    let (code, found, told) = run(&place, &hub, &["verify", "org/tiny", "--hub", "--format", "json"]);
    assert_eq!((code, told.as_str()), (0, ""), "{found}");
    assert_eq!(found["not_here"], serde_json::json!(["onnx/model.onnx"]));
    let folder = cached(&place, &hub).join("onnx");
    let (code, _, told) = run(&place, &hub, &["verify", folder.to_str().unwrap(), "--hub"]);
    assert!(code == 2 && told.contains("give --hub ORG/NAME") && told.lines().count() == 1, "{told}");
}

/// As its user calls it in the folder where it lies.
#[test]
fn a_bare_name_is_found_among_namesakes() {
    let place = Place::new();
    let weights = std::fs::read(place.model().join("model.safetensors")).unwrap();
    let mut other = weights.clone();
    *other.last_mut().unwrap() ^= 1;
    let hub = hub(&place, &[("a/model.safetensors", &other), ("z/model.safetensors", &other)]);
    let verify = |hub: &Server| {
        let mut command = place.command(&["verify", "model.safetensors", "--hub=org/tiny"]);
        command.current_dir(place.model()).env("HF_ENDPOINT", &hub.endpoint).output().unwrap().status.code()
    };
    assert_eq!(verify(&hub), Some(0));
    std::fs::write(place.model().join("model.safetensors"), &other).unwrap();
    assert_eq!(verify(&hub), Some(0), "the one in a folder");
    other[9000] ^= 1;
    std::fs::write(place.model().join("model.safetensors"), &other).unwrap();
    assert_eq!(verify(&hub), Some(1), "none of the three");
}

#[test]
fn what_is_not_known_is_asked_for_in_one_line() {
    let place = Place::new();
    let hub = hub(&place, &[]);
    for (args, says) in [
        (&["verify", "{model}"][..], "give its fingerprint, or --hub ORG/NAME"),
        (&["verify", "{model}", "--hub"], "does not say what it was published as; give --hub ORG/NAME"),
        (&["verify", "{model}", "--hub=tiny"], "expected org/name"),
        (&["verify", "{model}", "--hub=org/tiny", "--allow-resharding"], "--allow-resharding is of fingerprints"),
        (&["verify", "{model}", "{out}/none.json"], "is not there"),
        (&["verify", "{model}", "{out}/none.json", "--hub=org/tiny"], "cannot be used with"),
        (&["fingerprint"], "required"),
        (&["fingerprint", "{model}", "--hub", "org/tiny"], "cannot be used with"),
    ] {
        let (code, _, told) = run(&place, &hub, args);
        assert!(code == 2 && told.contains(says), "{args:?}: {told}");
    }
}
