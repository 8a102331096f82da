//! GGUF files held against their fingerprints and against each other.

use super::diff::{Diff, diff};
use super::difference::{Difference, Pattern, TensorChange};
use super::fingerprint::{Fingerprint, FingerprintSettings, take};
use super::verify::{Verification, verify};
use crate::checkpoint::Opened;
use crate::checkpoint::gguf::writer::{Writer, fixture};
use crate::checkpoint::gguf::{GgufFile, ImportDtype, import};
use crate::progress::Silent;
use std::path::Path;

fn opened(path: &Path) -> Opened {
    Opened::open(path.to_str().unwrap(), &Silent).unwrap()
}

fn print(path: &Path) -> Fingerprint {
    let taken = take(&opened(path), &FingerprintSettings::default(), None, None, &Silent).unwrap();
    let text = taken.sound(path).unwrap().to_json("m", None).unwrap();
    Fingerprint::parse(&text).unwrap()
}

fn verified(path: &Path, before: &Fingerprint) -> Verification {
    verify(&opened(path), before, None, None, &Silent).unwrap()
}

fn compared(a: &Path, b: &Path) -> Diff {
    diff(&opened(a), &opened(b), &Silent).unwrap()
}

/// A family that is not known; `blocks` are those of two rows of Q8_0, 64 columns.
fn mamba(blocks: &[u8]) -> Writer {
    let mut writer = Writer::new();
    writer.str("general.architecture", "mamba").str("tokenizer.chat_template", "{{ messages }}");
    writer.ramp("token_embd.weight", &[5, 8]).tensor("blk.0.ssm_out.weight", &[2, 64], 8, blocks);
    writer.tensor("odd", &[32], 9, &[7; 40]);
    writer
}

/// Two rows of two blocks: a scale, and 32 numbers.
fn blocks() -> Vec<u8> {
    let scale = half::f16::from_f32(0.5).to_le_bytes();
    (0..4u8).flat_map(|block| [&scale[..], &(0..32).map(|at| at * 3 + block).collect::<Vec<u8>>()].concat()).collect()
}

fn scaled(row: usize, scale: f32) -> Vec<u8> {
    let mut blocks = blocks();
    for block in [2 * row, 2 * row + 1] {
        blocks[34 * block..34 * block + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
    }
    blocks
}

fn change(differences: &[Difference]) -> &TensorChange {
    let found = differences.iter().find_map(|difference| match difference {
        Difference::TensorChanged(change) => Some(change),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{differences:?}"))
}

#[test]
fn a_file_of_any_family_has_a_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, mamba(&blocks()).bytes()).unwrap();
    let before = print(&path);
    let of =
        |at: usize| (before.tensors[at].name.as_str(), before.tensors[at].dtype.to_string(), &before.tensors[at].shape);
    assert_eq!((before.files.len(), before.files[0].path.as_str()), (1, "m.gguf"));
    assert_eq!(of(0), ("blk.0.ssm_out.weight", "U8".into(), &vec![2, 68]));
    assert_eq!(of(2), ("token_embd.weight", "F32".into(), &vec![5, 8]));
    let [weight] = before.weights.as_slice() else { panic!("{:?}", before.weights) };
    assert_eq!(
        (weight.name.as_str(), weight.format.as_str(), &weight.shape),
        ("blk.0.ssm_out.weight", "Q8_0", &vec![2, 64])
    );
    assert_eq!((weight.rows.len(), weight.columns.len(), weight.rows[0].extreme), (2, 64, 47.0));
    let found = verified(&path, &before);
    assert!(found.intact && found.same_tensors && found.loadable && found.differences.is_empty());
}

#[test]
fn a_row_that_was_scaled_by_its_blocks_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["m.gguf", "n.gguf"].map(|name| folder.path().join(name));
    std::fs::write(&path, mamba(&blocks()).bytes()).unwrap();
    let before = print(&path);
    for (scale, beta) in [(0.0, 0.0), (0.2, 0.4), (-0.5, -1.0)] {
        std::fs::write(&other, mamba(&scaled(1, scale)).bytes()).unwrap();
        let found = compared(&path, &other);
        let told = change(&found.differences);
        assert_eq!((told.pattern, told.lines.len(), told.lines[0].index), (Pattern::Lines, 1, 1), "{told:?}");
        assert!((told.lines[0].beta.unwrap() - beta).abs() < 1e-3, "{told:?}");
        assert_eq!(told.lines[0].neuron.as_ref().unwrap().to_string(), "blk.0.ssm_out:out:1");
        assert_eq!((found.tensors, found.same_tensors, found.differences.len()), (3, 2, 1));
        std::fs::rename(&other, folder.path().join("m.gguf")).unwrap();
        let found = verified(&path, &before);
        let told = change(&found.differences);
        assert!(!found.intact && !found.same_tensors && told.packed.as_ref().unwrap().format == "Q8_0");
        assert!((told.lines[0].beta.unwrap() - beta).abs() < 1e-3, "{told:?}");
        std::fs::write(&path, mamba(&blocks()).bytes()).unwrap();
    }
}

