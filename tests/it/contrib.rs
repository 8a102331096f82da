//! What contrib/ gives to build servers, run as they run it.

use crate::tiny::Place;
use serde_yaml::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()).unwrap()
}

/// As GitHub and GitLab run a script.
const STEP: [&str; 5] = ["--noprofile", "--norc", "-eo", "pipefail", "-c"];

/// Runs bash with the binary on PATH; its exit code and standard error.
fn bash(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let bin = Path::new(env!("CARGO_BIN_EXE_achilles-audit")).parent().unwrap().to_owned();
    let system = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&system))).unwrap();
    let output = Command::new("bash")
        .args(arguments)
        .current_dir(folder(place))
        .env("PATH", path)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The folder that holds the model, `model`.
fn folder(place: &Place) -> PathBuf {
    place.model().parent().unwrap().to_owned()
}

#[test]
fn the_action_fails_by_the_exit_code_and_leaves_a_report() {
    let place = Place::new();
    let action = yaml("contrib/github-action/action.yml");
    let default = |input: &str| action["inputs"][input]["default"].as_str().unwrap().to_owned();
    let (rules, format, output) = (default("rules"), default("format"), default("output"));
    let run = |name: &str, fingerprint: &str| {
        let steps = action["runs"]["steps"].as_sequence().unwrap();
        let step = steps.iter().find(|s| s["name"].as_str() == Some(name)).unwrap();
        let variables = [
            ("MODEL", "model"),
            ("RULES", rules.as_str()),
            ("FINGERPRINT", fingerprint),
            ("FORMAT", format.as_str()),
            ("OUTPUT", output.as_str()),
            ("OPTIONS", "--static --progress none"),
            ("GIT", ""),
            ("VERSION", ""),
        ];
        let set = step["env"].as_mapping().unwrap().keys().map(|k| k.as_str().unwrap());
        for name in set {
            assert!(variables.iter().any(|(known, _)| *known == name), "{name} is not tested");
        }
        bash(&place, &[&STEP[..], &[step["run"].as_str().unwrap()]].concat(), &variables)
    };
    assert_eq!(run("Install achilles-audit", ""), (Some(0), String::new()));
    let report = folder(&place).join(&output);
    let rules_broken = || {
        let found: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let results = found["runs"][0]["results"].as_array().unwrap();
        results
            .iter()
            .filter(|r| r["level"] != "note")
            .map(|r| r["ruleId"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(run("Scan", ""), (Some(0), String::new()));
    assert!(rules_broken().is_empty());
    assert!(place.run(&["fingerprint", "{model}", "-o", "{in}/f.json"]).status.success());
    std::fs::write(place.model().join("modeling x.py"), "").unwrap();
    assert_eq!(run("Scan", "f.json"), (Some(1), String::new()));
    assert_eq!(rules_broken(), ["fingerprint-file-extra", "custom-code"]);
}

#[test]
fn the_job_for_gitlab_leaves_its_report() {
    let place = Place::new();
    let job = &yaml("contrib/gitlab/achilles-audit.gitlab-ci.yml")["achilles-audit"];
    let script: Vec<&str> = job["script"].as_sequence().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    std::fs::write(place.model().join("modeling_x.py"), "").unwrap();
    let variable = |name: &str| job["variables"][name].as_str().unwrap();
    let variables = [("MODEL", variable("MODEL")), ("RULES", variable("RULES"))];
    // Running the model of random weights is more than is asked here.
    let script = script.join("\n").replace("scan", "scan --static");
    assert_eq!(bash(&place, &[&STEP[..], &[script.as_str()]].concat(), &variables), (Some(1), String::new()));
    let report = job["artifacts"]["reports"]["junit"].as_str().unwrap();
    let text = std::fs::read_to_string(folder(&place).join(report)).unwrap();
    let report = roxmltree::Document::parse(&text).unwrap();
    assert!(report.descendants().any(|n| n.has_tag_name("failure")));
}

#[test]
fn the_hook_lints_each_folder_of_a_checkpoint() {
    let place = Place::new();
    let hook = &yaml(".pre-commit-hooks.yaml")[0];
    let script = Path::new(ROOT).join(hook["entry"].as_str().unwrap());
    let run = |files: &[&str]| bash(&place, &[&[script.to_str().unwrap()], files].concat(), &[]).0;
    std::fs::write(folder(&place).join("x.py"), "").unwrap();
    std::fs::create_dir(folder(&place).join("other")).unwrap();
    assert_eq!(run(&["model/config.json", "model/model.safetensors", "other/y.json", "x.py"]), Some(0));
    std::fs::write(place.model().join("modeling_x.py"), "").unwrap();
    assert_eq!(run(&["other/y.json", "model/config.json"]), Some(1));
    assert_eq!(run(&["other/y.json", "x.py"]), Some(0));
    // The worst counts, wherever it is in the list.
    let good = folder(&place).join("-good");
    std::fs::create_dir(&good).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(place.model().join(file), good.join(file)).unwrap();
    }
    assert_eq!(run(&["model/config.json", "-good/config.json"]), Some(1));
    assert_eq!(run(&["-good/config.json"]), Some(0));
}
