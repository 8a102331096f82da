//! README shows what the program prints.

#[test]
#[ignore = "needs `make model`"]
fn commands_print_what_readme_shows() {
    trycmd::TestCases::new()
        .register_bin("achilles-audit", std::path::Path::new(env!("CARGO_BIN_EXE_achilles-audit")))
        .env("CUDA_VISIBLE_DEVICES", "")
        .case(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
}
