//! GGUF files that claim what they do not hold: one line, exit code 2 (in lint a finding where the header can be
//! followed), soon and in little memory.

use super::bombs::run;
use crate::tiny::Place;
use std::fs;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A key of this type.
fn key(name: &str, ty: u32, value: &[u8]) -> Vec<u8> {
    [&text(name)[..], &ty.to_le_bytes(), value].concat()
}

fn architecture() -> Vec<u8> {
    key("general.architecture", 8, &text("mamba"))
}

/// A tensor of this shape (innermost first), type and offset.
fn tensor(name: &str, shape: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let shape: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    let dimensions = (shape.len() as u32 / 8).to_le_bytes();
    [&text(name)[..], &dimensions, &shape, &ty.to_le_bytes(), &offset.to_le_bytes()].concat()
}

fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let counts = [(tensors.len() as u64).to_le_bytes(), (keys.len() as u64).to_le_bytes()].concat();
    let mut bytes = [b"GGUF", &3u32.to_le_bytes()[..], &counts, &keys.concat(), &tensors.concat()].concat();
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

/// An array within arrays, so many deep.
fn nested(depth: usize) -> Vec<u8> {
    let head = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    key("deep", 9, &[head.repeat(depth), [&4u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat()].concat())
}

fn array(element: u32, count: u64) -> Vec<u8> {
    key("tokenizer.ggml.tokens", 9, &[&element.to_le_bytes()[..], &count.to_le_bytes()].concat())
}

const COMMANDS: [&[&str]; 5] = [
    &["fingerprint", "{model}/x.gguf"],
    &["diff", "{model}/x.gguf", "{model}/x.gguf"],
    &["lint", "{model}/x.gguf"],
    &["scan", "{model}/x.gguf", "--static"],
    &["locate", "{model}/x.gguf"],
];

#[test]
fn what_cannot_be_followed_is_one_line() {
    let place = Place::new();
    let of_keys = |keys: &[Vec<u8>]| file(keys, &[], 64);
    let mut counts = file(&[], &[], 64);
    counts[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes());
    for (what, bytes, says) in [
        ("2^64 elements", file(&[architecture()], &[tensor("x", &[1 << 32, 1 << 32], 0, 0)], 64), "size overflows"),
        ("nested arrays", of_keys(&[architecture(), nested(1000)]), "nested more than"),
        ("an array of 2^60", of_keys(&[architecture(), array(8, 1 << 60)]), "which"),
        (
            "a text of 2^62",
            of_keys(&[key("general.name", 8, &(1u64 << 62).to_le_bytes())]),
            "needs 4611686018427387904 bytes",
        ),
        ("2^60 tensors", counts, "the tensor count is"),
    ] {
        fs::write(place.model().join("x.gguf"), bytes).unwrap();
        for command in COMMANDS {
            let output = run(&place, command);
            let (told, report) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
            assert_eq!(output.status.code(), Some(2), "{what} {command:?}: {told}{report}");
            match command[0] {
                // In a report of its own form.
                "scan" => assert!(report.contains("NOT EXAMINED"), "{what}: {report}"),
                _ => assert!(
                    told.lines().count() == 1 && told.contains(says) && report.is_empty(),
                    "{what} {command:?}: {told}"
                ),
            }
        }
    }
}

#[test]
fn what_can_be_followed_is_a_finding_and_read_once() {
    let place = Place::new();
    let large = tensor("x", &[1 << 60], 2, 0);
    // 20,000 tensors of the same bytes: a megabyte that would be decoded to 40 GB.
    let shared: Vec<Vec<u8>> = (0..20_000).map(|at| tensor(&format!("t{at}"), &[1 << 19], 16, 0)).collect();
    let twice: Vec<Vec<u8>> = (0..100_000).map(|_| tensor("t", &[8], 0, 0)).collect();
    for (bytes, check) in [
        (file(&[architecture()], &[large], 64), "file-truncated"),
        (file(&[architecture()], &shared, 1 << 18), "tensor-overlap"),
        (file(&[architecture()], &twice, 64), "duplicate-tensor"),
        (
            file(
                &[architecture(), key("mamba.block_count", 10, &u64::MAX.to_le_bytes())],
                &[tensor("blk.0.a", &[8], 0, 0)],
                32,
            ),
            "tensor-missing",
        ),
    ] {
        fs::write(place.model().join("x.gguf"), bytes).unwrap();
        let output = run(&place, &["lint", "{model}/x.gguf"]);
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.code() == Some(1) && report.contains(check), "{check}: {report}");
        let output = run(&place, &["scan", "{model}/x.gguf", "--static"]);
        assert_eq!(output.status.code(), Some(1), "{check}");
    }
}
