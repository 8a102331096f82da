//! Lint of a repository whose weights stay where they are.

use super::hub::server::{COMMIT, Server};
use super::hub::{hub, run};
use crate::tiny::{Place, Tensor, load, save};
use serde_json::Value;
use std::collections::BTreeSet;

/// Channels of a layer's MLP that make the weights larger than what is fetched at once.
const CHANNELS: usize = 1000;

/// Makes the tiny model's layers wide, and lets `change` do what it will to the tensors.
fn large(place: &Place, change: impl FnOnce(&mut Vec<Tensor>)) -> Server {
    let path = place.model().join("model.safetensors");
    let mut tensors = load(&std::fs::read(&path).unwrap());
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    for tensor in tensors.iter_mut().filter(|t| t.shape.contains(&56)) {
        tensor.shape.iter_mut().filter(|size| **size == 56).for_each(|size| *size = CHANNELS);
        tensor.bytes = (0..CHANNELS * 40).flat_map(|_| noise().to_le_bytes()).collect();
    }
    change(&mut tensors);
    std::fs::write(&path, save(&tensors)).unwrap();
    let config = place.model().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"intermediate_size\": 56", "\"intermediate_size\": 1000")).unwrap();
    hub(place, &[])
}

/// What each finding is, and where; of lint's rules that look at numbers nothing.
fn structural(found: &Value) -> BTreeSet<String> {
    const OF_VALUES: [&str; 8] = [
        "nan",
        "zero-row",
        "zero-column",
        "zero-tensor",
        "constant-tensor",
        "lesion-sign",
        "lesion-hint",
        "lesion-not-examined",
    ];
    let findings = found["findings"].as_array().unwrap_or_else(|| panic!("{found}")).iter();
    let kept = findings.filter(|f| !OF_VALUES.contains(&f["id"].as_str().unwrap()));
    kept.map(|f| format!("{} {} {}", f["id"], f["location"], f["message"])).collect()
}

#[test]
fn headers_tell_what_the_folder_tells_but_for_values() {
    let place = Place::new();
    let hub = large(&place, |tensors| {
        let down = tensors.iter_mut().find(|t| t.name == "model.layers.1.mlp.down_proj.weight").unwrap();
        down.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let q = tensors.iter_mut().find(|t| t.name == "model.layers.0.self_attn.q_proj.weight").unwrap();
        q.shape = vec![20, 80];
        tensors.retain(|t| t.name != "model.layers.2.input_layernorm.weight");
        let extra = Tensor { name: "extra".into(), dtype: "F32".into(), shape: vec![1], bytes: vec![0, 0, 128, 63] };
        tensors.push(extra);
    });
    let folder: Value = serde_json::from_slice(&place.run(&["lint", "{model}", "--format", "json"]).stdout).unwrap();
    assert!(folder.to_string().contains("\"nan\""));
    let (code, found, told) = run(&place, &hub, &["lint", "org/tiny", "--format", "json"]);
    assert_eq!((code, told.as_str()), (1, ""));
    assert_eq!(structural(&found), structural(&folder));
    assert!(structural(&found).len() >= 3 && !found.to_string().contains("\"nan\""), "{found}");
    assert_eq!(
        (&found["examined"]["tensors"], &found["examined"]["value_bytes"]),
        (&folder["examined"]["tensors"], &0.into())
    );
    let not_examined = found["not_examined"][0].as_str().unwrap();
    assert!(not_examined.starts_with("of 1 file of weights (1.5 MiB) the headers alone were read"), "{not_examined}");
    assert_eq!(found["model"]["hub"]["headers"][0]["path"], "model.safetensors");

    let weights = |request: &&super::hub::server::Request| request.path.ends_with("model.safetensors");
    let requests = hub.requests();
    let fetched: Vec<_> = requests.iter().filter(weights).filter(|r| r.host == "cdn").collect();
    assert!(matches!(&fetched[..], [one] if (one.range, one.to) == (Some(0), Some((16 << 10) - 1))), "{fetched:?}");

    // The cache has no file that is not whole; asked for, all is read, and from then on the cache's.
    let args = ["lint", "org/tiny", "--format", "json", "--download"];
    let (code, found, _) = run(&place, &hub, &args);
    assert_eq!((code, &found["not_examined"]), (1, &Value::Array(Vec::new())));
    assert!(found.to_string().contains("\"nan\""));
    hub.requests();
    let (_, found, _) = run(&place, &hub, &args[..4]);
    assert!(found.to_string().contains("\"nan\"") && found["model"]["hub"].get("headers").is_none());
    assert!(hub.requests().iter().filter(weights).count() == 0);
}

