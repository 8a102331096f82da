//! Patches of GGUF files: what each family stores, undone bit for bit, whole or mended wherever they stop.

use super::apply::{in_place_with, write_new_with};
use super::disk::System;
use super::folder::Folder;
use super::tests::{Failing, files, open, plan};
use super::unpatch::{unpatch_with, vouch};
use super::vault::keep;
use super::*;
use crate::checkpoint::gguf::writer::{MODELS, Writer, fixture};
use crate::checkpoint::packing::Axis;
use crate::neuron::{Action, Intervention, Neuron};
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

/// All weights by their names in transformers.
fn all_weights(path: &Path) -> std::collections::BTreeMap<String, Vec<f32>> {
    let (checkpoint, _) = open(path);
    let names = checkpoint.tensors().iter().map(|(name, _)| name.to_owned());
    let values = |name: &str| checkpoint.tensors().weight(name).unwrap().all().unwrap().into_values();
    names.map(|name| (name.clone(), values(&name))).collect()
}

/// Stacks of experts, some with biases, some with gate and up in one; heads of values in another order.
const IN_STACKS: [(&str, &[&str]); 7] = [
    // The first two meet.
    (
        "mixtral",
        &[
            "L1.block_sparse_moe.experts.2.w2:out:5",
            "L1.block_sparse_moe.experts.2.w2:in:3",
            "L0.block_sparse_moe.experts.3.w1:in:8",
        ],
    ),
    ("deepseek_v3", &["L1.mlp.experts.5.down_proj:out:11", "L1.mlp.experts.0.up_proj:out:3"]),
    ("granitemoe", &["L1.block_sparse_moe.experts.2.down_proj:out:5", "L0.block_sparse_moe.experts.3.up_proj:out:7"]),
    (
        "gpt_oss",
        &["L0.mlp.experts.3.down_proj:out:5", "L1.mlp.experts.2.gate_proj:out:7", "L1.mlp.experts.1.down_proj:in:4"],
    ),
    ("gemma4_moe", &["L0.experts.2.gate_proj:out:7", "L0.experts.2.up_proj:out:7", "L1.experts.3.down_proj:in:4"]),
    (
        "qwen3_5",
        &["L0.linear_attn.out_proj:in:13", "L2.linear_attn.in_proj_z:out:11", "L0.linear_attn.in_proj_qkv:out:38"],
    ),
    ("quantized", &["L0.block_sparse_moe.experts.1.w2:out:5", "L0.block_sparse_moe.experts.0.w3:out:6"]),
];

/// A copy of a file of [`IN_STACKS`].
fn copy_in_stacks(family: &str) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    match family {
        "quantized" => std::fs::write(&path, quantized().bytes()).unwrap(),
        _ => drop(std::fs::copy(fixture(&format!("converted/{family}.gguf")), &path).unwrap()),
    }
    (place, path)
}

/// A Mixtral of one layer and two experts in blocks.
fn quantized() -> Writer {
    const HIDDEN: usize = 32;
    const WIDE: usize = 64;
    let mut w = Writer::llama();
    w.tensors.clear();
    for (name, n) in [("embedding_length", HIDDEN), ("feed_forward_length", WIDE), ("expert_count", 2)] {
        w.u32(&format!("llama.{name}"), n as u32);
    }
    w.u32("llama.expert_used_count", 1);
    w.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "smollm");
    w.strs("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e"]).strs("tokenizer.ggml.merges", &[]);
    w.ramp("token_embd.weight", &[5, HIDDEN]).ramp("output_norm.weight", &[HIDDEN]);
    w.ramp("blk.0.attn_norm.weight", &[HIDDEN]).ramp("blk.0.ffn_norm.weight", &[HIDDEN]);
    w.ramp("blk.0.ffn_gate_inp.weight", &[2, HIDDEN]);
    for (name, rows) in [("q", HIDDEN), ("k", HIDDEN / 2), ("v", HIDDEN / 2), ("output", HIDDEN)] {
        w.ramp(&format!("blk.0.attn_{name}.weight"), &[rows, HIDDEN]);
    }
    for (name, shape) in [("gate", [2, WIDE, HIDDEN]), ("up", [2, WIDE, HIDDEN]), ("down", [2, HIDDEN, WIDE])] {
        // Blocks of Q8_0: a half of 1, then 32 codes.
        let blocks = shape.iter().product::<usize>() / 32;
        let bytes: Vec<u8> = (0..blocks)
            .flat_map(|block| [0x00, 0x3c].into_iter().chain((0..32).map(move |at| (block * 7 + at * 3) as u8 | 1)))
            .collect();
        w.tensor(&format!("blk.0.ffn_{name}_exps.weight"), &shape, 8, &bytes);
    }
    w
}

