//! What is measured is what loaders serve: names, tied heads, shards without an index, files that are something else.

use crate::tiny::{Place, TEXT, Tensor, load, save};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
/// A neuron that a masked perplexity is told of.
const DOWN: &str = "model.layers.0.mlp.down_proj:out:3";

fn weights(place: &Place) -> PathBuf {
    place.model().join("model.safetensors")
}

fn change(place: &Place, change: impl FnOnce(&mut Vec<Tensor>)) {
    let mut tensors = load(&std::fs::read(weights(place)).unwrap());
    change(&mut tensors);
    std::fs::write(weights(place), save(&tensors)).unwrap();
}

fn config(place: &Place, change: impl FnOnce(&mut Value)) {
    let path = place.model().join("config.json");
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

fn tensor<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

/// The family's fixture, with the config of that name.
fn place_of(family: &str, config: &str) -> Place {
    let place = Place::new();
    let from = Path::new(FIXTURES).join(family);
    std::fs::copy(from.join(config), place.model().join("config.json")).unwrap();
    std::fs::copy(from.join("model.safetensors"), weights(&place)).unwrap();
    place
}

/// Of the tower in config.nested.json.
const WIDTH: usize = 16;

/// Gemma 3 in its wrapper, with some of a tower beside it.
fn wrapped(prefix: &str) -> Place {
    let place = place_of("gemma3", "config.nested.json");
    change(&place, |tensors| {
        tensors.iter_mut().for_each(|t| t.name = t.name.replacen("model.", prefix, 1));
        let name = "vision_tower.vision_model.post_layernorm.bias".into();
        tensors.push(Tensor { name, dtype: "F32".into(), shape: vec![WIDTH], bytes: vec![1; 4 * WIDTH] });
    });
    place
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// What `perplexity` says of the model and, masked, of [`DOWN`].
fn nlls(place: &Place) -> (Value, Value) {
    let args = ["perplexity", "{model}", "--text", TEXT, "--neuron", DOWN, "--format", "json"];
    let found = json(&place.run(&args));
    (found["base"]["nll_nats"].clone(), found["changed"]["nll_nats"].clone())
}

/// Checks that every command that computes or edits refuses the model in one line that holds `parts`.
fn refused(place: &Place, parts: &[&str]) {
    for args in [
        &["perplexity", "{model}", "--text", TEXT][..],
        &["locate", "{model}", "--text", TEXT],
        &["patch", "{model}", "-o", "{out}/patched", "--neuron", DOWN],
        &["probe", "{model}", "--neuron", DOWN],
    ] {
        let output = place.run(args);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{args:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
        assert_eq!(text(&output.stdout), "");
    }
}

/// The rules that lint finds broken, and its exit code. Not those that every file of [`save`] breaks.
fn lint(place: &Place) -> (Vec<String>, i32) {
    let output = place.run(&["lint", "{model}", "--format", "json"]);
    let found = json(&output);
    let ids = found["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap().to_owned());
    let ours = ["lesion-not-examined", "unaligned-data", "metadata-format-missing"];
    (ids.filter(|id| !ours.contains(&id.as_str())).collect(), output.status.code().unwrap())
}

/// A clean embedding under a wrapper's name once hid a broken one from every command.
#[test]
fn a_second_model_hides_nothing() {
    let place = Place::new();
    let clean = nlls(&place);
    let broken = |tensors: &mut Vec<Tensor>| {
        let embedding = tensor(tensors, "model.embed_tokens.weight");
        let mut hidden = embedding.clone();
        embedding.bytes.rotate_right(4 * 40 * 7);
        hidden.name = "model.language_model.embed_tokens.weight".into();
        hidden
    };
    change(&place, |tensors| drop(broken(tensors)));
    let alone = nlls(&place);
    assert_ne!(alone, clean);
    let place = Place::new();
    change(&place, |tensors| {
        let hidden = broken(tensors);
        tensors.push(hidden);
    });
    assert_eq!(nlls(&place), alone);
    assert_eq!(lint(&place), (vec!["tensor-extra".into()], 1));
    // Where both names do mean one weight, no command takes either.
    let place = Place::new();
    change(&place, |tensors| {
        let mut second = tensor(tensors, "model.norm.weight").clone();
        second.name = "norm.weight".into();
        tensors.push(second);
    });
    refused(&place, &["tensor norm.weight", "the same weight as model.norm.weight"]);
    assert_eq!(lint(&place), (vec!["tensor-clash".into()], 1));
}

#[test]
fn a_tied_head_in_the_file_is_the_embedding_or_refused() {
    let tie = |place: &Place| config(place, |c| c["tie_word_embeddings"] = true.into());
    let place = Place::new();
    tie(&place);
    refused(&place, &["tensor lm_head.weight", "transformers 5", "vLLM", "tie_word_embeddings"]);
    assert_eq!(lint(&place), (vec!["tied-head-differs".into()], 1));
    let scan = place.run(&["scan", "{model}", "--text", TEXT, "--format", "json"]);
    assert_eq!(scan.status.code(), Some(1));
    let found = json(&scan);
    let not_examined = found["not_examined"].to_string();
    assert!(not_examined.contains("critical-set") && not_examined.contains("lm_head.weight"), "{not_examined}");
    // A copy of the embedding, no head, a head alone: one model.
    change(&place, |tensors| {
        let bytes = tensor(tensors, "model.embed_tokens.weight").bytes.clone();
        tensor(tensors, "lm_head.weight").bytes = bytes;
    });
    let copy = nlls(&place);
    assert!(copy.0.is_number());
    assert_eq!(lint(&place), (vec!["tied-head-stored".into()], 0));
    let both = std::fs::read(weights(&place)).unwrap();
    for (gone, rules) in [("lm_head.weight", vec![]), ("model.embed_tokens.weight", vec!["tied-head-stored".into()])] {
        std::fs::write(weights(&place), &both).unwrap();
        change(&place, |tensors| tensors.retain(|t| t.name != gone));
        assert_eq!(nlls(&place), copy, "without {gone}");
        assert_eq!(lint(&place), (rules, 0), "without {gone}");
        let patched = place.run(&["patch", "{model}", "--dry-run", "--neuron", DOWN]);
        assert_eq!(patched.status.code(), Some(0), "{patched:?}");
    }
    // Not tied, the embedding is missing.
    config(&place, |c| c["tie_word_embeddings"] = false.into());
    assert_eq!(lint(&place), (vec!["tensor-missing".into()], 1));
    let output = place.run(&["perplexity", "{model}", "--text", TEXT]);
    assert!(text(&output.stderr).contains("tensor model.embed_tokens.weight: is missing"), "{output:?}");
    // A class that ties unless it is told otherwise.
    let place = place_of("gemma3", "config.v4.json");
    change(&place, |tensors| {
        let mut head = tensor(tensors, "model.embed_tokens.weight").clone();
        head.name = "lm_head.weight".into();
        head.bytes[3] ^= 1;
        tensors.push(head);
    });
    config(&place, |c| drop(c.as_object_mut().unwrap().remove("tie_word_embeddings")));
    refused(&place, &["tensor lm_head.weight", "tie_word_embeddings"]);
    assert_eq!(lint(&place), (vec!["tied-head-differs".into()], 1));
}

#[test]
fn a_base_models_names_and_shards_without_an_index_are_read() {
    let place = Place::new();
    let known = nlls(&place);
    change(&place, |tensors| {
        for tensor in tensors {
            tensor.name = tensor.name.strip_prefix("model.").unwrap_or(&tensor.name).to_owned();
        }
    });
    assert_eq!(nlls(&place), known);
    assert_eq!(lint(&place), (vec![], 0));
    let plan = json(&place.run(&[
        "patch",
        "{model}",
        "--dry-run",
        "--neuron",
        "layers.0.mlp.down_proj:out:3",
        "--format",
        "json",
    ]));
    assert_eq!(plan["edits"][0]["tensor"], "layers.0.mlp.down_proj.weight");
    assert_eq!(plan["asked"][0]["neuron"], DOWN);

    let tensors = load(&std::fs::read(weights(&place)).unwrap());
    std::fs::remove_file(weights(&place)).unwrap();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for (name, part) in names.iter().zip(tensors.chunks(tensors.len().div_ceil(2))) {
        std::fs::write(place.model().join(name), save(part)).unwrap();
    }
    assert_eq!(nlls(&place), known);
    assert_eq!(lint(&place), (vec!["index-missing".into()], 0));
    std::fs::remove_file(place.model().join(names[0])).unwrap();
    refused(&place, &[names[0], "is missing"]);
    assert_eq!(lint(&place), (vec!["index-shard-missing".into()], 1));
}

#[test]
fn what_lies_in_a_files_place_is_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        for (bytes, said) in [
            (POINTER, "is a Git LFS pointer"),
            ("<!DOCTYPE html>\n<html>Sign in</html>", "is a web page"),
            ("", "is empty"),
        ] {
            let place = Place::new();
            std::fs::write(place.model().join(file), bytes).unwrap();
            let output = place.run(&["perplexity", "{model}", "--text", TEXT]);
            let line = text(&output.stderr);
            assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
            assert!(line.contains(file) && line.contains(said), "{line}");
            let (rules, code) = lint(&place);
            assert_eq!((rules.first().map(String::as_str), code), (Some("not-downloaded"), 1), "{file}: {rules:?}");
            assert_eq!(rules.len(), 1, "{file}: {rules:?}");
        }
    }
    let place = Place::new();
    std::fs::write(place.model().join("x.gguf"), POINTER).unwrap();
    let output = place.run(&["perplexity", "{model}/x.gguf", "--text", TEXT]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("x.gguf: is a Git LFS pointer"), "{output:?}");
    // A download that stopped.
    std::fs::remove_file(place.model().join("x.gguf")).unwrap();
    std::fs::rename(weights(&place), place.model().join("model.safetensors.part")).unwrap();
    refused(&place, &["model.safetensors.part", "a download that was not finished"]);
    assert_eq!(lint(&place), (vec!["weights-missing".into(), "unfinished-download".into()], 1));
}

/// Neurons by the text model's names, by the file's own and by those of the other version of transformers.
#[test]
fn names_round_trip_in_a_wrapper() {
    let neuron = "layers.1.mlp.down_proj:out:5";
    for prefix in ["language_model.model.", "model.language_model."] {
        let place = wrapped(prefix);
        assert_eq!(lint(&place), (vec!["part-missing".into()], 0));
        let located = json(&place.run(&[
            "locate",
            "{model}",
            "--text",
            TEXT,
            "--ranking",
            "magnitude",
            "--max-neurons",
            "3",
            "--format",
            "json",
            "--sites",
            &format!("{prefix}layers.*.mlp.down_proj"),
        ]));
        for ranked in located["ranking"].as_array().unwrap() {
            let (name, stored) = (ranked["neuron"].as_str().unwrap(), ranked["tensor"].as_str().unwrap());
            assert!(name.starts_with("model.layers.") && stored.starts_with(prefix), "{name} {stored}");
        }
        let printed = located["ranking"][0]["neuron"].as_str().unwrap();
        let probed = place.run(&["probe", "{model}", "--neuron", printed, "--max-new-tokens", "1"]);
        assert_eq!(probed.status.code(), Some(0), "{probed:?}");
        let mut seen = Vec::new();
        for start in ["model.", "language_model.model.", "model.language_model.", "L1."] {
            let name = match start {
                "L1." => neuron.replace("layers.1.", start),
                _ => format!("{start}{neuron}"),
            };
            let nll =
                json(&place.run(&["perplexity", "{model}", "--text", TEXT, "--neuron", &name, "--format", "json"]));
            let plan = json(&place.run(&["patch", "{model}", "--dry-run", "--neuron", &name, "--format", "json"]));
            assert_eq!(plan["edits"][0]["tensor"], format!("{prefix}layers.1.mlp.down_proj.weight"));
            let shown = place.run(&["patch", "{model}", "--dry-run", "--neuron", &name]);
            assert!(text(&shown.stdout).contains(&format!("row 5 of {prefix}layers.1.mlp.down_proj.weight")));
            seen.push((nll["changed"].clone(), plan["edits"].clone()));
        }
        assert!(seen.iter().all(|one| *one == seen[0]) && seen[0].0["nll_nats"].is_number());
        // What was kept comes back, by the file's own name.
        let before = std::fs::read(weights(&place)).unwrap();
        let stored = format!("{prefix}{neuron}");
        assert_eq!(place.run(&["vault", "{model}", "-o", "{out}/vault", "--neuron", &stored]).status.code(), Some(0));
        change(&place, |tensors| {
            let down = tensor(tensors, &format!("{prefix}layers.1.mlp.down_proj.weight"));
            down.bytes[5 * 48 * 4..6 * 48 * 4].fill(0);
        });
        let restored = place.run(&["restore", "{model}", "--vault", "{out}/vault", "--format", "json"]);
        assert_eq!(restored.status.code(), Some(0), "{restored:?}");
        assert_eq!(json(&restored)["parts"][0]["tensor"], format!("{prefix}layers.1.mlp.down_proj.weight"));
        assert_eq!(std::fs::read(weights(&place)).unwrap(), before);
    }
}

/// A norm of queries or keys with one weight for all heads is one neuron's where there is one head.
#[test]
fn a_norm_of_one_head_is_patched() {
    let place = place_of("qwen3", "config.json");
    let neuron = "model.layers.0.self_attn.k_norm:out:2";
    let refused = place.run(&["patch", "{model}", "--dry-run", "--neuron", neuron]);
    assert!(text(&refused.stderr).contains("one weight serves this channel of all heads"), "{refused:?}");
    let head_dim = {
        let tensors = load(&std::fs::read(weights(&place)).unwrap());
        tensors.iter().find(|t| t.name.ends_with("0.self_attn.k_norm.weight")).unwrap().shape[0]
    };
    config(&place, |c| c["num_key_value_heads"] = 1.into());
    change(&place, |tensors| {
        for t in tensors.iter_mut().filter(|t| t.name.contains(".k_proj.") || t.name.contains(".v_proj.")) {
            let row = t.bytes.len() / t.shape[0];
            t.bytes.truncate(head_dim * row);
            t.shape[0] = head_dim;
        }
    });
    let masked = json(&place.run(&["perplexity", "{model}", "--text", TEXT, "--neuron", neuron, "--format", "json"]));
    let patched = place.run(&["patch", "{model}", "-o", "{out}/patched", "--neuron", neuron]);
    assert_eq!(patched.status.code(), Some(0), "{patched:?}");
    let baked = json(&place.run(&["perplexity", "{out}/patched", "--text", TEXT, "--format", "json"]));
    let [masked, baked] = [&masked["changed"]["nll_nats"], &baked["base"]["nll_nats"]].map(|n| n.as_f64().unwrap());
    assert!((masked - baked).abs() < 1e-6, "{masked} {baked}");
}

#[test]
fn fused_experts_and_other_names_are_one_line() {
    let place = place_of("qwen3_moe", "config.json");
    change(&place, |tensors| {
        tensors.retain(|t| !t.name.contains(".experts."));
        for name in ["gate_up_proj", "down_proj"] {
            let name = format!("model.layers.0.mlp.experts.{name}");
            tensors.push(Tensor { name, dtype: "F32".into(), shape: vec![1, 1, 2], bytes: vec![1; 8] });
        }
    });
    let output = place.run(&["perplexity", "{model}", "--text", TEXT]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("holds all experts of a layer") && said.len() < 400, "{said}");
    let (rules, code) = lint(&place);
    assert!(rules.contains(&"config-unknown".into()) && code == 0, "{rules:?}");
    assert!(!rules.contains(&"tensor-missing".into()) && !rules.contains(&"tensor-extra".into()), "{rules:?}");
    // A wrapper's config over a text model's names.
    let place = place_of("gemma3", "config.nested.json");
    let output = place.run(&["perplexity", "{model}", "--text", TEXT]);
    let said = text(&output.stderr);
    assert!(said.contains("none of the tensors") && said.contains("text_config"), "{said}");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (value, what) in [(f32::NAN, "NaN"), (f32::INFINITY, "an infinite value"), (3.39e38, "3.4e38")] {
        let place = Place::new();
        change(&place, |tensors| {
            let up = tensor(tensors, "model.layers.1.mlp.up_proj.weight");
            let at = 4 * (3 * 40 + 7);
            up.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        });
        let weight = format!("model.layers.1.mlp.up_proj.weight holds {what}, at row 3, column 7 first");
        for args in [
            &["perplexity", "{model}", "--text", TEXT][..],
            &["locate", "{model}", "--text", TEXT],
            &["probe", "{model}", "--neuron", DOWN],
        ] {
            let output = place.run(args);
            let said = text(&output.stderr);
            assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{args:?}: {said}");
            assert!(said.contains(&weight), "{args:?}: {said}");
        }
        let scan = json(&place.run(&["scan", "{model}", "--text", TEXT, "--format", "json"]));
        assert!(scan["not_examined"].to_string().contains(&weight), "{}", scan["not_examined"]);
    }
}

/// Names of modules as a config with other parts has them are let be only there.
#[test]
fn other_parts_are_let_be_where_the_config_has_them() {
    let place = wrapped("language_model.model.");
    config(&place, |c| drop(c.as_object_mut().unwrap().remove("vision_config")));
    let (rules, code) = lint(&place);
    assert_eq!((rules[0].as_str(), code), ("tensor-extra", 1));
}
