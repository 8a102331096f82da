//! What trips the rules on fingerprints, signatures and a base's critical set, each of them, and no other beside it.

use crate::tiny::{Place, Tensor, load, save};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms/keys");

/// The rules of this measurement by which `scan` found something, and its exit code.
fn found(place: &Place, measurement: &str, args: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = place.run(&[&["scan", "{model}", "--format", "json"], args].concat());
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"));
    let of_it = |rule: &&Value| rule["measurement"] == measurement;
    let rules: Vec<&Value> = result["judged"].as_array().unwrap().iter().filter(of_it).map(|r| &r["id"]).collect();
    let findings = result["findings"].as_array().unwrap().iter().map(|f| &f["id"]);
    (output.status.code(), findings.filter(|id| rules.contains(id)).map(|id| id.as_str().unwrap().into()).collect())
}

/// Names of the rules of a measurement.
fn rules_of(measurement: &str) -> BTreeSet<String> {
    let rules = achilles_audit::rules::RuleId::all().filter(|id| id.measurement().as_str() == measurement);
    rules.map(|id| id.to_string()).collect()
}

fn tensors(folder: &Path, change: impl FnOnce(&mut Vec<Tensor>)) {
    let path = folder.join("model.safetensors");
    let mut tensors = load(&fs::read(&path).unwrap());
    change(&mut tensors);
    fs::write(path, save(&tensors)).unwrap();
}

fn one<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

/// A rule and what trips it.
type Row<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn every_rule_on_fingerprints_is_tripped() {
    const NORM: &str = "model.norm.weight";
    let rows: [Row<'_>; 11] = [
        ("fingerprint-file-missing", &|m| fs::remove_file(m.join("notes.txt")).unwrap()),
        ("fingerprint-file-extra", &|m| fs::write(m.join("more.txt"), "more").unwrap()),
        ("fingerprint-file-changed", &|m| fs::write(m.join("notes.txt"), "other").unwrap()),
        ("fingerprint-file-linked", &|m| {
            fs::rename(m.join("notes.txt"), m.join("real.txt")).unwrap();
            symlink("real.txt", m.join("notes.txt")).unwrap();
        }),
        ("fingerprint-file-rewritten", &|m| tensors(m, |_| {})),
        ("fingerprint-tensor-missing", &|m| tensors(m, |t| t.retain(|t| t.name != NORM))),
        ("fingerprint-tensor-extra", &|m| {
            tensors(m, |t| t.push(Tensor { name: "x".into(), dtype: "U8".into(), shape: vec![1], bytes: vec![7] }));
        }),
        ("fingerprint-tensor-renamed", &|m| tensors(m, |t| one(t, NORM).name = "model.other.weight".into())),
        ("fingerprint-tensor-reshaped", &|m| tensors(m, |t| one(t, NORM).shape.push(1))),
        ("fingerprint-tensor-moved", &|m| {
            let path = m.join("model.safetensors");
            let (mut stay, mut go) = (load(&fs::read(&path).unwrap()), Vec::new());
            let at = stay.iter().position(|t| t.name == NORM).unwrap();
            go.push(stay.remove(at));
            fs::write(path, save(&stay)).unwrap();
            fs::write(m.join("second.safetensors"), save(&go)).unwrap();
        }),
        ("fingerprint-tensor-changed", &|m| tensors(m, |t| one(t, NORM).bytes[3] ^= 1)),
    ];
    let mut tripped: BTreeSet<String> = rows.iter().map(|(rule, _)| (*rule).into()).collect();
    for (rule, change) in rows {
        let place = Place::new();
        fs::write(place.model().join("notes.txt"), "notes").unwrap();
        assert!(place.run(&["fingerprint", "{model}", "-o", "{in}/print.json"]).status.success());
        let against = ["--static", "--fingerprint", "{in}/print.json"];
        assert_eq!(found(&place, "fingerprint", &against), (Some(0), vec![]));
        change(&place.model());
        let (code, ids) = found(&place, "fingerprint", &against);
        assert!(code == Some(1) && ids.iter().any(|id| id == rule), "{rule}: {code:?} {ids:?}");
    }
    // `folders::a_damaged_blob_is_an_error_everywhere`.
    tripped.insert("fingerprint-file-damaged".into());
    assert_eq!(tripped, rules_of("fingerprint"));
}

#[test]
fn every_rule_on_signatures_is_tripped() {
    let key = |name: &str| format!("{KEYS}/{name}.pem");
    let (own, public, other) = (key("p256"), key("p256.pub"), key("p384.pub"));
    let rows: [(Row<'_>, &[&str]); 7] = [
        (("signature-refused", &|_| {}), &["--public-key", &other]),
        (("signature-file-missing", &|m| fs::remove_file(m.join("tokenizer.json")).unwrap()), &[]),
        (("signature-file-extra", &|m| fs::write(m.join("more.txt"), "more").unwrap()), &[]),
        (("signature-file-changed", &|m| fs::write(m.join("tokenizer.json"), "{}").unwrap()), &[]),
        (
            ("signature-file-irregular", &|m| {
                fs::rename(m.join("config.json"), m.join("notes/config.json")).unwrap();
                symlink("notes/config.json", m.join("config.json")).unwrap();
            }),
            &[],
        ),
        (("signature-weights-left-out", &|m| fs::write(m.join("notes/model.safetensors"), "").unwrap()), &[]),
        (("signature-left-out", &|_| {}), &["--ignore-unsigned-files"]),
    ];
    for ((rule, change), more) in rows {
        let place = Place::new();
        fs::create_dir(place.model().join("notes")).unwrap();
        fs::write(place.model().join("notes/a.txt"), "a").unwrap();
        assert!(place.run(&["sign", "{model}", "--private-key", &own, "--ignore-path", "notes"]).status.success());
        change(&place.model());
        let trusted: &[&str] = if more.contains(&"--public-key") { &[] } else { &["--public-key", &public] };
        let args = [&["--static", "--signature"], trusted, more].concat();
        let (_, ids) = found(&place, "signature", &args);
        assert!(ids.iter().any(|id| id == rule), "{rule}: {ids:?}");
    }
    assert_eq!(rows.iter().map(|((rule, _), _)| (*rule).to_owned()).collect::<BTreeSet<_>>(), rules_of("signature"));
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
