//! What `--help` prints of each command: tests/it/command_line/help.md shows it.

use crate::tiny::Place;
use std::collections::BTreeSet;
use std::path::Path;

const SHOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/command_line/help.md");

#[test]
fn help_is_as_shown() {
    trycmd::TestCases::new()
        .register_bin("achilles-audit", Path::new(env!("CARGO_BIN_EXE_achilles-audit")))
        .case(SHOWN);
}

#[test]
fn all_commands_are_shown_and_no_text_is_wide() {
    let shown = std::fs::read_to_string(SHOWN).unwrap();
    let wide: Vec<&str> =
        shown.lines().filter(|line| line.chars().count() > 100 && !line.starts_with("Usage: ")).collect();
    assert!(wide.is_empty(), "{wide:?}");
    let commands: BTreeSet<String> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("$ ")?.strip_suffix(" --help"))
        .map(|command| command.replace(' ', "-") + ".1")
        .collect();
    let place = Place::new();
    assert!(place.run(&["man", "-o", "{out}/man"]).status.success());
    let pages = std::fs::read_dir(place.out().join("man")).unwrap();
    let pages: BTreeSet<String> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(commands, pages);
}
