//! Fingerprints and diffs: every change is found, placed to its row and column, and a lesion told by neuron and factor.

use super::patch::{FAST, copy, families, one_of_each, open};
use crate::smollm2_folder;
use crate::tiny::Place;
use achilles_audit::architecture::place::Axis;
use achilles_audit::checkpoint::header::Header;
use achilles_audit::checkpoint::{Opened, hex};
use achilles_audit::integrity::diff::{Diff, diff};
use achilles_audit::integrity::difference::{Difference, LineChange, Pattern};
use achilles_audit::integrity::fingerprint::{Cache, Fingerprint, FingerprintSettings, take};
use achilles_audit::integrity::verify::verify;
use achilles_audit::neuron::{Action, Intervention};
use achilles_audit::patch::{self, Plan};
use achilles_audit::progress::Silent;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::path::Path;

const BETAS: [f64; 7] = [0.0, 0.3, 0.5, 0.8, 2.0, 5.0, -1.0];

fn fingerprint(folder: &Path) -> Fingerprint {
    let taken = take(&Opened::folder_at(folder), &FingerprintSettings::default(), None, None, &Silent).unwrap();
    assert_eq!(taken.problems, []);
    taken.fingerprint
}

fn differences(folder: &Path, before: &Fingerprint) -> Vec<Difference> {
    let found = verify(&Opened::folder_at(folder), before, None, None, &Silent).unwrap();
    assert_eq!(found.intact, found.differences.is_empty());
    found.differences
}

fn diff_of(a: &Path, b: &Path) -> achilles_audit::Result<Diff> {
    diff(&Opened::folder_at(a), &Opened::folder_at(b), &Silent)
}

/// The lines of the one tensor that changed.
fn lines<'a>(found: &'a [Difference], tensor: &str) -> &'a [LineChange] {
    let changed = found.iter().filter_map(|d| match d {
        Difference::TensorChanged(change) => Some(change),
        _ => None,
    });
    let changed: Vec<_> = changed.collect();
    let of = changed.iter().find(|change| change.name == tensor);
    &of.unwrap_or_else(|| panic!("{tensor} is not among {changed:?}")).lines
}

/// Writes the tensors of `from` into `shards` files, in another order.
fn reshard(from: &Path, to: &Path, shards: usize) {
    let file = std::fs::read(from.join("model.safetensors")).unwrap();
    let mut tensors = Header::read(&file).unwrap().tensors;
    tensors.reverse();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for t in tensors.iter().skip(shard).step_by(shards) {
            let start = data.len();
            data.extend(&file[t.bytes.start as usize..t.bytes.end as usize]);
            let entry = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, data.len()]});
            header.insert(t.name.clone(), entry);
            weight_map.insert(t.name.clone(), name.clone().into());
        }
        let header = serde_json::to_vec(&header).unwrap();
        std::fs::write(to.join(name), [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat()).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
    std::fs::write(to.join("model.safetensors.index.json"), index).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
}

/// Flips bits one at a time and holds what `verify` says against where the bit lies.
fn flip(folder: &Path, flips: usize, random: &mut ChaCha8Rng) {
    let before = fingerprint(folder);
    let mut paths: Vec<String> = before.files.iter().map(|f| f.path.clone()).collect();
    // Weights are most of the bytes but not of the ways to go wrong.
    paths.sort_by_key(|p| !p.ends_with(".safetensors"));
    let (mut in_weights, mut elsewhere) = (0, 0);
    for at in 0..flips {
        let path = if at % 4 == 0 { &paths[random.random_range(0..paths.len())] } else { &paths[0] };
        let place = folder.join(path);
        let clean = std::fs::read(&place).unwrap();
        let header = if path.ends_with(".safetensors") { Header::read(&clean).ok() } else { None };
        let data = header.as_ref().and_then(|h| h.tensors.first()).map_or(clean.len(), |t| t.bytes.start as usize);
        let offset = if at % 8 == 1 { random.random_range(0..data) } else { random.random_range(0..clean.len()) };
        let mut flipped = clean.clone();
        flipped[offset] ^= 1 << random.random_range(0..8);
        std::fs::write(&place, &flipped).unwrap();
        let found = differences(folder, &before);
        std::fs::write(&place, &clean).unwrap();
        assert!(!found.is_empty(), "{path} byte {offset} was missed");
        let within = |t: &&achilles_audit::checkpoint::header::TensorEntry| t.bytes.contains(&(offset as u64));
        let Some(tensor) = header.as_ref().and_then(|h| h.tensors.iter().find(within)) else {
            let named = |d: &Difference| matches!(d, Difference::FileChanged { path: p, .. } | Difference::NotExamined { path: p, .. } if p == path);
            assert!(found.iter().any(named), "{path} byte {offset}: {found:?}");
            elsewhere += 1;
            continue;
        };
        let element = (offset as u64 - tensor.bytes.start) as usize / (tensor.dtype.bitsize() / 8);
        let columns = if tensor.shape.len() > 1 { *tensor.shape.last().unwrap() } else { 1 };
        let mut expected = vec![element / columns];
        if columns > 1 {
            expected.push(element % columns);
        }
        let placed: Vec<usize> = lines(&found, &tensor.name).iter().map(|line| line.index).collect();
        assert_eq!(placed, expected, "{path} byte {offset} in {}: {found:?}", tensor.name);
        let changed = found.iter().filter(|d| matches!(d, Difference::TensorChanged(_))).count();
        assert_eq!(changed, 1);
        in_weights += 1;
    }
    println!("{flips} flips: {in_weights} in weights, each placed to its row and column; {elsewhere} elsewhere");
    assert!(in_weights > flips / 2 && elsewhere > flips / 10);
    assert_eq!(differences(folder, &before), []);
}

