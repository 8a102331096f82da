use crate::checkpoint::Opened;
use crate::checkpoint::gguf::writer::{MODELS, Writer, file_of, fixture};
use crate::integrity::lint::{Lint, Observation, lint};
use crate::progress::Silent;
use std::path::Path;

fn of(path: &Path) -> Lint {
    lint(&Opened::open(path.to_str().unwrap(), &Silent).unwrap(), None, &Silent).unwrap()
}

fn seen(bytes: &[u8]) -> Vec<Observation> {
    of(file_of(bytes).path()).observations
}

/// The checks that a file trips, with the tensor of each, in order.
fn told(bytes: &[u8]) -> Vec<String> {
    let told =
        |o: Observation| [o.check.id(), o.location.tensor.as_deref().unwrap_or_default()].join(" ").trim().into();
    seen(bytes).into_iter().map(told).collect()
}

/// A llama with the vocabulary of its embedding.
fn llama() -> Writer {
    let mut writer = Writer::llama();
    writer.strs("tokenizer.ggml.tokens", &["<s>", "a", "b", "c", "d"]);
    writer
}

fn changed(change: impl FnOnce(&mut Writer) -> &mut Writer) -> Vec<String> {
    let mut writer = llama();
    change(&mut writer);
    told(&writer.bytes())
}

/// One of a family that is not known, with three layers alike.
fn mamba() -> Writer {
    let mut writer = Writer::new();
    writer.str("general.architecture", "mamba").u32("mamba.block_count", 3).u32("mamba.embedding_length", 8);
    writer.strs("tokenizer.ggml.tokens", &["<s>", "a", "b", "c", "d"]);
    writer.ramp("token_embd.weight", &[5, 8]).ramp("output_norm.weight", &[8]);
    for layer in 0..3 {
        for (name, shape) in [("attn_norm", &[8][..]), ("ssm_in", &[6, 8]), ("ssm_out", &[8, 6]), ("ssm_dt", &[4, 4])] {
            writer.ramp(&format!("blk.{layer}.{name}.weight"), shape);
        }
    }
    writer
}

#[test]
fn sound_files_have_nothing_to_be_told() {
    assert_eq!(told(&llama().bytes()), [""; 0]);
    for name in MODELS {
        let found = of(&fixture(&format!("tiny-{name}.gguf")));
        assert_eq!(found.observations, [], "{name}");
        assert!(found.examined.tensors > 10 && found.examined.value_bytes > 10_000, "{name}");
    }
}

#[test]
fn rules_of_the_format_are_told() {
    let mut writer = llama();
    writer.keys.push(writer.keys[0].clone());
    assert_eq!(told(&writer.bytes()), ["duplicate-metadata-key"]);
    let mut writer = llama();
    writer.tensors.push(writer.tensors[1].clone());
    // The second one's bytes are nobody's.
    assert_eq!(told(&writer.bytes()), ["duplicate-tensor output_norm.weight", "trailing-bytes"]);
    let bytes = llama().bytes();
    assert_eq!(
        told(&bytes[..bytes.len() - 32]),
        ["file-truncated blk.0.ffn_down.weight", "tensor-missing blk.0.ffn_down.weight"]
    );
    assert_eq!(told(&[&bytes[..], &[0; 32]].concat()), ["trailing-bytes"]);
    // Padding belongs to nobody, and has to be zero.
    let mut dirty = Writer::llama();
    dirty.strs("tokenizer.ggml.tokens", &["<s>", "a", "b", "c", "d"]).u32("general.alignment", 128);
    dirty.alignment = 128;
    let mut dirty = dirty.bytes();
    assert_eq!(told(&dirty), [""; 0]);
    let last = dirty.len() - 1;
    dirty[last] = 1;
    assert_eq!(told(&dirty), ["trailing-bytes"]);
}

/// Offset of a tensor's entry in the header that says where its data are.
fn offset_of(bytes: &[u8], name: &str) -> usize {
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() + name.len();
    let dimensions = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    at + 4 + 8 * dimensions + 4
}