#[test]
fn a_neuron_of_an_expert_is_a_line_of_its_matrix_in_the_stack_of_all() {
    for (family, neurons) in IN_STACKS {
        let (place, path) = copy_in_stacks(family);
        let (before, was) = (files(place.path()), all_weights(&path));
        let original = place.path().join("original.gguf");
        std::fs::copy(&path, &original).unwrap();
        for beta in [0.0, 0.5] {
            let plan = plan(&path, &asked(neurons, beta)).unwrap();
            let lines = plan.edits.iter().filter(|edit| edit.place.axis != Axis::Element).count();
            assert_eq!(lines, neurons.len(), "{family}");
            in_place(&Folder::lock(&path).unwrap(), &plan, SETTINGS).unwrap();
            for (name, is) in all_weights(&path) {
                let of_tensor = |edit: &&Edit| edit.place.tensor == name;
                for (at, (was, is)) in was[&name].iter().zip(&is).enumerate() {
                    let is_on = |edit: &Edit| {
                        let columns = edit.place.shape.get(1).copied().unwrap_or(1);
                        let line = if edit.place.axis == Axis::Column { at % columns } else { at / columns };
                        line == edit.place.index
                    };
                    let factors = plan.edits.iter().filter(of_tensor).filter(|edit| is_on(edit)).count();
                    assert_eq!(*is, was * (beta as f32).powi(factors as i32), "{family} {name}[{at}]");
                }
            }
            let verified = verify(&path, &open(&original).0, &Silent).unwrap();
            assert_eq!(verified.differences, [""; 0], "{family}");
            assert!(unpatch(&path).unwrap().receipt.is_some());
            assert!(files(place.path())["m.gguf"] == before["m.gguf"], "{family} {beta}");
        }
    }
}

