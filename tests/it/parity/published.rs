//! Published configs, key for key: for each, a tiny checkpoint of that config with small sizes has the NLL that
//! transformers computes (fixtures/published.py tells how the figures were made).

use crate::parity::families::fixture;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::{Checkpoint, ConfigFile};
use achilles_audit::compute::{Arithmetic, ComputeSettings, DeviceChoice, Model, NoHook, Row};
use achilles_audit::evaluate::metrics::nll_nats;
use achilles_audit::progress::Silent;
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

fn published() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(fixture("published.json")).unwrap()).unwrap()
}

/// The text that all of them read.
fn tokens() -> Vec<u32> {
    (0..24).map(|i| (37 * i + 11) % 97).collect()
}

/// `config` with other values for some of its keys.
fn changed(config: &Value, changes: &Value) -> Value {
    let mut config = config.clone();
    for (key, value) in changes.as_object().unwrap() {
        let pointer = format!("/{}", key.replace('.', "/"));
        *config.pointer_mut(&pointer).unwrap_or_else(|| panic!("{key} is not there")) = value.clone();
    }
    config
}

/// Uniform numbers that follow from the tensor's name: SplitMix64 from its FNV-1a hash on.
fn weight(name: &str, shape: &[usize], one_plus: bool) -> Tensor {
    let hash = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let module = name.rsplit('.').nth(1).unwrap();
    let (scale, shift) = match () {
        () if module.ends_with("norm") => (0.4, if one_plus { 0.0 } else { 1.0 }),
        () if name.ends_with(".bias") || module == "embed_tokens" => (0.5, 0.0),
        () => (2.5 / (*shape.last().unwrap() as f64).sqrt(), 0.0),
    };
    let value = |i: u64| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = 2.0 * (((z ^ (z >> 31)) >> 11) as f64 / 2f64.powi(53)) - 1.0;
        (scale * uniform + shift) as f32
    };
    let count = shape.iter().product::<usize>() as u64;
    Tensor::from_vec((1..=count).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// Writes a checkpoint of this config, with weights under the names that publishers give them.
fn write(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let recipe = Recipe::read(&ConfigFile::read(&folder.join("config.json")).unwrap()).unwrap();
    let prefix = if config.get("text_config").is_some() { "language_model." } else { "" };
    let one_plus = recipe.model_type.starts_with("gemma");
    let tensors: HashMap<String, Tensor> = recipe
        .tensors()
        .into_iter()
        .map(|(name, shape)| (format!("{prefix}{name}"), weight(&name, &shape, one_plus)))
        .collect();
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

fn nll(folder: &Path) -> f64 {
    let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    let settings =
        ComputeSettings { arithmetic: Arithmetic::F64, device: DeviceChoice::Cpu, ..ComputeSettings::default() };
    let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
    let rows = [Row::clean(tokens().into())];
    nll_nats(&model.target_log_probs(&rows, &mut NoHook, &Silent).unwrap()[0])
}

#[test]
fn every_published_config_computes_what_transformers_computes() {
    let mut failed = Vec::new();
    for entry in published() {
        let repository = entry["repository"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &changed(&entry["config"], &entry["small"]));
        let difference = (nll(folder.path()) - entry["nll"].as_f64().unwrap()).abs();
        if difference.is_nan() || difference > 1e-10 {
            failed.push(format!("{repository}: {difference:.2e}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// As published, sizes and all.
#[test]
fn every_published_config_is_read() {
    for entry in published() {
        let config = ConfigFile::parse(Path::new("config.json"), &entry["config"].to_string()).unwrap();
        let recipe = Recipe::read(&config).unwrap_or_else(|e| panic!("{}: {e}", entry["repository"]));
        assert!(recipe.vocab_size >= 32_000 && recipe.layers.len() >= 16);
    }
}

#[test]
fn every_model_of_the_paper_and_two_of_every_family_are_among_them() {
    let published = published();
    let names: BTreeSet<String> = published
        .iter()
        .map(|e| e["repository"].as_str().unwrap().split('/').next_back().unwrap().to_lowercase())
        .collect();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules/published");
    let of_the_paper: Vec<String> = std::fs::read_dir(rules)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(of_the_paper.len(), 21);
    for name in of_the_paper {
        assert!(names.contains(&name), "{name}");
    }
    let mut families: HashMap<&str, usize> = HashMap::new();
    for entry in &published {
        let config = &entry["config"];
        let text = config.get("text_config").unwrap_or(config);
        *families.entry(text["model_type"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(families.len(), 11, "{families:?}");
    assert!(families.values().all(|n| *n >= 2), "{families:?}");
}
