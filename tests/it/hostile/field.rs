//! The checkpoints of tests/field: rebuilt small from public reports, sound ones and ones with a fault.

use crate::tiny::Place;
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

const FIELD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/field");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Row>,
    left_out: Vec<LeftOut>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    case: String,
    command: Option<String>,
    exit: i32,
    #[serde(default)]
    rules: Vec<String>,
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    says_not: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeftOut {
    kind: String,
    why: String,
}

#[test]
fn every_fault_is_told_and_nothing_sound_is_called_one() {
    let table: Table =
        serde_yaml::from_str(&std::fs::read_to_string(Path::new(FIELD).join("expected.yaml")).unwrap()).unwrap();
    assert!(table.left_out.iter().all(|left| !left.kind.is_empty() && !left.why.is_empty()));
    let place = Place::new();
    let field = place.out().join("field");
    let build = Command::new("python3").arg(format!("{FIELD}/build.py")).arg(&field).output().unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let wrong: Vec<String> = table.cases.iter().filter_map(|row| row.problem(&place)).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.cases.len(), wrong.join("\n"));
    assert_eq!(unlisted(&field, &table), Vec::<String>::new(), "in no row");
}

impl Row {
    /// What is not as it should be.
    fn problem(&self, place: &Place) -> Option<String> {
        let command = self.command.as_deref().unwrap_or("lint {case} --format json");
        let case = format!("{{out}}/field/{}", self.case);
        let fill = |word: &str| word.replace("{case}", &case).replace("{field}", "{out}/field");
        let words: Vec<String> = command.split(' ').map(fill).collect();
        let output = place.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let said = [output.stdout.as_slice(), b"\n", &output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        let mut problems = Vec::new();
        if output.status.code() != Some(self.exit) {
            problems.push(format!("exit code {:?}, expected {}", output.status.code(), self.exit));
        }
        let found = bad(&output.stdout);
        if self.exit == 0 && !found.is_empty() {
            problems.push(format!("{found:?}, expected notes alone"));
        }
        let missing = self.rules.iter().filter(|rule| !found.contains(rule));
        problems.extend(missing.map(|rule| format!("{found:?}, expected {rule}")));
        problems
            .extend(self.says.iter().filter(|text| !said.contains(*text)).map(|text| format!("does not say {text:?}")));
        problems.extend(self.says_not.iter().filter(|text| said.contains(*text)).map(|text| format!("says {text:?}")));
        let command = self.command.as_deref().unwrap_or("lint");
        (!problems.is_empty()).then(|| format!("{} ({command}): {}", self.case, problems.join("; ")))
    }
}

/// The rules of the findings that are more than notes, where the output is lint's.
fn bad(stdout: &[u8]) -> Vec<String> {
    let found: serde_json::Value = serde_json::from_slice(stdout).unwrap_or_default();
    let findings = found["findings"].as_array().into_iter().flatten().filter(|f| f["severity"] != "note");
    findings.map(|f| f["id"].as_str().unwrap().to_owned()).collect()
}

/// What was built and is in no row, but for what others were made from.
fn unlisted(field: &Path, table: &Table) -> Vec<String> {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let groups = names(field).into_iter();
    let built =
        groups.flat_map(|group| names(&field.join(&group)).into_iter().map(move |case| format!("{group}/{case}")));
    let listed = |case: &String| {
        let of_it = |row: &Row| row.case == *case || row.case.starts_with(&format!("{case}/"));
        case == "hubcache/source" || table.cases.iter().any(of_it)
    };
    built.filter(|case| !listed(case)).collect()
}