#[test]
fn where_an_expert_lies_is_told_by_its_matrix() {
    let (_place, path) = copy_in_stacks("deepseek_v3");
    let plan_ = plan(&path, &asked(&["L1.mlp.experts.5.down_proj:out:11"], 0.0)).unwrap();
    let Edit { stored_as, stored_shape, stored_index, .. } = &plan_.edits[0];
    assert_eq!((stored_as.as_str(), stored_shape.as_slice()), ("blk.1.ffn_down_exps.weight", &[6, 40, 14][..]));
    assert_eq!(*stored_index, 5 * 40 + 11);
    let shown = |plan: &Plan| plan.document().result.edits.iter().map(|edit| edit.shape.clone()).collect::<Vec<_>>();
    assert_eq!(shown(&plan_), [[6, 40, 14]]);
    let (_place, quantized) = copy_in_stacks("quantized");
    assert_eq!(
        shown(&plan(&quantized, &asked(&["L0.block_sparse_moe.experts.1.w2:out:5"], 0.0)).unwrap()),
        [[2, 32, 64]]
    );
    let (_place, fused) = copy_in_stacks("gemma4_moe");
    let error = plan(&fused, &asked(&["L1.experts.3.up_proj:in:4"], 0.0)).unwrap_err().to_string();
    assert!(error.contains("blk.1.ffn_gate_up_exps.weight: gate and up of an expert are one matrix"), "{error}");
    // Made of two tensors.
    let error = plan(&path, &asked(&["L1.self_attn.kv_b_proj:out:3"], 0.0)).unwrap_err().to_string();
    assert!(error.contains("made of several tensors of the file"), "{error}");
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

/// Whatever happened to them, rows that a vault keeps come back, and with them a patched file.
fn comes_back(path: &Path, wanted: &[Intervention], what: &str) {
    let before = std::fs::read(path).unwrap();
    let beside = tempfile::tempdir().unwrap();
    let vault = beside.path().join("vault.safetensors");
    let neurons: Vec<Neuron> = wanted.iter().map(|asked| asked.neuron.clone()).collect();
    let parts = keep(&open(path).0, &open(path).1, &neurons, &vault).unwrap().index.parts.len();
    let restored = restore(path, &vault, RestoreSettings::default()).unwrap();
    assert_eq!((restored.changed(), restored.parts.len()), (0, parts), "{what}");
    // Named as a plan names them: by what is in the file.
    let planned = plan(path, wanted).unwrap().edits;
    let mut planned: Vec<_> = planned.iter().map(|edit| (edit.stored_as.clone(), edit.stored_index)).collect();
    let mut named: Vec<_> = restored.parts.iter().map(|part| (part.stored_as.clone(), part.stored_index)).collect();
    planned.sort();
    named.sort();
    assert_eq!(named, planned, "{what}");

    in_place(&Folder::lock(path).unwrap(), &plan(path, wanted).unwrap(), SETTINGS).unwrap();
    assert!(std::fs::read(path).unwrap() != before, "{what}");
    let restored = restore(path, &vault, RestoreSettings::default()).unwrap();
    assert!(restored.patch_undone && restored.other_tensors.is_empty(), "{what}");
    assert!(std::fs::read(path).unwrap() == before && Receipt::read(path).unwrap().is_none(), "{what}: patched");

    // Damage that no patch did.
    let mut damaged = before.clone();
    for edit in &plan(path, wanted).unwrap().edits {
        edit.span.offsets().for_each(|at| damaged[at as usize] ^= 0x11);
    }
    std::fs::write(path, &damaged).unwrap();
    let dry = RestoreSettings { dry_run: true, ..RestoreSettings::default() };
    assert_eq!(restore(path, &vault, dry).unwrap().changed(), parts, "{what}");
    assert!(std::fs::read(path).unwrap() == damaged, "{what}");
    let restored = restore(path, &vault, RestoreSettings::default()).unwrap();
    assert!(!restored.patch_undone && restored.other_tensors.is_empty(), "{what}");
    assert!(std::fs::read(path).unwrap() == before, "{what}: damaged");
}

#[test]
fn a_vault_keeps_rows_of_every_family_and_of_experts() {
    for family in MODELS {
        let (_place, path) = copy(family);
        comes_back(&path, &expressible(&path, &NEURONS[..3], 0.0), family);
    }
    for (family, neurons) in IN_STACKS {
        let (_place, path) = copy_in_stacks(family);
        comes_back(&path, &asked(neurons, 0.0), family);
    }
}

#[test]
fn a_vault_of_another_file_or_form_changes_nothing() {
    let (place, path) = copy("llama");
    let before = files(place.path());
    let beside = tempfile::tempdir().unwrap();
    let folder = beside.path().join("folder");
    crate::checkpoint::gguf::import(&path, &folder, crate::checkpoint::gguf::ImportDtype::F32, &Silent).unwrap();
    let (_qwen2, qwen2) = copy("qwen2");
    for (from, says) in [
        (&qwen2, "differs from the one that the vault was taken from in more than the kept parts"),
        (&folder, "it was taken from another checkpoint"),
    ] {
        let vault = beside.path().join("vault.safetensors");
        keep(&open(from).0, &open(from).1, &["L1.mlp.up_proj:out:7".parse().unwrap()], &vault).unwrap();
        let error = restore(&path, &vault, RestoreSettings::default()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(files(place.path()) == before, "{says}");
        std::fs::remove_file(vault).unwrap();
    }
}
