//! `lint` on the command line.

use crate::tiny::{Place, join, split, wait};
use serde_json::Value;
use std::process::Output;

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

/// The JSON of a run that ended with `code` and said nothing else.
fn document(output: &Output, code: i32) -> Value {
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(code), ""), "{}", text(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_clean_checkpoint_is_exit_code_0() {
    let place = Place::new();
    let before = place.snapshot();
    let found = document(&place.run(&["lint", "{model}", "--format", "json"]), 0);
    assert_eq!(found["schema"], "achilles-audit/lint/v1");
    assert_eq!(found["tool"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(found["settings"]["fail_on"], "warning");
    // A model this small is not judged by norms.
    let ids: Vec<&Value> = found["findings"].as_array().unwrap().iter().map(|f| &f["id"]).collect();
    assert_eq!(ids, ["lesion-not-examined"]);
    assert_eq!(found["model"]["config_sha256"].as_str().unwrap().len(), 64);
    assert_eq!((&found["examined"]["files"], &found["examined"]["shards"]), (&3.into(), &1.into()));
    let output = place.run(&["lint", "{model}"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("0 errors, 0 warnings, 1 note; examined 3 files, 30 tensors in 1 "));
    assert_eq!(place.snapshot(), before, "lint changed something");
}

#[test]
fn findings_are_exit_code_1_and_notes_are_not() {
    let place = Place::new();
    let path = place.model().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (header, data) = split(&bytes);
    // A note: the data no longer begin at a multiple of the element size.
    std::fs::write(&path, join((header.clone() + " ").as_bytes(), &data)).unwrap();
    let found = document(&place.run(&["lint", "{model}", "--format", "json"]), 0);
    assert_eq!(
        (&found["findings"][0]["id"], &found["findings"][0]["severity"]),
        (&"unaligned-data".into(), &"note".into())
    );
    // A warning.
    std::fs::write(place.model().join("modeling.py"), "").unwrap();
    let found = document(&place.run(&["lint", "{model}", "--format", "json"]), 1);
    let severities: Vec<&Value> = found["findings"].as_array().unwrap().iter().map(|f| &f["severity"]).collect();
    assert_eq!(severities, ["warning", "note", "note"]);
    // An error; the same finding in both forms, and in the file.
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let args = ["lint", "{model}", "--format", "json", "-o", "{out}/lint.json"];
    let output = place.run(&args);
    assert_eq!((output.status.code(), text(&output.stdout), text(&output.stderr)), (Some(1), "", ""));
    let found: Value = serde_json::from_slice(&std::fs::read(place.out().join("lint.json")).unwrap()).unwrap();
    let first = &found["findings"][0];
    assert_eq!((&first["severity"], &first["id"]), (&"error".into(), &"file-truncated".into()));
    assert_eq!(first["location"], serde_json::json!({"file": "model.safetensors"}));
    for key in ["message", "why"] {
        assert!(first[key].as_str().is_some_and(|t| t.len() > 10), "{first}");
    }
    let table = place.run(&["lint", "{model}"]);
    assert_eq!(table.status.code(), Some(1));
    assert!(text(&table.stdout).contains("│ error    ┆ file-truncated "), "{}", text(&table.stdout));
}

#[test]
fn a_checkpoint_does_not_drive_the_terminal() {
    let place = Place::new();
    let path = place.model().join("model.safetensors");
    let (header, data) = split(&std::fs::read(&path).unwrap());
    let name = r#"{"\u001b[31m../a\u0007":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"#;
    std::fs::write(&path, join(header.replacen('{', name, 1).as_bytes(), &data)).unwrap();
    std::fs::write(place.model().join("a\u{1b}]0;x\u{7}.py"), "").unwrap();
    let output = place.run(&["lint", "{model}"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(shown.contains("odd-tensor-name") && shown.contains("odd-file-name"), "{shown}");
}

#[test]
fn what_cannot_be_examined_is_exit_code_2() {
    let place = Place::new();
    for (args, told) in [
        (["lint", "{out}"], "no weights in this folder"),
        (["lint", "{in}/nothing/there"], "no such file or folder"),
        (["lint", "org/name"], "cannot reach http://127.0.0.1:9"),
    ] {
        let output = place.run(&args);
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{args:?}");
        assert!(stderr.lines().count() == 1 && stderr.contains(told), "{args:?}: {stderr}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_told_of_and_not_opened() {
    for file in ["config.json", "tokenizer.json", "model.safetensors", "x.bin", "achilles-patch.json"] {
        let place = Place::new();
        let path = place.model().join(file);
        let _ = std::fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let child = place.command(&["lint", "{model}", "--format", "json"]).spawn().unwrap();
        let found = document(&wait(child, 10).unwrap(), 1);
        let ids: Vec<&Value> = found["findings"].as_array().unwrap().iter().map(|f| &f["id"]).collect();
        assert!(ids.contains(&&"special-file".into()), "{file}: {ids:?}");
    }
}

#[test]
fn progress_counts_the_bytes_of_values() {
    let place = Place::new();
    let output = place.run(&["lint", "{model}", "--format", "json", "--progress", "json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut lines = text(&output.stderr).lines().map(|line| serde_json::from_str(line).unwrap());
    let last: Value = lines.rfind(|line: &Value| line["stage"] == "values").unwrap();
    let bytes = &found["examined"]["value_bytes"];
    assert_eq!((&last["stage"], &last["done"], &last["unit"]), (&"values".into(), bytes, &"bytes".into()));
    assert_eq!(&last["total"], bytes);
}

#[test]
#[ignore = "needs `make model`"]
fn a_real_model_is_clean_and_a_lesion_in_it_is_found() {
    let place = Place::new();
    let model = crate::smollm2_folder();
    let found = document(&place.run(&["lint", &model, "--format", "json"]), 0);
    // Its system prompt, for a reader to judge.
    let ids = |found: &Value| -> Vec<String> {
        let findings = found["findings"].as_array().unwrap();
        findings.iter().map(|f| f["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&found), ["template-adds-text"]);
    assert_eq!(found["examined"]["tensors"], 272);
    let patch = ["patch", &model, "-o", "{out}/lesioned", "--neuron", "L11.mlp.down_proj:out:507"];
    assert!(place.run(&patch).status.success());
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/lint.md")).unwrap();
    let shown = place.run(&["lint", "{out}/lesioned"]);
    let shown = text(&shown.stdout);
    assert!(shown.lines().count() > 5 && page.contains(shown), "{shown}");
    for name in ["achilles-patch.json", "achilles-patch.undo"] {
        std::fs::remove_file(place.out().join("lesioned").join(name)).unwrap();
    }
    let found = document(&place.run(&["lint", "{out}/lesioned", "--format", "json"]), 1);
    assert_eq!(ids(&found), ["zero-row", "template-adds-text"]);
    let expected = serde_json::json!({"file": "model.safetensors", "tensor": "model.layers.11.mlp.down_proj.weight",
        "axis": "row", "index": 507});
    assert_eq!(found["findings"][0]["location"], expected);
}

/// In the formats of `scan`, by rules of one's own, and with waivers.
#[test]
fn findings_are_reported_and_judged_as_by_scan() {
    let place = Place::new();
    std::fs::write(place.model().join("modeling.py"), "").unwrap();
    let rules = "schema: achilles-audit/rules/v1\nlongest_waiver_days: 4000000\nwaivers:\n\
                 - {rule: custom-code, location: modeling.py, reason: read, expires: 9999-12-31}\n\
                 - {rule: zero-row, location: '*', reason: none, expires: 9999-12-31}\n\
                 rules: {waiver-unused: {severity: note}, lesion-not-examined: {severity: off}}\n";
    std::fs::write(place.model().parent().unwrap().join("gate.yaml"), rules).unwrap();
    let run = |more: &[&str]| place.run(&[&["lint", "{model}"], more].concat());
    for (rules, code) in [(&[][..], 1), (&["--rules", "{in}/gate.yaml"], 0)] {
        let by = |format: &str| run(&[rules, &["--format", format]].concat());
        let found = document(&by("json"), code);
        assert_eq!(found["settings"].get("rules").is_some(), code == 0, "{found}");
        assert_eq!(found.get("verdict"), (code == 0).then_some(&"pass".into()), "{found}");
        let sarif = document(&by("sarif"), code);
        super::gate::sarif_is_valid(&sarif);
        let runs = &sarif["runs"][0];
        assert_eq!(runs["invocations"][0]["exitCode"], code);
        let ids = |list: &Value, key: &str| -> Vec<Value> {
            list.as_array().unwrap().iter().map(|found| found[key].clone()).collect()
        };
        assert_eq!(ids(&runs["results"], "ruleId"), ids(&found["findings"], "id"));
        let junit = by("junit");
        let junit = roxmltree::Document::parse(text(&junit.stdout)).unwrap();
        assert_eq!(junit.descendants().any(|node| node.has_tag_name("failure")), code == 1);
        let html = by("html");
        let page = scraper::Html::parse_document(text(&html.stdout));
        assert!(page.errors.is_empty(), "{:?}", page.errors);
        let strong = page.select(&scraper::Selector::parse("h1 strong").unwrap()).next().unwrap();
        assert_eq!(strong.inner_html(), ["PASS", "FAIL"][code as usize]);
    }
    let waived = run(&["--rules", "{in}/gate.yaml"]);
    for shown in ["waived (warning)", "waived until 9999-12-31: read", "0 warnings, 1 note, 1 waived", "waiver-unused"]
    {
        assert!(text(&waived.stdout).contains(shown), "{}", text(&waived.stdout));
    }
    assert_eq!(run(&["--rules", "release"]).status.code(), Some(1));
    // What the rules require and lint does not measure was not examined.
    let require = rules.replacen("waivers:", "require: [fingerprint]\nwaivers:", 1);
    std::fs::write(place.model().parent().unwrap().join("gate.yaml"), require).unwrap();
    let found = document(&run(&["--rules", "{in}/gate.yaml", "--format", "json"]), 2);
    assert_eq!(found["verdict"], "not-examined");
    assert_eq!(found["not_examined"][0], "the rules require fingerprint, which `scan` measures and `lint` does not");
}
