//! A file of every family that llama.cpp has, changed as its converter changes it: tensors are those that it was made of,
//! and the model computes what transformers computes with these.

use super::writer::{CONVERTED, expected, fixture};
use super::*;
use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::compute::{Arithmetic, ComputeSettings, DeviceChoice, Model, Row};
use crate::evaluate::metrics;
use crate::progress::Silent;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn gguf(name: &str) -> PathBuf {
    fixture(&format!("converted/{name}.gguf"))
}

fn told(name: &str) -> Value {
    expected(&format!("converted/{name}.json"))
}

#[test]
fn every_tensor_is_that_which_was_converted() {
    let place = tempfile::tempdir().unwrap();
    for family in CONVERTED {
        let out = place.path().join(family);
        import(&gguf(family), &out, ImportDtype::F32, &Silent).unwrap();
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let told = told(family);
        let told = told["tensors"].as_object().unwrap();
        let names: BTreeSet<&str> = read.names().into_iter().collect();
        assert_eq!(names, told.keys().map(String::as_str).collect(), "{family}");
        for (name, view) in read.tensors() {
            let (shape, content) = (&told[&name][0], &told[&name][1]);
            assert_eq!(*shape, serde_json::json!(view.shape()), "{family}: {name}");
            let Some(numbers) = content.as_array() else {
                let hash: String = Sha256::digest(view.data()).iter().take(8).map(|b| format!("{b:02x}")).collect();
                assert_eq!(*content, hash, "{family}: {name}");
                continue;
            };
            // The logarithm of an exponential, each rounded.
            let read: Vec<f32> = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            for (read, number) in read.iter().zip(numbers) {
                let number = number.as_f64().unwrap();
                assert!((f64::from(*read) - number).abs() < 2e-7, "{family}: {name}: {read} {number}");
            }
        }
    }
}

#[test]
fn every_family_computes_what_transformers_computes_in_place_and_imported() {
    let place = tempfile::tempdir().unwrap();
    let settings =
        ComputeSettings { device: DeviceChoice::Cpu, arithmetic: Arithmetic::F64, ..ComputeSettings::default() };
    for family in CONVERTED {
        let (file, folder, told) = (gguf(family), place.path().join(family), told(family));
        import(&file, &folder, ImportDtype::F32, &Silent).unwrap();
        let tokens: Vec<u32> = told["tokens"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect();
        let [in_place, imported] = [file, folder].map(|path| {
            let checkpoint = Checkpoint::open(path.to_str().unwrap(), &Silent).unwrap();
            let recipe = Recipe::read(checkpoint.config()).unwrap();
            let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
            metrics::nlls(&model, &[Row::clean(tokens.clone().into())], &Silent).unwrap()[0]
        });
        let nll = told["nll"].as_f64().unwrap();
        assert_eq!(in_place, imported, "{family}");
        // What metadata hold in f32 (theta, rates of decay) is rounded.
        assert!((in_place - nll).abs() < 2e-7 * nll, "{family}: {in_place} {nll}");
    }
}

/// What metadata ask for beyond all measure is told, in every family, without a number that overflows.
#[test]
fn sizes_beyond_measure_are_told() {
    for family in CONVERTED {
        let bytes = std::fs::read(gguf(family)).unwrap();
        let file = GgufFile::open(&gguf(family)).unwrap();
        let numbers: Vec<&str> = file
            .metadata()
            .filter(|(key, value)| matches!(value, header::Value::Unsigned(_)) && !key.starts_with("tokenizer"))
            .map(|(key, _)| key)
            .collect();
        assert!(numbers.len() > 6, "{family}: {numbers:?}");
        let mut all = bytes.clone();
        for key in numbers {
            let at =
                bytes.windows(key.len() + 4).position(|w| &w[..key.len()] == key.as_bytes()).unwrap() + key.len() + 4;
            for value in [u32::MAX, 0, 7] {
                let mut changed = bytes.clone();
                changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let broken = super::writer::file_of(&changed);
                let told = GgufCheckpoint::open(broken.path()).map(drop);
                assert!(told.is_ok() || !told.unwrap_err().to_string().contains('\n'), "{family}: {key}");
                drop(mismatches(&GgufFile::open(broken.path()).unwrap(), 1000));
            }
            all[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        }
        assert!(GgufCheckpoint::open(super::writer::file_of(&all).path()).is_err(), "{family}");
    }
}

#[test]
fn an_mlp_beside_granites_experts_is_refused_by_name() {
    let bytes = std::fs::read(gguf("granitemoe")).unwrap();
    let (key, instead) = (b"granitemoe.feed_forward_length", b"granitemoe.expert_shared_count");
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    let changed = [&bytes[..at], instead, &bytes[at + key.len()..]].concat();
    let told = GgufCheckpoint::open(super::writer::file_of(&changed).path()).map(drop).unwrap_err().to_string();
    assert!(told.contains("an MLP beside the experts is not supported"), "{told}");
}