#[test]
fn metadata_that_changed_are_told_and_no_rewriting() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["m.gguf", "n.gguf"].map(|name| folder.path().join(name));
    std::fs::write(&path, mamba(&blocks()).bytes()).unwrap();
    let mut changed = mamba(&blocks());
    changed.str("tokenizer.chat_template", "{{ 'do it' }}").u32("mamba.block_count", 1).without("general.architecture");
    std::fs::write(&other, changed.bytes()).unwrap();
    let found: Vec<String> = compared(&path, &other).differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "metadata general.architecture: is not there, was \"mamba\"\n",
            "metadata mamba.block_count: is 1, was not there\n",
            "metadata tokenizer.chat_template: is \"{{ 'do it' }}\", was \"{{ messages }}\"\n",
        ]
    );
    let before = print(&path);
    std::fs::rename(&other, &path).unwrap();
    let found = verified(&path, &before);
    assert!(!found.intact && found.same_tensors && !found.is_resharding());
    assert!(matches!(&found.differences[..], [Difference::FileChanged { same_tensors: false, .. }]), "{found:?}");
}

#[test]
fn bytes_that_are_nobodys_are_told_too() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["m.gguf", "n.gguf"].map(|name| folder.path().join(name));
    let bytes = mamba(&blocks()).bytes();
    std::fs::write(&path, &bytes).unwrap();
    std::fs::write(&other, &bytes).unwrap();
    assert_eq!(compared(&path, &other).differences, []);
    std::fs::write(&other, [&bytes[..], b"more"].concat()).unwrap();
    let found = compared(&path, &other).differences;
    assert!(matches!(&found[..], [Difference::FileChanged { same_tensors: true, .. }]), "{found:?}");
}

#[test]
fn all_parts_are_one_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = [mamba(&blocks()), Writer::new()];
    parts[1].tensors = parts[0].tensors.split_off(1);
    let paths = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(|name| folder.path().join(name));
    for (number, (part, path)) in parts.iter_mut().zip(&paths).enumerate() {
        part.u32("split.no", number as u32).u32("split.count", 2).u32("split.tensors.count", 3);
        std::fs::write(path, part.bytes()).unwrap();
    }
    let before = print(&paths[0]);
    assert_eq!((before.files.len(), before.tensors.len(), before.weights.len()), (2, 3, 1));
    assert!(verified(&paths[1], &before).intact);
    parts[1].tensor("blk.0.ssm_out.weight", &[2, 64], 8, &scaled(0, 0.0));
    std::fs::write(&paths[1], parts[1].bytes()).unwrap();
    assert!(!verified(&paths[0], &before).intact);
}

#[test]
fn a_file_and_a_folder_are_compared_by_weights() {
    let place = tempfile::tempdir().unwrap();
    for (dtype, is_same) in [(ImportDtype::F32, true), (ImportDtype::Bf16, false)] {
        let (gguf, folder) = (fixture("tiny-llama.gguf"), place.path().join(dtype.to_string()));
        import(&gguf, &folder, dtype, &Silent).unwrap();
        let found = compared(&folder, &gguf);
        assert!(matches!(&found.differences[0], Difference::NotExamined { .. }));
        assert_eq!(found.tensors, GgufFile::open(&gguf).unwrap().tensor_count() - 1, "all but the factors of RoPE");
        let errors = found.differences[1..].iter().map(|difference| match difference {
            Difference::WeightRepacked(weight) => weight.relative_error.unwrap(),
            other => panic!("{other:?}"),
        });
        assert!(errors.clone().all(|error| if is_same { error == 0.0 } else { error < 4e-3 }));
        assert!(errors.count() > 10);
    }
}

#[test]
fn what_cannot_be_followed_is_an_error_of_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let bytes = mamba(&blocks()).bytes();
    std::fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let taken = take(&opened(&path), &FingerprintSettings::default(), None, None, &Silent).unwrap();
    let refused = taken.sound(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("truncated") && refused.lines().count() == 1, "{refused}");
    assert!(refused.matches("m.gguf").count() == 1 && !refused.contains("--ignore"), "{refused}");
    assert!(diff(&opened(&path), &opened(&path), &Silent).unwrap_err().to_string().contains("truncated"));
}
