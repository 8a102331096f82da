//! Perplexity of corpora: by both protocols what transformers and lm-evaluation-harness make of them.

use crate::tiny::Place;
use serde_json::{Value, json};
use std::path::Path;

/// What transformers in true f64 makes of the shipped corpora: fixtures/perplexity.py.
fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/perplexity.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn perplexity(place: &Place, args: &[&str]) -> String {
    let output = place.run(&[&["perplexity", "{model}"], args].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.is_empty(), "{args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn measured(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&perplexity(place, &[args, &["--format", "json"]].concat())).unwrap()
}

#[test]
fn corpora_are_measured_as_by_transformers_and_lm_eval() {
    let expected = expected();
    for (family, found) in expected["found"].as_object().unwrap() {
        let place = Place::new();
        for file in ["config.json", "model.safetensors"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(family).join(file);
            std::fs::copy(from, place.model().join(file)).unwrap();
        }
        let neurons = expected["neurons"].as_array().unwrap().iter().map(|neuron| neuron.as_str().unwrap());
        for (protocol, weights) in [("paper", "resident"), ("rolling", "stream")] {
            let (context, most) = (expected["contexts"][protocol].to_string(), expected["max_samples"].to_string());
            let mut args = vec!["--corpus=sample", "--corpus=kinds", "--dtype=f64", "--protocol", protocol];
            args.extend(["--context", &context, "--max-samples", &most, "--weights", weights]);
            args.extend(neurons.clone().flat_map(|neuron| ["--neuron", neuron]));
            let document = measured(&place, &args);
            assert_eq!(document["schema"], "achilles-audit/corpus-perplexity/v1");
            for (corpus, measured) in ["sample", "kinds"].iter().zip(document["corpora"].as_array().unwrap()) {
                assert_eq!(
                    (measured["name"].as_str(), &measured["samples"]),
                    (Some(*corpus), &expected["max_samples"])
                );
                for state in ["base", "changed"] {
                    for (key, expected) in found[corpus][protocol][state].as_object().unwrap() {
                        let (found, expected) = (measured[state][key].as_f64().unwrap(), expected.as_f64().unwrap());
                        let what = format!("{family} {corpus} {protocol} {state} {key}");
                        // A perplexity a word is a large power of the others: its rounding is, too.
                        let most = if key == "word_perplexity" { 1e-8 } else { 1e-9 };
                        assert!((found - expected).abs() <= most * expected, "{what}: {found}, expected {expected}");
                    }
                }
                let nats = |state: &str| measured[state]["nll_nats"].as_f64().unwrap();
                let damage = (nats("changed") - nats("base")) / std::f64::consts::LN_10;
                assert!((measured["changed"]["damage"].as_f64().unwrap() - damage).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn files_are_read_by_their_format() {
    let place = Place::new();
    let write = |name: &str, text: &str| std::fs::write(place.model().join(name), text).unwrap();
    let (one, two) = (
        "The first text is long enough to be a sample of its own.",
        "And so is the second text, \
                       which has a few more characters in it.",
    );
    write("corpus.txt", &format!("{one}\n\n{two}\n"));
    write("corpus.jsonl", &format!("{}\n\n{}\n", json!({"text": one, "id": 1}), json!({"text": two})));
    let (head, tail) = two.split_at(20);
    write(
        "wiki.test.tokens",
        &format!(" = Heading = \n\n {one} \n \n = = Heading = = \n {head}\n{tail} \n\n short \n"),
    );
    write("corpus", &format!("{}\n{}", json!({"text": one}), json!({"text": two})));
    let of = |args: &[&str]| measured(&place, args)["corpora"][0].clone();
    let plain = of(&["--corpus", "{model}/corpus.txt"]);
    assert_eq!((&plain["samples"], &plain["windows"]), (&json!(2), &json!(2)));
    assert_eq!(plain["bytes"].as_u64().unwrap() as usize, one.len() + two.len());
    for args in [
        &["--corpus", "{model}/corpus.jsonl"][..],
        &["--corpus", "{model}/wiki.test.tokens"],
        &["--corpus", "{model}/corpus", "--format-text", "jsonl"],
    ] {
        let other = of(args);
        let same = ["samples", "tokens", "bytes", "base"];
        // Lines of WikiText are joined by a space.
        let is_wikitext = args[1].ends_with(".tokens");
        assert!(is_wikitext || same.iter().all(|key| plain[key] == other[key]), "{args:?}: {other}");
        assert_eq!((&other["samples"], &other["words"]), (&json!(2), &json!(plain["words"].as_u64().unwrap())));
        assert_ne!(plain["sha256"], other["sha256"]);
    }
    // The first sample alone; its own NLL is that of the text.
    let first = of(&["--corpus", "{model}/corpus.txt", "--max-samples", "1"]);
    assert_eq!(first["samples"], 1);
    let text = measured(&place, &["--text", one]);
    let (found, expected) = (&first["base"]["nll_nats"], &text["base"]["nll_nats"]);
    assert!((found.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-6, "{found} {expected}");
}

#[test]
fn parquet_of_every_kind_holds_the_same_texts() {
    let place = Place::new();
    let of = |corpus: &str, more: &[&str]| {
        measured(&place, &[&["--corpus", corpus, "--max-samples=8"], more].concat())["corpora"][0].clone()
    };
    let expected = of("kinds", &[]);
    for name in ["snappy", "zstd", "delta", "nulls"] {
        let path = format!("{}/fixtures/parquet/{name}.parquet", env!("CARGO_MANIFEST_DIR"));
        let found = of(&path, &["--protocol=paper"]);
        for key in ["samples", "windows", "tokens", "words", "bytes", "base"] {
            assert_eq!(found[key], expected[key], "{name} {key}");
        }
        let whole = measured(&place, &["--corpus", &path, "--protocol=rolling", "--max-samples=1", "--column=text"]);
        assert_eq!(whole["corpora"][0]["samples"], 1);
    }
}

#[test]
fn rolling_windows_begin_with_bos_or_else_eos() {
    let place = Place::new();
    let path = place.model().join("tokenizer_config.json");
    // By config.json, where nothing else names one; of the tokenizer, `!` is 2 and `"` is 3.
    for (config, expected) in [
        (None, 1),
        (Some(json!({"bos_token": "!", "eos_token": "\""})), 2),
        (Some(json!({"bos_token": {"content": "\"", "lstrip": false}, "eos_token": "!"})), 3),
        (Some(json!({"bos_token": null, "eos_token": "\""})), 3),
    ] {
        if let Some(config) = &config {
            std::fs::write(&path, config.to_string()).unwrap();
        }
        let found = measured(&place, &["--corpus=sample", "--protocol=rolling", "--max-samples=1"]);
        assert_eq!(found["corpora"][0]["prefix_token"], expected, "{config:?}");
    }
}

#[test]
fn a_critical_set_is_masked_in_corpora() {
    let place = Place::new();
    let located = "locate {model} --samples 2 --epsilon 0.002 --format json -o {out}/set.json";
    assert!(place.run(&located.split(' ').collect::<Vec<_>>()).status.success());
    let path = place.out().join("set.json");
    let set: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let neurons = set["critical_set"]["neurons"].clone();
    let document = measured(&place, &["--corpus", "kinds", "--max-samples=2", "--critical", "{out}/set.json"]);
    assert_eq!(document["settings"]["neurons"], neurons);
    assert_ne!(document["corpora"][0]["changed"]["nll_nats"], document["corpora"][0]["base"]["nll_nats"]);
    let of_text = measured(&place, &["--critical", "{out}/set.json"]);
    assert_eq!(
        (&of_text["settings"]["neurons"], &of_text["schema"]),
        (&neurons, &json!("achilles-audit/perplexity/v1"))
    );
}

#[test]
fn the_table_tells_samples_and_perplexities() {
    let place = Place::new();
    let args = ["--corpus=sample", "--corpus=kinds", "--max-samples=1", "--neuron=L1.mlp.down_proj:out:3"];
    let table = perplexity(&place, &args);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 7 && lines[3].is_empty(), "{table}");
    assert!(lines[0].starts_with("sample: 1 sample of ") && lines[0].ends_with(" tokens together"), "{table}");
    assert!(lines[1].starts_with("perplexity ") && lines[1].ends_with(" nats a token)"), "{table}");
    assert!(lines[2].starts_with("changed    ") && lines[2].contains("nats a token), damage "), "{table}");
    let rolling = perplexity(&place, &[&args[..], &["--protocol=rolling"]].concat());
    assert!(rolling.lines().nth(2).unwrap().contains(" a word, "), "{rolling}");
}
