//! The rules of the format, and bytes that no tensor owns.

use super::part;
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::gguf::header::ProblemKind;
use crate::escape::printable;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::observation::{Found, Location};

/// Tells of them.
pub fn examine(file: &GgufFile, found: &mut Found) {
    for (at, problem) in file.problems() {
        let check = match problem.kind {
            ProblemKind::DuplicateKey => Check::DuplicateMetadataKey,
            ProblemKind::DuplicateTensor => Check::DuplicateTensor,
            ProblemKind::Misaligned => Check::UnalignedData,
            ProblemKind::Truncated => Check::FileTruncated,
            ProblemKind::Overlap => Check::TensorOverlap,
            ProblemKind::Parts => Check::IndexInvalid,
        };
        let location = Location { tensor: problem.tensor.clone(), ..part(file, *at) };
        found.say(check, location, printable(&problem.to_string()));
    }
    // Bytes of tensors that claim others than there are may be those that nobody claims.
    let is_cut = |at: &usize| file.problems().iter().any(|(of, p)| of == at && p.kind == ProblemKind::Truncated);
    (0..file.maps().len()).filter(|at| !is_cut(at)).for_each(|at| unowned(file, at, found));
}

/// Bytes of a part that are neither a tensor's nor the zeros that align the next one.
fn unowned(file: &GgufFile, at: usize, found: &mut Found) {
    let Some(bytes) = file.maps().get(at).map(|map| map.bytes()) else { return };
    let alignment = file.alignment(at);
    let mut ranges: Vec<_> = file.tensors().filter(|(_, t)| t.part == at).map(|(_, t)| t.bytes.clone()).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    let has_tensors = !ranges.is_empty();
    let mut end = file.data(at).min(bytes.len());
    for range in ranges {
        if range.start > end {
            let aligned = end.next_multiple_of(alignment).min(range.start);
            let padding = bytes.get(end..aligned).unwrap_or_default();
            if aligned < range.start || padding.iter().any(|b| *b != 0) {
                let message = format!("bytes {end} to {} belong to no tensor", range.start);
                found.say(Check::DataHole, part(file, at).byte(end as u64), message);
            }
        }
        end = end.max(range.end);
    }
    // Without tensors the data are padded, or there are none.
    let aligned = end.next_multiple_of(alignment).min(bytes.len());
    let padding = bytes.get(end..aligned).unwrap_or_default();
    if (has_tensors || aligned < bytes.len()) && (aligned < bytes.len() || padding.iter().any(|b| *b != 0)) {
        let message = format!("{} bytes after the last tensor", bytes.len() - end);
        found.say(Check::TrailingBytes, part(file, at).byte(end as u64), message);
    }
}
