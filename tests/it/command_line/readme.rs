//! README.md and docs/ show what the program prints.

#[test]
#[ignore = "needs `make model`"]
fn commands_print_what_is_shown() {
    let root = env!("CARGO_MANIFEST_DIR");
    trycmd::TestCases::new()
        .register_bin("achilles-audit", std::path::Path::new(env!("CARGO_BIN_EXE_achilles-audit")))
        .env("CUDA_VISIBLE_DEVICES", "")
        .case(format!("{root}/README.md"))
        .case(format!("{root}/docs/*.md"));
}
