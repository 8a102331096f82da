use super::*;
use proptest::prelude::*;

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

#[test]
fn reads_what_the_reference_writes() {
    use safetensors::tensor::TensorView;
    let data: Vec<u8> = (0..64).collect();
    let tensors = [
        ("b", TensorView::new(Dtype::F32, vec![2, 3], &data[..24]).unwrap()),
        ("a.weight", TensorView::new(Dtype::BF16, vec![5], &data[30..40]).unwrap()),
        ("empty", TensorView::new(Dtype::F32, vec![0, 4], &[]).unwrap()),
    ];
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).unwrap();
    let header = Header::read(&bytes).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(header.tensors.len(), reference.len());
    for entry in &header.tensors {
        let theirs = reference.tensor(&entry.name).unwrap();
        assert_eq!((entry.dtype, entry.shape.as_slice()), (theirs.dtype(), theirs.shape()));
        assert_eq!(&bytes[entry.bytes.start as usize..entry.bytes.end as usize], theirs.data());
    }
}

#[test]
fn each_broken_rule_has_its_error() {
    let t = |name: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":[{}],"data_offsets":[{from},{to}]}}"#, (to - from) / 4)
    };
    let read = |header: String, data| Header::read(&file(&header, data)).unwrap_err();
    use HeaderError::*;
    assert_eq!(Header::read(b"1234").unwrap_err(), NoLength(4));
    assert_eq!(Header::read(&u64::MAX.to_le_bytes()).unwrap_err(), TooLong(u64::MAX));
    assert_eq!(Header::read(&100u64.to_le_bytes()).unwrap_err(), PastTheEnd { needed: 108, found: 8 });
    let mut invalid = file("{}", 0);
    invalid[9] = 0xff;
    assert_eq!(Header::read(&invalid).unwrap_err(), NotUtf8(9));
    assert_eq!(read(" {}".into(), 0), NoBrace(' '));
    assert!(matches!(read("{".into(), 0), Json(_)));
    let unknown = UnknownField { tensor: "a".into(), field: "x".into() };
    assert_eq!(read(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":[{}]}}"#.into(), 4), unknown);
    let twice = DuplicateField { tensor: "a".into(), field: "shape".into() };
    assert_eq!(read(r#"{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}"#.into(), 4), twice);
    assert!(matches!(read(r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#.into(), 4), Entry { .. }));
    assert!(matches!(read(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.into(), 4), Entry { .. }));
    assert!(matches!(read(r#"{"a":{"dtype":"F32","shape":[1]}}"#.into(), 4), Entry { .. }));
    assert!(matches!(read(r#"{"a":[1]}"#.into(), 4), Entry { .. }));
    assert_eq!(read(format!("{{{},{}}}", t("a", 0, 4), t("a", 4, 8)), 8), Duplicate("a".into()));
    assert_eq!(read(r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0), Duplicate("__metadata__".into()));
    assert_eq!(read(r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), 0), DuplicateMetadata("k".into()));
    assert!(matches!(read(r#"{"__metadata__":{"k":1}}"#.into(), 0), Entry { .. }));
    assert!(matches!(read(r#"{"__metadata__":1}"#.into(), 0), Entry { .. }));
    assert_eq!(read(format!("{{{}}}", t("../a", 0, 4)), 4), OddName("../a".into()));
    assert!(matches!(read(format!("{{{}}}", t(&"a".repeat(1025), 0, 4)), 4), Entry { .. }));
    let flat = format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(63));
    assert!(Header::read(&file(&flat, 4)).is_ok());
    assert!(matches!(read(flat.replace("[1,", "[1,1,"), 4), Entry { .. }));
    let overflow = r#"{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}"#;
    assert_eq!(read(overflow.into(), 4), Overflow("a".into()));
    let mismatch = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
    assert_eq!(read(mismatch.into(), 4), SizeMismatch { name: "a".into(), needed: 8, found: 4 });
    let overlap = Overlap { first: "a".into(), second: "b".into(), offset: 4 };
    assert_eq!(read(format!("{{{},{}}}", t("a", 0, 8), t("b", 4, 12)), 12), overlap);
    assert_eq!(read(format!("{{{},{}}}", t("a", 0, 4), t("b", 8, 12)), 12), Hole { from: 4, to: 8 });
    let header = format!("{{{}}}", t("a", 0, 8));
    let start = 8 + header.len() as u64;
    assert_eq!(read(header.clone(), 4), Truncated { needed: start + 8, found: start + 4 });
    assert_eq!(read(header, 9), Trailing(1));
}

#[test]
fn all_broken_rules_are_told_at_once() {
    use HeaderError::*;
    let header = r#" {"__metadata__":{"k":"1","k":"2"},"../a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1},
        "b":{"dtype":"F33","shape":[1],"data_offsets":[4,8]},"c":{"dtype":"F32","shape":[1],"data_offsets":[2,6]},
        "c":{"dtype":"F32","shape":[2],"data_offsets":[8,12]},"d":{"dtype":"F32","shape":[9],"data_offsets":[12,48]}}"#;
    let mut told = Vec::new();
    let read = Header::examine(&file(header, 20), file(header, 20).len() as u64, &mut |problem| told.push(problem));
    let names: Vec<&str> = read.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["../a", "c", "d"], "only what is whole");
    assert!(matches!(told.remove(2), Entry { .. }));
    let end = 8 + header.len() as u64;
    let expected = [
        NoBrace(' '),
        UnknownField { tensor: "../a".into(), field: "x".into() },
        DuplicateMetadata("k".into()),
        OddName("../a".into()),
        Duplicate("c".into()),
        SizeMismatch { name: "c".into(), needed: 8, found: 4 },
        Overlap { first: "../a".into(), second: "c".into(), offset: 2 },
        Truncated { needed: end + 48, found: end + 20 },
    ];
    assert_eq!(told, expected);
}

proptest! {
    #[test]
    fn hostile_headers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), n in 0u64..300) {
        let mut file = n.to_le_bytes().to_vec();
        file.extend(&bytes);
        let _ = Header::read(&file);
    }

    #[test]
    fn changed_headers_read_alike_or_are_refused(at in 8usize..150, byte: u8) {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
        let mut bytes = file(header, 32);
        bytes[at] = byte;
        if let Ok(ours) = Header::read(&bytes) {
            let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for entry in &ours.tensors {
                let tensor = theirs.tensor(&entry.name).unwrap();
                prop_assert_eq!(&entry.shape[..], tensor.shape());
                let range = entry.bytes.start as usize..entry.bytes.end as usize;
                prop_assert_eq!(&bytes[range], tensor.data());
            }
        }
    }
}
