//! Vaults of packed weights, in every form: what was done to a row or column of codes and scales is taken back bit for
//! bit, and no bit of another row or column is written.

use super::restore::restore_with;
use super::tests::{Failing, files};
use super::vault::{Index, Packed, Part, Vault, keep};
use super::*;
use crate::checkpoint::header::Header;
use crate::checkpoint::packing::tests::{Form, MODULE, forms, write};
use crate::checkpoint::packing::{Axis, NumberType, OwnBits, Span};
use crate::checkpoint::{Checkpoint, Opened, sha256_hex};
use crate::neuron::{Intervention, Neuron};
use crate::progress::Silent;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const FILE: &str = "model.safetensors";
const FORCE: RestoreSettings = RestoreSettings { dry_run: false, force: true };
/// Neighbours too, whose codes share bytes.
const NEURONS: [&str; 6] = ["out:0", "out:11", "out:12", "in:0", "in:36", "in:37"];

/// A folder of the form, and a vault beside it of some of its neurons.
fn kept(form: &Form, neurons: &[&str]) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let (model, vault) = (place.path().join("model"), place.path().join("vault.safetensors"));
    std::fs::create_dir(&model).unwrap();
    write(form, &model);
    let neurons: Vec<Neuron> = neurons.iter().map(|neuron| format!("{MODULE}:{neuron}").parse().unwrap()).collect();
    let checkpoint = Checkpoint::open(model.to_str().unwrap(), &Silent).unwrap();
    keep(&checkpoint, None, &neurons, &vault).unwrap();
    (place, model, vault)
}

/// The bits of a neuron such as `out:11`.
fn own(model: &Path, neuron: &str, see: impl FnOnce(Vec<OwnBits>)) {
    let tensors = Opened::folder_at(model).tensors().unwrap();
    let (side, index) = neuron.split_once(':').unwrap();
    let axis = if side == "out" { Axis::Row } else { Axis::Column };
    see(tensors.weight(&format!("{MODULE}.weight")).unwrap().own_bits(axis, index.parse().unwrap()).unwrap());
}

/// Changes the bits of a mask to others, which `to` makes of what they are.
fn change(bytes: &mut [u8], span: Span, mask: &[u8], to: &mut dyn FnMut(u8) -> u8) {
    for (at, mask) in span.offsets().flat_map(|at| at..at + span.piece_bytes).zip(mask) {
        let byte = &mut bytes[at as usize];
        *byte = *byte & !mask | to(*byte) & mask;
    }
}

#[test]
fn whatever_was_done_to_a_row_or_column_is_taken_back() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut restored_parts = BTreeMap::new();
    for form in forms() {
        for neurons in NEURONS.iter().map(std::slice::from_ref).chain([&NEURONS[..]]) {
            let (_place, model, vault) = kept(&form, neurons);
            let before = files(&model);
            let mut lesions: Vec<Vec<u8>> = Vec::new();
            let mut lesion = |only: Option<usize>, to: &mut dyn FnMut(u8) -> u8| {
                let mut bytes = before[FILE].clone();
                for neuron in neurons {
                    own(&model, neuron, |own| {
                        for (at, part) in own.iter().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at)) {
                            restored_parts.entry(part.place.tensor.to_owned()).or_insert(at);
                            change(&mut bytes, part.place.span, &part.mask, to);
                        }
                    });
                }
                lesions.push(bytes);
            };
            // Codes zeroed; scales zeroed, NaN; all of it random, or the other way round.
            lesion(Some(0), &mut |_| 0);
            lesion(Some(1), &mut |_| 0);
            lesion(Some(1), &mut |_| 0xff);
            lesion(None, &mut |_| random.random());
            lesion(None, &mut |byte| !byte);
            for bytes in lesions {
                std::fs::write(model.join(FILE), &bytes).unwrap();
                let restored = restore(&model, &vault, RestoreSettings::default()).unwrap();
                assert_eq!((restored.changed() > 0, restored.other_tensors.len()), (bytes != before[FILE], 0));
                assert!(files(&model) == before, "{} {neurons:?}", form.name);
            }
        }
    }
    println!("{restored_parts:?}");
    assert!(
        ["_zero_point", ".qzeros", ".scales", ".SCB", ".absmax"]
            .iter()
            .all(|end| restored_parts.keys().any(|tensor| tensor.ends_with(end)))
    );
}

