//! Corpora of a hub's data sets, against a hub on the loopback.

use super::hub::server::{CONVERTED, Files, Server};
use crate::tiny::Place;
use serde_json::Value;
use std::path::Path;

fn parquet(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/parquet/{name}.parquet"))).unwrap()
}

fn files<const N: usize>(files: [(&str, Vec<u8>); N]) -> Files {
    files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// The exit code, the first corpus of the answer, and standard error.
fn measured(place: &Place, hub: &Server, name: &str, more: &[&str], env: &[(&str, &str)]) -> (i32, Value, String) {
    let mut command = place.command(&[&["perplexity", "{model}", "--format=json", "--corpus", name], more].concat());
    let output = command.env("HF_ENDPOINT", &hub.endpoint).envs(env.iter().copied()).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let told = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), document["corpora"][0].clone(), told)
}

/// What they measure but for the name, as the shipped texts that are in them.
fn expected(place: &Place, samples: &str) -> Value {
    let more = ["--max-samples", samples, "--format=json"];
    let output = place.run(&[&["perplexity", "{model}", "--corpus", "kinds"], &more[..]].concat());
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["corpora"][0].clone()
}

const SPLIT: &str = "hf://datasets/org/tiny/small/test";
const ONE: [&str; 1] = ["--max-samples=8"];

#[test]
fn a_split_is_read_from_the_branch_that_the_hub_converts_to() {
    let place = Place::new();
    let hub = Server::new(files([("README.md", b"# Tiny".to_vec()), ("test.csv", b"text\n".to_vec())]));
    let converted = files([
        ("small/partial-test/0000.parquet", parquet("snappy")),
        ("small/partial-test/0001.parquet", parquet("zstd")),
        ("small/train/0000.parquet", parquet("nulls")),
    ]);
    hub.set(|s| s.converted = Some(converted));
    let (code, found, told) = measured(&place, &hub, SPLIT, &[], &[]);
    assert_eq!((code, told.as_str()), (0, ""));
    let expected = expected(&place, "8");
    // The same texts twice.
    assert_eq!((&found["name"], &found["samples"]), (&SPLIT.into(), &16.into()));
    let nats = |of: &Value| of["base"]["nll_nats"].as_f64().unwrap();
    assert!((nats(&found) - nats(&expected)).abs() < 1e-9, "{found}");
    let both = [parquet("snappy"), parquet("zstd")].concat();
    assert_eq!(found["sha256"], achilles_audit::checkpoint::sha256_hex(&both));
    let path = |file: &str| format!("/datasets/org/tiny/resolve/{CONVERTED}/small/partial-test/{file}");
    let asked: Vec<String> = hub.requests().into_iter().filter(|r| r.method == "HEAD").map(|r| r.path).collect();
    assert_eq!(asked, ["0000.parquet", "0001.parquet"].map(path));

    // From the cache, which is told: there may be more that it has not.
    let (code, again, told) = measured(&place, &hub, SPLIT, &[], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!((code, &again), (0, &found));
    assert!(told.contains("HF_HUB_OFFLINE is set: 2 files are in the cache") && told.lines().count() == 1, "{told}");
    assert!(hub.requests().is_empty());
}

#[test]
fn no_more_is_fetched_than_is_needed() {
    let place = Place::new();
    let hub = Server::new(files([]));
    hub.set(|s| {
        s.converted =
            Some(files([("small/test/0000.parquet", parquet("snappy")), ("small/test/0001.parquet", parquet("zstd"))]));
    });
    let (code, found, told) = measured(&place, &hub, SPLIT, &ONE, &[]);
    assert_eq!((code, told.as_str(), &found["samples"]), (0, "", &8.into()));
    assert!(hub.requests().iter().all(|request| !request.path.ends_with("0001.parquet")));
}

#[test]
fn parquet_of_the_repository_itself_is_read_where_none_was_converted() {
    let place = Place::new();
    let hub = Server::new(files([
        ("small/test-00000-of-00001.parquet", parquet("zstd")),
        ("data/train-00000-of-00001.parquet", parquet("delta")),
        ("more/lines.jsonl", b"{\"text\": \"This text has over fifty characters, and so is a sample.\"}\n".to_vec()),
    ]));
    let expected = expected(&place, "8");
    for name in [SPLIT, "hf://datasets/org/tiny/default/train", "hf://datasets/org/tiny@main/small/test"] {
        let (code, found, told) = measured(&place, &hub, name, &[], &[]);
        assert_eq!((code, told.as_str(), &found["base"]), (0, "", &expected["base"]), "{name}");
    }
    let (code, found, told) = measured(&place, &hub, "hf://datasets/org/tiny/more/lines.jsonl", &[], &[]);
    assert_eq!((code, told.as_str(), &found["samples"]), (0, "", &1.into()));
}

#[test]
fn what_is_not_there_is_told_in_a_line() {
    let place = Place::new();
    let hub = Server::new(files([("small/test-00000-of-00001.parquet", parquet("zstd"))]));
    let refused = |name: &str, env: &[(&str, &str)]| {
        let (code, _, told) = measured(&place, &hub, name, &[], env);
        assert!(code == 2 && told.lines().count() == 1, "{told}");
        told
    };
    let told = refused("hf://datasets/org/tiny/small/train", &[]);
    assert!(told.contains("hub datasets/org/tiny: has no Parquet files of small/train, but of small/test"), "{told}");
    let told = refused("hf://datasets/org/tiny/more/lines.jsonl", &[]);
    assert!(told.contains("has no file more/lines.jsonl"), "{told}");
    let told = refused("hf://datasets/org/none/small/test", &[]);
    assert!(told.contains("hub datasets/org/none: no such repository"), "{told}");
    let told = refused("hf://datasets/org/tiny@v2/small/test", &[]);
    assert!(told.contains("no such revision \"v2\""), "{told}");
    let told = refused("hf://datasets/org/tiny", &[]);
    assert!(told.contains("expected hf://datasets/ORG/NAME"), "{told}");
    let told = refused(SPLIT, &[("HF_HUB_OFFLINE", "1")]);
    assert!(told.contains("HF_HUB_OFFLINE is set") && told.contains("has nothing of revision main"), "{told}");
    let told = refused(SPLIT, &[("HF_ENDPOINT", "http://127.0.0.1:9")]);
    assert!(told.contains("cannot reach http://127.0.0.1:9"), "{told}");
}
