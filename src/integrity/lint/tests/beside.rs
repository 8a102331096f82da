//! What lies beside the text model: other parts, and the same weights in Mistral's own form.

use super::folder::{Folder, RawShard};
use super::{Check, FIXTURES, run};
use crate::architecture::{OtherParts, Recipe};
use crate::checkpoint::ConfigFile;
use serde_json::json;
use std::fs;
use std::path::Path;

/// A folder for each check that is tripped here alone.
pub fn each() -> [Folder; 3] {
    let towerless = with_tower(str::to_owned);
    towerless.shard(|s| s.remove("vision_tower.post_layernorm.weight"));
    let unknown = with_tower(str::to_owned);
    unknown.json("config.json", |c| c["vision_config"]["model_type"] = "clip_vision_model".into());
    [with_consolidated(|_, _| ()), towerless, unknown]
}

type Told = Vec<(Check, Option<String>)>;

fn told(folder: &Folder) -> Told {
    run(folder.0.path()).observations.into_iter().map(|o| (o.check, o.location.tensor)).collect()
}

/// The tiny Gemma 3 in a wrapper with a tower whose tensors are named by `name`.
fn with_tower(name: impl Fn(&str) -> String) -> Folder {
    let folder = Folder::whole();
    let fixture = Path::new(FIXTURES).join("gemma3");
    fs::copy(fixture.join("config.nested.json"), folder.path("config.json")).unwrap();
    fs::copy(fixture.join("model.safetensors"), folder.path("model.safetensors")).unwrap();
    super::wrap(&folder, "model.language_model.");
    let config = ConfigFile::read(&folder.path("config.json")).unwrap();
    let recipe = Recipe::read(&config).unwrap();
    let Ok(OtherParts::Known(tensors)) = OtherParts::read(&config, &recipe) else { panic!("the tower is not known") };
    folder.shard(|s| {
        for tensor in tensors {
            let values = tensor.shape.iter().product::<usize>();
            let bytes: Vec<u8> = (0..values).flat_map(|at| (1.0 + at as f32).to_le_bytes()).collect();
            s.push(&name(&tensor.name), "F32", &tensor.shape, &bytes);
        }
    });
    folder
}

/// Names and shapes are those that transformers 5.24 saves for this config.
#[test]
fn the_tower_of_gemma_3_is_known() {
    let folder = with_tower(str::to_owned);
    let header = RawShard::read(&folder.path("model.safetensors")).header;
    let shape = |name: &str| header[name]["shape"].clone();
    for (name, expected) in [
        ("vision_tower.embeddings.patch_embedding.weight", json!([16, 3, 4, 4])),
        ("vision_tower.embeddings.patch_embedding.bias", json!([16])),
        ("vision_tower.embeddings.position_embedding.weight", json!([4, 16])),
        ("vision_tower.encoder.layers.0.layer_norm1.weight", json!([16])),
        ("vision_tower.encoder.layers.0.mlp.fc1.weight", json!([24, 16])),
        ("vision_tower.encoder.layers.0.mlp.fc2.weight", json!([16, 24])),
        ("vision_tower.encoder.layers.0.self_attn.out_proj.bias", json!([16])),
        ("vision_tower.post_layernorm.bias", json!([16])),
        ("vision_tower.head.attention.in_proj_weight", json!([48, 16])),
        ("vision_tower.head.probe", json!([1, 1, 16])),
        ("multi_modal_projector.mm_input_projection_weight", json!([16, 36])),
        ("multi_modal_projector.mm_soft_emb_norm.weight", json!([16])),
    ] {
        assert_eq!(shape(name), expected, "{name}");
    }
    let of_parts = header.keys().filter(|name| name.starts_with("vision_tower") || name.starts_with("multi_modal"));
    assert_eq!(of_parts.count(), 34);
    assert_eq!(told(&folder), []);
    for name in [
        |name: &str| format!("model.{name}"),
        |name: &str| name.replace("vision_tower.", "vision_tower.vision_model."),
        |name: &str| format!("model.{}", name.replace("vision_tower.", "vision_tower.vision_model.")),
    ] {
        assert_eq!(told(&with_tower(name)), []);
    }
}

