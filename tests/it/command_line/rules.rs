//! What trips the rules on a base's critical set, and no other beside it. Every rule is tripped in the library's tests.

use crate::tiny::Place;
use serde_json::Value;
use std::fs;

/// The rules of this measurement by which `scan` found something, and its exit code.
fn found(place: &Place, measurement: &str, args: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = place.run(&[&["scan", "{model}", "--format", "json"], args].concat());
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"));
    let of_it = |rule: &&Value| rule["measurement"] == measurement;
    let rules: Vec<&Value> = result["judged"].as_array().unwrap().iter().filter(of_it).map(|r| &r["id"]).collect();
    let findings = result["findings"].as_array().unwrap().iter().map(|f| &f["id"]);
    (output.status.code(), findings.filter(|id| rules.contains(id)).map(|id| id.as_str().unwrap().into()).collect())
}

/// A model beside itself, by limits that no model keeps.
#[test]
fn every_verdict_on_a_bases_set_is_tripped() {
    let how = ["--text", "Pitchfork called it daring", "--samples=2", "--epsilon=0.02", "--max-neurons=20"];
    for (rule, thresholds) in [
        ("base-set-shared", "base-set-shared: {thresholds: {damage: 0.002}}"),
        ("base-set-location-only", "base-set-shared: {thresholds: {damage: 9}}"),
        (
            "base-set-moved",
            "base-set-shared: {thresholds: {damage: 9}}, base-set-location-only: {thresholds: {rank: 0.5}}",
        ),
    ] {
        let place = Place::new();
        let rules = format!("schema: achilles-audit/rules/v1\nrules: {{{thresholds}}}\n");
        fs::write(place.out().join("rules.yaml"), rules).unwrap();
        let args = [&["--base", "{model}", "--rules", "{out}/rules.yaml"][..], &how].concat();
        let (_, ids) = found(&place, "base", &args);
        assert_eq!(ids, [rule]);
    }
}
