//! Random checkpoints: what a vault keeps comes back bit for bit, whatever happened to it and wherever a run stops; a
//! vault that is not sound, or not this checkpoint's, changes nothing.

use super::restore::restore_with;
use super::tests::{Failing, checkpoint, files, open, plan, several, some_interventions};
use super::vault::{Index, Part, Vault, keep};
use super::*;
use crate::checkpoint::header::Header;
use crate::neuron::{Intervention, Neuron};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

type Files = BTreeMap<String, Vec<u8>>;

const PLAIN: RestoreSettings = RestoreSettings { dry_run: false, force: false };
const FORCE: RestoreSettings = RestoreSettings { dry_run: false, force: true };
const DRY: RestoreSettings = RestoreSettings { dry_run: true, force: false };

fn zero(neurons: &[Intervention]) -> Vec<Intervention> {
    neurons.iter().map(|i| Intervention::zero(i.neuron.clone())).collect()
}

/// Keeps the neurons of a folder in a vault beside it.
fn vault_of(model: &Path, neurons: &[Intervention]) -> std::path::PathBuf {
    let (opened, recipe) = open(model);
    let path = model.with_file_name("vault.safetensors");
    let neurons: Vec<Neuron> = neurons.iter().map(|i| i.neuron.clone()).collect();
    keep(&opened, &recipe, &neurons, &path).unwrap();
    path
}

fn write(root: &Path, files: &Files) {
    for entry in std::fs::read_dir(root).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    files.iter().for_each(|(name, bytes)| std::fs::write(root.join(name), bytes).unwrap());
}

