//! A safetensors file, mapped and its header parsed once. What is malformed in it is kept: lint tells of it, strict
//! readers refuse it.

use super::header::{Header, TensorEntry};
use super::map::MappedFile;
use super::stand_in::StandIn;
use crate::error::{Error, HeaderError, Result};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::mem::{Discriminant, discriminant};
use std::path::Path;
use std::sync::Arc;

/// A safetensors file as it was opened, by one of its names.
#[derive(Debug, Clone)]
pub struct Shard {
    file: MappedFile,
    content: Arc<Content>,
}

#[derive(Debug, Default)]
struct Content {
    holes: Option<StandIn>,
    stand_in: Option<StandIn>,
    header: Header,
    problems: Vec<HeaderError>,
    /// How many there were of each kind.
    counts: HashMap<Discriminant<HeaderError>, u64>,
    malformed: BTreeSet<String>,
}

impl Shard {
    /// Problems of one kind that are kept: a hostile header has millions.
    pub const KEPT: u64 = 100;

    /// Of an open file and its map, of which the header's pages alone are touched. Where it is the beginning of a file
    /// of the hub it is told how long that is.
    pub(super) fn of(open: &File, file: MappedFile, whole: Option<u64>) -> Result<Shard> {
        let holes = StandIn::of_file(open, file.path())?;
        let mut content = Content { holes, stand_in: StandIn::of_binary(file.bytes()), ..Content::default() };
        if content.stand_in.is_none() {
            let header = Header::examine(file.bytes(), whole.unwrap_or(file.bytes().len() as u64), &mut |problem| {
                content.take(problem)
            });
            content.header = header;
        }
        Ok(Shard { file, content: Arc::new(content) })
    }

    /// The same by another of its names.
    pub(super) fn at(&self, path: &Path) -> Shard {
        Shard { file: self.file.at(path), content: self.content.clone() }
    }

    /// The bytes, mapped or read whole, by the name that this was opened by.
    pub fn file(&self) -> &MappedFile {
        &self.file
    }

    /// What lies in its place, where most of it was never written. The header may be sound all the same.
    pub fn holes(&self) -> Option<&StandIn> {
        self.content.holes.as_ref()
    }

    /// What lies in its place; then it has no header.
    pub fn stand_in(&self) -> Option<&StandIn> {
        self.content.stand_in.as_ref()
    }

    /// As much of the header as there is sense in: see [`Header::examine`].
    pub fn header(&self) -> &Header {
        &self.content.header
    }

    /// The rules of the format that it breaks: of each kind the first [`Shard::KEPT`].
    pub fn problems(&self) -> &[HeaderError] {
        &self.content.problems
    }

    /// Of kinds that have more problems than are kept one of them, and how many more.
    pub fn not_kept(&self) -> impl Iterator<Item = (&HeaderError, u64)> {
        self.content.counts.iter().filter_map(|(kind, count)| {
            let of_kind = self.problems().iter().find(|problem| discriminant(*problem) == *kind)?;
            Some((of_kind, count.checked_sub(Shard::KEPT).filter(|more| *more > 0)?))
        })
    }

    /// Tensors whose entry cannot be used, which are not in the header's list.
    pub fn malformed(&self) -> &BTreeSet<String> {
        &self.content.malformed
    }

    /// Whether tensors share bytes.
    pub fn overlaps(&self) -> bool {
        self.problems().iter().any(|problem| matches!(problem, HeaderError::Overlap { .. }))
    }

    /// The header of a sound file.
    ///
    /// # Errors
    /// Something else lies in the file's place, or the header breaks a rule of the format.
    pub fn sound_header(&self) -> Result<&Header> {
        let path = self.file.path();
        match (self.stand_in(), self.problems().first()) {
            (Some(stand_in), _) => Err(Error::file(path, stand_in.to_string())),
            (None, Some(problem)) => Err(Error::Header { path: path.to_owned(), problem: problem.clone() }),
            (None, None) => Ok(self.header()),
        }
    }

    /// The bytes of one of its tensors; none where the file ends before them.
    pub fn bytes(&self, tensor: &TensorEntry) -> Option<&[u8]> {
        let range = usize::try_from(tensor.bytes.start).ok()?..usize::try_from(tensor.bytes.end).ok()?;
        self.file.bytes().get(range)
    }
}

impl Content {
    fn take(&mut self, problem: HeaderError) {
        use HeaderError::{Entry, Overflow, SizeMismatch};
        if let Entry { name, .. } | Overflow(name) | SizeMismatch { name, .. } = &problem {
            self.malformed.insert(name.clone());
        }
        let count = self.counts.entry(discriminant(&problem)).or_default();
        *count += 1;
        if *count <= Shard::KEPT {
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_problems_the_first_are_kept_and_all_are_counted() {
        let entry = r#"{"dtype":"U8","shape":[2],"data_offsets":[0,1]}"#;
        let header: Vec<String> = (0..250).map(|at| format!(r#""{at}":{entry}"#)).collect();
        let header = format!(r#"{{{},"/":[]}}"#, header.join(","));
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0]].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let shard = Shard::of(&File::open(file.path()).unwrap(), MappedFile::open(file.path()).unwrap(), None).unwrap();
        let mut more: Vec<u64> = shard.not_kept().map(|(_, more)| more).collect();
        more.sort_unstable();
        let overlaps = shard.problems().iter().filter(|p| matches!(p, HeaderError::Overlap { .. })).count();
        let mismatches = shard.problems().iter().filter(|p| matches!(p, HeaderError::SizeMismatch { .. })).count();
        assert_eq!((overlaps, mismatches, more, shard.malformed().len()), (100, 100, vec![149, 150], 251));
        assert!(shard.overlaps() && shard.sound_header().is_err());
    }
}
