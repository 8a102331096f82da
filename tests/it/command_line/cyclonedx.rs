//! Bills of materials, by the schema that CycloneDX publishes.

use crate::tiny::Place;
use serde_json::{Value, json};
use std::path::Path;

const CARD: &str = "---\nlicense: apache-2.0\nbase_model: org/base\nbase_model_relation: finetune\n\
                    pipeline_tag: text-generation\ndatasets:\n- org/texts\n---\n# Tiny\n";

fn written(place: &Place, args: &[&str]) -> Value {
    let output = place.run(&[&["fingerprint"], args, &["--format", "cyclonedx"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let found = serde_json::from_slice(&output.stdout).unwrap();
    is_valid(&found);
    found
}

fn is_valid(found: &Value) {
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cyclonedx");
    for name in ["bom-1.5.schema.json", "spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json"] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let schema = serde_json::from_str(&text).unwrap();
        compiler.add_resource(&format!("http://cyclonedx.org/schema/{name}"), schema).unwrap();
    }
    let form = compiler.compile("http://cyclonedx.org/schema/bom-1.5.schema.json", &mut schemas).unwrap();
    if let Err(e) = schemas.validate(found, form) {
        panic!("{e:#}\n{found:#}");
    }
    let mut wrong = found.clone();
    wrong["components"][0]["type"] = "tensor".into();
    assert!(schemas.validate(&wrong, form).is_err(), "the schema is looked at");
}

fn properties(of: &Value) -> Vec<(&str, &str)> {
    let all = of["properties"].as_array().unwrap().iter();
    all.map(|p| (p["name"].as_str().unwrap(), p["value"].as_str().unwrap())).collect()
}

#[test]
fn files_tensors_and_the_card_are_in_it() {
    let place = Place::new();
    std::fs::write(place.model().join("README.md"), CARD).unwrap();
    let found = written(&place, &["{model}"]);
    let output = place.run(&["fingerprint", "{model}"]);
    let fingerprint: Value = serde_json::from_slice(&output.stdout).unwrap();

    let model = &found["metadata"]["component"];
    assert_eq!((&model["type"], &model["name"]), (&"machine-learning-model".into(), &"model".into()));
    assert_eq!(model["licenses"], json!([{"license": {"id": "Apache-2.0"}}]));
    assert_eq!(model["pedigree"]["ancestors"][0]["purl"], "pkg:huggingface/org/base");
    let parameters = &model["modelCard"]["modelParameters"];
    assert_eq!(parameters["modelArchitecture"], "LlamaForCausalLM");
    assert_eq!((&parameters["architectureFamily"], &parameters["task"]), (&"llama".into(), &"text-generation".into()));
    assert_eq!(properties(model), [("achilles-audit:tensors:blake3", fingerprint["tensors_blake3"].as_str().unwrap())]);

    let files = found["components"].as_array().unwrap();
    assert_eq!(files.len(), fingerprint["files"].as_array().unwrap().len());
    for (file, known) in files.iter().zip(fingerprint["files"].as_array().unwrap()) {
        assert_eq!((&file["name"], &file["hashes"][0]["content"]), (&known["path"], &known["sha256"]));
    }
    let weights = files.iter().find(|file| file["name"] == "model.safetensors").unwrap();
    let tensors = weights["components"].as_array().unwrap();
    for (tensor, known) in tensors.iter().zip(fingerprint["tensors"].as_array().unwrap()) {
        assert_eq!((&tensor["name"], &tensor["hashes"][0]["content"]), (&known["name"], &known["blake3"]));
        assert_eq!(tensor["hashes"][0]["alg"], "BLAKE3");
    }
    assert_eq!(tensors.len(), 30);
    assert_eq!(found["dependencies"][0]["dependsOn"].as_array().unwrap().len(), files.len());
}

#[test]
fn packed_weights_and_unlisted_licenses_are_told() {
    let place = Place::new();
    for (folder, format) in [("ct_fp8_block", "FP8"), ("awq_gemm", "AWQ INT4")] {
        let path = format!("{}/fixtures/packed/{folder}", env!("CARGO_MANIFEST_DIR"));
        let found = written(&place, &[&path, "--ignore", "reference*"]);
        let told = properties(&found["metadata"]["component"]);
        let quantization = told.iter().find(|(name, _)| *name == "achilles-audit:quantization").unwrap();
        assert!(quantization.1.starts_with(format), "{folder}: {told:?}");
    }
    let card = "---\nlicense: other\nlicense_name: a \"license\" <b>\n---\n";
    std::fs::write(place.model().join("README.md"), card).unwrap();
    let found = written(&place, &["{model}"]);
    let license = found["metadata"]["component"]["licenses"][0]["license"]["name"].as_str();
    assert!(license.unwrap().starts_with("a \"license\" <b>"), "{license:?}");
}

/// As people write them: several, by any spelling; deprecated identifiers; values that say nothing.
#[test]
fn licenses_are_those_that_spdx_lists_where_it_lists_them() {
    let place = Place::new();
    let card = "---\nlicense: [MIT, gpl-3.0, llama3, '']\nbase_model: ''\ndatasets: [{name: a}]\n---\n";
    std::fs::write(place.model().join("README.md"), card).unwrap();
    let output = place.run(&["fingerprint", "{model}", "--format", "cyclonedx"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.lines().next().unwrap().contains("`datasets` is neither"), "{told}");
    let found = serde_json::from_slice(&output.stdout).unwrap();
    is_valid(&found);
    let model = &found["metadata"]["component"];
    let by = |key: &str, name: &str| json!({"license": {key: name}});
    assert_eq!(model["licenses"], json!([by("id", "MIT"), by("id", "GPL-3.0"), by("name", "llama3")]));
    assert_eq!(model.get("pedigree"), None);
}

/// A card beside a file may be another model's; a folder that is called `.` has a name.
#[test]
fn files_alone_and_the_folder_of_the_shell_have_names() {
    let place = Place::new();
    std::fs::write(place.model().join("README.md"), CARD).unwrap();
    let listed = Value::from("Apache-2.0");
    for (args, name, license) in [
        (["fingerprint", "model.safetensors"], "model.safetensors", &Value::Null),
        (["fingerprint", "."], "model", &listed),
    ] {
        let mut command = place.command(&args);
        let output = command.args(["--format", "cyclonedx"]).current_dir(place.model()).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        is_valid(&found);
        let model = &found["metadata"]["component"];
        assert_eq!((&model["name"], &model["licenses"][0]["license"]["id"]), (&name.into(), license));
    }
}

#[test]
fn a_card_that_cannot_be_read_is_one_line() {
    let place = Place::new();
    std::fs::write(place.model().join("README.md"), "---\nlicense: [\n---\n").unwrap();
    let args = ["fingerprint", "{model}", "--format", "cyclonedx", "-o", "{out}/bom.json"];
    let output = place.run(&args);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.lines().count()), (Some(2), 1), "{told}");
    assert!(told.contains("README.md") && told.contains("model card's YAML"), "{told}");
    assert!(!place.out().join("bom.json").exists());

    std::fs::remove_file(place.model().join("README.md")).unwrap();
    assert_eq!(place.run(&args).status.code(), Some(0));
    let told = String::from_utf8(place.run(&["verify", "{model}", "{out}/bom.json"]).stderr).unwrap();
    assert!(told.contains("bom.json") && told.contains("fingerprint") && told.lines().count() == 1, "{told}");
}
