//! What contrib/ gives to build servers, run as they run it.

use crate::tiny::Place;
use serde_yaml::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()).unwrap()
}

/// As GitHub and GitLab run a script.
const STEP: [&str; 5] = ["--noprofile", "--norc", "-eo", "pipefail", "-c"];

/// Runs bash with the binary on PATH; its exit code and standard error.
fn bash(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = output(place, arguments, variables);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn output(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_achilles-audit")).parent().unwrap().to_owned();
    let system = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&system))).unwrap();
    Command::new("bash")
        .args(arguments)
        .current_dir(folder(place))
        .env("PATH", path)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
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
    // A report that somebody put into the repository is gone whatever comes after.
    let first = action["runs"]["steps"][0]["name"].as_str().unwrap();
    let forged = folder(&place).join(&output);
    for is_folder in [false, true] {
        match is_folder {
            true => std::fs::create_dir_all(forged.join("forged.sarif")).unwrap(),
            false => std::fs::write(&forged, r#"{"version": "2.1.0", "runs": []}"#).unwrap(),
        }
        assert_eq!(run(first, ""), (Some(0), String::new()));
        assert!(!forged.exists());
        assert_eq!(run("Scan", "no-such-fingerprint.json").0, Some(2));
        assert!(!forged.exists());
    }
    assert_eq!(run(first, ""), (Some(0), String::new()));
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
    let report = job["artifacts"]["reports"]["junit"].as_str().unwrap();
    std::fs::write(folder(&place).join(report), "<testsuites/>").unwrap();
    let broken = [("MODEL", "model"), ("RULES", "no-such-rules.yaml")];
    assert_eq!(bash(&place, &[&STEP[..], &[script.as_str()]].concat(), &broken).0, Some(2));
    assert!(!folder(&place).join(report).exists(), "a report of somebody else's would be taken for this job's");
    assert_eq!(bash(&place, &[&STEP[..], &[script.as_str()]].concat(), &variables), (Some(1), String::new()));
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

/// Copies the model to a folder beside it.
fn copy(place: &Place, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(place.model().join(file), to.join(file)).unwrap();
    }
}

/// What pre-commit gives the script is for it to choose from: any file, however deep, and links.
#[test]
fn the_hook_sees_subfolders_and_every_kind_of_file() {
    let place = Place::new();
    let hook = &yaml(".pre-commit-hooks.yaml")[0];
    assert_eq!(hook["types"], Value::Sequence(Vec::new()));
    assert!(hook["files"].is_null() && hook["exclude"].is_null());
    let script = Path::new(ROOT).join(hook["entry"].as_str().unwrap());
    let run = |files: &[&str]| bash(&place, &[&[script.to_str().unwrap()], files].concat(), &[]).0;
    let root = folder(&place);
    for (file, content) in [
        ("custom_generate/generate.py", &b"import os"[..]),
        ("a/b/c/modeling.py", b""),
        ("tokenizer.model", b"cos\nsystem\n(S'id'\ntR."),
        ("x.joblib", b"\x80\x04\x95\x06\0\0\0\0\0\0\0]\x94K\x01a."),
        ("head.keras", b""),
    ] {
        let model = root.join("one");
        copy(&place, &model);
        std::fs::create_dir_all(model.join(file).parent().unwrap()).unwrap();
        assert_eq!(run(&[&format!("one/{file}")]), Some(0), "{file} is not there yet");
        std::fs::write(model.join(file), content).unwrap();
        assert_eq!(run(&[&format!("one/{file}")]), Some(1), "{file}");
        std::fs::remove_dir_all(model).unwrap();
    }
    // The outermost model's examination takes in all below it, once.
    copy(&place, &root.join("one"));
    copy(&place, &root.join("one/checkpoint-1"));
    let said = output(&place, &[script.to_str().unwrap(), "one/checkpoint-1/config.json", "one/README.md"], &[]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("lint of ")).collect::<Vec<_>>(), ["lint of one"]);
    // Weights that lint cannot examine are not passed over.
    std::fs::create_dir(root.join("gguf")).unwrap();
    std::fs::write(root.join("gguf/model.Q4_0.gguf"), b"GGUF").unwrap();
    assert_eq!(run(&["gguf/model.Q4_0.gguf"]), Some(2));
    std::fs::write(root.join("x.py"), "").unwrap();
    assert_eq!(run(&["x.py"]), Some(0));
}

#[test]
fn the_hook_quotes_what_it_prints() {
    let place = Place::new();
    let script = Path::new(ROOT).join("contrib/pre-commit/lint.sh");
    let name = "::error file=README.md::forged\n::stop-commands::t\n##[group]x\u{1b}[31m\u{9b}31m\u{202e}";
    copy(&place, &folder(&place).join(name));
    let printed = output(&place, &[script.to_str().unwrap(), &format!("{name}/config.json")], &[]);
    let said = [printed.stdout, printed.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(printed.status.code(), Some(0), "{said}");
    let hostile = |line: &str| line.trim_start().starts_with("::") || line.contains("##[");
    assert!(!said.lines().any(hostile), "{said}");
    assert!(!said.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{said}");
}
