//! Patches of GGUF files: what each family stores, undone bit for bit, whole or mended wherever they stop.

use super::apply::{in_place_with, write_new_with};
use super::disk::System;
use super::folder::Folder;
use super::tests::{Failing, files, open, plan};
use super::unpatch::{unpatch_with, vouch};
use super::*;
use crate::checkpoint::gguf::writer::{MODELS, Writer, fixture};
use crate::checkpoint::packing::Axis;
use crate::neuron::{Action, Intervention};
use crate::progress::Silent;
use std::path::{Path, PathBuf};

const SETTINGS: WriteSettings = WriteSettings { link: false, digests: true };

/// A row in blocks, one of a head that is interleaved, a norm's element and a column of floats.
const NEURONS: [&str; 4] =
    ["L1.mlp.up_proj:out:7", "L0.self_attn.q_proj:out:3", "L1.input_layernorm:out:5", "L0.self_attn.k_proj:in:9"];

fn asked(neurons: &[&str], beta: f64) -> Vec<Intervention> {
    neurons.iter().map(|name| Intervention { neuron: name.parse().unwrap(), action: Action::Scale(beta) }).collect()
}

/// A copy of tiny-NAME.gguf, alone in a folder.
fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    std::fs::copy(fixture(&format!("tiny-{name}.gguf")), &path).unwrap();
    (place, path)
}

/// The weight of a neuron, all of it, by its name in transformers.
fn weights(path: &Path, plan: &Plan) -> Vec<Vec<f32>> {
    let (checkpoint, _) = open(path);
    let values = |edit: &Edit| checkpoint.tensors().weight(&edit.place.tensor).unwrap().all().unwrap().into_values();
    plan.edits.iter().map(values).collect()
}

/// Which neurons of one family can be patched, each by itself.
fn expressible(path: &Path, neurons: &[&str], beta: f64) -> Vec<Intervention> {
    let all = asked(neurons, beta);
    all.into_iter().filter(|one| plan(path, std::slice::from_ref(one)).is_ok()).collect()
}

#[test]
fn every_family_is_patched_by_transformers_names_and_goes_back() {
    let mut rows = 0;
    for family in MODELS {
        let (place, path) = copy(family);
        let before = files(place.path());
        for beta in [0.0, 0.5] {
            let neurons = [&NEURONS[..], &["L0.self_attn.qkv_proj:out:3", "L1.mlp.gate_up_proj:out:60"]].concat();
            let wanted = expressible(&path, &neurons, beta);
            assert!(wanted.len() >= 3, "{family}: {wanted:?}");
            let plan = plan(&path, &wanted).unwrap();
            let was = weights(&path, &plan);
            in_place(&Folder::lock(&path).unwrap(), &plan, SETTINGS).unwrap();
            let is = weights(&path, &plan);
            // What is 1 more in the file is that by which a norm multiplies.
            let one_plus = open(&path).1.norm.is_one_plus();
            for (edit, (was, is)) in plan.edits.iter().zip(was.iter().zip(&is)) {
                let (columns, is_norm) = (edit.place.shape.get(1).copied().unwrap_or(1), edit.place.is_norm());
                let others = plan.edits.iter().filter(|other| other.place.tensor == edit.place.tensor).count();
                for (at, (was, is)) in was.iter().zip(is).enumerate() {
                    let line = if edit.place.axis == Axis::Column { at % columns } else { at / columns };
                    let expected = match (line == edit.place.index, is_norm && one_plus) {
                        (true, true) => ((*was as f64 + 1.0) * beta - 1.0) as f32,
                        (true, false) => was * beta as f32,
                        (false, _) => *was,
                    };
                    assert!(others > 1 || expected == *is, "{family} {}: {was} {is}", edit.place);
                }
                rows += usize::from(others == 1);
            }
            let receipt = Receipt::read(&path).unwrap().unwrap();
            assert_eq!((receipt.name().as_str(), receipt.state), ("m.gguf.achilles-patch.json", State::Applied));
            assert!(unpatch(&path).unwrap().receipt.is_some());
            assert!(files(place.path()) == before, "{family} {beta}");
        }
    }
    assert!(rows >= 40, "{rows}");
}

