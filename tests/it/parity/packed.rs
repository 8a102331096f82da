//! Packed checkpoints: what is decoded, bit for bit, against what the format's own code decodes; what is computed from it,
//! against transformers on the decoded weights; and what a patch makes of it (fixtures/README.md).

use super::families::{Reference, fixture, hold_against_references, open};
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::{Checkpoint, ConfigFile, Opened};
use achilles_audit::compute::{Arithmetic, NoHook, Residency, Row};
use achilles_audit::evaluate::metrics::nll_nats;
use achilles_audit::neuron::{Action, Intervention};
use achilles_audit::patch::{self, Plan, RestoreSettings, WriteSettings, vault};
use achilles_audit::progress::Silent;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folders of all packings.
pub fn packed() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture("packed")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("expected.json").exists()).collect();
    folders.sort();
    folders
}

/// `unsigned`: with 0 for −0, where the format's own code does not keep the sign.
fn sha256(values: &[f32], unsigned: bool) -> String {
    let mut hasher = Sha256::new();
    let value = |value: &f32| if unsigned && *value == 0.0 { 0.0 } else { *value };
    values.iter().for_each(|of| hasher.update(value(of).to_le_bytes()));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// None where the family is one that is not computed.
pub fn recipe(folder: &Path) -> Option<Recipe> {
    Recipe::read(&ConfigFile::read(&folder.join("config.json")).unwrap()).ok()
}

/// The digests of all packed weights of a folder, decoded.
fn decoded(folder: &Path, unsigned: bool) -> BTreeMap<String, (Vec<usize>, String)> {
    let tensors = Opened::folder_at(folder).tensors().unwrap();
    let packed = tensors.weights().into_iter().filter(|weight| weight.is_packed());
    let of = |weight: achilles_audit::checkpoint::packing::Weight<'_>| {
        let digest = sha256(&weight.all().unwrap().into_values::<f32>(), unsigned);
        (weight.name().to_owned(), (weight.shape().to_vec(), digest))
    };
    packed.map(of).collect()
}

#[test]
fn weights_are_decoded_as_by_the_formats_own_code() {
    let mut failed = Vec::new();
    for folder in packed() {
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let unsigned = expected["unsigned_zeros"].as_bool().unwrap_or_default();
        let expected = expected["packed"].as_object().unwrap();
        let ours = decoded(&folder, unsigned);
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let missing = expected.keys().filter(|weight| !ours.contains_key(*weight));
        failed.extend(missing.map(|weight| format!("{name}: {weight} is not found")));
        for (weight, (shape, digest)) in ours {
            let theirs = &expected[&weight];
            if theirs["shape"] != serde_json::json!(shape) || theirs["sha256"] != digest {
                failed.push(format!("{name}: {weight} {shape:?}, expected {:?}", theirs["shape"]));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_hook_of_every_packing_is_what_transformers_computes() {
    let folders: Vec<PathBuf> = packed().into_iter().filter(|folder| recipe(folder).is_some()).collect();
    assert!(folders.len() >= 25, "fixtures are missing");
    hold_against_references(&folders);
}

/// A row and a column, zeroed in the file, compute what masks of the hooks compute; undone, the file is what it was.
#[test]
fn a_patch_of_packed_weights_is_the_hook_and_can_be_undone() {
    let mut patched = 0;
    for folder in &packed() {
        let Some(recipe) = recipe(folder) else { continue };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let reference = Reference::read(folder);
        let place = tempfile::tempdir().unwrap();
        let module = match recipe.layer_modules(1).into_iter().find(|module| module.role.expert() == Some(1)) {
            Some(_) => "model.layers.1.mlp.experts.1.down_proj",
            None => "model.layers.1.mlp.down_proj",
        };
        for neuron in ["out:5", "in:9"].map(|channel| format!("{module}:{channel}")) {
            let out = place.path().join(format!("{name}{}", neuron.replace(':', "-")));
            let asked = vec![Intervention { neuron: neuron.parse().unwrap(), action: Action::Zero }];
            let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap();
            if recipe.module(&asked[0].neuron.site.module).is_none() {
                continue;
            }
            let plan = Plan::new(&checkpoint, &recipe, &asked).unwrap();
            patch::write_new(&checkpoint, &plan, &out, WriteSettings::default(), &Silent).unwrap();
            let log_probs = |folder: &Path, row: Row| {
                let model = open(folder, Arithmetic::F64, Residency::Streamed);
                nll_nats(&model.target_log_probs(&[row], &mut NoHook, &Silent).unwrap()[0])
            };
            let hooked = log_probs(folder, Row::with(reference.tokens.clone(), asked));
            let baked = log_probs(&out, Row::clean(reference.tokens.clone()));
            assert!((hooked - baked).abs() < 1e-12, "{name} {neuron}: {hooked} {baked}");
            let differ =
                decoded(folder, false).into_iter().filter(|(weight, was)| decoded(&out, false)[weight] != *was).count();
            assert_eq!(differ, 1, "{name} {neuron}");
            let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
            let lesioned = bytes(&out);
            // By a vault, whatever became of the receipt; and by the receipt.
            let kept = place.path().join(format!("{}.safetensors", neuron.replace(':', "-")));
            vault::keep(&checkpoint, &recipe, &[neuron.parse().unwrap()], &kept).unwrap();
            for receipt_is_there in [true, false] {
                if !receipt_is_there {
                    [patch::RECEIPT, patch::UNDO].iter().for_each(|name| std::fs::remove_file(out.join(name)).unwrap());
                }
                let restored = patch::restore(&out, &kept, RestoreSettings::default()).unwrap();
                assert_eq!((restored.patch_undone, bytes(&out) == bytes(folder)), (receipt_is_there, true), "{name}");
                std::fs::remove_dir_all(&out).unwrap();
                patch::write_new(&checkpoint, &plan, &out, WriteSettings::default(), &Silent).unwrap();
                assert!(bytes(&out) == lesioned);
            }
            patch::unpatch(&out).unwrap();
            assert!(bytes(folder) == bytes(&out), "{name} {neuron}");
            patched += 1;
        }
    }
    assert!(patched >= 40, "only {patched} patches were tried");
}
