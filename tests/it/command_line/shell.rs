//! Completions and manual pages, made of the same definitions as --help.

use crate::tiny::Place;
use std::process::Command;

#[cfg(unix)]
#[test]
fn bash_completes_subcommands_and_options() {
    let place = Place::new();
    let made = place.run(&["completions", "bash"]);
    let script = place.out().join("completions.bash");
    std::fs::write(&script, made.stdout).unwrap();
    let complete = |words: &[&str]| {
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let line = format!(
            "set -e; source {}; by=$(complete -p achilles-audit); by=${{by##*-F }}; COMP_WORDS=({}); COMP_CWORD={}; \
             ${{by%% *}} achilles-audit '{last}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.join(" "),
            words.len() - 1
        );
        let output = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["achilles-audit", "sc"]), "scan");
    assert_eq!(complete(&["achilles-audit", "scan", "--finger"]), "--fingerprint");
    assert_eq!(complete(&["achilles-audit", "scan", "--format", "ht"]), "html");
}

#[test]
fn every_shell_has_completions() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let made = place.run(&["completions", shell]);
        assert!(made.status.success() && made.stderr.is_empty(), "{shell}");
        assert!(String::from_utf8(made.stdout).unwrap().contains("verify-signature"), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let place = Place::new();
    let made = place.run(&["man", "-o", "{out}/man"]);
    assert!(made.status.success() && made.stderr.is_empty(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = |name: &str| std::fs::read_to_string(place.out().join("man").join(name)).unwrap();
    for (name, says) in [
        ("achilles-audit.1", "achilles\\-audit\\-scan(1)"),
        ("achilles-audit-scan.1", "\\-\\-fingerprint"),
        ("achilles-audit-monitor-record.1", "achilles\\-audit monitor record"),
        ("achilles-audit-verify-signature.1", "\\-\\-cert\\-roots"),
    ] {
        assert!(page(name).contains(says), "{}", page(name));
    }
    let help = place.run(&["help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let commands: Vec<&str> =
        listed.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).filter(|c| !c.is_empty()).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands.into_iter().filter(|c| *c != "help") {
        page(&format!("achilles-audit-{command}.1"));
    }
    for entry in std::fs::read_dir(place.out().join("man")).unwrap() {
        let path = entry.unwrap().path();
        // Where there is no groff, it is not asked.
        if let Ok(checked) = Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww", "-z"]).arg(&path).output() {
            assert!(
                checked.status.success() && checked.stderr.is_empty(),
                "{}",
                String::from_utf8_lossy(&checked.stderr)
            );
        }
    }
}
