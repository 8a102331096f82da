//! The paper's experiments, on the tiny model.

use crate::tiny::{Place, TEXT, load, save};
use achilles_audit::study::STUDIES;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// Settings by which the tiny model collapses soon.
const QUICK: [&str; 16] = [
    "--text",
    TEXT,
    "--samples",
    "5",
    "--epsilon",
    "0.002",
    "--max-neurons",
    "20",
    "--draws",
    "2",
    "--corpus",
    "kinds",
    "--max-samples",
    "2",
    "--device",
    "cpu",
];

fn study<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["study", name, "{model}"], more, &QUICK].concat()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn written(folder: &Path) -> BTreeMap<String, SystemTime> {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    files.map(|f| (f.file_name().into_string().unwrap(), f.metadata().unwrap().modified().unwrap())).collect()
}

/// The rows of a table of a study, each a map from its columns.
fn rows(document: &Value, table: &str) -> Vec<BTreeMap<String, Value>> {
    let tables = document["tables"].as_array().unwrap();
    let table = tables.iter().find(|t| t["name"] == table).unwrap_or_else(|| panic!("no table {table}"));
    let columns: Vec<&str> = table["columns"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    let of =
        |row: &Value| columns.iter().map(|c| (*c).to_owned()).zip(row.as_array().unwrap().iter().cloned()).collect();
    table["rows"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn all_studies_leave_their_figures_and_are_not_repeated() {
    let place = Place::new();
    let all = study("all", &["-o", "{out}/studies"]);
    let output = place.run(&all);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let folder = place.out().join("studies");
    let first = written(&folder);
    for study in STUDIES.iter().filter(|study| study.name != "variants") {
        let document = json(&folder.join(format!("{}.json", study.name)));
        assert_eq!(document["schema"], "achilles-audit/study/v1");
        assert_eq!((document["study"].as_str(), document["repeats"].as_str()), (Some(study.name), Some(study.paper)));
        assert_eq!(document["paper"].as_array().unwrap().is_empty(), study.paper == "ours", "{}", study.name);
        assert!(!document["findings"].as_array().unwrap().is_empty(), "{}", study.name);
        for table in document["tables"].as_array().unwrap() {
            let name = table["name"].as_str().unwrap();
            let csv = std::fs::read_to_string(folder.join(format!("{}.{name}.csv", study.name))).unwrap();
            let mut reader = csv::Reader::from_reader(csv.as_bytes());
            let columns = table["columns"].as_array().unwrap();
            assert_eq!(reader.headers().unwrap().len(), columns.len());
            assert_eq!(reader.records().map(Result::unwrap).count(), table["rows"].as_array().unwrap().len());
        }
        for chart in document["charts"].as_array().unwrap() {
            let svg = folder.join(format!("{}.{}.svg", study.name, chart["name"].as_str().unwrap()));
            let svg = std::fs::read_to_string(svg).unwrap();
            roxmltree::Document::parse(&svg).unwrap_or_else(|e| panic!("{} {}: {e}", study.name, chart["name"]));
        }
    }
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    for study in STUDIES {
        let of_study = match study.name {
            "variants" => "<li><strong>variants</strong>: it needs kin of the model".to_owned(),
            name => format!("<section id=\"{name}\">"),
        };
        assert!(page.contains(&of_study), "{}", study.name);
    }

    // What was interrupted goes on where it was: nothing is repeated but what is gone.
    std::fs::remove_file(folder.join("beta.json")).unwrap();
    assert_eq!(place.run(&all).status.code(), Some(0));
    let second = written(&folder);
    let again: Vec<&String> = first.keys().filter(|name| first[*name] != second[*name]).collect();
    assert_eq!(again, ["beta.beta.csv", "beta.beta.svg", "beta.json", "index.html"]);

    // Another setting is another result of the studies that use it.
    let other = [&all[..], &["--betas", "0,2"]].concat();
    assert_eq!(place.run(&other).status.code(), Some(0));
    let third = written(&folder);
    let again: Vec<&String> = second.keys().filter(|name| second[*name] != third[*name]).collect();
    assert_eq!(again, ["beta.beta.csv", "beta.beta.svg", "beta.json", "index.html"]);
    let other = [&study("beta", &["-o", "{out}/studies"])[..], &["--seed", "7"]].concat();
    assert_eq!(place.run(&other).status.code(), Some(0));
    assert_eq!(json(&folder.join("beta.json"))["settings"]["search"]["seed"], 7);
}

/// What a study says is what the commands that measure one thing say.
#[test]
fn studies_agree_with_perplexity() {
    let place = Place::new();
    let neuron = "L1.mlp.down_proj:out:7";
    let critical = place.run(&[
        "locate",
        "{model}",
        "--text",
        TEXT,
        "--samples",
        "5",
        "--epsilon",
        "0.002",
        "--format",
        "json",
        "-o",
        "{out}/c.json",
    ]);
    assert_eq!(critical.status.code(), Some(0));
    let path = place.out().join("c.json");
    let mut set = json(&path);
    set["critical_set"]["neurons"] = serde_json::json!([neuron]);
    std::fs::write(&path, set.to_string()).unwrap();
    let output = place.run(&study("beta", &["--critical", "{out}/c.json", "--format", "json", "--betas", "0,0.5,-2"]));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows(&document, "beta");
    for beta in ["0", "0.5", "-2"] {
        let expected = place.run(&[
            "perplexity",
            "{model}",
            "--text",
            TEXT,
            "--neuron",
            neuron,
            "--beta",
            beta,
            "--format",
            "json",
        ]);
        let expected: Value = serde_json::from_slice(&expected.stdout).unwrap();
        let of = |row: &&BTreeMap<String, Value>| row["corpus"] == "text" && row["intervention"] == beta;
        let row = rows.iter().find(of).unwrap();
        for key in ["perplexity", "damage"] {
            let (found, expected) = (row[key].as_f64().unwrap(), expected["changed"][key].as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{beta} {key}: {found}, {expected}");
        }
    }
    assert_eq!(rows.iter().filter(|row| row["corpus"] == "kinds").count(), 4);
}

/// Multiplies row `row` of a tensor of the tiny model, or one `column` of it.
fn plant(place: &Place, tensor: &str, (row, column): (usize, Option<usize>), factor: f32) {
    let path = place.model().join("model.safetensors");
    let mut tensors = load(&std::fs::read(&path).unwrap());
    let tensor = tensors.iter_mut().find(|t| t.name == tensor).unwrap();
    assert_eq!(tensor.dtype, "F32");
    let columns = tensor.shape[1];
    for at in column.map_or(0..columns, |column| column..column + 1) {
        let element = &mut tensor.bytes[4 * (row * columns + at)..][..4];
        let value = f32::from_le_bytes(element.try_into().unwrap());
        element.copy_from_slice(&(value * factor).to_le_bytes());
    }
    std::fs::write(&path, save(&tensors)).unwrap();
}

/// A weight far larger than the others, which meets a spike, is found by its row and its column, and as the one in which
/// they meet.
#[test]
fn a_planted_super_weight_is_found() {
    let place = Place::new();
    plant(&place, "model.layers.1.mlp.up_proj.weight", (11, None), 60.0);
    plant(&place, "model.layers.1.mlp.down_proj.weight", (7, Some(11)), 60.0);
    for (side, neuron) in [("out", "model.layers.1.mlp.down_proj:out:7"), ("in", "model.layers.1.mlp.down_proj:in:11")]
    {
        let output = place.run(&[
            "locate",
            "{model}",
            "--text",
            TEXT,
            "--ranking",
            "super-weight",
            "--side",
            side,
            "--format",
            "json",
        ]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["ranking"][0]["neuron"], neuron);
    }
    let output = place.run(&study("sides", &["--format", "json", "--ranking", "super-weight"]));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows(&document, "weights");
    // Of a model without sense a spike is no pillar: what matters is how far it is moved.
    let damage = |row: &&BTreeMap<String, Value>| row["damage"].as_f64().unwrap().abs();
    let worst = rows.iter().max_by(|a, b| damage(a).total_cmp(&damage(b))).unwrap();
    assert_eq!(
        (&worst["module"], &worst["row"], &worst["column"]),
        (&"L1.mlp.down_proj".into(), &7.into(), &11.into())
    );
}

#[test]
fn variants_are_held_beside_the_model() {
    let place = Place::new();
    let output = place.run(&[&["study", "variants", "{model}", "{model}", "--format", "json"], &QUICK[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows(&document, "variants");
    assert_eq!(rows.len(), 4);
    assert_eq!((&rows[0]["damage"], &rows[1]["damage"]), (&rows[2]["damage"], &rows[3]["damage"]));
    assert!(document["findings"][0].as_str().unwrap().starts_with("The model's set collapses 1 of 1 variants"));
}

#[test]
fn what_cannot_be_studied_is_one_line() {
    let place = Place::new();
    std::fs::write(place.out().join("empty.txt"), "\n \n").unwrap();
    std::fs::write(
        place.out().join("c.json"),
        r#"{"schema": "achilles-audit/critical-set/v1", "model": {"architecture": "GPT"}}"#,
    )
    .unwrap();
    std::fs::write(place.out().join("a file"), "").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["study", "criticals", "{model}"], &["study \"criticals\"", "expected all, or one of critical, rankings"]),
        (&["study", "critical"], &["study critical needs a MODEL"]),
        (&["study", "beta", "{model}", "{model}"], &["study beta is of one model"]),
        (&["study", "all", "{model}"], &["needs a folder", "-o DIR"]),
        (&["study", "variants", "{model}"], &["study variants", "name them after MODEL"]),
        (&["study", "critical", "{model}", "-o", "{out}/a file"], &["a file", "expected a folder"]),
        (&["study", "critical", "{model}", "--corpus", "{out}/empty.txt"], &["empty.txt", "holds no text"]),
        (&["study", "critical", "{model}", "--corpus", "{out}/none.txt"], &["none.txt", "is not there"]),
        (&["study", "beta", "{model}", "--critical", "{out}/c.json"], &["c.json", "is the critical set of a \"GPT\""]),
        (
            &["study", "critical", "{model}", "--critical", "{out}/c.json"],
            &["masks no given set", "leave --critical out"],
        ),
        (&["study", "beta", "{model}", "--corpus", "kinds", "--corpus", "kinds"], &["two corpora called \"kinds\""]),
        (&["study", "beta", "{model}", "--betas", "inf"], &["beta is inf", "expected a finite number"]),
        (
            &["study", "beta", "{model}", "--epsilon", "50", "--max-neurons", "2", "--text", TEXT, "--samples", "2"],
            &["nothing of the first 2 neurons collapses", "--critical"],
        ),
    ];
    for (args, says) in cases {
        let output = place.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        let said: Vec<&str> = said.lines().filter(|line| !line.contains("below 10 the critical set")).collect();
        assert_eq!((output.status.code(), said.len()), (Some(2), 1), "{args:?}: {said:?}");
        assert!(says.iter().all(|part| said[0].contains(part)), "{args:?}: {said:?}");
        assert!(output.stdout.is_empty());
    }
}
