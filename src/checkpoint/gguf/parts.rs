//! GGUF files that hold one model together: `NAME-00001-of-00003.gguf` and those beside it.

use super::header::{Header, HeaderProblem, ProblemKind, TensorInfo, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

/// The files that a model is split into, in order; one that is not split is its only part.
///
/// What a name says is not believed to be there: a name can claim 99,999 parts.
pub fn paths(path: &Path) -> Vec<PathBuf> {
    let split = split(path).map(|(name, end, count)| {
        (1..=count).map(|part| path.with_file_name(format!("{name}-{part:05}-of-{count:05}{end}"))).collect()
    });
    split.unwrap_or_else(|| vec![path.to_owned()])
}

/// The name without the number, the extension, and of how many parts it is.
fn split(path: &Path) -> Option<(&str, &str, usize)> {
    let name = path.file_name()?.to_str()?;
    let (stem, end) = name.split_at_checked(name.len().checked_sub(".gguf".len())?)?;
    let (stem, count) = number(stem, "-of-")?;
    let (stem, part) = number(stem, "-")?;
    (1..=count).contains(&part).then_some((stem, end, count))
}

/// The five digits that a name ends in, and what stands before the separator before them.
fn number<'n>(name: &'n str, separator: &str) -> Option<(&'n str, usize)> {
    let (rest, digits) = name.split_at_checked(name.len().checked_sub(5)?)?;
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    Some((rest.strip_suffix(separator)?, digits.parse().ok().filter(|_| is_number)?))
}

/// The tensors of all parts, and what says that these do not belong together; both with the part.
pub(super) fn join(headers: &mut [Header]) -> (BTreeMap<String, TensorInfo>, Vec<(usize, HeaderProblem)>) {
    let count = headers.len();
    let (mut tensors, mut problems) = (BTreeMap::new(), Vec::new());
    for (part, header) in headers.iter_mut().enumerate() {
        let of = |problem: HeaderProblem| (part, problem);
        problems.extend(std::mem::take(&mut header.problems).into_iter().map(of));
        problems.extend(
            membership(header, part, count).map(|problem| of(HeaderProblem::new(ProblemKind::Parts, None, problem))),
        );
        for (name, info) in std::mem::take(&mut header.tensors) {
            match tensors.entry(name) {
                Entry::Vacant(free) => _ = free.insert(TensorInfo { part, ..info }),
                Entry::Occupied(first) => {
                    let name = first.key();
                    let problem = format!("tensor {name} is in another part, too; fetch all parts again");
                    problems.push(of(HeaderProblem::new(ProblemKind::DuplicateTensor, Some(name), problem)));
                }
            }
        }
    }
    let claimed = headers.first().and_then(|header| whole(header, "split.tensors.count"));
    if let Some(claimed) = claimed.filter(|claimed| count > 1 && *claimed != tensors.len() as u64) {
        let problem = format!("says that all parts hold {claimed} tensors, they hold {}", tensors.len());
        problems.push((0, HeaderProblem::new(ProblemKind::Parts, None, format!("{problem}; fetch all parts again"))));
    }
    (tensors, problems)
}

/// What is wrong with what a part says of which it is.
fn membership(header: &Header, part: usize, count: usize) -> Option<String> {
    let claimed = whole(header, "split.count").unwrap_or(1);
    let number = whole(header, "split.no").unwrap_or(0);
    if count == 1 && claimed > 1 {
        let problem =
            format!("is part {} of {claimed} of a split GGUF, and not named as one", number.saturating_add(1));
        return Some(format!("{problem}: name it NAME-00001-of-{claimed:05}.gguf and so on, beside all others"));
    }
    let (is, says) = ((part as u64, count as u64), (number, claimed));
    (is != says).then(|| {
        let problem = format!("is named as part {} of {count}", part + 1);
        let says = format!("says that it is part {} of {claimed}", number.saturating_add(1));
        format!("{problem} and {says}; fetch all parts again")
    })
}

fn whole(header: &Header, key: &str) -> Option<u64> {
    match header.metadata.get(key)? {
        Value::Unsigned(n) => Some(*n),
        Value::Signed(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::GgufFile;
    use super::super::writer::Writer;
    use super::*;

    #[test]
    fn names_tell_the_parts() {
        let of = |name: &str| paths(&Path::new("d").join(name)).len();
        assert_eq!(paths(Path::new("d/a-00002-of-00002.gguf"))[0], Path::new("d/a-00001-of-00002.gguf"));
        assert_eq!((of("a.gguf"), of("a-00001-of-00003.gguf"), of("-00003-of-00003.GGUF")), (1, 3, 3));
        for one in
            ["a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-1-of-3.gguf", "a-+0001-of-00003.gguf", ".gguf", "é"]
        {
            assert_eq!(of(one), 1, "{one}");
        }
    }

    /// A llama in two parts, changed, as far as it can be read.
    fn split(change: impl FnOnce(&mut [Writer; 2])) -> Result<GgufFile, String> {
        let mut writers = [Writer::llama(), Writer::new()];
        writers[1].tensors = writers[0].tensors.split_off(6);
        for (number, writer) in writers.iter_mut().enumerate() {
            writer.u32("split.no", number as u32).u32("split.count", 2).u32("split.tensors.count", 11);
        }
        change(&mut writers);
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(&folder.path().join("m-00001-of-00002.gguf"));
        paths.iter().zip(&writers).for_each(|(path, writer)| std::fs::write(path, writer.bytes()).unwrap());
        GgufFile::open(&paths[1]).map_err(|e| e.to_string())
    }

    #[test]
    fn parts_are_one_model() {
        let file = split(|_| {}).unwrap();
        assert_eq!((file.tensor_count(), file.maps().len()), (11, 2));
        assert_eq!(file.rows("token_embd.weight", 1..2).unwrap(), [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
        assert_eq!(file.rows("blk.0.ffn_down.weight", 1..2).unwrap(), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert!(super::super::GgufCheckpoint::of(file.into()).is_ok());
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let refused = |change: fn(&mut [Writer; 2])| split(change).unwrap_err();
        assert!(
            refused(|w| {
                w[1].u32("split.no", 0);
            })
            .contains("named as part 2 of 2 and says that it is part 1 of 2")
        );
        assert!(
            refused(|w| {
                w[0].u32("split.count", 3);
            })
            .contains("says that it is part 1 of 3")
        );
        assert!(
            refused(|w| {
                w[0].u32("split.tensors.count", 12);
            })
            .contains("hold 12 tensors, they hold 11")
        );
        assert!(
            refused(|w| {
                w[1].ramp("output_norm.weight", &[8]);
            })
            .contains("is in another part, too")
        );
        let alone = Writer::llama().u32("split.count", 2).file();
        assert!(GgufFile::open(alone.path()).unwrap_err().to_string().contains("part 1 of 2 of a split GGUF"));
        let place = tempfile::tempdir().unwrap();
        let first = place.path().join("m-00001-of-00002.gguf");
        std::fs::write(&first, Writer::llama().bytes()).unwrap();
        assert!(GgufFile::open(&first).unwrap_err().to_string().contains("m-00002-of-00002.gguf"));
    }
}
