//! Waivers waive what they name, and nothing that came after them.

use crate::tiny::{Place, load, save};
use serde_json::Value;

const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

/// Zeroes rows of a tensor of the tiny model.
fn zero_rows(place: &Place, tensor: &str, rows: impl IntoIterator<Item = usize>) {
    let path = place.model().join("model.safetensors");
    let mut tensors = load(&std::fs::read(&path).unwrap());
    let tensor = tensors.iter_mut().find(|t| t.name == tensor).unwrap();
    let row = tensor.bytes.len() / tensor.shape[0];
    rows.into_iter().for_each(|at| tensor.bytes[at * row..(at + 1) * row].fill(0));
    std::fs::write(path, save(&tensors)).unwrap();
}

/// Scans the files with these waivers of one rule; exit code and result.
fn scan(place: &Place, rule: &str, locations: &[&str]) -> (Option<i32>, Value) {
    let mut yaml = "schema: achilles-audit/rules/v1\nlongest_waiver_days: 4000000\nwaivers:\n".to_owned();
    for location in locations {
        let location = serde_json::to_string(location).unwrap();
        yaml += &format!("- {{rule: {rule}, location: {location}, reason: on purpose, expires: 9999-12-31}}\n");
    }
    std::fs::write(place.model().parent().unwrap().join("gate.yaml"), yaml).unwrap();
    let output = place.run(&["scan", "{model}", "--static", "--rules", "{in}/gate.yaml", "--format", "json"]);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// The findings of a rule: where, and whether waived.
fn found(result: &Value, rule: &str) -> Vec<(String, bool)> {
    let findings = result["findings"].as_array().unwrap().iter().filter(|f| f["id"] == rule);
    findings.map(|f| (f["location"].to_string(), f["waived"].is_object())).collect()
}

#[test]
fn a_waiver_of_one_row_does_not_waive_rows_that_came_later() {
    let place = Place::new();
    let one = format!("*: {DOWN} row 3");
    zero_rows(&place, DOWN, [3]);
    assert_eq!(scan(&place, "zero-row", &[&one]).0, Some(0));
    zero_rows(&place, DOWN, 4..9);
    let (code, result) = scan(&place, "zero-row", &[&one]);
    assert_eq!(code, Some(1));
    let location = &result["findings"][0]["location"];
    assert_eq!((&location["index"], &location["more"]), (&3.into(), &5.into()));
    let unused = result["findings"].as_array().unwrap().iter().find(|f| f["id"] == "waiver-unused").unwrap();
    let told = format!("waives nothing: it does not name all of model.safetensors: {DOWN} row 3 and 5 more");
    assert!(unused["message"].as_str().unwrap().ends_with(&told), "{unused}");
    for (location, code) in [
        (format!("*: {DOWN} row 3*"), 1),
        (format!("*: {DOWN} row 3 and 5 more"), 1),
        (format!("*: {DOWN} row [3-7]"), 1),
        (format!("*: {DOWN} row [3-8]"), 0),
        (format!("*: {DOWN} row *"), 0),
        (format!("*: {DOWN}"), 1),
    ] {
        assert_eq!(scan(&place, "zero-row", &[&location]).0, Some(code), "{location}");
    }
}

#[test]
fn a_waiver_of_one_nan_does_not_waive_others_of_the_tensor() {
    let place = Place::new();
    let path = place.model().join("model.safetensors");
    let mut tensors = load(&std::fs::read(&path).unwrap());
    let tensor = tensors.iter_mut().find(|t| t.name == DOWN).unwrap();
    tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, save(&tensors)).unwrap();
    let one = format!("*: {DOWN} row 0 (*)");
    assert_eq!(scan(&place, "nan", &[&one]).0, Some(0));
    let tensor = tensors.iter_mut().find(|t| t.name == DOWN).unwrap();
    let last = tensor.bytes.len() - 4;
    tensor.bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, save(&tensors)).unwrap();
    assert_eq!(scan(&place, "nan", &[&one]).0, Some(1));
    assert_eq!(scan(&place, "nan", &[&format!("*: {DOWN}*")]).0, Some(0));
}

/// A rule has a hundred findings in a file, each waived; one more is counted only, and fails all the same.
#[test]
fn what_is_not_listed_is_judged_and_no_waiver_of_the_listed_covers_it() {
    let place = Place::new();
    let path = place.model().join("model.safetensors");
    let plain = load(&std::fs::read(&path).unwrap());
    let zeroed = |count: usize| {
        let mut tensors = plain.clone();
        let down = plain.iter().find(|t| t.name == DOWN).unwrap();
        for at in 0..count {
            let mut tensor = down.clone();
            tensor.name = format!("{at:03}.weight");
            tensor.bytes[..4 * down.shape[1]].fill(0);
            tensors.push(tensor);
        }
        std::fs::write(&path, save(&tensors)).unwrap();
    };
    let rows: Vec<String> = (0..100).map(|at| format!("model.safetensors: {at:03}.weight row 0")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    zeroed(100);
    let (_, result) = scan(&place, "zero-row", &rows);
    assert!(found(&result, "zero-row").iter().all(|(_, waived)| *waived), "{result:#}");
    zeroed(103);
    let failing = |locations: &[&str]| {
        let (_, result) = scan(&place, "zero-row", locations);
        assert_eq!(result["not_listed"].as_u64(), Some(6), "three of these, three extra tensors");
        let found = found(&result, "zero-row");
        assert_eq!(found.len(), 101);
        found.into_iter().filter(|(_, waived)| !waived).map(|(place, _)| place).collect::<Vec<_>>()
    };
    let rest = r#"{"file":"model.safetensors","more":3}"#;
    assert_eq!(failing(&rows), [rest]);
    assert_eq!(failing(&["*: *weight row 0", "model.safetensors"]), [rest]);
    assert!(failing(&["model.safetensors: *"]).is_empty());
}

#[test]
fn a_waiver_for_longer_than_a_year_waives_nothing_unless_the_rules_say_so() {
    let place = Place::new();
    zero_rows(&place, DOWN, [3]);
    let gate = |more: &str| {
        let waiver = "waivers:\n- {rule: zero-row, location: '*', reason: x, expires: 9999-12-31}\n";
        let text = format!("schema: achilles-audit/rules/v1\n{more}{waiver}");
        std::fs::write(place.model().parent().unwrap().join("gate.yaml"), text).unwrap();
        let output = place.run(&["scan", "{model}", "--static", "--rules", "{in}/gate.yaml", "--format", "json"]);
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), found(&result, "zero-row")[0].1, found(&result, "waiver-too-long").len())
    };
    assert_eq!(gate(""), (Some(1), false, 1));
    assert_eq!(gate("extends: release\nrequire: []\nrules: {zero-row: {severity: note}}\n"), (Some(1), false, 1));
    assert_eq!(gate("longest_waiver_days: 4000000\n"), (Some(0), true, 0));
}