#[test]
fn tensors_that_share_bytes_or_leave_some_are_told() {
    let mut bytes = llama().bytes();
    let at = offset_of(&bytes, "output_norm.weight");
    for (offset, expected) in [
        (0u64, &["tensor-overlap token_embd.weight", "data-hole"][..]),
        (161, &["tensor-overlap blk.0.attn_norm.weight", "unaligned-data output_norm.weight", "data-hole"]),
    ] {
        bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
        let found = told(&bytes);
        assert!(expected.iter().all(|check| found.iter().any(|found| found == check)), "{offset}: {found:?}");
    }
}

#[test]
fn tensors_are_held_against_the_metadata() {
    assert_eq!(changed(|w| w.without("blk.0.attn_q.weight")), ["tensor-missing blk.0.attn_q.weight"]);
    assert_eq!(changed(|w| w.ramp("blk.0.attn_q.weight", &[4, 8])), ["tensor-shape blk.0.attn_q.weight"]);
    assert_eq!(changed(|w| w.ramp("blk.0.other.weight", &[4, 8])), ["tensor-extra blk.0.other.weight"]);
    assert_eq!(changed(|w| w.without("llama.block_count")), ["config-refused"]);
    assert_eq!(changed(|w| w.f32("llama.attention.scale", 0.5)), ["config-unknown"]);
}

#[test]
fn what_is_not_known_is_held_against_its_peers() {
    let told_of = |change: &dyn Fn(&mut Writer)| {
        let mut writer = mamba();
        change(&mut writer);
        let mut told = told(&writer.bytes());
        assert_eq!(told.remove(told.iter().position(|told| told == "config-unknown").unwrap()), "config-unknown");
        told
    };
    assert_eq!(told_of(&|_| {}), [""; 0]);
    assert_eq!(told_of(&|w| drop(w.without("blk.1.ssm_dt.weight").clone())), ["peer-missing blk.1.ssm_dt.weight"]);
    assert_eq!(told_of(&|w| drop(w.ramp("blk.2.ssm_in.weight", &[4, 8]).clone())), ["peer-shape blk.2.ssm_in.weight"]);
    assert_eq!(told_of(&|w| drop(w.u32("mamba.block_count", 4).clone())), ["tensor-missing blk.3"]);
    assert_eq!(told_of(&|w| drop(w.u32("mamba.block_count", 2).clone())), ["tensor-extra blk.2"]);
    assert_eq!(told_of(&|w| drop(w.u32("mamba.embedding_length", 9).clone())), ["tensor-shape token_embd.weight"]);
    assert_eq!(told_of(&|w| drop(w.ramp("output.weight", &[4, 8]).clone())), ["tensor-shape output.weight"]);
}

#[test]
fn the_vocabulary_is_held_against_the_embedding() {
    let tokens = "tokenizer.ggml.tokens";
    assert_eq!(changed(|w| w.strs(tokens, &["a"; 6])), ["token-beyond-embedding token_embd.weight"]);
    assert_eq!(changed(|w| w.strs(tokens, &["a"; 4])), ["vocabulary-mismatch token_embd.weight"]);
    assert_eq!(changed(|w| w.without(tokens)), ["tokenizer-invalid"]);
    assert_eq!(changed(|w| w.u32(tokens, 1)), ["tokenizer-invalid"]);
    assert_eq!(changed(|w| w.f32s("tokenizer.ggml.scores", &[0.0; 4])), ["tokenizer-invalid"]);
    assert_eq!(changed(|w| w.u32("tokenizer.ggml.eot_token_id", 5)), ["token-id-out-of-range"]);
    assert_eq!(changed(|w| w.u32("tokenizer.ggml.eot_token_id", 4)), [""; 0]);
    assert_eq!(changed(|w| w.u32("tokenizer.ggml.padding_token_id", u32::MAX)), [""; 0]);
}

