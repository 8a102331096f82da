//! README.md and docs/ show what the program prints.

use std::process::Command;

#[test]
#[ignore = "needs `make model`"]
fn the_demo_prints_what_readme_shows() {
    let root = env!("CARGO_MANIFEST_DIR");
    let readme = std::fs::read_to_string(format!("{root}/README.md")).unwrap();
    let demo = readme.split("## Install").next().unwrap();
    let shown: Vec<&str> = demo.lines().filter(|l| l.starts_with(['┌', '│', '╞', '└'])).collect();
    assert!(shown.len() > 10);
    let scan = Command::new(env!("CARGO_BIN_EXE_achilles-audit"))
        .args(["scan", "models/SmolLM2-135M-Instruct.Q4_1.gguf", "--device", "cpu"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(scan.status.success(), "{}", String::from_utf8_lossy(&scan.stderr));
    let printed = String::from_utf8(scan.stdout).unwrap();
    assert!(readme.contains(printed.lines().next().unwrap()), "{printed}");
    // README leaves out the finding's wide table.
    let printed = printed.lines().skip_while(|line| !line.starts_with("│ model "));
    for (printed, shown) in printed.zip(shown.into_iter().skip(1)) {
        assert_eq!(printed, shown);
    }
}

#[test]
#[ignore = "needs `make model`"]
fn probe_prints_what_its_page_shows() {
    let root = env!("CARGO_MANIFEST_DIR");
    let page = std::fs::read_to_string(format!("{root}/docs/probe.md")).unwrap();
    let example = page.split("$ achilles-audit probe ").nth(1).unwrap().split("```").next().unwrap();
    let (command, shown) = example.split_once('\n').unwrap();
    let prompts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(prompts.path(), "What is the capital of France?\n").unwrap();
    let command = command.replace("france.txt", prompts.path().to_str().unwrap());
    let probe = Command::new(env!("CARGO_BIN_EXE_achilles-audit"))
        .args(["probe", "--device", "cpu"])
        .args(command.split(' '))
        .current_dir(root)
        .output()
        .unwrap();
    assert!(probe.status.success(), "{}", String::from_utf8_lossy(&probe.stderr));
    assert_eq!(String::from_utf8(probe.stdout).unwrap(), shown);
}
