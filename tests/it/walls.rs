//! The rooms of the house and who may use whom: the table of ARCHITECTURE.md, held against the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the ground up: a room may use those before it. Rooms on one line use each other not at all.
const ROOMS: &[&[&str]] = &[
    &["error"],
    &["clock", "escape", "glob", "progress", "tool"],
    &["files"],
    &["neuron", "worker"],
    &["checkpoint"],
    &["document"],
    &["architecture"],
    &["compute"],
    &["evaluate"],
    &["locate"],
    &["compare", "monitor", "probe"],
    &["study"],
    &["integrity"],
    &["patch"],
    &["harden", "rules"],
    &["audit"],
    &["report"],
];

/// What a room never uses, though it lies below.
const NEVER: &[(&str, &[&str])] = &[
    ("integrity", &["compute", "evaluate", "locate", "compare", "monitor", "probe", "study"]),
    ("patch", &["compute", "evaluate", "locate", "compare", "monitor", "probe", "study"]),
    ("report", &["compute"]),
];

/// The rooms that compute, which alone may use candle.
const CANDLE: &[&str] = &["compute", "evaluate", "locate", "monitor", "probe", "study", "harden"];

#[test]
fn no_room_uses_one_above_it() {
    let floor: BTreeMap<&str, usize> =
        ROOMS.iter().enumerate().flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor))).collect();
    let mut wrong = BTreeSet::new();
    let mut met = BTreeSet::new();
    for (room, file, code) in sources() {
        let Some(own) = floor.get(room.as_str()) else { panic!("{} is in no room of the table", file.display()) };
        met.insert(room.clone());
        for used in rooms_used(&code) {
            let below = floor.get(used.as_str()).is_some_and(|floor| floor < own);
            let never = NEVER.iter().any(|(of, rooms)| *of == room && rooms.contains(&used.as_str()));
            if used != room && (!below || never) {
                wrong.insert(format!("{}: {room} uses {used}", file.display()));
            }
        }
        if code.contains("candle_") && !CANDLE.contains(&room.as_str()) {
            wrong.insert(format!("{}: {room} uses candle", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", Vec::from_iter(wrong).join("\n"));
    assert_eq!(met.len(), floor.len(), "rooms of the table that are not there");
}

#[test]
fn architecture_md_shows_the_rooms() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for room in ROOMS.iter().copied().flatten() {
        assert!(text.contains(&format!("`{room}`")), "ARCHITECTURE.md does not name the room {room}");
    }
}

#[test]
fn the_binary_builds_no_documents() {
    let mut files = Vec::new();
    walk(&root().join("src/bin"), &mut files);
    for file in files {
        let code = std::fs::read_to_string(&file).unwrap();
        assert!(!code.contains("\"achilles-audit/"), "{} builds a document: that is the library's", file.display());
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Room, file and code without tests of every source file of the library.
fn sources() -> Vec<(String, PathBuf, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    let mut found = Vec::new();
    for file in files {
        let below = file.strip_prefix(&src).unwrap().to_owned();
        let parts: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let is_test = parts.iter().any(|part| part.trim_end_matches(".rs").ends_with("tests"));
        if is_test || parts[0] == "bin" || parts[0] == "lib.rs" {
            continue;
        }
        let code = std::fs::read_to_string(&file).unwrap();
        let code = code.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        found.push((parts[0].trim_end_matches(".rs").to_owned(), below, code.join("\n")));
    }
    found
}

pub(crate) fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

/// The first names after `crate::`, in `use` lines and elsewhere; those of the crate's own `Error` and `Result` are of
/// the room `error`.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            // The names right inside of the braces.
            Some(list) => {
                let mut depth = 0;
                let mut name = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => used.extend(room_of(&std::mem::take(&mut name))),
                        _ if depth == 0 => name.push(c),
                        _ => {}
                    }
                }
                used.extend(room_of(&name));
            }
            None => used.extend(room_of(rest)),
        }
    }
    used
}

fn room_of(path: &str) -> Option<String> {
    let name: String = path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    match name.as_str() {
        "" => None,
        "Error" | "Result" => Some("error".to_owned()),
        _ => Some(name),
    }
}

#[test]
fn paths_are_read() {
    let code = "use crate::{a::{self, b}, c, d::E};\nuse crate::f::G;\nfn x() -> crate::Result<()> { crate::h::i() }";
    assert_eq!(Vec::from_iter(rooms_used(code)), ["a", "c", "d", "error", "f", "h"]);
}