/// Flips bits in some of what the plan would change.
fn damage(files: &mut Files, plan: &Plan, random: &mut ChaCha8Rng) {
    for edit in &plan.edits {
        let offsets: Vec<u64> = edit.span.offsets().collect();
        for _ in 0..random.random_range(1..5) {
            let at = offsets[random.random_range(0..offsets.len())] + random.random_range(0..edit.span.piece_bytes);
            files.get_mut(&edit.file).unwrap()[at as usize] ^= 1 << random.random_range(0..8);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_a_vault_keeps_comes_back(seed: u64) {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let place = tempfile::tempdir().unwrap();
        let model = place.path().join("model");
        std::fs::create_dir(&model).unwrap();
        checkpoint(&model, random);
        let (_, recipe) = open(&model);
        let mut wanted = zero(&some_interventions(&recipe, random));
        wanted.retain(|i| plan(&model, std::slice::from_ref(i)).is_ok());
        prop_assume!(!wanted.is_empty());
        let vault = vault_of(&model, &wanted);
        let plan = plan(&model, &wanted).unwrap();
        let before = files(&model);

        // The reference reads it, and finds the bytes.
        let bytes = std::fs::read(&vault).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(theirs.len(), plan.edits.len());
        for edit in &plan.edits {
            let name = format!("{}:{}:{}", edit.place.tensor, edit.place.axis.as_str(), edit.place.index);
            let tensor = theirs.tensor(&name).unwrap();
            prop_assert_eq!((tensor.dtype(), tensor.data()), (edit.dtype, edit.before.as_slice()));
        }

        prop_assert_eq!(restore(&model, &vault, PLAIN).unwrap().changed(), 0);
        prop_assert!(files(&model) == before);
        let mut damaged = before.clone();
        damage(&mut damaged, &plan, random);
        write(&model, &damaged);
        let dry = restore(&model, &vault, DRY).unwrap();
        prop_assert!(files(&model) == damaged);
        let restored = restore(&model, &vault, PLAIN).unwrap();
        prop_assert_eq!(&restored, &dry);
        prop_assert_eq!(restored.parts.len(), plan.edits.len());
        // Two flips can meet and undo each other.
        prop_assert!(restored.changed() > 0 || damaged == before);
        prop_assert!(files(&model) == before);

        // Damage outside of what the vault keeps is not its business, and makes it doubt.
        let edit = &plan.edits[0];
        let tensor = open(&model).0.tensors().get(&edit.place.tensor).unwrap().place.clone().unwrap().1;
        let kept = |at: &u64| plan.edits.iter().filter(|e| e.file == edit.file)
            .any(|e| e.span.offsets().any(|o| (o..o + e.span.piece_bytes).contains(at)));
        let Some(other) = tensor.clone().find(|at| !kept(at)) else { return Ok(()) };
        let mut elsewhere = before.clone();
        elsewhere.get_mut(&edit.file).unwrap()[other as usize] ^= 1;
        write(&model, &elsewhere);
        let restored = restore(&model, &vault, PLAIN).unwrap();
        prop_assert_eq!((restored.changed(), restored.other_tensors.len()), (0, 1));
        let mut both = elsewhere.clone();
        both.get_mut(&edit.file).unwrap()[edit.span.offset as usize] ^= 1;
        write(&model, &both);
        let refused = restore(&model, &vault, PLAIN).unwrap_err().to_string();
        prop_assert!(refused.contains("--force"), "{}", refused);
        prop_assert!(files(&model) == both);
        prop_assert_eq!(restore(&model, &vault, FORCE).unwrap().changed(), 1 + crossing(&plan));
        prop_assert!(files(&model) == elsewhere);
    }
}

/// How many other edits hold the first byte of the first one.
fn crossing(plan: &Plan) -> usize {
    let first = &plan.edits[0];
    let holds = |e: &&Edit| e.file == first.file && e.span.offsets().any(|o| o == first.span.offset);
    plan.edits[1..].iter().filter(holds).count()
}

#[test]
fn a_patch_is_undone_by_a_vault_that_keeps_enough() {
    let (_place, model, wanted) = several();
    let before = files(&model);
    let vault = vault_of(&model, &wanted);
    let patched = |interventions: &[Intervention]| {
        let settings = WriteSettings { link: false, digests: true };
        in_place(&Folder::lock(&model).unwrap(), &plan(&model, interventions).unwrap(), settings).unwrap();
        files(&model)
    };
    // With the undo file and without; changed again since or not; one neuron of the vault's or all.
    for (some, lost, damaged) in [(4, false, false), (4, true, false), (4, true, true), (1, true, false)] {
        let mut now = patched(&wanted[..some]);
        if lost {
            now.remove(UNDO);
        }
        if damaged {
            damage(&mut now, &plan(&model, &wanted).unwrap(), &mut ChaCha8Rng::seed_from_u64(1));
        }
        write(&model, &now);
        assert!(restore(&model, &vault, DRY).unwrap().patch_undone);
        assert!(files(&model) == now);
        assert!(restore(&model, &vault, PLAIN).unwrap().patch_undone);
        assert!(files(&model) == before, "{some} {lost} {damaged}");
    }
    let more = [&wanted[..], &[Intervention::zero("L1.mlp.down_proj:out:2".parse().unwrap())]].concat();
    let now = patched(&more);
    let error = restore(&model, &vault, PLAIN).unwrap_err().to_string();
    assert!(error.contains("does not keep all that the patch changed"), "{error}");
    let (opened, recipe) = open(&model);
    let neurons: Vec<Neuron> = wanted.iter().map(|i| i.neuron.clone()).collect();
    let again = keep(&opened, &recipe, &neurons, &model.with_file_name("v2.safetensors"));
    assert!(again.unwrap_err().to_string().contains("is patched"));
    assert!(files(&model) == now);
}

#[test]
fn a_restore_that_stops_anywhere_leaves_the_damage_or_the_original() {
    let (_place, model, wanted) = several();
    let before = files(&model);
    let vault = vault_of(&model, &wanted);
    let mut damaged = before.clone();
    damage(&mut damaged, &plan(&model, &wanted).unwrap(), &mut ChaCha8Rng::seed_from_u64(2));
    write(&model, &before);
    in_place(&Folder::lock(&model).unwrap(), &plan(&model, &wanted).unwrap(), WriteSettings::default()).unwrap();
    let mut patched = files(&model);
    patched.remove(UNDO);
    let (mut stops, mut journals) = (0, 0);
    for from in [damaged, patched] {
        for dead in [true, false] {
            for left in 0.. {
                write(&model, &from);
                if restore_with(&model, &vault, PLAIN, &mut Failing { left, dead }).is_ok() {
                    assert!(files(&model) == before);
                    break;
                }
                stops += 1;
                // Nobody but the vault says what a restore was to do.
                if Receipt::read(&model).unwrap().is_some_and(|r| r.asked.is_empty() && r.state == State::Applying)
                    && model.join(UNDO).exists()
                {
                    let now = files(&model);
                    let error = unpatch(&model).unwrap_err().to_string();
                    assert!(error.contains("run `achilles-audit restore` with that again"), "{error}");
                    assert!(files(&model) == now, "stopped at step {left}");
                    journals += 1;
                }
                // The next run finishes the way back or forth, even if it is stopped at every step once.
                let kept = Vault::read(&vault).unwrap();
                let finishes = |left| {
                    Folder::lock_with(&model, &restore::vouch(&model, &kept), &mut Failing { left, dead: true }).is_ok()
                };
                assert!((0..100).any(finishes), "stopped at step {left}");
                let now = files(&model);
                let undo_is_back = |files: &BTreeMap<_, _>| {
                    let mut files: Files = files.clone();
                    files.remove(UNDO);
                    files == from
                };
                assert!(now == before || undo_is_back(&now), "stopped at step {left}");
                restore(&model, &vault, PLAIN).unwrap();
                assert!(files(&model) == before, "stopped at step {left}");
            }
        }
    }
    println!("{stops} stops of a restore");
    assert!(stops >= 60 && journals >= 5, "{stops} {journals}");
}

/// All tensors in one file, in another order, and named with `prefix` for `model.`.
fn saved_again(before: &Files, prefix: &str) -> Files {
    let shards: Vec<&Vec<u8>> = before.iter().filter(|(n, _)| n.ends_with(".safetensors")).map(|(_, b)| b).collect();
    let read: Vec<SafeTensors> = shards.iter().map(|b| SafeTensors::deserialize(b).unwrap()).collect();
    let renamed = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => format!("{prefix}{rest}"),
        None => name.to_owned(),
    };
    let tensors: Vec<(String, TensorView)> =
        read.iter().flat_map(|file| file.tensors()).map(|(name, view)| (renamed(&name), view)).collect();
    let mut files = before.clone();
    files.retain(|name, _| !name.contains(".safetensors"));
    files.insert("model.safetensors".into(), safetensors::serialize(tensors, None).unwrap());
    files
}

#[test]
fn weights_that_were_saved_again_are_found_by_name() {
    let (_place, model, wanted) = several();
    let vault = vault_of(&model, &wanted);
    let original = files(&model);
    for prefix in ["model.", ""] {
        let before = saved_again(&original, prefix);
        write(&model, &before);
        let plan = plan(&model, &wanted).unwrap();
        let mut damaged = before.clone();
        damage(&mut damaged, &plan, &mut ChaCha8Rng::seed_from_u64(3));
        write(&model, &damaged);
        assert!(restore(&model, &vault, PLAIN).unwrap().changed() > 0);
        assert!(files(&model) == before, "{prefix}");
        // The receipt names what the file names.
        in_place(&Folder::lock(&model).unwrap(), &plan, WriteSettings::default()).unwrap();
        unpatch(&model).unwrap();
        assert!(files(&model) == before, "{prefix}");
    }
}

/// A vault of the index and tensors that `change` makes.
fn changed_vault(bytes: &[u8], change: impl FnOnce(&mut Index, &mut Files)) -> Vec<u8> {
    let header = Header::read(bytes).unwrap();
    let mut index: Index = serde_json::from_str(&header.metadata["vault"]).unwrap();
    let kept =
        |t: &crate::checkpoint::header::TensorEntry| bytes[t.bytes.start as usize..t.bytes.end as usize].to_vec();
    let mut tensors: Files = header.tensors.iter().map(|t| (t.name.clone(), kept(t))).collect();
    change(&mut index, &mut tensors);
    let views = tensors.iter().map(|(name, data)| {
        let of_part = index.parts.iter().find(|p| p.key() == *name).map(|p| p.dtype);
        let dtype = of_part.unwrap_or(safetensors::Dtype::U8);
        (name.clone(), TensorView::new(dtype, vec![data.len() * 8 / dtype.bitsize()], data).unwrap())
    });
    let metadata = [("schema", "achilles-audit/vault/v1".into()), ("vault", serde_json::to_string(&index).unwrap())];
    let metadata: HashMap<String, String> = metadata.map(|(k, v): (_, String)| (k.into(), v)).into();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[test]
fn a_vault_that_is_not_sound_changes_nothing() {
    let (place, model, wanted) = several();
    let vault = vault_of(&model, &wanted);
    let good = std::fs::read(&vault).unwrap();
    let mut damaged = files(&model);
    damage(&mut damaged, &plan(&model, &wanted).unwrap(), &mut ChaCha8Rng::seed_from_u64(4));
    write(&model, &damaged);
    let changed = |change: &dyn Fn(&mut Index, &mut Files)| changed_vault(&good, change);
    let row = |index: &Index| index.parts.iter().position(|p| p.axis.as_str() == "row").unwrap();
    let renamed = |index: &mut Index, tensors: &mut Files, change: &dyn Fn(&mut Part)| {
        let at = row(index);
        let bytes = tensors.remove(&index.parts[at].key()).unwrap();
        change(&mut index.parts[at]);
        tensors.insert(index.parts[at].key(), bytes);
    };
    let text = |from: &str, to: &str| {
        let header = String::from_utf8_lossy(&good[8..]).into_owned();
        assert!(header.contains(from) && from.len() == to.len());
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
    };
    let last = good.len() - 1;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("is not what it was written with", [&good[..last], &[good[last] ^ 1]].concat()),
        ("truncated", good[..last].to_vec()),
        ("follow the last tensor", [&good[..], b"x"].concat()),
        ("has the schema \"achilles-audit/vault/v9\"", text("vault/v1", "vault/v9")),
        ("is not a vault", text("\"schema\"", "\"scheme\"")),
        ("is not a vault", std::fs::read(model.join(plan(&model, &wanted).unwrap().files().first().unwrap())).unwrap()),
        ("does not hold its part", changed(&|_, tensors| drop(tensors.pop_first()))),
        ("which is none of its parts", changed(&|_, tensors| drop(tensors.insert("x".into(), vec![0; 4])))),
        ("does not hold its part", changed(&|index, _| index.parts.push(index.parts[0].clone()))),
        ("is missing", changed(&|i, t| renamed(i, t, &|part| part.tensor = "model.x.weight".into()))),
        ("the vault keeps a part of", changed(&|i, t| renamed(i, t, &|part| part.shape = vec![8, 4]))),
        ("the vault keeps a part of", changed(&|i, t| renamed(i, t, &|part| part.shape = vec![usize::MAX; 2]))),
        ("has no row 8", changed(&|i, t| renamed(i, t, &|part| part.index = 8))),
        ("has no row 18446744073709551615", changed(&|i, t| renamed(i, t, &|part| part.index = usize::MAX))),
        (
            "has no column 0 of",
            changed(&|i, t| {
                renamed(i, t, &|part| (part.index, part.axis) = (0, crate::architecture::place::Axis::Column))
            }),
        ),
        ("the vault keeps a part of", changed(&|index, _| index.parts[0].dtype = safetensors::Dtype::U8)),
        ("--force", changed(&|index, _| index.parts.iter_mut().for_each(|p| p.rest_sha256 = "0".repeat(64)))),
        (
            "contradicts itself where a row crosses",
            changed(&|index, tensors| {
                let at = index.parts.iter().position(|p| p.axis.as_str() == "column").unwrap();
                let bytes = tensors.get_mut(&index.parts[at].key()).unwrap();
                bytes.iter_mut().for_each(|b| *b ^= 1);
                index.parts[at].sha256 = crate::checkpoint::sha256_hex(bytes);
            }),
        ),
    ];
    let bad = place.path().join("bad.safetensors");
    for (says, bytes) in cases {
        std::fs::write(&bad, bytes).unwrap();
        let error = restore(&model, &bad, PLAIN).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{says}: {error}");
        assert!(files(&model) == damaged, "{says}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_vault_with_a_changed_byte_restores_or_changes_nothing(at: prop::sample::Index, byte: u8) {
        let (place, model, wanted) = several();
        let mut bytes = std::fs::read(vault_of(&model, &wanted)).unwrap();
        let before = files(&model);
        let mut damaged = before.clone();
        damage(&mut damaged, &plan(&model, &wanted).unwrap(), &mut ChaCha8Rng::seed_from_u64(5));
        write(&model, &damaged);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let bad = place.path().join("bad.safetensors");
        std::fs::write(&bad, bytes).unwrap();
        let restored = restore(&model, &bad, PLAIN);
        prop_assert!(files(&model) == if restored.is_ok() { before } else { damaged }, "{at} {byte}");
    }
}