#[test]
fn every_flipped_bit_is_found_and_placed() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let single = Place::new();
    flip(&single.model(), 1000, &mut random);
    let sharded = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qwen3_moe");
    reshard(&from, sharded.path(), 3);
    flip(sharded.path(), 1000, &mut random);
}

#[test]
#[ignore = "needs make model"]
fn every_flipped_bit_of_smollm2_is_found_and_placed() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(smollm2_folder()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    flip(folder.path(), 12, &mut ChaCha8Rng::seed_from_u64(2));
}

/// Bakes β into every kind of neuron and holds `verify` and `diff` to it.
fn lesions(folder: &Path, neurons: Option<&[&str]>) -> usize {
    let before = fingerprint(folder);
    let (checkpoint, recipe) = open(folder);
    let named = neurons.map(|ids| ids.iter().map(|id| id.parse().unwrap()).collect());
    let out = folder.join("../lesioned");
    let mut count = 0;
    for neuron in named.unwrap_or_else(|| one_of_each(&recipe)) {
        for beta in BETAS {
            let change = Intervention { neuron: neuron.clone(), action: Action::Scale(beta) };
            let Ok(plan) = Plan::new(&checkpoint, &recipe, &[change]) else { continue };
            patch::write_new(&checkpoint, &plan, &out, FAST, &Silent).unwrap();
            let found = [differences(&out, &before), diff_of(folder, &out).unwrap().differences];
            for part in recipe.parts(&neuron, checkpoint.tensors()) {
                let stored = checkpoint.tensors().stored_name(&part.tensor);
                for (found, by) in found.iter().zip(["verify", "diff"]) {
                    let lines = lines(found, stored);
                    let has = |axis, index| lines.iter().any(|line| (line.axis, line.index) == (axis, index));
                    // An element of all experts' biases is told by the row and the column that it stands in.
                    if let (Axis::Element, &[_, each]) = (part.axis, part.shape.as_slice()) {
                        let told = has(Axis::Row, part.index / each) && has(Axis::Column, part.index % each);
                        assert!(told, "{by} {neuron} × {beta}: {part} is not in {lines:?}");
                        continue;
                    }
                    let line = lines.iter().find(|line| (line.axis, line.index) == (part.axis, part.index));
                    let line = line.unwrap_or_else(|| panic!("{by} {neuron} × {beta}: {part} is not in {lines:?}"));
                    let told = line.beta.unwrap_or_else(|| panic!("{by} {neuron} × {beta}: no factor in {line:?}"));
                    // An element is rounded once to its type, to bfloat16 by up to 2⁻⁸ of itself; a line averages.
                    let allowed = if part.shape.len() == 1 { 0.01 } else { 0.004 };
                    assert!((told - beta).abs() <= allowed * beta.abs(), "{by} {neuron} × {beta}: {told}");
                    assert_eq!(lines.len(), 1, "{by} {neuron} × {beta}: {lines:?}");
                    assert!(line.neuron.is_some());
                }
            }
            std::fs::remove_dir_all(&out).unwrap();
            count += 1;
        }
    }
    count
}

