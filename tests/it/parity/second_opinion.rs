//! candle's own llama and qwen2 (candle-transformers) on the same weights: written by other people, from nothing of
//! ours but matrix products.

use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::{ComputeSettings, DeviceChoice, Model, NoHook, Residency, Row};
use achilles_audit::evaluate::text::{REFERENCE_TEXT, Tokenizer};
use achilles_audit::progress::Silent;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2};
use serde_json::{Value, json};
use std::path::Path;

/// Largest difference allowed, relative to the largest logit.
const TOLERANCE: f64 = 1e-4;

/// The last position's logits by candle's own model of the folder's `model_type`, in f32.
fn candle_logits(folder: &Path, config: &Value, tokens: &[u32]) -> Vec<f64> {
    let device = Device::Cpu;
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &device).unwrap();
    let tokens = Tensor::new(tokens, &device).unwrap().unsqueeze(0).unwrap();
    let config = config.clone();
    let logits = match config["model_type"].as_str() {
        Some("llama") => {
            let config = serde_json::from_value::<llama::LlamaConfig>(config).unwrap().into_config(false);
            let mut cache = llama::Cache::new(false, DType::F32, &config, &device).unwrap();
            llama::Llama::load(weights, &config).unwrap().forward(&tokens, 0, &mut cache).unwrap()
        }
        Some("qwen2") => {
            let config: qwen2::Config = serde_json::from_value(config).unwrap();
            qwen2::ModelForCausalLM::new(&config, weights).unwrap().forward(&tokens, 0).unwrap()
        }
        other => panic!("{other:?}"),
    };
    numbers(&logits)
}

/// Ours.
fn our_logits(folder: &Path, tokens: &[u32]) -> Vec<f64> {
    let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    let settings = ComputeSettings {
        device: DeviceChoice::Cpu,
        residency: Some(Residency::Streamed),
        ..ComputeSettings::default()
    };
    let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
    let logits = model.logits(&[Row::clean(tokens.into())], &mut NoHook, &Silent).unwrap();
    numbers(&logits[0].get(tokens.len() - 1).unwrap())
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn compare(what: &str, folder: &Path, config: &Value, tokens: &[u32]) {
    let (ours, theirs) = (our_logits(folder, tokens), candle_logits(folder, config, tokens));
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs.iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst =
        ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d }) / scale;
    println!("{what}: {} logits after {} tokens, largest difference {worst:.2e}", ours.len(), tokens.len());
    assert!(worst <= TOLERANCE, "{what}: {worst:.2e}");
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn candle_computes_the_same_logits() {
    let cases = [
        ("llama", json!({}), None),
        // candle's llama has no biases; both leave them out, the llama3 frequencies and the tied head stay.
        ("llama3", json!({"attention_bias": false, "mlp_bias": false}), None),
        // candle gives every layer the window, and one position more: no window, or a text that fits into it.
        ("qwen2", json!({"use_sliding_window": false, "sliding_window": 64}), None),
        ("qwen2", json!({}), Some(6)),
    ];
    for (fixture, changes, length) in cases {
        let fixture_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
        // candle reads the older form of a config.
        let mut config = read(&fixture_folder.join("config.v4.json"));
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let weights = "model.safetensors";
        std::fs::copy(fixture_folder.join(weights), folder.path().join(weights)).unwrap();
        let reference = read(&fixture_folder.join("reference.json"));
        let tokens: Vec<u32> = serde_json::from_value(reference["tokens"].clone()).unwrap();
        compare(&format!("{fixture} {changes}"), folder.path(), &config, &tokens[..length.unwrap_or(tokens.len())]);
    }
}

#[test]
#[ignore = "needs `make model`"]
fn candle_computes_the_same_logits_of_a_real_model() {
    let folder = crate::smollm2_folder();
    let folder = Path::new(&folder);
    let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap();
    let tokens = Tokenizer::of(&checkpoint).unwrap().encode(REFERENCE_TEXT).unwrap().ids;
    let mut config = read(&folder.join("config.json"));
    if config["rope_theta"].is_null() {
        config["rope_theta"] = config["rope_parameters"]["rope_theta"].clone();
    }
    compare("SmolLM2", folder, &config, &tokens);
}
