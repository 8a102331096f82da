//! What stands in a model's folder in the place of a file: links, and blobs of the Hugging Face cache; and tensors in
//! the place of others.

use crate::tiny::{Place, join, split};
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Exit code and what was said of a run.
fn said(place: &Place, args: &[&str]) -> (i32, String) {
    let output = place.run(args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn a_link_to_the_fingerprint_is_not_the_fingerprint() {
    for own in ["{in}/f.json", "{model}/f.json"] {
        let place = Place::new();
        let generation = place.model().join("generation_config.json");
        std::fs::write(&generation, "{\"eos_token_id\": 2}").unwrap();
        assert_eq!(said(&place, &["fingerprint", "{model}", "-o", own]).0, 0);
        let (code, told) = said(&place, &["verify", "{model}", own]);
        assert!(code == 0 && told.starts_with("INTACT"), "{told}");
        // Both a file that was fingerprinted and a new one are links to the fingerprint.
        let target = if own.starts_with("{in}") { "../f.json" } else { "f.json" };
        std::fs::remove_file(&generation).unwrap();
        symlink(target, &generation).unwrap();
        symlink(target, place.model().join("chat_template.jinja")).unwrap();
        let (code, told) = said(&place, &["verify", "{model}", own]);
        assert_eq!(code, 1, "{told}");
        for line in [
            "file chat_template.jinja: was not there\n".to_owned(),
            format!("file generation_config.json: is a link to {target}, was no link\n"),
            "file generation_config.json: changed".to_owned(),
        ] {
            assert!(told.contains(&line), "{line}: {told}");
        }
        let (code, told) = said(&place, &["scan", "{model}", "--static", "--fingerprint", own, "--format", "json"]);
        let found: Value = serde_json::from_str(&told).unwrap();
        let ids: Vec<&str> = found["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).collect();
        assert!(code == 1 && ids.contains(&"fingerprint-file-linked") && ids.contains(&"fingerprint-file-extra"));
    }
}

#[test]
fn links_are_fingerprinted_with_where_they_lead() {
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    std::fs::write(place.model().join("notes"), "x").unwrap();
    symlink("notes", place.model().join("link")).unwrap();
    assert_eq!(said(&place, &["fingerprint", "{model}", "-o", "{in}/f.json"]).0, 0);
    let text = std::fs::read_to_string(place.model().join("../f.json")).unwrap();
    assert!(text.contains("\"path\":\"link\",\"bytes\":1,") && text.contains("\"link\":\"notes\""), "{text:.300}");
    assert_eq!(said(&place, &["verify", "{model}", "{in}/f.json"]).0, 0);
    // Weights moved elsewhere, a link in their place: the bytes are the same, whoever holds them.
    std::fs::rename(&weights, place.model().join("../elsewhere.safetensors")).unwrap();
    symlink("../elsewhere.safetensors", &weights).unwrap();
    for more in [&[][..], &["--allow-resharding"]] {
        let (code, told) = said(&place, &[&["verify", "{model}", "{in}/f.json"], more].concat());
        let expected = "file model.safetensors: is a link to ../elsewhere.safetensors, was no link\n";
        assert!(code == 1 && told.contains(expected), "{told}");
    }
    std::fs::remove_file(&weights).unwrap();
    std::fs::rename(place.model().join("../elsewhere.safetensors"), &weights).unwrap();
    // A link that leads elsewhere, to the same bytes.
    std::fs::write(place.model().join("../notes"), "x").unwrap();
    std::fs::remove_file(place.model().join("link")).unwrap();
    symlink("../notes", place.model().join("link")).unwrap();
    let (code, told) = said(&place, &["verify", "{model}", "{in}/f.json"]);
    assert!(code == 1 && told.contains("file link: is a link to ../notes, was one to notes\n"), "{told}");
    // The file itself instead.
    std::fs::remove_file(place.model().join("link")).unwrap();
    std::fs::write(place.model().join("link"), "x").unwrap();
    assert_eq!(said(&place, &["verify", "{model}", "{in}/f.json"]).0, 0);
    // Fingerprints of 0.1.0 say nothing of links.
    let mut old: Value = serde_json::from_str(&text.replace(",\"link\":\"notes\"", "")).unwrap();
    old["settings"].as_object_mut().unwrap().remove("links");
    let lines = |files: &Value| {
        let line = |f: &Value| serde_json::json!([f["path"], f["bytes"], f["sha256"]]).to_string() + "\n";
        let mut lines: Vec<String> = files.as_array().unwrap().iter().map(line).collect();
        lines.sort();
        lines.concat()
    };
    old["files_sha256"] = achilles_audit::checkpoint::sha256_hex(lines(&old["files"]).as_bytes()).into();
    std::fs::write(place.model().join("../old.json"), old.to_string()).unwrap();
    assert_eq!(said(&place, &["verify", "{model}", "{in}/old.json"]).0, 0);
}

/// The model as the hub's client keeps it, in `{in}/models--org--name`.
fn snapshot(place: &Place) -> PathBuf {
    snapshot_in(place, "snapshots/0123", "../../blobs")
}

/// The same in `folder` of the repository, from which the blobs are at `up`.
fn snapshot_in(place: &Place, folder: &str, up: &str) -> PathBuf {
    let repository = place.model().join("../models--org--name");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join(folder));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for entry in std::fs::read_dir(place.model()).unwrap().map(Result::unwrap) {
        let bytes = std::fs::read(entry.path()).unwrap();
        let blob = achilles_audit::checkpoint::sha256_hex(&bytes);
        std::fs::write(blobs.join(&blob), bytes).unwrap();
        symlink(Path::new(up).join(blob), snapshot.join(entry.file_name())).unwrap();
    }
    snapshot
}

/// As verify tells of links, so does diff, where the bytes behind them are the same.
#[test]
fn links_that_the_other_folder_lacks_are_differences() {
    let place = Place::new();
    let copy = place.out().join("copy");
    std::fs::create_dir_all(copy.join(".git")).unwrap();
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    for name in names {
        std::fs::copy(place.model().join(name), copy.join(name)).unwrap();
    }
    let diff = || said(&place, &["diff", "{model}", "{out}/copy"]);
    assert_eq!(diff().0, 0, "{}", diff().1);
    for (name, to) in
        [("config.json", "../elsewhere"), ("tokenizer.json", ".git/x"), ("model.safetensors", "../weights")]
    {
        std::fs::rename(copy.join(name), copy.join(to)).unwrap();
        symlink(to, copy.join(name)).unwrap();
        let (code, text) = diff();
        assert!(code == 1 && text.contains(&format!("file {name}: is a link to {to}, was no link\n")), "{text}");
    }
    // A link that became the file it led to is no less than it was.
    assert_eq!(said(&place, &["diff", "{out}/copy", "{model}"]).0, 0);
    let cached = snapshot(&place);
    for args in [["diff", "{model}", cached.to_str().unwrap()], ["diff", cached.to_str().unwrap(), "{model}"]] {
        assert_eq!(said(&place, &args).0, 0);
    }
}

/// In a worktree or a submodule `.git` is a file that says where it is; another file of that name is one of the
/// model's.
#[test]
fn a_file_in_the_place_of_version_control_is_a_file() {
    let place = Place::new();
    let git = place.model().join(".git");
    std::fs::write(&git, "gitdir: ../.git/modules/model\n").unwrap();
    assert_eq!(said(&place, &["fingerprint", "{model}", "-o", "{out}/f.json"]).0, 0);
    let verify = || said(&place, &["verify", "{model}", "{out}/f.json"]);
    std::fs::write(&git, "gitdir: /elsewhere/.git/worktrees/model\n").unwrap();
    assert_eq!(verify().0, 0);
    std::fs::write(&git, "import os").unwrap();
    assert!(verify().0 == 1 && verify().1.contains("file .git: was not there"), "{:?}", verify());
}

#[test]
fn a_model_in_a_folder_of_a_snapshot_is_clean_and_is_patched() {
    let place = Place::new();
    for (folder, up) in [("snapshots/0123/sub", "../../../blobs"), ("snapshots/0123/snapshots/a", "../../../../blobs")]
    {
        snapshot_in(&place, folder, up);
        let model = format!("{{in}}/models--org--name/{folder}");
        let (code, told) = said(&place, &["lint", &model]);
        assert_eq!(code, 0, "{told}");
        let to = format!("{{out}}/{}", folder.len());
        let (code, told) = said(&place, &["patch", &model, "-o", &to, "--neuron", "L1.mlp.down_proj:out:3"]);
        assert_eq!(code, 0, "{told}");
        let patched = place.out().join(folder.len().to_string());
        assert!(!patched.join("config.json").is_symlink() && patched.join("model.safetensors").is_file());
        assert_ne!(said(&place, &["diff", &model, &to]).0, 0);
    }
}

const SNAPSHOT: &str = "{in}/models--org--name/snapshots/0123";

#[test]
fn a_snapshot_of_the_hubs_cache_is_as_good_as_a_copy() {
    let place = Place::new();
    snapshot(&place);
    let digest = |model: &str, to: &str| {
        assert_eq!(said(&place, &["fingerprint", model, "-o", to]).0, 0);
        let text = std::fs::read(to.replace("{in}", place.model().parent().unwrap().to_str().unwrap())).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["files_sha256"].clone()
    };
    assert_eq!(digest("{model}", "{in}/copy.json"), digest(SNAPSHOT, "{in}/snapshot.json"));
    for model in ["{model}", SNAPSHOT] {
        for fingerprint in ["{in}/copy.json", "{in}/snapshot.json"] {
            let (code, told) = said(&place, &["verify", model, fingerprint]);
            assert!(code == 0 && told.starts_with("INTACT"), "{told}");
        }
    }
    assert_eq!(said(&place, &["diff", "{model}", SNAPSHOT]).0, 0);
    assert_eq!(said(&place, &["lint", SNAPSHOT]).0, 0);
    let (key, public) = ("fixtures/oms/keys/p256.pem", "fixtures/oms/keys/p256.pub.pem");
    let full = |path: &str| format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(said(&place, &["sign", SNAPSHOT, "--private-key", &full(key), "-o", "{in}/s.sig"]).0, 0);
    for model in ["{model}", SNAPSHOT] {
        let (code, told) =
            said(&place, &["verify-signature", model, "--signature", "{in}/s.sig", "--public-key", &full(public)]);
        assert_eq!(code, 0, "{told}");
    }
}

/// Where the others are links to blobs, a file is held against no digest. Where all are files, the system knows no
/// links.
#[test]
fn a_file_among_the_links_of_a_snapshot_is_told() {
    let place = Place::new();
    let cached = snapshot(&place);
    let lint = || said(&place, &["lint", cached.to_str().unwrap()]);
    // Not looked at by any loader, or the user's own.
    std::fs::write(cached.join(".DS_Store"), "").unwrap();
    std::fs::write(cached.join("model.sig"), "").unwrap();
    assert_eq!(lint().0, 0, "{}", lint().1);
    let replace = |name: &str| {
        let bytes = std::fs::read(cached.join(name)).unwrap();
        std::fs::remove_file(cached.join(name)).unwrap();
        std::fs::write(cached.join(name), bytes).unwrap();
    };
    replace("model.safetensors");
    let (code, text) = lint();
    assert!(code == 1 && text.contains("snapshot-file") && text.contains("is a file, where"), "{text}");
    // A model in a folder below, too, where only the others are links.
    let sub = cached.join("sub");
    std::fs::create_dir(&sub).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(cached.join(name), sub.join(name)).unwrap();
    }
    assert!(said(&place, &["lint", sub.to_str().unwrap()]).1.contains("snapshot-file"));
    std::fs::remove_dir_all(sub).unwrap();
    let all = std::fs::read_dir(&cached).unwrap().map(|entry| entry.unwrap());
    let links: Vec<_> = all.filter(|entry| entry.path().is_symlink()).map(|entry| entry.file_name()).collect();
    assert!(!links.is_empty());
    links.iter().for_each(|name| replace(name.to_str().unwrap()));
    assert_eq!(lint().0, 0, "{}", lint().1);
}

#[test]
fn a_damaged_blob_is_an_error_everywhere() {
    let place = Place::new();
    let target = std::fs::canonicalize(snapshot(&place).join("model.safetensors")).unwrap();
    assert_eq!(said(&place, &["fingerprint", SNAPSHOT, "-o", "{in}/f.json"]).0, 0);
    let mut bytes = std::fs::read(&target).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&target, bytes).unwrap();
    std::fs::copy(&target, place.model().join("model.safetensors")).unwrap();
    assert_eq!(said(&place, &["fingerprint", "{model}", "-o", "{in}/changed.json"]).0, 0);
    // Even where the fingerprint is one of the damaged bytes.
    for fingerprint in ["{in}/f.json", "{in}/changed.json"] {
        let (code, told) = said(&place, &["verify", SNAPSHOT, fingerprint]);
        let expected = "file model.safetensors: damaged: its bytes are those of SHA-256 ";
        assert!(code == 1 && told.contains(expected), "{told}");
    }
    let (code, told) = said(&place, &["fingerprint", SNAPSHOT]);
    assert!(code == 2 && told.contains("the Hugging Face cache calls them"), "{told}");
    for args in [&["lint", SNAPSHOT][..], &["scan", SNAPSHOT, "--static"]] {
        let (code, told) = said(&place, args);
        assert!(code == 1 && told.contains("blob-digest"), "{told}");
    }
    let (_, told) = said(&place, &["scan", SNAPSHOT, "--static", "--fingerprint", "{in}/changed.json"]);
    assert!(told.contains("fingerprint-file-damaged"), "{told}");
}