#[test]
fn a_lesion_is_told_by_neuron_and_factor() {
    let mut count = 0;
    for family in families() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::rename(copy(&family).keep(), &model).unwrap();
        count += lesions(&model, None);
    }
    println!("{count} lesions");
    assert!(count > 16 * 7 * 10);
}

#[test]
#[ignore = "needs make model"]
fn a_lesion_of_smollm2_is_told_by_neuron_and_factor() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&smollm2_folder()).join(file), model.join(file)).unwrap();
    }
    let neurons = ["L11.mlp.down_proj:out:507", "L11.mlp.down_proj:in:1229", "L20.self_attn.o_proj:out:3"];
    assert_eq!(lesions(&model, Some(&neurons)), 21);
}

#[test]
fn a_resharded_copy_has_the_same_tensors() {
    let place = Place::new();
    let from = place.model();
    let to = place.out();
    std::fs::copy(from.join("tokenizer.json"), to.join("tokenizer.json")).unwrap();
    reshard(&from, &to, 3);
    let (single, sharded) = (fingerprint(&from), fingerprint(&to));
    assert_eq!(single.tensors_digest(), sharded.tensors_digest());
    assert_ne!(single.files_sha256(), sharded.files_sha256());
    let found = verify(&Opened::folder_at(&to), &single, None, None, &Silent).unwrap();
    assert!(!found.intact && found.same_tensors && found.is_resharding());
    assert_eq!(diff_of(&from, &to).unwrap().differences, []);

    let file = place.out().join("../f.json");
    std::fs::write(&file, single.to_json("m", None).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(place.run(&["verify", "{out}", file]).status.code(), Some(1));
    assert_eq!(place.run(&["verify", "{out}", file, "--allow-resharding"]).status.code(), Some(0));
    std::fs::write(to.join("extra.safetensors"), std::fs::read(from.join("model.safetensors")).unwrap()).unwrap();
    assert_eq!(place.run(&["verify", "{out}", file, "--allow-resharding"]).status.code(), Some(1));
}

#[test]
fn the_command_says_what_differs() {
    let place = Place::new();
    let run = |args: &[&str], code: i32| {
        let output = place.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["fingerprint", "{model}", "-o", "{model}/f.json"], 0);
    let before = std::fs::read(place.model().join("f.json")).unwrap();
    run(&["fingerprint", "{model}", "-o", "{model}/f.json"], 0);
    assert_eq!(std::fs::read(place.model().join("f.json")).unwrap(), before, "the same folder, the same fingerprint");
    assert!(run(&["verify", "{model}", "{model}/f.json"], 0).starts_with("INTACT: 3 files"));
    run(&["patch", "{model}", "-o", "{out}/p", "--neuron", "L1.mlp.down_proj:out:5"], 0);
    for args in [["verify", "{out}/p", "{model}/f.json"], ["diff", "{model}", "{out}/p"]] {
        let said = run(&args, 1);
        let line = "row 5 of model.layers.1.mlp.down_proj.weight: all zero, was not (neuron L1.mlp.down_proj:out:5)";
        assert!(said.contains(line), "{said}");
        let json: Value = serde_json::from_str(&run(&[&args[..], &["--format", "json"]].concat(), 1)).unwrap();
        let found = json["result"]["differences"].as_array().unwrap();
        let changed = found.iter().find(|d| d["kind"] == "tensor-changed").unwrap();
        assert_eq!(changed["lines"][0]["neuron"], "model.layers.1.mlp.down_proj:out:5");
        assert_eq!(changed["lines"][0]["beta"], 0.0);
    }
    assert!(run(&["diff", "{model}", "{model}"], 0).starts_with("SAME"));
}

#[test]
fn changes_of_other_kinds_are_named() {
    let place = Place::new();
    let before = fingerprint(&place.model());
    let weights = place.model().join("model.safetensors");
    let clean = std::fs::read(&weights).unwrap();
    let length = u64::from_le_bytes(clean[..8].try_into().unwrap()) as usize;
    let with_header = |edit: &dyn Fn(String) -> String| {
        let header = edit(String::from_utf8(clean[8..8 + length].to_vec()).unwrap());
        std::fs::write(
            &weights,
            [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &clean[8 + length..]].concat(),
        )
        .unwrap();
        let found = differences(&place.model(), &before);
        found
            .into_iter()
            .filter(|d| !matches!(d, Difference::FileChanged { same_tensors: false, .. }))
            .collect::<Vec<_>>()
    };
    let name = "model.layers.0.mlp.up_proj.weight";
    let renamed = Difference::TensorRenamed { before: name.into(), after: "x.weight".into() };
    assert_eq!(with_header(&|h| h.replace(name, "x.weight")), [renamed]);
    let found = with_header(&|h| h + "  ");
    assert!(matches!(&found[..], [Difference::FileChanged { same_tensors: true, .. }]), "{found:?}");
    let found = with_header(&|h| h.replace("\"F32\"", "\"I32\""));
    assert_eq!(found.len(), before.tensors.len());
    assert!(matches!(&found[0], Difference::TensorReshaped { .. }));
    let found = with_header(&|h| h.replacen('{', "[", 1));
    assert!(matches!(&found[0], Difference::NotExamined { path, .. } if path == "model.safetensors"), "{found:?}");
    std::fs::write(&weights, &clean).unwrap();

    std::fs::remove_file(place.model().join("tokenizer.json")).unwrap();
    std::fs::write(place.model().join("new.py"), "").unwrap();
    let missing = Difference::FileMissing { path: "tokenizer.json".into() };
    assert_eq!(differences(&place.model(), &before), [Difference::FileExtra { path: "new.py".into() }, missing]);
}

/// Adds to a matrix of the tiny llama and says what the diff makes of it.
fn pattern_of(change: impl Fn(usize, usize) -> f32) -> Pattern {
    let (place, name) = (Place::new(), "model.layers.0.mlp.up_proj.weight");
    let changed = place.out();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(place.model().join(file), changed.join(file)).unwrap();
    }
    let mut file = std::fs::read(changed.join("model.safetensors")).unwrap();
    let tensor = Header::read(&file).unwrap().tensors.into_iter().find(|t| t.name == name).unwrap();
    let columns = tensor.shape[1];
    for (at, bytes) in file[tensor.bytes.start as usize..tensor.bytes.end as usize].chunks_exact_mut(4).enumerate() {
        let value = f32::from_le_bytes(bytes.try_into().unwrap());
        bytes.copy_from_slice(&(value + change(at / columns, at % columns)).to_le_bytes());
    }
    std::fs::write(changed.join("model.safetensors"), file).unwrap();
    let found = diff_of(&place.model(), &changed).unwrap().differences;
    match &found[..] {
        [Difference::TensorChanged(change)] => change.pattern,
        _ => panic!("{found:?}"),
    }
}

