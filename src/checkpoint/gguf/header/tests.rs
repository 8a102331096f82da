use super::super::GgufCheckpoint;
use super::super::writer::{Writer, file_of, fixture};
use super::*;
use proptest::prelude::*;

fn refusal(bytes: &[u8]) -> String {
    let problem = Header::read(bytes).unwrap_err();
    assert!(!problem.contains('\n'), "{problem}");
    problem
}

fn refused(change: impl FnOnce(&mut Writer) -> &mut Writer) -> String {
    let mut writer = Writer::llama();
    change(&mut writer);
    refusal(&writer.bytes())
}

#[test]
fn versions_2_and_3_are_read() {
    for version in [2, 3] {
        let header = Header::read(&Writer { version, ..Writer::llama() }.bytes()).unwrap();
        assert_eq!(header.version, version);
        assert_eq!(header.tensors.len(), 11);
        assert_eq!(header.tensors["blk.0.ffn_down.weight"].shape, [8, 6]);
        assert_eq!(header.metadata["llama.block_count"], Value::Unsigned(1));
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let mut writer = Writer::llama();
    writer.strs("tokens", &["a", "b"]).i32s("numbers", &[1, 2, 3]);
    let bytes = writer.bytes();
    for length in 0..bytes.len() {
        assert!(refusal(&bytes[..length]).contains("truncated"), "cut at {length}: {}", refusal(&bytes[..length]));
    }
}

#[test]
fn another_file_or_version_is_named() {
    assert!(refusal(b"PK\x03\x04 some archive").contains("not a GGUF"));
    for (version, word) in [(1, "version 1"), (4, "version 4"), (3u32.swap_bytes(), "big-endian")] {
        assert!(refusal(&Writer { version, ..Writer::llama() }.bytes()).contains(word), "{version}");
    }
}

#[test]
fn counts_are_checked_against_the_bytes_left() {
    for at in [8, 16] {
        for count in [u64::MAX, 1 << 40, 1 << 21] {
            let mut bytes = Writer::llama().bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            assert!(refusal(&bytes).contains("count"), "{}", refusal(&bytes));
        }
    }
    for (element, count) in [(ValueType::U8, usize::MAX), (ValueType::Text, 1 << 60), (ValueType::F64, 1 << 61)] {
        let problem = refused(|w| w.array("long", element, count, &[]));
        assert!(problem.contains("the length of long is"), "{problem}");
    }
    let problem = refused(|w| w.key("long", ValueType::Text, &u64::MAX.to_le_bytes()));
    assert!(problem.contains("long needs 18446744073709551615 bytes"), "{problem}");
}

#[test]
fn names_are_there_once() {
    let mut writer = Writer::llama();
    writer.keys.push(writer.keys[0].clone());
    assert!(refusal(&writer.bytes()).contains("metadata general.architecture is there twice"));
    let mut writer = Writer::llama();
    writer.tensors.push(writer.tensors[0].clone());
    assert!(refusal(&writer.bytes()).contains("tensor token_embd.weight is there twice"));
    assert!(refused(|w| w.u32("", 1)).contains("length 0"));
    assert!(refused(|w| w.u32("a\nb", 1)).contains("not plain"));
    let long = "k".repeat(70_000);
    assert!(refused(|w| w.u32(&long, 1)).contains("length 70000"));
}

#[test]
fn values_have_known_types() {
    let mut writer = Writer::llama();
    writer.keys[0].1 = 13;
    assert!(refusal(&writer.bytes()).contains("unknown type 13"));
    assert!(refused(|w| w.key("b", ValueType::Bool, &[2])).contains("truth value 2"));
    let nested = (0..9).flat_map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()).collect::<Vec<_>>();
    assert!(refused(|w| w.key("n", ValueType::Array, &nested)).contains("nested"));
}

#[test]
fn arrays_of_arrays_are_stepped_over() {
    let inner = [&(ValueType::U8 as u32).to_le_bytes()[..], &2u64.to_le_bytes(), &[7, 8]].concat();
    let mut writer = Writer::llama();
    writer.array("n", ValueType::Array, 2, &[inner.clone(), inner].concat()).u32("after", 5);
    assert_eq!(Header::read(&writer.bytes()).unwrap().metadata["after"], Value::Unsigned(5));
}

#[test]
fn alignment_is_a_power_of_two() {
    for wrong in [0, 7, 24, 4, 1 << 21] {
        assert!(refused(|w| w.u32("general.alignment", wrong)).contains("general.alignment"), "{wrong}");
    }
    let mut writer = Writer { alignment: 64, ..Writer::llama() };
    writer.u32("general.alignment", 64);
    assert!(Header::read(&writer.bytes()).is_ok());
    // Laid out for 32, said to be 64.
    assert!(refused(|w| w.u32("general.alignment", 64)).contains("expected a multiple of 64"));
}

#[test]
fn tensors_have_sizes_that_fit() {
    let shape = |shape: &'static [usize], ty: u32| refused(|w| w.tensor("t", shape, ty, &[]));
    assert!(shape(&[2; 5], 0).contains("5 dimensions"));
    assert!(shape(&[], 0).contains("0 dimensions"));
    assert!(shape(&[4, 0], 0).contains("length 0"));
    assert!(shape(&[4], 99).contains("unknown type 99"));
    assert!(shape(&[4, 33], 2).contains("multiple of 32 for Q4_0"));
    assert!(shape(&[1 << 33, 1 << 33], 0).contains("overflows"));
    assert!(shape(&[1 << 62], 0).contains("overflows"));
    assert!(shape(&[1 << 60], 0).contains("truncated"));
}

#[test]
fn tensors_lie_apart_and_aligned() {
    let bytes = Writer::llama().bytes();
    let last = |offset: u64| {
        // The offset is the last field of the last tensor.
        let mut writer = Writer::llama();
        writer.tensors.clear();
        writer.keys.clear();
        writer.ramp("a", &[16]).ramp("b", &[16]);
        let mut bytes = writer.bytes();
        let at = bytes.windows(8).rposition(|w| w == 64u64.to_le_bytes()).unwrap();
        bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
        bytes
    };
    assert!(Header::read(&bytes).is_ok() && Header::read(&last(64)).is_ok());
    assert!(refusal(&last(4)).contains("multiple of 32"));
    assert!(refusal(&last(32)).contains("share bytes"));
    assert!(refusal(&last(96)).contains("truncated: tensor b"));
    assert!(refusal(&last(u64::MAX - 31)).contains("truncated: tensor b"));
}

/// Opens, reads everything that opens, and drops it.
fn read_all(bytes: &[u8]) {
    let file = file_of(bytes);
    let Ok(checkpoint) = GgufCheckpoint::open(file.path()) else { return };
    for (name, shape) in checkpoint.tensors() {
        let _ = checkpoint.rows(name, 0..shape[0]);
    }
    let file = checkpoint.file();
    let _ = (file.tokenizer_json(), file.tokenizer_config_json(), file.generation_config_json());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((0usize..1500, any::<u8>()), 1..6), cut in 0usize..4000) {
        let mut bytes = Writer::llama().bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] ^= byte;
        }
        bytes.truncate(if cut < 3000 { bytes.len() } else { cut % bytes.len() });
        read_all(&bytes);
    }

    #[test]
    fn changed_bytes_of_a_whole_model_never_panic(changes in prop::collection::vec((0usize..16_000, any::<u8>()), 1..4)) {
        let mut bytes = std::fs::read(fixture("tiny-llama.gguf")).unwrap();
        for (at, byte) in changes {
            bytes[at] ^= byte;
        }
        read_all(&bytes);
    }
}
