//! Folders of other kinds: what trips the checks that are theirs alone.

use super::folder::{Folder, RawShard, file};
use super::{Check, lint};
use crate::checkpoint::Opened;
use crate::integrity::lint::{AdapterBase, Lint, Observation};
use crate::progress::Silent;
use serde_json::{Value, json};
use std::fs;

/// What each case gives that is tripped here alone.
pub fn each() -> Vec<(Folder, Lint)> {
    let pipeline = empty();
    let component = json!({"vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]});
    pipeline.write("model_index.json", component.to_string().as_bytes());
    let alone = empty();
    alone.write("x.safetensors", &lora(1.0));
    let untrained = adapter(json!({}), 0.0);
    let untargeted = adapter(json!({"target_modules": ["k_proj"]}), 1.0);
    let wide = adapter(json!({}), 1.0);
    let (base, of_base) = (Folder::whole(), |folder: &Folder, base: &Folder| {
        let base = AdapterBase::of(&Opened::folder_at(base.0.path()).called("org/base")).unwrap();
        lint(&Opened::folder_at(folder.0.path()), Some(&base), &Silent).unwrap()
    });
    let beside = of_base(&wide, &base);
    let mut found: Vec<(Folder, Lint)> = [pipeline, alone, untrained, untargeted].into_iter().map(examined).collect();
    found.push((wide, beside));
    found
}

fn examined(folder: Folder) -> (Folder, Lint) {
    let found = super::run(folder.0.path());
    (folder, found)
}

fn empty() -> Folder {
    Folder(tempfile::tempdir().unwrap())
}

/// The factors of one module, of rank 2 and 16 wide; the second is of one value.
fn lora(up: f32) -> Vec<u8> {
    let mut shard = RawShard { header: serde_json::Map::new(), data: Vec::new() };
    shard.header.insert("__metadata__".into(), json!({"format": "pt"}));
    let values = |of: &dyn Fn(usize) -> f32| (0..32).flat_map(|at| of(at).to_le_bytes()).collect::<Vec<u8>>();
    let module = "base_model.model.model.layers.0.self_attn.q_proj";
    shard.push(&format!("{module}.lora_A.weight"), "F32", &[2, 16], &values(&|at| 1.0 + at as f32));
    shard.push(&format!("{module}.lora_B.weight"), "F32", &[16, 2], &values(&|at| up * (1.0 + at as f32)));
    file(&shard.text(), &shard.data)
}

fn adapter(changes: Value, up: f32) -> Folder {
    let folder = empty();
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]});
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    folder.write("adapter_config.json", config.to_string().as_bytes());
    folder.write("adapter_model.safetensors", &lora(up));
    folder
}

fn told(found: &Lint) -> Vec<(Check, String)> {
    found.observations.iter().map(|o| (o.check, o.location.to_string())).collect()
}

#[test]
fn each_trips_its_own() {
    let at = |check, place: &str| (check, place.to_owned());
    let config = "adapter_config.json";
    let module = "adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj";
    let expected = [
        vec![at(Check::ComponentMissing, "model_index.json"), at(Check::ComponentIncomplete, "model_index.json")],
        vec![at(Check::WeightsAlone, "x.safetensors")],
        vec![at(Check::AdapterAlone, config), at(Check::AdapterUntrained, "adapter_model.safetensors")],
        vec![
            at(Check::AdapterTarget, config),
            at(Check::AdapterAlone, config),
            at(Check::AdapterTarget, &format!("{module}.lora_A.weight")),
        ],
        vec![
            at(Check::AdapterTarget, config),
            at(Check::AdapterMisfit, &format!("{module}.lora_A.weight")),
            at(Check::AdapterMisfit, &format!("{module}.lora_B.weight")),
        ],
    ];
    let found: Vec<_> = each().iter().map(|(_, found)| told(found)).collect();
    assert_eq!(found, expected);
}

#[test]
fn what_a_folder_lists_has_to_be_there() {
    let sentences = empty();
    let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules = json!([module("", "Transformer"), module("1_Pooling", "Pooling")]);
    sentences.write("modules.json", modules.to_string().as_bytes());
    let pipeline = empty();
    pipeline.write("model_index.json", json!({"../../etc": ["diffusers", "X"]}).to_string().as_bytes());
    let broken = adapter(json!({"target_modules": "(((("}), 1.0);
    for (folder, check, text) in [
        (sentences, Check::ComponentMissing, "lists 1_Pooling (Pooling), which is missing"),
        (pipeline, Check::ConfigInvalid, "lists ../../etc, which is a path"),
        (broken, Check::ConfigRefused, "is no regular expression, and PEFT refuses it"),
    ] {
        let (_folder, found) = examined(folder);
        let is_it = |o: &Observation| o.check == check && o.message.contains(text);
        assert!(found.observations.iter().any(is_it), "{text}: {found:?}");
    }
}

/// Places are told from the whole folder, and what one checkpoint lacks is not another's.
#[test]
fn a_checkpoint_in_a_folder_is_one_of_its_own() {
    let folder = Folder::whole();
    let whole = RawShard::read(&folder.path("model.safetensors"));
    fs::create_dir(folder.path("draft")).unwrap();
    folder.copy("config.json", "draft/config.json");
    folder.write("draft/model.safetensors", &file(&whole.text(), &whole.data));
    let nested = (Check::NestedModel, "draft/model.safetensors".to_owned());
    assert_eq!(told(&super::run(folder.0.path())), std::slice::from_ref(&nested));
    let mut cut = RawShard::read(&folder.path("model.safetensors"));
    cut.remove("model.norm.weight");
    folder.write("draft/model.safetensors", &file(&cut.text(), &cut.data));
    let missing = (Check::TensorMissing, "draft/config.json: model.norm.weight".to_owned());
    assert_eq!(told(&super::run(folder.0.path())), [missing, nested]);
}

#[test]
fn only_an_adapter_has_a_base() {
    let model = Folder::whole();
    let base = AdapterBase::of(&Opened::folder_at(model.0.path())).unwrap();
    let error = lint(&Opened::folder_at(model.0.path()), Some(&base), &Silent).unwrap_err().to_string();
    assert!(error.contains("is no adapter, which is what --base is for"), "{error}");
    assert!(AdapterBase::of(&Opened::folder_at(empty().0.path())).is_err());
}

/// A single file is examined alone, whatever lies beside it.
#[test]
fn a_file_is_one_file() {
    let folder = Folder::whole();
    folder.write("x.pt", b"");
    let path = folder.path("model.safetensors");
    let found = lint(&Opened::open(path.to_str().unwrap(), &Silent).unwrap(), None, &Silent).unwrap();
    assert_eq!((told(&found), found.examined.files), (vec![(Check::WeightsAlone, "model.safetensors".to_owned())], 1));
}
