//! Random checkpoints: a patch changes what it planned and nothing else, unpatching is the identity, and no step that
//! fails leaves a checkpoint that is neither the old nor the new one.

use super::apply::{in_place_with, write_new_with};
use super::disk::{Disk, System};
use super::folder::Folder;
use super::unpatch::{unpatch_with, vouch};
use super::*;
use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::OpenFolder;
use crate::neuron::{Action, Intervention, Neuron, Side, Site};
use crate::progress::Silent;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A tiny llama with biases and a head of its own, its tensors in shards, of dtypes, in an order and at alignments by
/// chance.
pub(super) fn checkpoint(root: &Path, random: &mut ChaCha8Rng) {
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
        "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
        "vocab_size": 10, "rms_norm_eps": 1e-5, "attention_bias": true, "mlp_bias": random.random::<bool>(),
        "tie_word_embeddings": false});
    std::fs::write(root.join("config.json"), config.to_string()).unwrap();
    for name in ["tokenizer.json", "chat_template.jinja", "modeling_x.py", "README.md", "training_args.bin"] {
        std::fs::write(root.join(name), name).unwrap();
    }
    let config = crate::checkpoint::ConfigFile::read(&root.join("config.json")).unwrap();
    let mut tensors = Recipe::read(&config).unwrap().tensors();
    for at in (1..tensors.len()).rev() {
        tensors.swap(at, random.random_range(0..=at));
    }
    let shards = random.random_range(1..5usize);
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let name = match shards {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
        };
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (tensor, shape) in tensors.iter().skip(shard).step_by(shards) {
            let (dtype, size) = [("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8)][random.random_range(0..4)];
            let from = data.len();
            for _ in 0..shape.iter().product::<usize>() {
                let value: f64 = random.random_range(-2.0..2.0);
                match dtype {
                    "F32" => data.extend((value as f32).to_le_bytes()),
                    "F64" => data.extend(value.to_le_bytes()),
                    "F16" => data.extend(half::f16::from_f64(value).to_le_bytes()),
                    _ => data.extend(half::bf16::from_f64(value).to_le_bytes()),
                }
            }
            assert_eq!(data.len() - from, shape.iter().product::<usize>() * size);
            header.insert(tensor.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]}));
            weight_map.insert(tensor.clone(), name.clone().into());
        }
        let mut header = serde_json::to_vec(&header).unwrap();
        header.extend(std::iter::repeat_n(b' ', random.random_range(0..9)));
        let file = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat();
        std::fs::write(root.join(name), file).unwrap();
    }
    if shards > 1 {
        let index = json!({"metadata": {}, "weight_map": weight_map});
        std::fs::write(root.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

pub(super) fn some_interventions(recipe: &Recipe, random: &mut ChaCha8Rng) -> Vec<Intervention> {
    let modules = recipe.modules();
    let mut all: Vec<Intervention> = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let module = &modules[random.random_range(0..modules.len())];
        let (side, channels) = match random.random::<bool>() {
            true => (Side::Out, module.outputs),
            false => (Side::In, module.inputs),
        };
        let site = Site { module: module.path.parse().unwrap(), side };
        let neuron = Neuron { site, channel: random.random_range(0..channels) };
        let action = match random.random_range(0..3) {
            0 => Action::Zero,
            1 => Action::Scale(random.random_range(-5.0..5.0)),
            _ => Action::Set(0.25),
        };
        if all.iter().all(|i| i.neuron != neuron) {
            all.push(Intervention { neuron, action });
        }
    }
    all
}

pub(super) fn open(root: &Path) -> (Checkpoint, Recipe) {
    let checkpoint = Checkpoint::open(root.to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    (checkpoint, recipe)
}

pub(super) fn plan(root: &Path, interventions: &[Intervention]) -> Result<Plan> {
    let (checkpoint, recipe) = open(root);
    Plan::new(&checkpoint, &recipe, interventions)
}

/// Every file of a folder.
pub(super) fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(root).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// `before` with the plan's bytes: what a patch may make of it.
fn planned(before: &BTreeMap<String, Vec<u8>>, plan: &Plan) -> BTreeMap<String, Vec<u8>> {
    let mut after = before.clone();
    for edit in &plan.edits {
        let file = after.get_mut(&edit.file).unwrap();
        for (offset, piece) in edit.span.offsets().zip(edit.after.chunks(edit.span.piece_bytes as usize)) {
            file[offset as usize..][..piece.len()].copy_from_slice(piece);
        }
    }
    after
}

fn without_ours(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    files.retain(|name, _| ![RECEIPT, UNDO].contains(&name.as_str()));
    files
}

fn carried(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    files.retain(|name, _| name != "training_args.bin");
    files
}

fn hex(bytes: &[u8]) -> Option<String> {
    Some(crate::checkpoint::sha256_hex(bytes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn patch_changes_what_it_planned_and_unpatch_is_the_identity(seed: u64, link: bool) {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let place = tempfile::tempdir().unwrap();
        let (model, out) = (place.path().join("model"), place.path().join("out"));
        std::fs::create_dir(&model).unwrap();
        checkpoint(&model, random);
        let (opened, recipe) = open(&model);
        let wanted = some_interventions(&recipe, random);
        let expressible = |i: &Intervention| plan(&model, std::slice::from_ref(i)).is_ok();
        let wanted: Vec<Intervention> = wanted.into_iter().filter(expressible).collect();
        prop_assume!(!wanted.is_empty());
        let plan_ = plan(&model, &wanted).unwrap();
        let mut reversed = wanted.clone();
        reversed.reverse();
        prop_assert_eq!(&plan(&model, &reversed).unwrap().edits, &plan_.edits);

        let before = files(&model);
        let settings = WriteSettings { link, digests: true };
        let receipt = write_new(&opened, &plan_, &out, settings, &Silent).unwrap();
        prop_assert_eq!(&files(&model), &before);
        let expected = carried(planned(&before, &plan_));
        prop_assert!(without_ours(files(&out)) == expected);
        for file in &receipt.files {
            prop_assert_eq!(&file.sha256_before, &hex(&before[&file.name]));
            prop_assert_eq!(&file.sha256_after, &hex(&expected[&file.name]));
        }
        let read = Receipt::read(&out).unwrap().unwrap();
        prop_assert_eq!((&read.edits, &read.files, read.state), (&receipt.edits, &receipt.files, State::Applied));
        let verified = verify(&out, &opened, &Silent).unwrap();
        prop_assert_eq!(verified.differences, Vec::<String>::new());
        prop_assert!(unpatch(&out).unwrap().receipt.is_some());
        prop_assert!(files(&out) == carried(before.clone()));
        // A link's other name, in the original, is untouched by all this.
        prop_assert_eq!(&files(&model), &before);

        std::fs::remove_dir_all(&out).unwrap();
        let folder = Folder::lock(&model).unwrap();
        in_place(&folder, &plan_, settings).unwrap();
        prop_assert!(without_ours(files(&model)) == planned(&before, &plan_));
        prop_assert!(in_place(&folder, &plan_, settings).unwrap_err().to_string().contains("is patched already"));
        prop_assert!(unpatch(&model).unwrap_err().to_string().contains("another achilles-audit is working"));
        drop(folder);
        unpatch(&model).unwrap();
        prop_assert_eq!(&files(&model), &before);
    }
}

/// A disk on which step number `left` fails; a write half-way through. What comes after fails too if `dead`.
pub(super) struct Failing {
    pub left: usize,
    pub dead: bool,
}

impl Failing {
    fn step(&mut self, path: &Path) -> Result<()> {
        if self.left == 0 {
            self.left = if self.dead { 0 } else { usize::MAX };
            return Err(Error::file(path, "no space left on this device"));
        }
        self.left -= 1;
        Ok(())
    }
}

impl Disk for Failing {
    fn write_at(&mut self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.step(path) {
            System.write_at(file, path, offset, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        System.write_at(file, path, offset, bytes)
    }

    fn sync(&mut self, file: &File, path: &Path) -> Result<()> {
        self.step(path)?;
        System.sync(file, path)
    }

    fn write_whole(&mut self, folder: &OpenFolder, name: &str, bytes: &[u8]) -> Result<()> {
        self.step(folder.path())?;
        System.write_whole(folder, name, bytes)
    }

    fn remove(&mut self, folder: &OpenFolder, name: &str) -> Result<()> {
        self.step(folder.path())?;
        System.remove(folder, name)
    }
}

const SETTINGS: WriteSettings = WriteSettings { link: false, digests: false };

/// A checkpoint of several shards, and neurons that change two of them.
pub(super) fn several() -> (tempfile::TempDir, PathBuf, Vec<Intervention>) {
    let place = tempfile::tempdir().unwrap();
    let model = place.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for seed in 0.. {
        checkpoint(&model, &mut ChaCha8Rng::seed_from_u64(seed));
        let neurons =
            ["L0.mlp.down_proj:out:3", "L0.mlp.down_proj:in:5", "L1.self_attn.q_proj:out:7", "model.norm:out:1"];
        let change = |n: &&str| Intervention { neuron: n.parse().unwrap(), action: Action::Scale(0.3) };
        let interventions: Vec<Intervention> = neurons.iter().map(change).collect();
        if plan(&model, &interventions).unwrap().files().len() > 1 {
            return (place, model, interventions);
        }
        std::fs::read_dir(&model).unwrap().for_each(|e| std::fs::remove_file(e.unwrap().path()).unwrap());
    }
    unreachable!()
}

#[test]
fn a_patch_in_place_that_stops_anywhere_leaves_the_old_bytes_or_a_way_back() {
    let (_place, model, wanted) = several();
    let before = files(&model);
    let mut stops = 0;
    for dead in [true, false] {
        for left in 0.. {
            let folder = Folder::lock(&model).unwrap();
            let patched =
                in_place_with(&folder, &plan(&model, &wanted).unwrap(), SETTINGS, &mut Failing { left, dead });
            drop(folder);
            if patched.is_ok() {
                assert!(without_ours(files(&model)) == planned(&before, &plan_of(&model, &before, &wanted)));
                unpatch(&model).unwrap();
                break;
            }
            stops += 1;
            if dead {
                // The next run finishes the way back, even if it is stopped at every step once.
                let finishes = |left| Folder::lock_with(&model, &vouch(&model), &mut Failing { left, dead }).is_ok();
                assert!((0..100).any(finishes), "stopped at step {left}, cannot go on");
            }
            assert!(files(&model) == before, "stopped at step {left}");
        }
    }
    println!("{stops} stops of a patch in place");
    assert!(stops >= 30, "{stops}");
}

/// The plan as it was made from the files before.
fn plan_of(model: &Path, before: &BTreeMap<String, Vec<u8>>, wanted: &[Intervention]) -> Plan {
    let place = tempfile::tempdir().unwrap();
    for (name, bytes) in before {
        std::fs::write(place.path().join(name), bytes).unwrap();
    }
    Plan { root: model.to_owned(), ..plan(place.path(), wanted).unwrap() }
}

#[test]
fn an_unpatch_that_stops_anywhere_leaves_the_new_bytes_or_goes_on_to_the_old_ones() {
    let (_place, model, wanted) = several();
    let before = files(&model);
    let patched = in_place(&Folder::lock(&model).unwrap(), &plan(&model, &wanted).unwrap(), SETTINGS);
    patched.unwrap();
    let after = files(&model);
    for left in 0.. {
        for (name, bytes) in &after {
            std::fs::write(model.join(name), bytes).unwrap();
        }
        if unpatch_with(&model, &mut Failing { left, dead: true }).is_ok() {
            assert!(left >= 15, "{left} steps");
            break;
        }
        if files(&model) != after {
            assert!(unpatch(&model).unwrap().receipt.is_none());
            assert!(files(&model) == before, "stopped at step {left}");
        }
    }
    assert!(files(&model) == before);
}

#[test]
fn a_patch_to_a_folder_that_stops_anywhere_leaves_nothing() {
    let (place, model, wanted) = several();
    let before = files(&model);
    let (opened, _) = open(&model);
    let (plan, out) = (plan(&model, &wanted).unwrap(), place.path().join("out"));
    for left in 0.. {
        if write_new_with(&opened, &plan, &out, SETTINGS, &Silent, &mut Failing { left, dead: true }).is_ok() {
            assert!(left >= 20, "{left} steps");
            break;
        }
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "stopped at step {left}");
    }
    assert!(without_ours(files(&out)) == carried(planned(&before, &plan)));
    assert!(files(&model) == before);
}

/// That a restore is done is believed of a restore alone: what the patch kept is the only way back.
#[test]
fn a_patch_that_says_it_was_restored_is_undone() {
    let (_place, model, wanted) = several();
    let before = files(&model);
    in_place(&Folder::lock(&model).unwrap(), &plan(&model, &wanted).unwrap(), SETTINGS).unwrap();
    let receipt = std::fs::read_to_string(model.join(RECEIPT)).unwrap();
    std::fs::write(model.join(RECEIPT), receipt.replace("\"applied\"", "\"restored\"")).unwrap();
    let kept = files(&model);
    assert!(Folder::lock(&model).unwrap_err().to_string().contains("`achilles-audit unpatch` puts back"));
    assert!(files(&model) == kept);
    unpatch(&model).unwrap();
    assert!(files(&model) == before);
}

#[test]
fn unpatch_refuses_what_is_not_as_the_receipt_says() {
    let (_place, model, wanted) = several();
    let settings = WriteSettings { link: false, digests: true };
    let receipt = in_place(&Folder::lock(&model).unwrap(), &plan(&model, &wanted).unwrap(), settings).unwrap();
    let after = files(&model);
    let (shard, span) = (&receipt.edits[0].file, receipt.edits[0].span);
    let flip = |name: &str, at: usize| {
        let mut bytes = after[name].clone();
        bytes[at] ^= 1;
        bytes
    };
    let covered = |at: u64| {
        let of = receipt.edits.iter().filter(|e| e.file == *shard);
        of.flat_map(|e| e.span.offsets().map(move |o| o..o + e.span.piece_bytes)).any(|range| range.contains(&at))
    };
    let last = after[shard].len() as u64 - 1;
    let outside = (0..=last).rev().find(|at| !covered(*at)).unwrap() as usize;
    let text = String::from_utf8(after[RECEIPT].clone()).unwrap();
    let moved = text.replacen(&format!("\"offset\": {}", span.offset), &format!("\"offset\": {}", span.offset + 1), 1);
    assert_ne!(moved, text);
    for (name, bytes, says) in [
        (shard.as_str(), flip(shard, span.offset as usize), "it was changed since"),
        (shard, flip(shard, outside), "outside of its edits"),
        (shard, flip(shard, 9), "header"),
        (shard, after[shard][..after[shard].len() - 1].to_vec(), "truncated"),
        (UNDO, flip(UNDO, 0), "is not the file that"),
        (RECEIPT, moved.into_bytes(), "of the receipt is not in"),
        (RECEIPT, text.replace(&format!("\"name\": \"{shard}\""), "\"name\": \"../x.safetensors\"").into(), "plain"),
        (RECEIPT, text.replace("patch/v1", "patch/v9").into(), "expected achilles-audit/patch/v1"),
        (RECEIPT, b"{}".to_vec(), "is not a receipt"),
    ] {
        std::fs::write(model.join(name), &bytes).unwrap();
        let now = files(&model);
        let error = unpatch(&model).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{says}: {error}");
        assert!(files(&model) == now, "{says}");
        std::fs::write(model.join(name), &after[name]).unwrap();
    }
    std::fs::remove_file(model.join(UNDO)).unwrap();
    assert!(unpatch(&model).unwrap_err().to_string().contains("is missing"));
    std::fs::write(model.join(UNDO), &after[UNDO]).unwrap();
    unpatch(&model).unwrap();
    assert!(unpatch(&model).unwrap_err().to_string().contains("nothing to undo"));
}

/// Somebody who can write to the folder, and puts something else in the place of what was just checked.
#[cfg(unix)]
struct Swapping<'a> {
    swap: &'a dyn Fn(),
    steps: usize,
}

#[cfg(unix)]
impl Swapping<'_> {
    fn step(&mut self) {
        if self.steps == 0 {
            (self.swap)();
        }
        self.steps = self.steps.wrapping_sub(1);
    }
}

#[cfg(unix)]
impl Disk for Swapping<'_> {
    fn write_at(&mut self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.step();
        System.write_at(file, path, offset, bytes)
    }

    fn sync(&mut self, file: &File, path: &Path) -> Result<()> {
        System.sync(file, path)
    }

    fn write_whole(&mut self, folder: &OpenFolder, name: &str, bytes: &[u8]) -> Result<()> {
        self.step();
        System.write_whole(folder, name, bytes)
    }

    fn remove(&mut self, folder: &OpenFolder, name: &str) -> Result<()> {
        self.step();
        System.remove(folder, name)
    }
}

#[cfg(unix)]
#[test]
fn what_takes_the_place_of_what_was_checked_is_not_written_to() {
    use std::os::unix::fs::symlink;
    let (place, model, wanted) = several();
    let before = files(&model);
    let victims = place.path().join("victims");
    let put = |folder: &Path, files: &BTreeMap<String, Vec<u8>>| {
        if folder.is_symlink() {
            std::fs::remove_file(folder).unwrap();
        }
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir(folder).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    };
    in_place(&Folder::lock(&model).unwrap(), &plan(&model, &wanted).unwrap(), SETTINGS).unwrap();
    let patched = files(&model);
    let mut unfinished = patched.clone();
    let journal = String::from_utf8(patched[RECEIPT].clone()).unwrap().replace("\"applied\"", "\"applying\"");
    unfinished.insert(RECEIPT.into(), journal.into());
    let patch = |disk: &mut dyn Disk| {
        let folder = Folder::lock(&model)?;
        in_place_with(&folder, &plan(&model, &wanted)?, SETTINGS, disk).map(drop)
    };
    let undo = |disk: &mut dyn Disk| unpatch_with(&model, disk).map(drop);
    type Run<'a> = &'a dyn Fn(&mut dyn Disk) -> Result<()>;
    let runs: [(&BTreeMap<String, Vec<u8>>, Run); 3] = [(&before, &patch), (&patched, &undo), (&unfinished, &undo)];
    for (of, run) in runs {
        // Each of its files becomes a link; or the folder does.
        let files_swapped = || {
            for name in of.keys().filter(|name| **name != "config.json") {
                let _ = std::fs::remove_file(model.join(name));
                symlink(victims.join(name), model.join(name)).unwrap();
            }
        };
        let folder_swapped = || {
            std::fs::rename(&model, place.path().join("moved")).unwrap();
            symlink(&victims, &model).unwrap();
        };
        let swaps: [&dyn Fn(); 2] = [&files_swapped, &folder_swapped];
        for swap in swaps {
            for steps in 0..4 {
                put(&model, of);
                put(&victims, &patched);
                let _ = std::fs::remove_dir_all(place.path().join("moved"));
                let _ = run(&mut Swapping { swap, steps });
                assert!(files(&victims) == patched, "{steps} steps before");
                if model.is_symlink() {
                    std::fs::remove_file(&model).unwrap();
                }
            }
        }
    }
}