#[test]
fn a_merged_lora_a_sparse_edit_and_a_fine_tune_are_told_apart() {
    let noise = |seed: u64| move |at: usize| ChaCha8Rng::seed_from_u64(seed + at as u64).random_range(-0.1..0.1f32);
    let (a, b, c, d) = (noise(0), noise(1000), noise(2000), noise(3000));
    assert_eq!(pattern_of(|row, column| a(row) * b(column) + c(row) * d(column)), Pattern::LowRank { rank: 2 });
    assert_eq!(pattern_of(|row, column| noise(row as u64 * 4096)(column)), Pattern::Dense);
    assert_eq!(pattern_of(|row, column| if row == 3 && column < 2 { 1.0 } else { 0.0 }), Pattern::Elements);
    let cross = |row, column| if row == 3 || column == 7 { 1.0 } else { 0.0 };
    assert_eq!(pattern_of(cross), Pattern::Lines);
}

#[test]
fn a_cache_spares_what_has_not_changed_and_nothing_else() {
    let place = Place::new();
    let cache = Cache::in_folder(&place.out()).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let weights = place.model().join("model.safetensors");
    let age = || std::fs::File::options().write(true).open(&weights).unwrap().set_modified(old).unwrap();
    // Of a file that was just written, what it says of its own age is not believed.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    for name in ["config.json", "tokenizer.json"] {
        let path = place.model().join(name);
        std::fs::write(&path, std::fs::read(&path).unwrap()).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    }
    let cached = || {
        take(&Opened::folder_at(&place.model()), &FingerprintSettings::default(), None, Some(&cache), &Silent)
            .unwrap()
            .fingerprint
    };
    let plain = fingerprint(&place.model());
    assert_eq!((cached(), cached()), (plain.clone(), plain.clone()));
    let kept: Vec<_> = std::fs::read_dir(place.out()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "files that were just written are not kept");
    // What is kept is taken: a changed entry shows.
    let text = std::fs::read_to_string(&kept[0]).unwrap();
    let digest = hex(&plain.files.iter().find(|f| f.path == "model.safetensors").unwrap().sha256);
    std::fs::write(&kept[0], text.replace(&digest, &"0".repeat(64))).unwrap();
    assert_ne!(cached(), plain);
    // Not where the file changed, be it in size and modification time alike.
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    age();
    assert_eq!(cached(), fingerprint(&place.model()));
    std::fs::write(&kept[0], "{").unwrap();
    assert_eq!(cached(), fingerprint(&place.model()));
    // The same file under a name that is not read for tensors.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&weights, place.model().join("a.bin")).unwrap();
        std::fs::remove_file(&kept[0]).unwrap();
        assert_eq!((cached(), cached()), (fingerprint(&place.model()), fingerprint(&place.model())));
    }
}