#[test]
fn a_sound_repository_of_which_headers_were_read_is_no_pass() {
    let place = Place::new();
    let hub = large(&place, |_| {});
    let (code, found, told) = run(&place, &hub, &["lint", "org/tiny", "--format", "json"]);
    assert_eq!((code, told.as_str()), (2, ""));
    assert!(structural(&found).iter().all(|finding| finding.contains("metadata-format-missing")), "{found}");
    let rules = place.out().join("rules.yaml");
    std::fs::write(&rules, "schema: achilles-audit/rules/v1\nnot_examined: allow\n").unwrap();
    let rules = ["lint", "org/tiny", "--rules", "{out}/rules.yaml"];
    assert_eq!(run(&place, &hub, &rules).0, 0);
    let passing = tempfile::tempdir().unwrap();
    let mut command = place.command(&rules);
    let output = command.env("HF_ENDPOINT", &hub.endpoint).env("TMPDIR", passing.path()).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains(&format!("hub: org/tiny main is commit {COMMIT}")), "{table}");
    assert!(table.contains("headers alone"), "{table}");
    assert_eq!(std::fs::read_dir(passing.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn headers_that_lie_are_told() {
    let place = Place::new();
    let hub = large(&place, |_| {});
    let whole = std::fs::read(place.model().join("model.safetensors")).unwrap();
    let lint = ["lint", "org/tiny", "--format", "json"];
    let told =
        |found: &Value, id: &str| found["findings"].as_array().is_some_and(|all| all.iter().any(|f| f["id"] == id));

    // The file is shorter than its header says, and longer.
    for (size, id) in [(whole.len() - 100_000, "file-truncated"), (whole.len() + 8, "trailing-bytes")] {
        hub.set(|s| {
            let mut bytes = whole.clone();
            bytes.resize(size, 1);
            s.files.insert("model.safetensors".into(), bytes);
        });
        let (code, found, _) = run(&place, &hub, &lint);
        assert!(code == 1 && told(&found, id), "{id}: {found}");
    }
    // A header that is longer than any, and one that is none.
    for start in [u64::MAX, 99_999_999, 3] {
        hub.set(|s| {
            let mut bytes = whole.clone();
            bytes[..8].copy_from_slice(&start.to_le_bytes());
            s.files.insert("model.safetensors".into(), bytes);
        });
        let (code, found, said) = run(&place, &hub, &lint);
        assert!(
            code == 1
                && told(&found, "header-invalid") | told(&found, "header-too-long") | told(&found, "file-truncated"),
            "{start}: {found}{said}"
        );
    }
    // A server that knows no ranges sends the beginning all the same; one that hangs up is told.
    hub.set(|s| _ = s.files.insert("model.safetensors".into(), whole.clone()));
    hub.set(|s| s.no_ranges = true);
    assert_eq!(run(&place, &hub, &lint).0, 2);
    hub.set(|s| s.cut_after = Some(1000));
    let (code, _, said) = run(&place, &hub, &lint);
    assert!(code == 2 && said.lines().count() == 1 && said.contains("does not arrive"), "{said}");
}

/// The tensors in two shards and an index.
fn sharded(place: &Place) -> Server {
    large(place, |_| {});
    let path = place.model().join("model.safetensors");
    let tensors = load(&std::fs::read(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let half = tensors.len() / 2;
    let (mut map, mut files) = (serde_json::Map::new(), Vec::new());
    for (name, tensors) in SHARDS.into_iter().zip([&tensors[..half], &tensors[half..]]) {
        files.push((name.to_owned(), save(tensors)));
        map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.into())));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    files.push(("model.safetensors.index.json".into(), index.into_bytes()));
    let read = |name: &str| (name.to_owned(), std::fs::read(place.model().join(name)).unwrap());
    files.extend(["config.json", "tokenizer.json"].map(read));
    Server::new(files.into_iter().collect())
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// What is told of one shard holds for no other: where one is not there, the values of none are read.
#[test]
fn shards_beside_cached_ones_are_read_by_their_headers() {
    let place = Place::new();
    let hub = sharded(&place);
    let lint = ["lint", "org/tiny", "--format", "json"];
    let cache = place.out().parent().unwrap().to_owned();
    let found = |what: &str| super::published::walk(&cache).into_iter().find(|path| path.ends_with(what));
    assert_eq!(run(&place, &hub, &lint).0, 2);
    assert!(found("refs/main").is_none(), "those who come offline find no commit of which the weights are not there");
    assert_eq!(run(&place, &hub, &[&lint[..], &["--download"]].concat()).0, 0);
    assert!(found("refs/main").is_some());
    let link = found(SHARDS[1]).unwrap();
    std::fs::remove_file(link.canonicalize().unwrap()).unwrap();
    let (code, found, told) = run(&place, &hub, &lint);
    assert_eq!((code, told.as_str()), (2, ""));
    let read: Vec<&str> = found["model"]["hub"]["headers"].as_array().unwrap().iter().map(path).collect();
    assert_eq!((read, &found["examined"]["value_bytes"]), (SHARDS.to_vec(), &0.into()));
    assert!(found["not_examined"][0].as_str().unwrap().starts_with("of 2 files of weights"), "{found}");
}

fn path(left: &Value) -> &str {
    left["path"].as_str().unwrap()
}

#[test]
fn a_mirror_that_lists_names_alone_is_asked_for_sizes() {
    let place = Place::new();
    let hub = large(&place, |_| {});
    hub.set(|s| s.names_only = true);
    let (code, found, told) = run(&place, &hub, &["lint", "org/tiny", "--format", "json"]);
    assert_eq!((code, told.as_str()), (2, ""));
    let bytes = std::fs::metadata(place.model().join("model.safetensors")).unwrap().len();
    assert_eq!(found["model"]["hub"]["headers"][0]["bytes"], bytes);
}

#[test]
fn ranges_of_another_file_are_refused() {
    let place = Place::new();
    let hub = large(&place, |_| {});
    let whole = std::fs::read(place.model().join("model.safetensors")).unwrap();
    let refused = |says: &str| {
        let (code, found, told) = run(&place, &hub, &["lint", "org/tiny", "--format", "json"]);
        assert_eq!((code, told.lines().count(), found), (2, 1, Value::Null), "{told}");
        assert!(told.contains("model.safetensors") && told.contains(says), "{told}");
    };
    let longer = [&whole[..], &[0; 8]].concat();
    hub.set(|s| _ = s.bodies.insert("model.safetensors".into(), longer));
    refused(&format!("lists it with {} bytes but offers {}", whole.len(), whole.len() + 8));
    hub.set(|s| _ = s.bodies.insert("model.safetensors".into(), Vec::new()));
    refused("has none from 0");
    hub.set(|s| s.bodies.clear());
    // What is cached of small files is not asked for again.
    hub.set(|s| s.other_commit = true);
    refused("another commit");
}
