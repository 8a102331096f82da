//! README.md and docs/ show what the program prints.

use std::path::Path;
use trycmd::TestCases;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The page that needs no model but a fixture.
const OF_A_FIXTURE: &str = "docs/patch.md";

#[test]
#[ignore = "needs `make model`"]
fn commands_print_what_is_shown() {
    let cases = cases();
    cases.case(format!("{ROOT}/README.md")).case(format!("{ROOT}/docs/*.md"));
    cases.skip(format!("{ROOT}/{OF_A_FIXTURE}"));
}

#[test]
fn commands_on_a_fixture_print_what_is_shown() {
    // What they write, of an earlier run.
    let _ = std::fs::remove_dir_all(Path::new(ROOT).join("target/lesioned"));
    cases().case(format!("{ROOT}/{OF_A_FIXTURE}"));
}

fn cases() -> TestCases {
    let cases = TestCases::new();
    cases
        .register_bin("achilles-audit", Path::new(env!("CARGO_BIN_EXE_achilles-audit")))
        .env("CUDA_VISIBLE_DEVICES", "");
    cases
}