/// Changes the model's tensors: `change` gets a tensor's name and its f32 values.
fn rewrite(place: &Place, change: &mut dyn FnMut(&str, &mut Vec<f32>)) {
    let path = place.model().join("model.safetensors");
    let (header, mut data) = split(&std::fs::read(&path).unwrap());
    let entries: serde_json::Map<String, Value> = serde_json::from_str(&header).unwrap();
    for (name, entry) in entries.iter().filter(|(name, _)| *name != "__metadata__") {
        let at = |n: usize| entry["data_offsets"][n].as_u64().unwrap() as usize;
        let bytes = &mut data[at(0)..at(1)];
        let mut values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        change(name, &mut values);
        for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
    }
    std::fs::write(&path, join(header.as_bytes(), &data)).unwrap();
}

/// What `verify` and `diff` say of the model as it is now, beside what it was.
fn both(place: &Place, change: &mut dyn FnMut(&str, &mut Vec<f32>)) -> [String; 2] {
    assert_eq!(said(place, &["fingerprint", "{model}", "-o", "{in}/f.json"]).0, 0);
    let before = place.out().join("before");
    std::fs::create_dir(&before).unwrap();
    for entry in std::fs::read_dir(place.model()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), before.join(entry.file_name())).unwrap();
    }
    rewrite(place, change);
    [["verify", "{model}", "{in}/f.json"], ["diff", "{out}/before", "{model}"]].map(|args| {
        let (code, told) = said(place, &args);
        assert_eq!(code, 1, "{told}");
        told
    })
}