#[test]
fn values_are_those_that_blocks_stand_for() {
    let (query, norm) = ("blk.0.attn_q.weight", "output_norm.weight");
    let values = |at: usize, value: f32| {
        let mut values: Vec<f32> = (0..64).map(|at| at as f32 + 1.0).collect();
        values[at] = value;
        values
    };
    assert_eq!(changed(|w| w.floats(query, &[8, 8], &values(9, f32::NAN))), [format!("nan {query}")]);
    assert_eq!(changed(|w| w.floats(query, &[8, 8], &values(9, f32::INFINITY))), [format!("infinite {query}")]);
    assert_eq!(changed(|w| w.floats(query, &[8, 8], &[0.0; 64])), [format!("zero-tensor {query}")]);
    assert_eq!(changed(|w| w.floats(norm, &[8], &[0.0; 8])), [format!("zero-tensor {norm}")]);
    let row: Vec<f32> = values(0, 1.0).iter().enumerate().map(|(at, x)| if at / 8 == 3 { 0.0 } else { *x }).collect();
    assert_eq!(changed(|w| w.floats(query, &[8, 8], &row)), [format!("zero-row {query}")]);
    let column: Vec<f32> =
        values(0, 1.0).iter().enumerate().map(|(at, x)| if at % 8 == 3 { 0.0 } else { *x }).collect();
    assert_eq!(changed(|w| w.floats(query, &[8, 8], &column)), [format!("zero-column {query}")]);
    // Q8_0: an infinite scale makes infinities, and of zeros NaN.
    let block = [&[0, 0x7c][..], &[1; 31], &[0]].concat();
    let mut writer = mamba();
    writer.tensor("blk.0.ssm_x.weight", &[1, 32], 8, &block);
    let found = told(&writer.bytes());
    let has = |check: &str| found.iter().any(|found| *found == format!("{check} blk.0.ssm_x.weight"));
    assert!(has("nan") && has("infinite"), "{found:?}");
    assert!(seen(&writer.bytes()).iter().any(|o| o.message.contains("1 of 32 values are NaN once decoded from Q8_0")));
}

#[test]
fn blocks_that_are_not_read_are_named() {
    let mut writer = mamba();
    writer.tensor("x.weight", &[32], 9, &[0; 40]).tensor("y.weight", &[256], 15, &[0; 292]);
    writer.tensor("z.weight", &[32], 9, &[0; 40]).tensor("positions", &[1], 26, &[0; 4]);
    let found: Vec<_> = seen(&writer.bytes()).into_iter().filter(|o| o.check.id() == "gguf-not-examined").collect();
    let told: Vec<_> = found.iter().map(|o| (o.location.in_file(), o.message.clone())).collect();
    assert!(
        matches!(told.as_slice(), [(x, q8_1), (y, q8_k)] if x == "x.weight and 1 more" && y == "y.weight"
        && q8_1.contains("Q8_1") && q8_1.contains("2 tensors") && q8_k.contains("Q8_K")),
        "{told:?}"
    );
}

#[test]
fn parts_are_named_where_they_break_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = [llama(), Writer::new()];
    parts[1].tensors = parts[0].tensors.split_off(6);
    for (number, part) in parts.iter_mut().enumerate() {
        part.u32("split.no", number as u32).u32("split.count", 2).u32("split.tensors.count", 11);
        std::fs::write(folder.path().join(format!("m-0000{}-of-00002.gguf", number + 1)), part.bytes()).unwrap();
    }
    let second = folder.path().join("m-00002-of-00002.gguf");
    let found = of(&second);
    assert_eq!((found.observations, found.examined.files, found.examined.tensors), (vec![], 2, 11));
    parts[1].floats("blk.0.ffn_down.weight", &[8, 6], &[f32::NAN; 48]).u32("split.no", 0);
    std::fs::write(&second, parts[1].bytes()).unwrap();
    let found: Vec<_> = of(&second).observations.iter().map(|o| (o.check.id(), o.location.file.clone())).collect();
    let second = "m-00002-of-00002.gguf".to_owned();
    assert_eq!(found, [("index-invalid", second.clone()), ("nan", second)]);
}