#[test]
fn a_fingerprint_that_was_edited_is_refused() {
    let place = Place::new();
    let good = fingerprint(&place.model()).to_json("m", None).unwrap();
    assert!(Fingerprint::parse(&good).is_ok());
    let value: Value = serde_json::from_str(&good).unwrap();
    let edit = |at: &str, to: Value| {
        let mut value = value.clone();
        *value.pointer_mut(at).unwrap() = to;
        Fingerprint::parse(&value.to_string()).unwrap_err()
    };
    for (at, to, why) in [
        (
            "/schema",
            json!("achilles-audit/patch/v1"),
            "expected achilles-audit/fingerprint/v2 or achilles-audit/fingerprint/v1",
        ),
        ("/files/0/sha256", json!("0".repeat(64)), "files_sha256"),
        ("/tensors/0/name", json!("x"), "tensors_blake3"),
        ("/tensors/0/blake3", json!("xyz"), "64 hex digits"),
        ("/tensors/0/rows", json!("AAAA"), "bytes of rows"),
        ("/tensors/0/columns", json!("*"), "base64"),
        ("/tensors/0/shape", json!([u64::MAX, u64::MAX]), "bytes of rows"),
        ("/tensors", json!(3), "is not a fingerprint"),
    ] {
        let said = edit(at, to);
        assert!(said.contains(why), "{at}: {said}");
    }
    assert!(Fingerprint::parse("").unwrap_err().contains("is not a fingerprint"));
}

/// A copy of the tiny llama whose weights `change` edits: the file's bytes and where a tensor lies in them.
fn changed_weights(place: &Place, name: &str, change: impl Fn(&mut [u8])) {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(place.model().join(file), place.out().join(file)).unwrap();
    }
    let mut file = std::fs::read(place.out().join("model.safetensors")).unwrap();
    let tensor = Header::read(&file).unwrap().tensors.into_iter().find(|t| t.name == name).unwrap();
    change(&mut file[tensor.bytes.start as usize..tensor.bytes.end as usize]);
    std::fs::write(place.out().join("model.safetensors"), file).unwrap();
}

#[test]
fn changed_signs_do_not_cancel() {
    let (place, name) = (Place::new(), "model.layers.0.mlp.down_proj.weight");
    let before = fingerprint(&place.model());
    let columns = before.tensors.iter().find(|t| t.name == name).unwrap().shape[1];
    let flip = |bytes: &mut [u8], row: usize, column: usize| bytes[4 * (row * columns + column) + 3] ^= 0x80;
    changed_weights(&place, name, |bytes| {
        for row in [3, 9] {
            (0..columns).for_each(|column| flip(bytes, row, column));
        }
    });
    for found in [differences(&place.out(), &before), diff_of(&place.model(), &place.out()).unwrap().differences] {
        let told: Vec<_> = lines(&found, name).iter().map(|line| (line.index, line.beta)).collect();
        assert_eq!(told, [(3, Some(-1.0)), (9, Some(-1.0))]);
    }
    changed_weights(&place, name, |bytes| {
        [(1, 2), (1, 5), (7, 2), (7, 5)].iter().for_each(|at| flip(bytes, at.0, at.1))
    });
    let found = differences(&place.out(), &before);
    assert_eq!(lines(&found, name).iter().map(|line| line.index).collect::<Vec<_>>(), [1, 7, 2, 5]);
}