#[test]
fn a_tower_is_held_against_the_config() {
    const FC1: &str = "vision_tower.encoder.layers.0.mlp.fc1.weight";
    const NORM: &str = "vision_tower.post_layernorm.weight";
    let some = |name: &str| Some(name.to_owned());
    let after = |change: &dyn Fn(&Folder)| {
        let folder = with_tower(str::to_owned);
        change(&folder);
        told(&folder)
    };
    let wide = |f: &Folder| f.json("config.json", |c| c["vision_config"]["intermediate_size"] = 25.into());
    assert_eq!(after(&wide).iter().filter(|(check, _)| *check == Check::TensorShape).count(), 6);
    let evil = |f: &Folder| f.shard(|s| s.push("vision_tower.evil.weight", "F32", &[1, 2], &[1; 8]));
    assert_eq!(after(&evil), [(Check::TensorExtra, some("vision_tower.evil.weight"))]);
    assert_eq!(after(&|f| f.shard(|s| s.remove(FC1))), [(Check::PartMissing, some(FC1))]);
    assert_eq!(after(&|f| f.values(NORM, 0..16, 0.0)), [(Check::ZeroTensor, some(NORM))]);
    let twice = "model.vision_tower.vision_model.post_layernorm.weight";
    let again = |f: &Folder| f.shard(|s| s.push(twice, "F32", &[16], &[1; 64]));
    assert_eq!(after(&again), [(Check::TensorClash, some(twice))]);
    let whole_numbers = |f: &Folder| {
        f.shard(|s| {
            s.remove(FC1);
            s.push(FC1, "I8", &[24, 16], &[1, 2].repeat(192));
        })
    };
    assert_eq!(after(&whole_numbers), [(Check::DtypeStored, some(FC1))]);
    // The head is read by nobody; without it the config may say that there is none.
    let headless = |f: &Folder| {
        f.shard(|s| {
            let heads: Vec<String> = s.header.keys().filter(|name| name.contains(".head.")).cloned().collect();
            heads.iter().for_each(|name| s.remove(name));
        })
    };
    assert_eq!(after(&headless), []);
    let no_head = |f: &Folder| f.json("config.json", |c| c["vision_config"]["vision_use_head"] = false.into());
    assert_eq!(after(&no_head).len(), 11);
    assert_eq!(after(&|f| (headless(f), no_head(f)).0), []);
    // Another class's tower is named; settings that are none are not guessed at.
    let other = |f: &Folder| f.json("config.json", |c| c["vision_config"]["model_type"] = "clip_vision_model".into());
    assert_eq!(after(&other), [(Check::PartNotExamined, None), (Check::PartNotExamined, None)]);
    let endless = |f: &Folder| f.json("config.json", |c| c["vision_config"]["num_hidden_layers"] = 2_000_000.into());
    assert_eq!(after(&endless), [(Check::ConfigRefused, None)]);
    let unknown = |f: &Folder| f.json("config.json", |c| c["model_type"] = "llava".into());
    let parts = (Check::PartNotExamined, None);
    assert_eq!(after(&unknown), [(Check::ConfigUnknown, None), parts.clone(), parts]);
}