#[test]
fn a_patch_of_a_gguf_in_place_that_stops_anywhere_leaves_the_old_bytes_or_a_way_back() {
    let (place, path) = copy("llama");
    let before = files(place.path());
    let wanted = expressible(&path, &NEURONS, 0.5);
    let mut stops = 0;
    for dead in [true, false] {
        for left in 0.. {
            let folder = Folder::lock(&path).unwrap();
            let patched = in_place_with(&folder, &plan(&path, &wanted).unwrap(), SETTINGS, &mut Failing { left, dead });
            drop(folder);
            if patched.is_ok() {
                assert!(files(place.path()) != before);
                unpatch(&path).unwrap();
                break;
            }
            stops += 1;
            if dead {
                let finishes = |left| Folder::lock_with(&path, &vouch(&path), &mut Failing { left, dead }).is_ok();
                assert!((0..200).any(finishes), "stopped at step {left}, cannot go on");
            }
            assert!(files(place.path()) == before, "stopped at step {left}");
        }
    }
    in_place(&Folder::lock(&path).unwrap(), &plan(&path, &wanted).unwrap(), SETTINGS).unwrap();
    let after = files(place.path());
    for left in 0.. {
        after.iter().for_each(|(name, bytes)| std::fs::write(place.path().join(name), bytes).unwrap());
        if unpatch_with(&path, &mut Failing { left, dead: true }).is_ok() {
            break;
        }
        if files(place.path()) != after {
            assert!(unpatch(&path).unwrap().receipt.is_none());
            assert!(files(place.path()) == before, "stopped at step {left}");
        }
    }
    assert!(stops >= 30 && files(place.path()) == before, "{stops}");
}

#[test]
fn a_new_gguf_is_there_whole_or_not_at_all() {
    let (place, path) = copy("llama");
    let before = files(place.path());
    let (opened, _) = open(&path);
    let (plan_, out) = (plan(&path, &asked(&NEURONS[..2], 0.0)).unwrap(), place.path().join("new.gguf"));
    for left in 0.. {
        if write_new_with(&opened, &plan_, &out, SETTINGS, &Silent, &mut Failing { left, dead: true }).is_ok() {
            assert!(left >= 5, "{left} steps");
            break;
        }
        assert!(files(place.path()) == before, "stopped at step {left}");
    }
    let all = files(place.path());
    assert_eq!(
        all.keys().collect::<Vec<_>>(),
        ["m.gguf", "new.gguf", "new.gguf.achilles-patch.json", "new.gguf.achilles-patch.undo"]
    );
    let verified = verify(&out, &opened, &Silent).unwrap();
    assert_eq!((verified.files, verified.differences), (1, Vec::<String>::new()));
    let refused = |plan: &Plan, out: &Path| check_new(plan, out).unwrap_err().to_string();
    assert!(refused(&plan_, &out).contains("is there already"));
    assert!(plan(&out, &asked(&NEURONS[..1], 0.0)).map(|plan| check_unpatched(&plan).is_err()).unwrap());
    // A run that was killed between its last steps left the receipt alone: the same patch goes on, another does not.
    std::fs::remove_file(&out).unwrap();
    assert!(refused(&plan(&path, &asked(&NEURONS[..1], 0.0)).unwrap(), &out).contains("without its new.gguf"));
    write_new_with(&opened, &plan_, &out, SETTINGS, &Silent, &mut System).unwrap();
    assert!(unpatch(&out).unwrap().receipt.is_some());
    assert_eq!(files(place.path()).into_keys().collect::<Vec<_>>(), ["m.gguf", "new.gguf"]);
    assert!(std::fs::read(&out).unwrap() == before["m.gguf"]);
    for name in ["folder", "x.safetensors", "a-00001-of-00002.gguf"] {
        assert!(refused(&plan_, &place.path().join(name)).contains("is no name for it"), "{name}");
    }
}

/// A llama in two parts, with a tokenizer.
fn split(place: &Path) -> PathBuf {
    let mut whole = Writer::llama();
    whole.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "smollm");
    whole.strs("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e"]).strs("tokenizer.ggml.merges", &[]);
    let mut writers = [whole, Writer::new()];
    writers[1].tensors = writers[0].tensors.split_off(6);
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.u32("split.no", number as u32).u32("split.count", 2).u32("split.tensors.count", 11);
        std::fs::write(place.join(format!("m-{:05}-of-00002.gguf", number + 1)), writer.bytes()).unwrap();
    }
    place.join("m-00002-of-00002.gguf")
}

