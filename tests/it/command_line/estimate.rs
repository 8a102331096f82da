//! `estimate`: what locate will take.

use crate::tiny::{Place, TEXT};
use serde_json::Value;

fn told(place: &Place, args: &[&str]) -> String {
    let output = place.run(&[&["estimate", "{model}", "--text", TEXT], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_estimate_is_a_document() {
    let place = Place::new();
    let magnitude = ["--ranking", "magnitude", "--max-neurons", "20", "--memory", "4GB", "--format", "json"];
    let document: Value = serde_json::from_str(&told(&place, &magnitude)).unwrap();
    assert_eq!(document["schema"], "achilles-audit/estimate/v1");
    assert_eq!(document["settings"]["ranking"], "magnitude");
    assert_eq!(document["settings"]["memory_bytes"], 4_000_000_000u64);
    assert_eq!(document["memory"]["weights"], "resident");
    assert_eq!(document["memory"]["problem"], Value::Null);
    assert!(document["memory"]["available_bytes"].as_u64().unwrap() < 4_000_000_000);
    let stages: Vec<&str> =
        document["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["load", "importance", "search", "minimize"]);
    assert_eq!(document["stages"][1]["rows"], serde_json::json!({"least": 1, "most": 1}));
    assert_eq!(document["stages"][2]["rows"], serde_json::json!({"least": 2, "most": 21}));
}

#[test]
fn an_estimate_says_where_memory_does_not_suffice() {
    let place = Place::new();
    let table = told(&place, &["--memory", "1MiB"]);
    let all = ["too little", "give more by", "GFLOP/s", "importance", "minimize", "all"];
    assert!(all.iter().all(|part| table.contains(part)), "{table}");
    assert!(!told(&place, &["--weights", "stream"]).contains("too little"));
}

#[test]
fn memory_of_a_gpu_is_nothing_to_a_cpu() {
    let place = Place::new();
    let output = place.run(&["estimate", "{model}", "--text", TEXT, "--device", "cpu", "--gpu-memory", "8GB"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "achilles-audit: --gpu-memory limits what CUDA devices take, and this computes on cpu: leave it out, or use --device cuda:N\n"
    );
}
