//! Every check with what trips it and, as near as can be, what does not.

mod beside;
pub(crate) mod folder;
mod kinds;
mod passed;
mod tripped;

use super::{Check, Lint, Location, More, Observation, lint};
use crate::architecture::place::Axis;
use crate::checkpoint::Opened;
use crate::error::Result;
use crate::progress::{Progress, Silent};
use folder::{Folder, RawShard, file};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-1.safetensors";
const SECOND: &str = "model-2.safetensors";
/// A matrix of the tiny llama and one of its vectors.
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";
const NORM: &str = "model.norm.weight";

fn run(root: &Path) -> Lint {
    lint(&Opened::folder_at(root), None, &Silent).unwrap()
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";

#[cfg(unix)]
fn link(target: impl AsRef<Path>, at: PathBuf) {
    std::os::unix::fs::symlink(target, at).unwrap();
}

/// Takes the index away and keeps these shards, named as transformers names them.
fn numbered(folder: &Folder, kept: &[&str]) {
    fs::remove_file(folder.path(INDEX)).unwrap();
    for (at, shard) in [FIRST, SECOND].iter().enumerate() {
        match kept.contains(shard) {
            true => fs::rename(folder.path(shard), folder.path(&format!("model-{:05}-of-00002.safetensors", at + 1)))
                .unwrap(),
            false => fs::remove_file(folder.path(shard)).unwrap(),
        }
    }
}

/// Rows and columns of [`DOWN`].
fn down_shape(folder: &Folder) -> (usize, usize) {
    let shape = &RawShard::read(&folder.path("model.safetensors")).header[DOWN]["shape"];
    (shape[0].as_u64().unwrap() as usize, shape[1].as_u64().unwrap() as usize)
}

/// A tokenizer config with this chat template.
fn template(folder: &Folder, template: Value) {
    folder.write("tokenizer_config.json", json!({"chat_template": template}).to_string().as_bytes());
}

/// What old transformers saved of the tiny llama's rotary embedding, in F32.
fn frequencies() -> Vec<u8> {
    (0..5).flat_map(|i| 10_000f32.powf(-(i as f32) / 5.0).to_le_bytes()).collect()
}

/// All matrices in a dtype of whole numbers of so many bytes.
fn whole_numbers(folder: &Folder, dtype: &str, bytes: usize) {
    folder.shard(|s| {
        for (name, entry) in s.header.clone().iter().filter(|(name, _)| name.ends_with("_proj.weight")) {
            let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
            s.remove(name);
            s.push(name, dtype, &shape, &vec![0x11; bytes * shape[0] * shape[1]]);
        }
    });
}

/// All matrices of layers in FP8 with a scale each.
fn in_fp8(folder: &Folder) {
    folder.json("config.json", |c| c["quantization_config"] = json!({"quant_method": "fp8"}));
    packed(folder, |s, module, rows, columns| {
        let codes: Vec<u8> = (0..rows * columns).map(|at| 0x30 + (at % 77) as u8).collect();
        s.push(&format!("{module}.weight_scale"), "F32", &[], &2e-3f32.to_le_bytes());
        s.push(&format!("{module}.input_scale"), "F32", &[], &0.5f32.to_le_bytes());
        s.push(&format!("{module}.weight"), "F8_E4M3", &[rows, columns], &codes);
    });
}

/// What compressed-tensors says of modules that are packed in codes of 8 bits.
fn compressed(targets: &str, kind: &str) -> Value {
    let group = json!({"targets": [targets], "weights": {"num_bits": 8, "type": kind}});
    json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": group}})
}

/// All matrices of layers in NVFP4.
fn in_nvfp4(folder: &Folder) {
    folder
        .json("config.json", |c| c["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}));
    packed(folder, |s, module, rows, columns| {
        let codes: Vec<u8> = (0..rows * columns / 2).map(|at| 0x11 + (at % 90) as u8).collect();
        s.push(&format!("{module}.weight_scale_2"), "F32", &[], &1e-3f32.to_le_bytes());
        s.push(&format!("{module}.weight_scale"), "F8_E4M3", &[rows, columns / 4], &vec![0x38; rows * columns / 4]);
        s.push(&format!("{module}.weight"), "U8", &[rows, columns / 2], &codes);
    });
}

/// Puts what `pack` makes of each matrix of the layers in its place, where scalars come first.
fn packed(folder: &Folder, pack: impl Fn(&mut RawShard, &str, usize, usize)) {
    folder.shard(|s| {
        for (name, entry) in s.header.clone().iter().filter(|(name, _)| name.ends_with("_proj.weight")) {
            let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
            s.remove(name);
            pack(s, name.strip_suffix(".weight").unwrap(), shape[0], shape[1]);
        }
    });
}

type Break = fn(&Folder);

#[test]
fn published_settings_are_let_be() {
    let published: Vec<Value> =
        serde_json::from_str(&fs::read_to_string(format!("{FIXTURES}/published.json")).unwrap()).unwrap();
    let generation = [
        r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "max_length": 4096, "eos_token_id": [2], "suppress_tokens": null}"#,
        r#"{"repetition_penalty": 1.3, "temperature": 1.0, "max_length": 20, "bad_words_ids": [], "begin_suppress_tokens": [2]}"#,
        r#"{"max_new_tokens": 2048, "stop_strings": ["User:", "\n\n", "<|end|>"], "sequence_bias": null, "guidance_scale": 1.0}"#,
    ];
    for (at, model) in published.iter().enumerate() {
        let folder = Folder::whole();
        let mut config = model["config"].clone();
        (config["prefix"], config["task_specific_params"]) =
            (Value::Null, json!({"text-generation": {"max_length": 50}}));
        folder.write("config.json", config.to_string().as_bytes());
        folder.write("generation_config.json", generation[at % generation.len()].as_bytes());
        folder.write("tokenizer_config.json", br#"{"model_max_length": 1000000000000000019884624838656}"#);
        let told = run(folder.0.path()).observations;
        let served = [
            Check::GenerationSilenced,
            Check::ContextShort,
            Check::PromptPrefix,
            Check::ConfigUnknown,
            Check::ConfigRefused,
        ];
        assert!(!told.iter().any(|o| served.contains(&o.check)), "{}: {told:?}", model["repository"]);
    }
}

#[test]
fn every_family_is_clean() {
    let mut families = 0;
    for fixture in fs::read_dir(FIXTURES).unwrap().map(|f| f.unwrap().path()).filter(|f| f.join("config.json").exists())
    {
        for config in fs::read_dir(&fixture).unwrap().map(|f| f.unwrap().path()) {
            if !config.file_name().unwrap().to_str().unwrap().starts_with("config.") {
                continue;
            }
            let folder = Folder::whole();
            fs::copy(&config, folder.path("config.json")).unwrap();
            fs::copy(fixture.join("model.safetensors"), folder.path("model.safetensors")).unwrap();
            if config.ends_with("config.nested.json") {
                wrap(&folder, "model.language_model.");
            }
            let seen = run(folder.0.path());
            // Without its tower a wrapped model is a text model, which is told, and so is a tower that is not known.
            let told = [Check::PartMissing, Check::PartNotExamined];
            let bad: Vec<_> = seen.observations.iter().filter(|o| !told.contains(&o.check)).collect();
            assert!(bad.is_empty(), "{}: {bad:?}", config.display());
            assert!(seen.examined.tensors > 10 && seen.examined.value_bytes > 10_000);
            families += 1;
        }
    }
    assert!(families >= 20, "{families}");
}

/// Puts a text model's tensors where a wrapper keeps them.
fn wrap(folder: &Folder, prefix: &str) {
    folder.shard(|s| {
        let tensors = std::mem::take(&mut s.header);
        s.header = tensors.into_iter().map(|(name, entry)| (name.replacen("model.", prefix, 1), entry)).collect();
    });
}

/// A text model within a multimodal checkpoint: names are those of the whole, towers are others' business.
#[test]
fn a_nested_text_model_is_compared_under_its_own_names() {
    let folder = || {
        let folder = Folder::whole();
        let fixture = Path::new(FIXTURES).join("gemma3");
        fs::copy(fixture.join("config.nested.json"), folder.path("config.json")).unwrap();
        fs::copy(fixture.join("model.safetensors"), folder.path("model.safetensors")).unwrap();
        folder
    };
    let told = |folder: &Folder| -> Vec<(Check, Option<String>)> {
        run(folder.0.path()).observations.into_iter().map(|o| (o.check, o.location.tensor)).collect()
    };
    for prefix in ["language_model.model.", "model.language_model."] {
        let folder = folder();
        wrap(&folder, prefix);
        // Without its tower it is a text model, which is told.
        let tower = (Check::PartMissing, None);
        assert_eq!(told(&folder), std::slice::from_ref(&tower));
        // A family that multiplies by 1 + w: zeros are as good as any, −1 is not.
        let norm = format!("{prefix}norm.weight");
        folder.values(&norm, 0..36, 0.0);
        assert_eq!(told(&folder), std::slice::from_ref(&tower));
        folder.values(&norm, 0..36, -1.0);
        assert_eq!(told(&folder), [tower.clone(), (Check::ZeroTensor, Some(norm.clone()))]);
        folder.shard(|s| s.remove(&norm));
        assert_eq!(told(&folder), [(Check::TensorMissing, Some(NORM.into())), tower.clone()]);
        // The same weight by the other version's name.
        let [one, other] = ["language_model.model.norm.weight", "model.language_model.norm.weight"];
        folder.shard(|s| [one, other].iter().for_each(|name| s.push(name, "F32", &[36], &[1; 144])));
        assert_eq!(told(&folder), [tower, (Check::TensorClash, Some(other.into()))]);
    }
    // As a text model alone would be named, where no loader looks.
    let seen: BTreeSet<Check> = told(&folder()).into_iter().map(|(check, _)| check).collect();
    assert_eq!(seen, BTreeSet::from([Check::PartMissing, Check::TensorMissing, Check::TensorExtra]));
}

#[test]
fn a_mix_of_dtypes_names_the_fewer_where_there_are_fewer() {
    let to_bf16 = |layers: &[usize]| {
        let folder = Folder::whole();
        let names: Vec<String> = layers.iter().map(|l| format!("model.layers.{l}.mlp.down_proj.weight")).collect();
        let (rows, columns) = down_shape(&folder);
        // A fourth of that role, so that two and two are possible.
        folder.shard(|s| {
            s.push("model.layers.3.mlp.down_proj.weight", "F32", &[rows, columns], &vec![0x3c; rows * columns * 4]);
            for name in &names {
                s.remove(name);
                s.push(name, "BF16", &[rows, columns], &vec![0x3c; rows * columns * 2]);
            }
        });
        let seen = run(folder.0.path()).observations.into_iter().filter(|o| o.check == Check::DtypeMix);
        seen.map(|o| (o.location.tensor.unwrap(), o.message)).collect::<Vec<_>>()
    };
    let role = "model.layers.N.mlp.down_proj.weight";
    let fewer = to_bf16(&[2]);
    assert_eq!(fewer.len(), 1);
    assert_eq!(
        fewer[0],
        ("model.layers.2.mlp.down_proj.weight".into(), format!("is BF16, 3 of its peers ({role}) are F32"))
    );
    let even = to_bf16(&[1, 2]);
    assert_eq!(even.len(), 1);
    assert_eq!(even[0].1, format!("is one of 4 tensors ({role}) of several dtypes: 2 BF16, 2 F32"));
}

#[test]
fn places_and_counts_are_exact() {
    let folder = Folder::whole();
    let (rows, columns) = down_shape(&folder);
    folder.values(DOWN, [columns + 2, columns + 5], f32::NAN);
    folder.values(DOWN, (0..rows).flat_map(|row| [row * columns, row * columns + 4]), 0.0);
    folder.values(DOWN, (rows - 1) * columns..rows * columns, 0.0);
    let seen = run(folder.0.path()).observations;
    let shard = RawShard::read(&folder.path("model.safetensors"));
    let start = (8 + shard.text().len() + shard.range(DOWN).start) as u64;
    let at = || Location::file("model.safetensors").tensor(DOWN);
    let expected = [
        (Check::Nan, at().at(Axis::Row, 1).byte(start + 4 * (columns as u64 + 2)).and(More::InTensor(1)), 2),
        (Check::ZeroRow, at().at(Axis::Row, rows as u64 - 1), 1),
        (Check::ZeroColumn, at().at(Axis::Column, 0).and(More::Lines(vec![4])), 2),
    ];
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for (seen, (check, location, count)) in seen.iter().zip(expected) {
        assert_eq!((seen.check, &seen.location, &seen.evidence["count"]), (check, &location, &json!(count)));
    }
    assert_eq!(seen[2].evidence["indices"], json!([0, 4]));
    assert_eq!(seen[0].evidence["first_element"], json!(columns + 2));
}

/// One malformed file keeps nothing else from being examined.
#[test]
fn weights_in_a_folder_below_are_one_finding() {
    let folder = Folder::whole();
    for name in ["unet/a.safetensors", "unet/b.safetensors", "vae/a.safetensors"] {
        folder.write(&name.replace("a.safetensors", "x").replace("b.safetensors", "x"), b"");
        folder.copy("model.safetensors", name);
    }
    let seen = run(folder.0.path()).observations;
    let nested: Vec<_> = seen.iter().filter(|o| o.check == Check::NestedModel).collect();
    let of = nested.iter().map(|o| (o.location.file.as_str(), o.message.split(" in a folder").next().unwrap()));
    let expected =
        [("unet/a.safetensors", "is the first of 2 files of weights"), ("vae/a.safetensors", "holds weights")];
    assert_eq!(of.collect::<Vec<_>>(), expected);
}

#[test]
fn all_problems_are_told_at_once() {
    let folder = Folder::sharded();
    folder.write(FIRST, b"not a header");
    folder.write("tokenizer_config.json", br#"{"chat_template": "{{ x.__class__ }}"}"#);
    let mut second = RawShard::read(&folder.path(SECOND));
    let range = second.range(NORM);
    second.data[range.start..range.start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    second.data.push(0);
    folder.write(SECOND, &file(&second.text(), &second.data));
    let seen: BTreeSet<Check> = run(folder.0.path()).observations.iter().map(|o| o.check).collect();
    for check in [Check::NotDownloaded, Check::TemplateDunder, Check::TrailingBytes, Check::Nan] {
        assert!(seen.contains(&check), "{check}: {seen:?}");
    }
    // What follows from a file that cannot be read is not told again.
    for check in [Check::TensorMissing, Check::HeaderTooLong, Check::IndexTensorMissing, Check::IndexTotalSize] {
        assert!(!seen.contains(&check), "{check}: {seen:?}");
    }
}

#[test]
fn a_flood_of_problems_is_cut_short_and_counted() {
    let folder = Folder::whole();
    folder.shard(|s| (0..250).for_each(|n| s.push(&format!("extra.{n}"), "F32", &[0], &[])));
    let seen = run(folder.0.path());
    assert_eq!((seen.observations.len(), seen.not_listed), (101, 150));
    // What is not listed is told of, and judged as what is.
    let last = seen.observations.last().unwrap();
    assert_eq!(last.check, seen.observations[0].check);
    assert_eq!(
        (last.location.to_string(), &last.evidence["count"]),
        ("model.safetensors: (150 not listed)".into(), &json!(250))
    );
}

#[cfg(unix)]
#[test]
fn the_hubs_cache_is_no_link_outside() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--name");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/0123"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let folder = Folder::whole();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let digest = crate::checkpoint::sha256_hex(&fs::read(folder.path(name)).unwrap());
        fs::copy(folder.path(name), blobs.join(&digest)).unwrap();
        link(Path::new("../../blobs").join(digest), snapshot.join(name));
    }
    assert_eq!(run(&snapshot).observations, []);
    // The same links where no cache is.
    let elsewhere = cache.path().join("other/snapshots");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::rename(&blobs, cache.path().join("blobs")).unwrap();
    fs::rename(&snapshot, elsewhere.join("0123")).unwrap();
    fs::rename(cache.path().join("blobs"), cache.path().join("other/blobs")).unwrap();
    let seen: Vec<Check> = run(&elsewhere.join("0123")).observations.iter().map(|o| o.check).collect();
    assert_eq!(seen, [Check::LinkOutside; 3]);
}

#[cfg(unix)]
#[test]
fn a_blob_that_is_not_what_its_name_says_is_told() {
    let (_cache, snapshot) = snapshot();
    assert_eq!(run(&snapshot).observations, []);
    let (_cache, snapshot) = damaged_snapshot();
    let seen: Vec<Check> = run(&snapshot).observations.iter().map(|o| o.check).collect();
    assert_eq!(seen, [Check::BlobDigest]);
}

/// The tiny llama without its tokenizer, in a hub's cache.
#[cfg(unix)]
fn snapshot() -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--name");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/0123"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let folder = Folder::whole();
    for file in ["model.safetensors", "config.json"] {
        let bytes = fs::read(folder.path(file)).unwrap();
        let name = crate::checkpoint::sha256_hex(&bytes);
        fs::write(blobs.join(&name), bytes).unwrap();
        link(Path::new("../../blobs").join(&name), snapshot.join(file));
    }
    (cache, snapshot)
}

/// A byte of its weights is another.
#[cfg(unix)]
pub(crate) fn damaged_snapshot() -> (tempfile::TempDir, PathBuf) {
    let (cache, snapshot) = snapshot();
    let blob = snapshot.join("model.safetensors").canonicalize().unwrap();
    let mut weights = fs::read(&blob).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    fs::write(blob, weights).unwrap();
    (cache, snapshot)
}

/// What trips lint's checks, and the folders that it was in.
#[cfg(unix)]
pub(crate) fn what_trips() -> Vec<(PathBuf, Observation)> {
    let mut found = tripped::cases();
    for (folder, of_kind) in kinds::each() {
        found.extend(of_kind.observations.into_iter().map(|o| (folder.0.path().to_owned(), o)));
    }
    let mut all_of = |root: &Path| found.extend(run(root).observations.into_iter().map(|o| (root.to_owned(), o)));
    beside::each().iter().for_each(|folder| all_of(folder.0.path()));
    all_of(&damaged_snapshot().1);
    let (_cache, snapshot) = snapshot();
    fs::write(snapshot.join("other.json"), "{}").unwrap();
    all_of(&snapshot);
    found
}

/// Somebody puts another file in the place of the weights while they are looked at.
#[test]
fn all_rules_look_at_the_file_that_was_opened() {
    let folder = Folder::whole();
    folder.shard(|s| {
        let (norm, down) = (s.range(NORM), s.range(DOWN));
        s.data[norm].fill(0);
        s.data[down.start..down.start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        s.push("x.qweight", "I32", &[2, 2], &[0; 16]);
    });
    let before = run(folder.0.path());
    let of = |check| before.observations.iter().filter(|o| o.check == check).count();
    assert_eq!((of(Check::Nan), of(Check::ZeroTensor)), (1, 2));
    /// Replaces the file before its values are looked at.
    struct Replacing<'a>(&'a Folder, Folder);
    impl Progress for Replacing<'_> {
        fn begin(&self, _: &str, _: u64, _: &str) {
            fs::rename(self.1.path("model.safetensors"), self.0.path("model.safetensors")).unwrap();
        }
        fn advance(&self, _: u64) -> Result<()> {
            Ok(())
        }
        fn end(&self) {}
    }
    let replacing = Replacing(&folder, Folder::whole());
    assert_eq!(lint(&Opened::folder_at(folder.0.path()), None, &replacing).unwrap(), before);
    assert!(!replacing.1.path("model.safetensors").exists());
}

#[test]
fn what_is_no_checkpoint_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    assert!(
        lint(&Opened::folder_at(empty.path()), None, &Silent)
            .unwrap_err()
            .to_string()
            .contains("no weights in this folder")
    );
    assert!(lint(&Opened::folder_at(&empty.path().join("gone")), None, &Silent).is_err());
}

/// Of packed formats much may be zero; here only that nothing is told of that.
#[test]
fn zeros_that_packed_formats_and_others_have_are_no_dead_matrices() {
    let folder = Folder::whole();
    folder.shard(|s| {
        for (name, dtype, shape, bytes) in [
            ("x.qzeros", "I32", &[4, 2][..], 32),
            ("x.g_idx", "I32", &[8], 32),
            ("x.weight_zero_point", "I8", &[4, 1], 4),
            ("y.weight_zero_point", "BF16", &[4, 2], 16),
            ("x.zeros", "F16", &[4, 2], 16),
            ("x.gate_up_proj_bias", "BF16", &[4, 2], 16),
            ("x.token_type_ids", "I64", &[1, 4], 32),
            ("embeddings.token_type_embeddings.weight", "F32", &[2, 2], 16),
            ("x.k_scale", "F32", &[1], 4),
        ] {
            s.push(&format!("{}.{name}", s.data.len()), dtype, shape, &vec![0; bytes]);
        }
    });
    let seen: BTreeSet<Check> = run(folder.0.path()).observations.iter().map(|o| o.check).collect();
    assert_eq!(seen, BTreeSet::from([Check::TensorExtra, Check::UnalignedData]));
}