/// The tiny Mistral with its weights in its authors' form beside it, each tensor changed by `change`.
fn with_consolidated(change: impl Fn(&str, &mut Vec<u8>)) -> Folder {
    let folder = Folder::whole();
    let fixture = Path::new(FIXTURES).join("mistral");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), folder.path(file)).unwrap();
    }
    let config = ConfigFile::read(&folder.path("config.json")).unwrap();
    let recipe = Recipe::read(&config).unwrap();
    let a = recipe.attention(0).unwrap();
    folder.copy("model.safetensors", "consolidated.safetensors");
    let path = folder.path("consolidated.safetensors");
    let hub = RawShard::read(&path);
    let mut own = RawShard { header: serde_json::Map::new(), data: Vec::new() };
    for (name, shape) in recipe.tensors() {
        let mut bytes = hub.data[hub.range(&name)].to_vec();
        let heads = if name.contains("q_proj") { a.heads } else { a.kv_heads };
        if name.contains("q_proj") || name.contains("k_proj") {
            // As torch would: view(heads, 2, half, columns), the halves and their channels exchanged.
            let (row, half) = (bytes.len() / shape[0], a.head_dim / 2);
            let rows = (0..heads).flat_map(|h| (0..half).flat_map(move |i| [0, 1].map(|c| (2 * h + c) * half + i)));
            bytes = rows.flat_map(|r| bytes[r * row..(r + 1) * row].to_vec()).collect();
        }
        let mut native = name;
        for (hub, own) in [
            ("model.embed_tokens", "tok_embeddings"),
            ("model.layers", "layers"),
            ("model.norm", "norm"),
            ("lm_head", "output"),
            ("input_layernorm", "attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attention.wq"),
            ("self_attn.k_proj", "attention.wk"),
            ("self_attn.v_proj", "attention.wv"),
            ("self_attn.o_proj", "attention.wo"),
            ("mlp.gate_proj", "feed_forward.w1"),
            ("mlp.down_proj", "feed_forward.w2"),
            ("mlp.up_proj", "feed_forward.w3"),
        ] {
            native = native.replace(hub, own);
        }
        change(&native, &mut bytes);
        own.push(&native, hub.header["model.norm.weight"]["dtype"].as_str().unwrap(), &shape, &bytes);
    }
    own.header.insert("__metadata__".into(), json!({"format": "pt"}));
    fs::write(path, super::file(&own.text(), &own.data)).unwrap();
    let params = json!({"dim": recipe.hidden_size, "n_layers": recipe.layers.len(), "head_dim": a.head_dim, "hidden_dim": 56,
        "n_heads": a.heads, "n_kv_heads": a.kv_heads, "norm_eps": recipe.norm.epsilon, "vocab_size": recipe.vocab_size,
        "rope_theta": recipe.ropes[0].settings().theta, "sliding_window": a.window});
    folder.write("params.json", params.to_string().as_bytes());
    folder
}

#[test]
fn mistrals_own_form_is_compared_with_the_other() {
    assert_eq!(told(&with_consolidated(|_, _| ())), [(Check::ConsolidatedSame, None)]);
    for name in ["layers.1.attention.wk.weight", "output.weight"] {
        let changed = with_consolidated(|tensor, bytes| {
            if tensor == name {
                bytes[1] ^= 1;
            }
        });
        assert_eq!(told(&changed), [(Check::ConsolidatedWeights, Some(name.to_owned()))]);
    }
    let after = |change: &dyn Fn(&Folder)| {
        let folder = with_consolidated(|_, _| ());
        change(&folder);
        let found = run(folder.0.path()).observations;
        found.into_iter().map(|o| (o.check, o.location.file, o.message)).collect::<Vec<_>>()
    };
    let weights = Check::ConsolidatedWeights;
    let own = "consolidated.safetensors";
    for (key, value) in [
        ("rope_theta", json!(1.0)),
        ("norm_eps", json!(null)),
        ("n_layers", json!(99)),
        ("yarn", json!({"factor": 4})),
        ("max_seq_len", json!(16)),
    ] {
        let found = after(&|f| f.json("params.json", |p| p[key] = value.clone()));
        assert_eq!(
            found.iter().map(|f| (f.0, f.1.as_str())).collect::<Vec<_>>(),
            [(weights, own), (weights, "params.json")]
        );
        assert!(found[1].2.contains(key), "{found:?}");
    }
    let usual = json!({"max_seq_len": 32768, "use_biases": false, "rope_scaling": null});
    let found =
        after(&|f| f.json("params.json", |p| p.as_object_mut().unwrap().extend(usual.as_object().unwrap().clone())));
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [Check::ConsolidatedSame]);
    let alone = after(&|f| fs::remove_file(f.path("params.json")).unwrap());
    assert_eq!(alone.len(), 2, "{alone:?}");
    let unknown = after(&|f| f.json("config.json", |c| c["model_type"] = "mistral9".into()));
    assert!(unknown.iter().any(|f| (f.0, f.1.as_str()) == (weights, own)), "{unknown:?}");
}