const UP: [&str; 2] = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"];

#[test]
fn replaced_tensors_are_told_and_no_factor_is_made_up() {
    let place = Place::new();
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let told = both(&place, &mut |name, values| {
        if UP.contains(&name) {
            values.iter_mut().for_each(|v| *v = random());
        }
    });
    for told in told {
        assert!(told.contains(", dense") && !told.contains("times what it was"), "{told}");
    }
}

/// A row with other values whose norm and largest element happen to be −1 times what they were: the columns tell.
#[test]
fn a_replaced_row_is_no_multiple() {
    let place = Place::new();
    let told = both(&place, &mut |name, values| {
        if name == UP[0] {
            // Columns 0 to 39 of row 2, in the opposite order and with the opposite sign.
            let row = &mut values[80..120];
            row.reverse();
            row.iter_mut().for_each(|v| *v = -*v);
        }
    });
    for told in told {
        assert!(told.contains("row 2 of model.layers.0.mlp.up_proj.weight: changed ("), "{told}");
    }
}

#[test]
fn swapped_tensors_are_told_as_swapped() {
    let place = Place::new();
    let mut held = Vec::new();
    rewrite(&place, &mut |name, values| held.extend(UP.contains(&name).then(|| values.clone())));
    held.reverse();
    let mut held = held.into_iter();
    let told = both(&place, &mut |name, values| {
        if UP.contains(&name) {
            *values = held.next().unwrap();
        }
    });
    for told in told {
        let expected = format!("tensors {} and {}: swapped\n", UP[0], UP[1]);
        assert!(told.contains(&expected) && !told.contains("changed in"), "{told}");
    }
    // A copy is not a swap.
    let place = Place::new();
    let mut first = None;
    let told = both(&place, &mut |name, values| match name {
        _ if name == UP[0] => {
            first = Some(values.clone());
            values[0] += 1.0;
        }
        _ if name == UP[1] => values.clone_from(first.as_ref().unwrap()),
        _ => {}
    });
    for told in told {
        assert!(told.contains(&format!("tensor {}: holds what {} held\n", UP[1], UP[0])), "{told}");
    }
}

#[test]
fn values_that_became_nan_are_counted() {
    let place = Place::new();
    let told = both(&place, &mut |name, values| {
        if name == UP[0] {
            values[3] = f32::NAN;
            values[70] = f32::NAN;
        }
    });
    for told in told {
        assert!(told.contains(", 2 values became NaN\n"), "{told}");
    }
}
