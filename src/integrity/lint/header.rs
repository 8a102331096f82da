//! Headers of safetensors files: every rule of the format that they break.

use super::check::Check;
use super::folder::File;
use super::observation::{Found, Location};
use crate::checkpoint::header::{Header, TensorEntry};
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::stand_in::StandIn;
use crate::error::HeaderError;
use crate::escape::printable;
use crate::files;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A safetensors file and what could be read of its header.
pub(super) struct Shard<'a> {
    pub file: &'a File,
    /// The file as it was opened, for all that is looked at in it; none where it cannot be read, which was told.
    pub map: Option<Arc<MappedFile>>,
    /// Whether there is a header at all.
    pub readable: bool,
    pub header: Arc<Header>,
    /// Tensors whose entry cannot be used, which are not in `header`.
    pub malformed: Arc<BTreeSet<String>>,
    /// Tensors share bytes.
    pub overlaps: bool,
    /// It is the file that another one is, by another name or a link: that one was read.
    pub again: bool,
}

/// Reads the headers of all safetensors files in the folder and the folders in it.
pub(super) fn read<'a>(files: &'a [File], found: &mut Found) -> Vec<Shard<'a>> {
    let is_shard = |file: &&File| file.name.to_ascii_lowercase().ends_with(".safetensors");
    let mut shards: Vec<Shard> = Vec::new();
    let mut firsts = HashMap::new();
    for file in files.iter().filter(is_shard) {
        let here = shards.len();
        let identity = std::fs::metadata(&file.path).ok().and_then(|about| files::identity(&about));
        let first = identity.map(|identity| *firsts.entry(identity).or_insert(here));
        let shard = match first.and_then(|first| shards.get(first)) {
            None => shard(file, found),
            Some(first) => first.again(file),
        };
        shards.push(shard);
    }
    shards
}

impl<'a> Shard<'a> {
    /// The same by another name.
    fn again(&self, file: &'a File) -> Shard<'a> {
        let (map, header, malformed) = (self.map.clone(), self.header.clone(), self.malformed.clone());
        Shard { file, map, header, malformed, again: true, ..*self }
    }

    /// The bytes of one of its tensors; none where the file ends before them.
    pub fn bytes(&self, tensor: &TensorEntry) -> Option<&[u8]> {
        let range = usize::try_from(tensor.bytes.start).ok()?..usize::try_from(tensor.bytes.end).ok()?;
        self.map.as_ref()?.bytes().get(range)
    }
}

fn shard<'a>(file: &'a File, found: &mut Found) -> Shard<'a> {
    let header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
    let mut shard = Shard {
        file,
        map: None,
        readable: false,
        header: Arc::new(header),
        malformed: Arc::default(),
        overlaps: false,
        again: false,
    };
    let opened = files::open_regular(&file.path)
        .and_then(|open| Ok((StandIn::of_file(&open, &file.path)?, MappedFile::of(&open, &file.path)?)));
    let map = match opened {
        Ok((None, map)) => shard.map.insert(Arc::new(map)).clone(),
        // That is told of every file.
        Ok((Some(_), _)) => return shard,
        Err(e) => {
            found.say(Check::FileUnreadable, file.location(), format!("cannot be read: {e}"));
            return shard;
        }
    };
    let bytes = map.bytes();
    if let Some(stand_in) = StandIn::of_binary(bytes) {
        found.say(Check::NotDownloaded, file.location(), printable(&stand_in.to_string()));
        return shard;
    }
    shard.readable = true;
    let mut malformed = BTreeSet::new();
    let header = Header::examine(bytes, &mut |problem| {
        let (check, location) = place(&problem, file);
        shard.readable &= !is_fatal(&problem);
        if matches!(check, Check::HeaderInvalid | Check::TensorOverflow | Check::TensorSize) {
            malformed.extend(location.tensor.clone());
        }
        shard.overlaps |= check == Check::TensorOverlap;
        found.say(check, location, printable(&problem.to_string()));
    });
    (shard.header, shard.malformed) = (Arc::new(header), Arc::new(malformed));
    if shard.readable {
        unaligned(&shard, found);
        if !shard.header.metadata.contains_key("format") {
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

fn unaligned(shard: &Shard, found: &mut Found) {
    let misplaced = |t: &&TensorEntry| {
        let element = (t.dtype.bitsize() / 8) as u64;
        element > 1 && !t.bytes.start.is_multiple_of(element)
    };
    let count = shard.header.tensors.iter().filter(misplaced).count();
    if let Some(first) = shard.header.tensors.iter().find(misplaced) {
        let message = format!("{count} tensors do not begin at a multiple of their element size; this is the first");
        let location = shard.file.location().tensor(&first.name).byte(first.bytes.start);
        found.add(Check::UnalignedData, location, message, json!({"tensors": count}));
    }
}
