//! How far `compare` finds the predictions of a variant from its base's, and where it does not say.

use crate::tiny::{Place, Tensor, load, save};
use half::bf16;
use serde_json::Value;
use std::path::Path;

const HOW: [&str; 4] = ["--samples=1", "--epsilon=0.02", "--max-neurons=20", "--dtype=f64"];

/// What transformers and numpy make of the same copies: fixtures/divergence.py.
fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/divergence.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A copy of the model in `{out}`, with other weights and another tokenizer.
fn variant(place: &Place, name: &str, weights: impl Fn(&mut Tensor), tokenizer: impl Fn(&mut Value)) {
    let folder = place.out().join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(place.model().join("config.json"), folder.join("config.json")).unwrap();
    let mut tensors = load(&std::fs::read(place.model().join("model.safetensors")).unwrap());
    tensors.iter_mut().for_each(weights);
    std::fs::write(folder.join("model.safetensors"), save(&tensors)).unwrap();
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(place.model().join("tokenizer.json")).unwrap()).unwrap();
    tokenizer(&mut json);
    std::fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
}

fn compare(place: &Place, base: &str, variants: &[&str], more: &[&str]) -> String {
    let text = expected()["text"].as_str().unwrap().to_owned();
    let output = place.run(&[&["compare", base], variants, &HOW, &["--text", &text], more].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.is_empty(), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

fn compared(place: &Place, base: &str, variants: &[&str]) -> Vec<Value> {
    let result: Value = serde_json::from_str(&compare(place, base, variants, &["--format=json"])).unwrap();
    result["variants"].as_array().unwrap().iter().map(|variant| variant["compared"].clone()).collect()
}

#[test]
fn divergence_is_that_of_transformers_and_numpy() {
    let (place, expected) = (Place::new(), expected());
    let round = |tensor: &mut Tensor| {
        for value in tensor.bytes.as_chunks_mut::<4>().0 {
            *value = bf16::from_f32(f32::from_le_bytes(*value)).to_f32().to_le_bytes();
        }
    };
    let lesion = |tensor: &mut Tensor| {
        if expected["zeroed"][0] == tensor.name.as_str() {
            let (row, width) = (expected["zeroed"][1].as_u64().unwrap() as usize, 4 * tensor.shape[1]);
            tensor.bytes[row * width..(row + 1) * width].fill(0);
        }
    };
    variant(&place, "rounded", round, |_| {});
    variant(&place, "lesioned", lesion, |_| {});
    let found = compared(&place, "{model}", &["{out}/rounded", "{out}/lesioned", "{model}"]);
    for (name, found) in ["rounded", "lesioned"].iter().zip(&found) {
        assert_eq!(found["divergence_not_compared"], Value::Null);
        let (found, expected) = (&found["divergence"], expected["variants"][name].as_object().unwrap());
        assert_eq!(found.as_object().unwrap().len(), expected.len());
        for (key, expected) in expected {
            let (found, expected) = (found[key].as_f64().unwrap(), expected.as_f64().unwrap());
            // Relative: the smallest is 2e-4.
            assert!((found - expected).abs() <= 1e-9 * expected, "{name} {key}: {found}, expected {expected}");
        }
    }
    let none = serde_json::json!({"positions": 25, "kl_mean_nats": 0.0, "kl_p99_nats": 0.0, "top1_agreement": 1.0});
    assert_eq!(found[2]["divergence"], none);
    let table = compare(&place, "{model}", &["{out}/lesioned"], &[]);
    let row = table.lines().find(|line| line.contains("96.0 %")).unwrap();
    assert!(row.contains("0.02446") && row.contains("0.1174"), "{table}");
}

#[test]
fn predictions_of_other_tokens_are_not_compared() {
    let place = Place::new();
    let swap = |one: &'static str, other: &'static str| {
        move |json: &mut Value| {
            let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
            let (first, second) = (vocabulary[one].clone(), vocabulary[other].clone());
            (vocabulary[one], vocabulary[other]) = (second, first);
        }
    };
    variant(&place, "text", |_| {}, swap("i", "a"));
    variant(&place, "elsewhere", |_| {}, swap("J", "K"));
    let found = compared(&place, "{model}", &["{out}/text", "{out}/elsewhere"]);
    for (found, expected) in found.iter().zip(["makes other tokens of the text", "gives 2 tokens other numbers"]) {
        let why = found["divergence_not_compared"].as_str().unwrap();
        assert!(why.contains(expected) && found["divergence"].is_null(), "{why}");
    }
    let table = compare(&place, "{model}", &["{out}/elsewhere"], &[]);
    assert!(table.contains("predictions are not compared: its tokenizer gives 2 tokens"), "{table}");
    // Nor where there is no base to run.
    let text = expected()["text"].as_str().unwrap().to_owned();
    let args =
        [&["locate", "{model}", "--format=json", "-o", "{out}/base.json"], &HOW[..], &["--text", &text]].concat();
    assert!(place.run(&args).status.success());
    let found = compared(&place, "{out}/base.json", &["{model}"]);
    assert_eq!(found[0]["divergence_not_compared"], "of the base only its critical set is known");
}
