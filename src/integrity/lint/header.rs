//! Headers of safetensors files: every rule of the format that they break.

use super::check::Check;
use super::folder::File;
use super::observation::{Found, Location};
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::{self, Opened};
use crate::error::HeaderError;
use crate::escape::printable;
use crate::files;
use serde_json::json;
use std::collections::HashMap;

/// A safetensors file among the others of its folder.
pub(super) struct FolderShard<'a> {
    pub file: &'a File,
    /// The file as it was opened, for all that is looked at in it; none where it cannot be read or was never written, which
    /// was told.
    opened: Option<checkpoint::Shard>,
    /// It is the file that another one is, by another name or a link: that one was read.
    pub again: bool,
}

/// Reads the headers of all safetensors files in the folder and the folders in it.
pub(super) fn read<'a>(opened: &Opened, files: &'a [File], found: &mut Found) -> Vec<FolderShard<'a>> {
    let is_shard = |file: &&File| file.name.to_ascii_lowercase().ends_with(".safetensors");
    let mut shards: Vec<FolderShard> = Vec::new();
    let mut firsts = HashMap::new();
    for file in files.iter().filter(is_shard) {
        let here = shards.len();
        let identity = std::fs::metadata(&file.path).ok().and_then(|about| files::identity(&about));
        let first = identity.map(|identity| *firsts.entry(identity).or_insert(here));
        let shard = match first.and_then(|first| shards.get(first)) {
            None => shard(opened, file, found),
            Some(first) => first.again(file),
        };
        shards.push(shard);
    }
    shards
}

/// A tensor and the file that holds it.
pub(super) type StoredTensor<'a> = (&'a FolderShard<'a>, &'a TensorEntry);

impl<'a> FolderShard<'a> {
    /// The same by another name.
    fn again(&self, file: &'a File) -> FolderShard<'a> {
        FolderShard { file, opened: self.opened.clone(), again: true }
    }

    /// The same by a name from another folder.
    pub fn called<'b>(&self, file: &'b File) -> FolderShard<'b> {
        FolderShard { file, opened: self.opened.clone(), again: self.again }
    }

    /// The bytes, mapped.
    pub fn map(&self) -> Option<&MappedFile> {
        self.opened.as_ref().map(checkpoint::Shard::file)
    }

    /// The file as it was opened; none where that is not possible.
    pub fn opened(&self) -> Option<&checkpoint::Shard> {
        self.opened.as_ref()
    }

    /// Whether there is a header at all.
    pub fn is_readable(&self) -> bool {
        let reads = |opened: &checkpoint::Shard| opened.stand_in().is_none() && !opened.problems().iter().any(is_fatal);
        self.opened.as_ref().is_some_and(reads)
    }

    /// The tensors in the order of their bytes, but for those whose entry cannot be used.
    pub fn tensors(&self) -> &[TensorEntry] {
        self.opened.as_ref().map_or(&[], |opened| &opened.header().tensors)
    }

    /// Those whose entry cannot be used.
    pub fn malformed(&self) -> impl Iterator<Item = &String> {
        self.opened.iter().flat_map(|opened| opened.malformed())
    }

    /// Whether tensors share bytes.
    pub fn overlaps(&self) -> bool {
        self.opened.as_ref().is_some_and(checkpoint::Shard::overlaps)
    }

    /// The bytes of one of its tensors; none where the file ends before them.
    pub fn bytes(&self, tensor: &TensorEntry) -> Option<&[u8]> {
        self.opened.as_ref()?.bytes(tensor)
    }
}

fn shard<'a>(opened: &Opened, file: &'a File, found: &mut Found) -> FolderShard<'a> {
    let none = FolderShard { file, opened: None, again: false };
    let shard = match opened.shard(&file.path) {
        // That is told of every file.
        Ok(shard) if shard.holes().is_some() => return none,
        Ok(shard) => shard,
        Err(e) => {
            found.say(Check::FileUnreadable, file.location(), format!("cannot be read: {e}"));
            return none;
        }
    };
    if let Some(stand_in) = shard.stand_in() {
        found.say(Check::NotDownloaded, file.location(), printable(&stand_in.to_string()));
    }
    for problem in shard.problems() {
        let (check, location) = place(problem, file);
        found.say(check, location, printable(&problem.to_string()));
    }
    for (problem, more) in shard.not_kept() {
        found.count(place(problem, file).0, &file.name, more);
    }
    let has_format = shard.header().metadata.contains_key("format");
    let shard = FolderShard { opened: Some(shard), ..none };
    if shard.is_readable() {
        unaligned(&shard, found);
        if !has_format {
            let message = "its metadata have no format, expected {\"format\": \"pt\"}";
            found.say(Check::NoFormat, file.location(), message);
        }
    }
    shard
}

/// What a broken rule is called here, and where it is broken.
fn place(problem: &HeaderError, file: &File) -> (Check, Location) {
    use HeaderError as E;
    let at = file.location();
    match problem {
        E::TooLong(_) => (Check::HeaderTooLong, at),
        E::NotUtf8(byte) => (Check::HeaderNotUtf8, at.byte(*byte as u64)),
        E::NoBrace(c) if c.is_ascii_whitespace() => (Check::HeaderLeadingBytes, at.byte(8)),
        E::Duplicate(name) => (Check::DuplicateTensor, at.tensor(name)),
        E::DuplicateMetadata(_) => (Check::DuplicateMetadataKey, at),
        E::DuplicateField { tensor, .. } => (Check::DuplicateTensorField, at.tensor(tensor)),
        E::UnknownField { tensor, .. } => (Check::UnknownTensorField, at.tensor(tensor)),
        E::OddName(name) => (Check::OddTensorName, at.tensor(name)),
        E::Entry { name, .. } => (Check::HeaderInvalid, at.tensor(name)),
        E::Overflow(name) => (Check::TensorOverflow, at.tensor(name)),
        E::SizeMismatch { name, .. } => (Check::TensorSize, at.tensor(name)),
        E::Overlap { second, .. } => (Check::TensorOverlap, at.tensor(second)),
        E::Hole { .. } => (Check::DataHole, at),
        E::PastTheEnd { .. } | E::Truncated { .. } => (Check::FileTruncated, at),
        E::Trailing(bytes) => (Check::TrailingBytes, at.byte(file.bytes.saturating_sub(*bytes))),
        _ => (Check::HeaderInvalid, at),
    }
}

/// Whether nothing of the header could be read.
fn is_fatal(problem: &HeaderError) -> bool {
    use HeaderError as E;
    match problem {
        E::NoLength(_) | E::TooLong(_) | E::PastTheEnd { .. } | E::NotUtf8(_) | E::Json(_) => true,
        E::NoBrace(c) => !c.is_ascii_whitespace(),
        _ => false,
    }
}

fn unaligned(shard: &FolderShard, found: &mut Found) {
    let misplaced = |t: &&TensorEntry| {
        let element = (t.dtype.bitsize() / 8) as u64;
        element > 1 && !t.bytes.start.is_multiple_of(element)
    };
    let count = shard.tensors().iter().filter(misplaced).count();
    if let Some(first) = shard.tensors().iter().find(misplaced) {
        let message = format!("{count} tensors do not begin at a multiple of their element size; this is the first");
        let location = shard.file.location().tensor(&first.name).byte(first.bytes.start);
        found.add(Check::UnalignedData, location, message, json!({"tensors": count}));
    }
}
