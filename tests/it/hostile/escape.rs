//! Nothing that a checkpoint says of itself, and nothing that was typed, drives a terminal or a build server.

use crate::tiny::{Place, load, save};
use achilles_audit::report::RENDERERS;
use std::process::Output;

/// Names as an attacker gives them: of files as far as the system allows, and of tensors and keys.
const NAMES: [&str; 5] = [
    "::error file=README.md,line=1::forged",
    "a\n::stop-commands::token",
    "##[add-mask]model ##vso[task.complete]",
    "\u{1b}]0;title\u{7}\u{9b}31m\u{85}\r\u{7f}",
    "\u{202e}gpj.\u{200b}\u{2066}\u{feff}\u{fe0f}\u{e0041}",
];

fn check(output: &Output, what: &str) {
    for bytes in [&output.stdout, &output.stderr] {
        let said = std::str::from_utf8(bytes).unwrap();
        for line in said.split('\n') {
            assert!(!line.trim_start().starts_with("::"), "{what}: {line:?}");
            assert!(!line.contains("##[") && !line.contains("##vso["), "{what}: {line:?}");
            let hidden = |c: char| {
                c.is_control()
                    || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
                    || matches!(c, '\u{feff}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e01ef}')
            };
            assert!(!line.contains(hidden), "{what}: {line:?}");
        }
    }
}

#[cfg(unix)]
#[test]
fn names_in_a_checkpoint_are_shown_and_do_nothing() {
    let place = Place::new();
    let clean = place.run(&["fingerprint", "{model}", "-o", "{out}/f.json"]);
    assert!(clean.status.success());
    let patch = ["patch", "{model}", "-o", "{out}/patched", "--neuron", "L0.mlp.down_proj:out:1"];
    check(&place.run(&patch), "patch");
    let path = place.model().join("model.safetensors");
    let mut tensors = load(&std::fs::read(&path).unwrap());
    for name in NAMES {
        for folder in [place.model(), place.out().join("patched")] {
            std::fs::write(folder.join(name.replace('/', "")), "x").unwrap();
            std::fs::write(folder.join(format!("{name}.py")), "x").unwrap();
        }
        let mut tensor = tensors[0].clone();
        tensor.name = name.into();
        tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        tensors.push(tensor);
    }
    std::fs::write(&path, save(&tensors)).unwrap();
    let config = place.model().join("config.json");
    let mut keys: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    keys["architectures"] = serde_json::json!(NAMES);
    keys["auto_map"] = serde_json::json!({"AutoModel": NAMES[0], NAMES[1]: NAMES[2]});
    std::fs::write(&config, serde_json::to_string(&keys).unwrap()).unwrap();
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["lint", "{model}"],
        vec!["lint", "{model}", "--format", "json"],
        vec!["locate", "{model}"],
        vec!["diff", "{model}", "{out}/patched"],
        vec!["diff", "{model}", "{out}/patched", "--format", "json"],
        vec!["verify", "{model}", "{out}/f.json"],
        vec!["verify", "{model}", "{out}/f.json", "--format", "json"],
        vec!["fingerprint", "{model}"],
        vec!["verify-patch", "{out}/patched", "--original", "{model}"],
        vec!["sign", "{model}", "--private-key", concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms/keys/p256.pem")],
    ];
    for format in RENDERERS.iter().map(|renderer| renderer.name) {
        commands.push(vec!["scan", "{model}", "--format", format, "--fingerprint", "{out}/f.json"]);
    }
    for command in commands {
        check(&place.run(&command), &command.join(" "));
    }
    // What is shown in a document is what was said.
    let found = place.run(&["lint", "{model}", "--format", "json"]);
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let files: Vec<&str> =
        found["findings"].as_array().unwrap().iter().map(|f| f["location"]["file"].as_str().unwrap()).collect();
    for name in NAMES {
        assert!(files.contains(&format!("{name}.py").as_str()), "{name:?}: {files:?}");
    }
}

/// The folder itself, and whatever else is typed.
#[cfg(unix)]
#[test]
fn what_was_typed_is_shown_and_does_nothing() {
    let place = Place::new();
    for name in NAMES {
        let model = place.model().parent().unwrap().join(name);
        std::fs::rename(place.model(), &model).unwrap();
        let folder = model.parent().unwrap().to_owned();
        let run = |args: &[&str]| {
            let output = place.command(args).current_dir(&folder).output().unwrap();
            check(&output, &format!("{name:?} {args:?}"));
            output
        };
        for format in RENDERERS.iter().map(|renderer| renderer.name) {
            assert_eq!(run(&["scan", name, "--static", "--format", format]).status.code(), Some(0));
        }
        run(&["fingerprint", name]);
        run(&["patch", name, "--neuron", "L0.mlp.down_proj:out:1", "--in-place"]);
        run(&["unpatch", name]);
        run(&["perplexity", name, "--text", name]);
        for args in [
            &["scan", name, "--rules", name][..],
            &["lint", name, name],
            &["lint", &format!("--{name}")],
            &[name],
            &["explain", name],
            &["scan", name, "--format", name],
            &["perplexity", name, "--neuron", name],
            &["perplexity", name, "--dtype", name],
            &["perplexity", name, "--device", name],
            &["locate", name, "--samples", name],
            &["locate", name, "--sites", name],
            &["rules", name],
            &["scan", &format!("{name}/nothing")],
        ] {
            assert_eq!(run(args).status.code(), Some(2), "{args:?}");
        }
        std::fs::rename(&model, place.model()).unwrap();
    }
}