#[test]
fn codes_and_scales_in_shards_of_their_own_come_back() {
    let form = forms().into_iter().find(|form| form.name == "INT8 by channel with zero points").unwrap();
    let (_place, model, vault) = kept(&form, &["out:11", "in:37"]);
    std::fs::remove_file(model.join(FILE)).unwrap();
    let (mut map, count) = (serde_json::Map::new(), form.tensors.len());
    for (at, (name, dtype, shape, bytes)) in form.tensors.iter().enumerate() {
        let shard = format!("model-{:05}-of-{count:05}.safetensors", at + 1);
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        safetensors::serialize_to_file([(name, view)], None, &model.join(&shard)).unwrap();
        map.insert(name.clone(), shard.into());
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let before = files(&model);
    for neuron in ["out:11", "in:37"] {
        let mut lesioned = before.clone();
        own(&model, neuron, |own| {
            for part in &own {
                let file = part.place.file.path().file_name().unwrap().to_str().unwrap();
                change(lesioned.get_mut(file).unwrap(), part.place.span, &part.mask, &mut |byte| !byte);
            }
        });
        lesioned.iter().for_each(|(name, bytes)| std::fs::write(model.join(name), bytes).unwrap());
        let restored = restore(&model, &vault, RestoreSettings::default()).unwrap();
        assert_eq!(restored.changed(), if neuron == "out:11" { 4 } else { 2 });
        assert!(files(&model) == before);
    }
}

#[test]
fn no_bit_of_another_row_or_column_is_written() {
    for form in forms() {
        let (_place, model, vault) = kept(&form, &["out:11", "in:37"]);
        let before = files(&model)[FILE].clone();
        let codes: Vec<_> = Header::read(&before).unwrap().tensors.into_iter().map(|t| t.bytes).collect();
        // Every bit of all codes is another; those of the two alone come back.
        let mut lesioned = before.clone();
        let tensors = Opened::folder_at(&model).tensors().unwrap();
        let stored = tensors.weight(&format!("{MODULE}.weight")).unwrap().stored()[0].to_owned();
        let place = tensors.get(&stored).unwrap().place.clone().unwrap().1;
        assert!(codes.contains(&place));
        lesioned[place.start as usize..place.end as usize].iter_mut().for_each(|byte| *byte = !*byte);
        std::fs::write(model.join(FILE), &lesioned).unwrap();
        let refused = restore(&model, &vault, RestoreSettings::default()).unwrap_err().to_string();
        assert!(refused.contains("--force") && files(&model)[FILE] == lesioned, "{}: {refused}", form.name);
        restore(&model, &vault, FORCE).unwrap();
        for neuron in ["out:11", "in:37"] {
            own(&model, neuron, |own| {
                let OwnBits { place, mask } = &own[0];
                let kept = place.span.read(&before).unwrap();
                let mut kept = kept.iter();
                change(&mut lesioned, place.span, mask, &mut |_| *kept.next().unwrap());
            });
        }
        assert!(files(&model)[FILE] == lesioned, "{}", form.name);
    }
}

#[test]
fn a_patch_whose_undo_file_was_lost_is_undone() {
    for form in forms() {
        for (neuron, beta) in [("out:11", 0.0), ("in:37", 0.0), ("out:11", 0.5)] {
            let (_place, model, vault) = kept(&form, &[neuron]);
            let before = files(&model);
            let checkpoint = Checkpoint::open(model.to_str().unwrap(), &Silent).unwrap();
            let neuron = format!("{MODULE}:{neuron}").parse().unwrap();
            let asked = [Intervention { neuron, action: crate::neuron::Action::Scale(beta) }];
            let plan = match Plan::new(&checkpoint, None, &asked) {
                Err(_) if beta != 0.0 => continue,
                plan => plan.unwrap(),
            };
            in_place(&Folder::lock(&model).unwrap(), &plan, WriteSettings::default()).unwrap();
            std::fs::remove_file(model.join(UNDO)).unwrap();
            assert!(restore(&model, &vault, RestoreSettings::default()).unwrap().patch_undone);
            assert!(files(&model) == before, "{}", form.name);
        }
    }
}

#[test]
fn a_restore_of_codes_that_stops_anywhere_can_be_finished() {
    let form = forms().into_iter().find(|form| form.name == "AWQ").unwrap();
    let (_place, model, vault) = kept(&form, &NEURONS);
    let before = files(&model);
    let mut lesioned = before[FILE].clone();
    for neuron in NEURONS {
        own(&model, neuron, |own| {
            own.iter().for_each(|part| change(&mut lesioned, part.place.span, &part.mask, &mut |_| 0));
        });
    }
    let mut stops = 0;
    for left in 0.. {
        std::fs::write(model.join(FILE), &lesioned).unwrap();
        let settings = RestoreSettings::default();
        if restore_with(&model, &vault, settings, &mut Failing { left, dead: true }).is_ok() {
            break;
        }
        stops += 1;
        let kept = Vault::read(&vault).unwrap();
        Folder::lock_with(&model, &restore::vouch(&model, &kept), &mut super::disk::System).unwrap();
        restore(&model, &vault, settings).unwrap();
        assert!(files(&model) == before, "stopped at step {left}");
    }
    assert!(files(&model) == before && stops > 20, "{stops}");
}

#[test]
fn a_vault_of_another_packing_is_refused_by_name() {
    let forms = forms();
    let vaults: Vec<_> = forms.iter().map(|form| kept(form, &["out:11", "in:37"])).collect();
    let (mut refused, mut doubted) = (0, 0);
    for (at, (_, _, vault)) in vaults.iter().enumerate() {
        for (to, (_, model, _)) in vaults.iter().enumerate().filter(|(to, _)| *to != at) {
            let before = files(model);
            let error = restore(model, vault, RestoreSettings::default()).unwrap_err().to_string();
            let is_named = ["taken from another checkpoint", "lies as the vault's does", "has no "];
            assert!(!error.contains('\n') && error.contains(MODULE), "{error}");
            match is_named.iter().any(|why| error.contains(why)) {
                true => refused += 1,
                // Of one form, with other values.
                false => {
                    assert!(error.contains("--force") && forms[at].name == forms[to].name, "{error}");
                    doubted += 1;
                }
            }
            assert!(files(model) == before);
        }
    }
    println!("{refused} refused, {doubted} doubted");
    assert!(refused > 10 * doubted);
    // Nor one of dense weights for codes, or the other way round.
    let (_place, model, vault) = kept(&forms[0], &["out:11"]);
    let dense = tempfile::tempdir().unwrap();
    std::fs::write(dense.path().join("config.json"), "{}").unwrap();
    let values = vec![0; 24 * 64 * 2];
    let view = TensorView::new(Dtype::BF16, vec![24, 64], &values).unwrap();
    safetensors::serialize_to_file([(format!("{MODULE}.weight"), view)], None, &dense.path().join(FILE)).unwrap();
    let beside = tempfile::tempdir().unwrap();
    let of_dense = beside.path().join("vault.safetensors");
    let checkpoint = Checkpoint::open(dense.path().to_str().unwrap(), &Silent).unwrap();
    keep(&checkpoint, None, &[format!("{MODULE}:out:11").parse().unwrap()], &of_dense).unwrap();
    for (folder, vault, says) in [
        (dense.path(), &vault, "is BF16 [24, 64], the vault keeps a part of FP8 [24, 64]"),
        (&model, &of_dense, "is FP8 [24, 64], the vault keeps a part of BF16 [24, 64]"),
    ] {
        let error = restore(folder, vault, RestoreSettings::default()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_vault_that_lies_changes_nothing() {
    let form = forms().into_iter().find(|form| form.name == "AWQ").unwrap();
    let (place, model, vault) = kept(&form, &["out:11"]);
    let before = files(&model);
    let bytes = std::fs::read(&vault).unwrap();
    let header = Header::read(&bytes).unwrap();
    let index: Index = serde_json::from_str(&header.metadata["vault"]).unwrap();
    let of = |t: &crate::checkpoint::header::TensorEntry| bytes[t.bytes.start as usize..t.bytes.end as usize].to_vec();
    let kept: BTreeMap<String, Vec<u8>> = header.tensors.iter().map(|t| (t.name.clone(), of(t))).collect();
    let packed =
        |change: fn(&mut Packed)| move |part: &mut Part, _: &mut Vec<u8>| part.packed.iter_mut().for_each(change);
    type Lie<'a> = &'a dyn Fn(&mut Part, &mut Vec<u8>);
    let lies: [(&str, Lie); 11] = [
        (
            "is AWQ INT4 [24, 64], the vault keeps a part of AWQ INT3",
            &packed(|packed| packed.format = "AWQ INT3".into()),
        ),
        ("the vault keeps a part of AWQ INT4 [24, 18446744073709551615]", &packed(|p| p.shape[1] = usize::MAX)),
        ("is missing", &packed(|packed| packed.weight = "model.x.weight".into())),
        ("has no row 11 of numbers", &|part, _| part.packed = None),
        (
            "has no model.layers.0.mlp.down_proj.scales F64 [2, 24]",
            &packed(|packed| packed.stored[2].dtype = Dtype::F64),
        ),
        ("has no row 11 of", &|part, _| part.shape[0] = 1),
        ("has no row 11 of", &|part, _| part.dtype = Dtype::F32),
        ("has no row 24", &|part, _| part.index = 24),
        ("has no row 18446744073709551615", &|part, _| part.index = usize::MAX),
        ("has no row 11 of", &|part, _| part.tensor = format!("{MODULE}.g_idx")),
        // Bits that are another's.
        ("has no row 11 of", &|_, bytes| bytes[0] = 0xff),
    ];
    for (says, lie) in lies {
        let (mut index, mut tensors) = (index.clone(), kept.clone());
        let part = &mut index.parts[0];
        let mut bytes = tensors.remove(&part.key()).unwrap();
        lie(part, &mut bytes);
        part.sha256 = sha256_hex(&bytes);
        tensors.insert(part.key(), bytes);
        let views = tensors.iter().map(|(name, data)| {
            let dtype = match index.parts.iter().find(|p| p.key() == *name) {
                Some(Part { packed: None, dtype, .. }) => *dtype,
                _ => Dtype::U8,
            };
            let elements = data.len() / NumberType::of(dtype).bytes();
            (name.clone(), TensorView::new(dtype, vec![elements], &data[..elements * dtype.bitsize() / 8]).unwrap())
        });
        let metadata =
            [("schema", "achilles-audit/vault/v1".into()), ("vault", serde_json::to_string(&index).unwrap())];
        let metadata: HashMap<String, String> = metadata.map(|(k, v): (_, String)| (k.into(), v)).into();
        let lying = place.path().join("lying.safetensors");
        std::fs::write(&lying, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
        let error = restore(&model, &lying, FORCE).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{says}: {error}");
        assert!(files(&model) == before);
    }
}

/// Whatever a row's scales and zero points are: what is masked is decoded to zeros, or refused.
#[test]
fn a_mask_is_exact_or_refused() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let (mut masked, mut refused) = (0, 0);
    for form in forms() {
        for neuron in ["out:11", "in:37"] {
            for damage in [0, 1, 2, 3] {
                let place = tempfile::tempdir().unwrap();
                write(&form, place.path());
                let mut bytes = std::fs::read(place.path().join(FILE)).unwrap();
                // What row 11 has beside its codes: nothing else, NaN, anything.
                own(place.path(), "out:11", |own| {
                    for part in &own[1..] {
                        let to: &mut dyn FnMut(u8) -> u8 = match damage {
                            0 => &mut |byte| byte,
                            1 => &mut |_| 0xff,
                            _ => &mut |_| random.random(),
                        };
                        change(&mut bytes, part.place.span, &part.mask, to);
                    }
                });
                std::fs::write(place.path().join(FILE), bytes).unwrap();
                let checkpoint = Checkpoint::open(place.path().to_str().unwrap(), &Silent).unwrap();
                let asked = [Intervention::zero(format!("{MODULE}:{neuron}").parse().unwrap())];
                let plan = match Plan::new(&checkpoint, None, &asked) {
                    Ok(plan) => plan,
                    Err(e) => {
                        let known = ["infinite or not a number", "no code of", "cannot be", "at no equal distances"];
                        assert!(known.iter().any(|known| e.to_string().contains(known)), "{e}");
                        refused += 1;
                        continue;
                    }
                };
                in_place(&Folder::lock(place.path()).unwrap(), &plan, WriteSettings::default()).unwrap();
                let tensors = Opened::folder_at(place.path()).tensors().unwrap();
                let weight = tensors.weight(&format!("{MODULE}.weight")).unwrap();
                let (axis, index) = neuron.split_once(':').unwrap();
                let index: usize = index.parse().unwrap();
                let values: Vec<f64> = match axis {
                    "out" => weight.rows(index..index + 1).unwrap().row(0),
                    _ => weight.columns(&[index]).unwrap().concat(),
                };
                assert!(values.iter().all(|value| *value == 0.0), "{} {neuron} {damage}: {values:?}", form.name);
                masked += 1;
            }
        }
    }
    println!("{masked} masked, {refused} refused");
    assert!(masked > refused && refused > 10);
}