#[test]
fn a_line_that_changed_is_not_once_what_it_was() {
    let (place, name) = (Place::new(), "model.layers.0.mlp.down_proj.weight");
    let before = fingerprint(&place.model());
    let columns = before.tensors.iter().find(|t| t.name == name).unwrap().shape[1];
    changed_weights(&place, name, |bytes| bytes[4 * columns..8 * columns].rotate_left(4));
    for found in [differences(&place.out(), &before), diff_of(&place.model(), &place.out()).unwrap().differences] {
        let told: Vec<_> = lines(&found, name).iter().map(|line| (line.index, line.beta)).collect();
        assert_eq!(told, [(1, None)]);
    }
}

#[test]
fn weights_that_only_other_loaders_read_are_differences() {
    let place = Place::new();
    let said = |args: &[&str]| {
        let output = place.run(args);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let patch = ["patch", "{model}", "-o", "{out}/p", "--neuron", "L1.mlp.down_proj:out:5"];
    assert_eq!(said(&patch).0, Some(0));
    let verify = ["verify-patch", "{out}/p", "--original", "{model}"];
    assert_eq!(said(&verify).0, Some(0));
    std::fs::copy(place.model().join("model.safetensors"), place.out().join("p/consolidated.safetensors")).unwrap();
    assert_eq!(said(&verify).0, Some(1));
    assert_eq!(said(&["unpatch", "{out}/p"]).0, Some(0));
    let (code, found) = said(&["diff", "{model}", "{out}/p"]);
    assert_eq!((code, found.contains("file consolidated.safetensors: was not there")), (Some(1), true), "{found}");
}

#[test]
fn a_resharded_copy_with_a_misleading_index_does_not_pass() {
    let place = Place::new();
    let (from, to) = (place.model(), place.out());
    std::fs::copy(from.join("tokenizer.json"), to.join("tokenizer.json")).unwrap();
    reshard(&from, &to, 3);
    let single = fingerprint(&from);
    let passes = || verify(&Opened::folder_at(&to), &single, None, None, &Silent).unwrap().is_resharding();
    assert!(passes());
    let index = to.join("model.safetensors.index.json");
    let sound = std::fs::read_to_string(&index).unwrap();
    let mut less: Value = serde_json::from_str(&sound).unwrap();
    less["weight_map"].as_object_mut().unwrap().remove("model.norm.weight").unwrap();
    for text in ["{", r#"{"metadata": {}, "weight_map": {}}"#, &less.to_string()] {
        std::fs::write(&index, text).unwrap();
        assert!(!passes(), "{text}");
    }
    assert!(diff_of(&from, &to).is_err() || !diff_of(&from, &to).unwrap().differences.is_empty());
    std::fs::write(&index, sound).unwrap();
    assert!(passes());
    std::fs::copy(from.join("model.safetensors"), to.join("model.safetensors")).unwrap();
    assert!(!passes());
}

#[test]
fn names_do_not_drive_the_terminal() {
    let place = Place::new();
    std::fs::create_dir(place.out().join("m")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(place.model().join(file), place.out().join("m").join(file)).unwrap();
    }
    std::fs::write(place.out().join("m/a\u{1b}[31m\nINTACT: fake"), "").unwrap();
    let output = place.run(&["diff", "{model}", "{out}/m"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().count() == 2 && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_fingerprint_in_the_folder_it_describes_is_not_missed() {
    let place = Place::new();
    let own = place.model().join("f.json");
    std::fs::write(&own, "").unwrap();
    let before = fingerprint(&place.model());
    assert!(verify(&Opened::folder_at(&place.model()), &before, Some(&own), None, &Silent).unwrap().intact);
}

#[test]
fn a_million_short_rows_are_not_marked_but_a_change_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let rows = 3 << 19;
    let header =
        json!({"packed.down_proj.weight": {"dtype": "U8", "shape": [rows, 1], "data_offsets": [0, rows]}}).to_string();
    let write = |last: u8| {
        let mut data = vec![1; rows];
        *data.last_mut().unwrap() = last;
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    };
    write(1);
    let before = fingerprint(folder.path());
    assert_eq!(before.tensors[0].statistics.norm, Some((rows as f64).sqrt()));
    let text = before.to_json("m", None).unwrap();
    assert!(text.len() < 10_000 && Fingerprint::parse(&text).unwrap() == before);
    write(2);
    let found = differences(folder.path(), &before);
    assert!(matches!(&found[1], Difference::TensorChanged(change) if change.rows == 0), "{found:?}");
}