#[test]
fn a_split_gguf_is_patched_with_all_its_parts() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let second = split(&from);
    let before = files(&from);
    let wanted = asked(&["L0.mlp.down_proj:out:3", "L0.self_attn.q_proj:out:1"], 0.0);
    let plan_ = plan(&second, &wanted).unwrap();
    assert_eq!(plan_.files().len(), 2);
    let (opened, _) = open(&second);
    let out = place.path().join("to");
    let error = check_new(&plan_, &place.path().join("x.gguf")).unwrap_err().to_string();
    assert!(error.contains("the model consists of 2 parts"), "{error}");
    write_new(&opened, &plan_, &out, SETTINGS, &Silent).unwrap();
    assert_eq!(
        files(&out).into_keys().collect::<Vec<_>>(),
        [
            "m-00001-of-00002.gguf",
            "m-00001-of-00002.gguf.achilles-patch.json",
            "m-00001-of-00002.gguf.achilles-patch.undo",
            "m-00002-of-00002.gguf",
        ]
    );
    // Any part is the model.
    for part in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        let verified = verify(&out.join(part), &opened, &Silent).unwrap();
        assert_eq!((verified.files, verified.differences), (2, Vec::<String>::new()));
    }
    assert!(unpatch(&out.join("m-00002-of-00002.gguf")).unwrap().receipt.is_some());
    assert!(files(&out) == before);
    in_place(&Folder::lock(&second).unwrap(), &plan_, SETTINGS).unwrap();
    assert!(files(&from)["m-00001-of-00002.gguf"] != before["m-00001-of-00002.gguf"]);
    unpatch(&from.join("m-00001-of-00002.gguf")).unwrap();
    assert!(files(&from) == before);
}

#[test]
fn a_receipt_leads_to_no_other_file() {
    let (place, path) = copy("llama");
    std::fs::copy(&path, place.path().join("other.gguf")).unwrap();
    let (opened, _) = open(&path);
    let plan_ = plan(&path, &asked(&NEURONS[..1], 0.0)).unwrap();
    let out = place.path().join("new.gguf");
    write_new(&opened, &plan_, &out, SETTINGS, &Silent).unwrap();
    let receipt = Kept::of(&out).receipt_path();
    let text = std::fs::read_to_string(&receipt).unwrap();
    for name in ["other.gguf", "../m.gguf", "m.safetensors", "new.gguf/"] {
        std::fs::write(&receipt, text.replace("\"new.gguf\"", &format!("{name:?}"))).unwrap();
        let before = files(place.path());
        let error = unpatch(&out).unwrap_err().to_string();
        assert!(error.contains("expected new.gguf"), "{error}");
        assert!(files(place.path()) == before);
    }
    std::fs::write(&receipt, text).unwrap();
    // A header that says something else is another model's.
    let mut bytes = std::fs::read(&out).unwrap();
    let at = bytes
        .windows(13)
        .position(|window| window == b"general.name\x08")
        .or_else(|| bytes.windows(20).position(|window| window == b"general.architecture"));
    bytes[at.unwrap()] ^= 0x20;
    std::fs::write(&out, bytes).unwrap();
    assert!(unpatch(&out).unwrap_err().to_string().contains("another header or size"));
}

#[test]
fn neither_vault_nor_restore_takes_a_gguf() {
    let (place, path) = copy("llama");
    let (opened, recipe) = open(&path);
    let neurons = [NEURONS[0].parse().unwrap()];
    let (folder, vault) = (place.path().join("folder"), place.path().join("vault"));
    let error = vault::keep(&opened, &recipe, &neurons, &vault).unwrap_err().to_string();
    assert!(error.contains("is a GGUF; expected a model folder"), "{error}");
    crate::checkpoint::gguf::import(&path, &folder, crate::checkpoint::gguf::ImportDtype::F32, &Silent).unwrap();
    let (opened, recipe) = open(&folder);
    vault::keep(&opened, &recipe, &neurons, &vault).unwrap();
    let settings = RestoreSettings { dry_run: false, force: false };
    let error = restore(&path, &vault, settings).unwrap_err().to_string();
    assert!(error.contains("is a GGUF; expected a model folder"), "{error}");
}
