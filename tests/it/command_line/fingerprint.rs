//! Documents of fingerprints: what they hold, and that those of the first form still serve.

use super::patch::{FAST, copy, open};
use crate::tiny::Place;
use achilles_audit::checkpoint::{Opened, hex};
use achilles_audit::integrity::difference::Difference;
use achilles_audit::integrity::fingerprint::{Algorithm, Fingerprint, FingerprintSettings, TensorRecord, take};
use achilles_audit::integrity::verify::verify;
use achilles_audit::neuron::{Action, Intervention};
use achilles_audit::patch::{self, Plan};
use achilles_audit::progress::Silent;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Folders of fixtures/ of which version 0.1.0 took fingerprints, with SHA-256 of all that is digested.
const TAKEN: [&str; 3] = ["llama", "qwen3_5_moe", "packed/ct_fp8_block"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn first_form(folder: &str) -> PathBuf {
    let name = folder.rsplit('/').next().unwrap();
    fixtures().join("fingerprint").join(format!("{name}.v1.json"))
}

fn taken(folder: &Path) -> Fingerprint {
    take(&Opened::folder_at(folder), &FingerprintSettings::default(), None, None, &Silent).unwrap().fingerprint
}

fn differences(folder: &Path, before: &Fingerprint) -> Vec<Difference> {
    verify(&Opened::folder_at(folder), before, None, None, &Silent).unwrap().differences
}

#[test]
fn fingerprints_of_the_first_form_hold_and_name_what_those_of_the_second_do() {
    for name in TAKEN {
        let folder = copy(&fixtures().join(name));
        let model = folder.path();
        let text = std::fs::read_to_string(first_form(name)).unwrap();
        let (before, now) = (Fingerprint::parse(&text).unwrap(), taken(model));
        assert_eq!((before.algorithm, now.algorithm), (Algorithm::Sha256, Algorithm::Blake3));
        assert!(verify(&Opened::folder_at(model), &before, None, None, &Silent).unwrap().intact, "{name}");
        // Marks and statistics are the same to the last bit; digests are as many.
        let marks = |t: &TensorRecord| (t.name.clone(), t.rows.clone(), t.columns.clone(), t.statistics);
        let all = |of: &Fingerprint| of.tensors.iter().map(marks).collect::<Vec<_>>();
        assert_eq!((all(&before), &before.files, &before.weights), (all(&now), &now.files, &now.weights), "{name}");
        let rows =
            |of: &Fingerprint| of.tensors.iter().map(|t| t.row_digests.as_ref().map(Vec::len)).collect::<Vec<_>>();
        assert_eq!(rows(&before), rows(&now));
        assert_eq!(Fingerprint::parse(&before.to_json("m", None).unwrap()), Ok(before.clone()));

        let (checkpoint, recipe) = open(model);
        for (neuron, beta) in [
            ("L0.self_attn.o_proj:out:3", 0.5),
            ("L1.self_attn.o_proj:in:5", 2.0),
            ("L1.mlp.down_proj:out:7", 0.0),
            ("L1.mlp.down_proj:in:2", -1.0),
        ] {
            let change = Intervention { neuron: neuron.parse().unwrap(), action: Action::Scale(beta) };
            let Ok(plan) = Plan::new(&checkpoint, &recipe, &[change]) else { continue };
            let out = folder.path().with_extension("lesioned");
            patch::write_new(&checkpoint, &plan, &out, FAST, &Silent).unwrap();
            let [by_first, by_second] = [&before, &now].map(|before| differences(&out, before));
            std::fs::remove_dir_all(&out).unwrap();
            assert_eq!(by_first, by_second, "{name} {neuron} × {beta}");
            let told = by_first.iter().filter(|d| matches!(d, Difference::TensorChanged(_)));
            let told: Vec<String> = told.map(ToString::to_string).collect();
            let named = told.iter().filter(|told| told.contains(&format!("(neuron {neuron})"))).count();
            assert!(named > 0 && named == told.len(), "{name} {neuron} × {beta}: {told:?}");
        }
    }
}

#[test]
fn commands_take_fingerprints_of_the_first_form() {
    let place = Place::new();
    std::fs::remove_file(place.model().join("tokenizer.json")).unwrap();
    let first = first_form("llama");
    let first = first.to_str().unwrap();
    let said = |args: &[&str], code: i32| {
        let output = place.run(args);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for cached in [&[][..], &["--digest-cache"], &["--digest-cache"]] {
        let verify = [&["verify", "{model}", first], cached].concat();
        assert!(said(&verify, 0).starts_with("INTACT: 2 files"));
        // What the cache keeps of one form is not taken for the other's.
        said(&[&["fingerprint", "{model}", "-o", "{out}/second.json"], cached].concat(), 0);
        let verify = [&["verify", "{model}", "{out}/second.json"], cached].concat();
        assert!(said(&verify, 0).starts_with("INTACT: 2 files"));
    }
    said(&["patch", "{model}", "-o", "{out}/p", "--neuron", "L1.mlp.down_proj:out:5", "--beta", "0.5"], 0);
    for fingerprint in [first, "{out}/second.json"] {
        let told =
            "row 5 of model.layers.1.mlp.down_proj.weight: 0.5 times what it was (neuron L1.mlp.down_proj:out:5)";
        let found = said(&["verify", "{out}/p", fingerprint], 1);
        assert!(found.contains(told), "{found}");
        let found = said(&["scan", "{out}/p", "--static", "--fingerprint", fingerprint, "--format", "json"], 1);
        assert!(found.contains("fingerprint-tensor-changed") && found.contains(told), "{found}");
    }
}

#[test]
fn digests_are_those_of_another_implementation() {
    let folder = copy(&fixtures().join("llama"));
    let found = taken(folder.path());
    let tensor = found.tensors.iter().find(|t| t.name == "model.layers.0.mlp.down_proj.weight").unwrap();
    // A transcription of BLAKE3's specification into Python; of the tensor's bytes, of those of row 5, and of the lines
    // of all tensors.
    assert_eq!(hex(&tensor.digest), "1d61b6b21927a90f94d4edbcf300e5282de2b4230a3df113d2e0864333febf46");
    let rows = tensor.row_digests.as_ref().unwrap();
    assert_eq!(hex(&rows[5]), "c721fa1083c0a2a69f647238442b27e552e5aca597adbbc74da2dd168ba3d1c4");
    let all = "9fa974f6ea250365f2d90c7fc1b462556b50834e946bd14ca155b4cfff9b5fe7";
    assert_eq!(hex(&found.tensors_digest()), all);
    let document: Value = serde_json::from_str(&found.to_json("m", None).unwrap()).unwrap();
    assert_eq!(
        (&document["schema"], &document["tensors_blake3"]),
        (&json!("achilles-audit/fingerprint/v2"), &json!(all))
    );
    // `sha256sum`
    let config = "a987d48efbe3f1e4aa2556d87b53c925030128ef96d6f507ccaf0a450c4e22a6";
    assert_eq!(document["files"][0]["sha256"], config);
}

#[test]
fn digests_of_the_other_form_are_refused() {
    let folder = copy(&fixtures().join("llama"));
    let second: Value = serde_json::from_str(&taken(folder.path()).to_json("m", None).unwrap()).unwrap();
    let first: Value = serde_json::from_str(&std::fs::read_to_string(first_form("llama")).unwrap()).unwrap();
    let refused = |mut document: Value, edit: &dyn Fn(&mut Value)| {
        edit(&mut document);
        Fingerprint::parse(&document.to_string()).unwrap_err()
    };
    let others = |document: &mut Value| document["schema"] = first["schema"].clone();
    let said = refused(second.clone(), &others);
    assert_eq!(said, "has a digest of all tensors that achilles-audit/fingerprint/v1 does not have, expected sha256");
    let both = |document: &mut Value| document["tensors"][0]["sha256"] = first["tensors"][0]["sha256"].clone();
    let said = refused(second.clone(), &both);
    assert!(
        said.ends_with("has a digest of its bytes that achilles-audit/fingerprint/v2 does not have, expected blake3")
    );
    let none = |document: &mut Value| _ = document["tensors"][0].as_object_mut().unwrap().remove("blake3");
    let said = refused(second.clone(), &none);
    assert!(said.ends_with("has no blake3"), "{said}");
    let none = |document: &mut Value| _ = document.as_object_mut().unwrap().remove("tensors_sha256");
    assert!(refused(first, &none).contains("its tensors_sha256 is not that of what it lists"));
}
