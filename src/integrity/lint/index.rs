//! Which files loaders take the weights from, and the index against what they hold.

use super::check::Check;
use super::folder::File;
use super::header::FolderShard;
use super::observation::{Found, Location};
use crate::checkpoint::Opened;
use crate::checkpoint::index::{Index, Unindexed, is_plain_shard};
use crate::checkpoint::stand_in::unfinished;
use crate::checkpoint::weight_names::WeightNames;
use crate::error::{Count, Figure};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The files that loaders take the weights from.
pub(super) struct Model<'s, 'f> {
    pub shards: Vec<&'s FolderShard<'f>>,
    /// Those of Mistral's own form beside them.
    pub consolidated: Vec<&'s FolderShard<'f>>,
    pub lost: Lost,
}

/// The tensors of files that are missing or cannot be read: enough was said of these files.
pub(super) enum Lost {
    /// By the index.
    Tensors(BTreeSet<String>),
    /// Any, as there is no index.
    Any,
}

impl Lost {
    pub fn nothing(&self) -> bool {
        matches!(self, Lost::Tensors(names) if names.is_empty())
    }
}

/// Finds the files that loaders take the weights from.
pub(super) fn compare<'s, 'f>(
    opened: &Opened,
    all: &'f [File],
    shards: &'s [FolderShard<'f>],
    found: &mut Found,
) -> Model<'s, 'f> {
    let names @ WeightNames { single, index } = opened.weight_names();
    let index_file = all.iter().find(|f| f.name == *index);
    let index = index_file.and_then(|file| read(opened, file, found));
    let single = shards.iter().find(|s| s.file.name == *single);
    let root = opened.root();
    let listed = index.map(|index| against_shards((root, names), index, shards, found)).unwrap_or_default();
    let here: Vec<&FolderShard> = shards.iter().filter(|s| !s.file.name.contains('/')).collect();
    let mut lost = Lost::Tensors(BTreeSet::new());
    let model: Vec<&FolderShard> = match (single, index) {
        (Some(single), index) => {
            if index.is_some() {
                let message =
                    format!("lies beside {}: transformers takes this file, others what the index lists", names.index);
                found.say(Check::WeightsAmbiguous, single.file.location(), message);
            }
            vec![single]
        }
        (None, Some(index)) => {
            lost = Lost::Tensors(of_unreadable(index, &here));
            here.iter().copied().filter(|s| listed.contains(s.file.name.as_str())).collect()
        }
        (None, None) => {
            // Of an index that cannot be read enough was said.
            let whole = index_file.is_none() && without_index((root, names), all, &here, found);
            lost = if whole { lost } else { Lost::Any };
            here.iter().copied().filter(|s| !is_consolidated(&s.file.name)).collect()
        }
    };
    if index.is_none() && model.iter().any(|s| !s.is_readable()) {
        lost = Lost::Any;
    }
    let taken: BTreeSet<&str> = model.iter().map(|s| s.file.name.as_str()).collect();
    let known = |s: &&FolderShard| taken.contains(s.file.name.as_str()) || listed.contains(s.file.name.as_str());
    let (consolidated, stray): (Vec<&FolderShard>, Vec<&FolderShard>) =
        here.iter().copied().filter(|s| !known(s)).partition(|s| is_consolidated(&s.file.name));
    for shard in stray {
        found.say(Check::StrayWeights, shard.file.location(), "is not one of the files that hold the model");
    }
    in_two(&model, found);
    Model { shards: model, consolidated, lost }
}

/// Tells of weights that are none: files that can be read and hold nothing.
pub(super) fn empty(model: &Model, found: &mut Found) {
    let is_empty = |shard: &&&FolderShard| shard.tensors().is_empty();
    let holds_none = model.shards.iter().all(|shard| shard.tensors().is_empty() && shard.malformed().next().is_none());
    if let Some(shard) = model.shards.iter().find(is_empty).filter(|shard| holds_none && shard.is_readable()) {
        found.say(Check::WeightsMissing, shard.file.location(), "holds no tensor");
    }
}

/// Whether a link that leads nowhere, a pipe or a device lies there: it has a finding of its own.
fn is_told_of(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Tells what loaders make of a folder without an index and without the one file; whether it holds a whole set of shards.
fn without_index((root, names): (&Path, &WeightNames), all: &[File], here: &[&FolderShard], found: &mut Found) -> bool {
    match Unindexed::of(here.iter().map(|s| s.file.name.as_str())) {
        Unindexed::Whole(all) => {
            let shards = Count(all.len(), "shard", "shards");
            let message = format!("holds {shards} and no {}: vLLM loads them, transformers does not", names.index);
            found.say(Check::IndexMissing, Location::default(), message);
            return true;
        }
        Unindexed::Lacking(missing) => {
            let message = format!("{} is missing, by the names of the other shards", missing.join(", "));
            found.add(Check::IndexShardMissing, Location::default(), message, json!({"first": missing}));
        }
        Unindexed::None if is_told_of(&root.join(&names.single)) => {}
        Unindexed::None => found.say(Check::WeightsMissing, Location::default(), without_weights(names, all)),
    }
    false
}

/// What is to be said where there are no weights that loaders would take.
fn without_weights(names: &WeightNames, all: &[File]) -> String {
    let is_weights = |name: &str| name.to_ascii_lowercase().ends_with(".safetensors");
    let find =
        |is: &dyn Fn(&str) -> bool| all.iter().map(|f| f.name.as_str()).find(|name| !name.contains('/') && is(name));
    let instead = match find(&|name| unfinished(name).is_some_and(is_weights)) {
        Some(part) => format!("; {part:?} is a download that was not finished"),
        None => {
            find(&is_weights).map(|other| format!("; transformers does not look for {other:?}")).unwrap_or_default()
        }
    };
    format!("neither {} nor {} is there{instead}", names.single, names.index)
}

/// The tensors that an index puts into files that are missing or cannot be read.
fn of_unreadable(index: &Index, here: &[&FolderShard]) -> BTreeSet<String> {
    let readable: BTreeSet<&str> = here.iter().filter(|s| s.is_readable()).map(|s| s.file.name.as_str()).collect();
    let lost = index.weight_map.iter().filter(|(_, shard)| !readable.contains(shard.as_str()));
    lost.map(|(name, _)| name.clone()).collect()
}

pub(super) fn is_consolidated(name: &str) -> bool {
    name.starts_with("consolidated")
}

fn read<'o>(opened: &'o Opened, file: &File, found: &mut Found) -> Option<&'o Index> {
    let read = opened.index().map_err(|e| e.to_string()).transpose()?;
    if let Some(stand_in) = read.as_ref().ok().and_then(|file| file.stand_in()) {
        found.say(Check::NotDownloaded, file.location(), stand_in.to_string());
        return None;
    }
    match read.and_then(|file| file.index().map_err(str::to_owned)) {
        Ok(index) if index.weight_map.is_empty() => {
            found.say(Check::IndexInvalid, file.location(), "weight_map is empty");
            None
        }
        Ok(index) => Some(index),
        Err(e) => {
            found.say(Check::IndexInvalid, file.location(), format!("is not an index: {e}"));
            None
        }
    }
}

/// Compares the index with the shards; the names of those that it lists.
fn against_shards<'i>(
    (root, names): (&Path, &WeightNames),
    index: &'i Index,
    shards: &[FolderShard],
    found: &mut Found,
) -> BTreeSet<&'i str> {
    let at = || Location::file(&names.index);
    let here = shards.iter().filter(|s| !s.file.name.contains('/'));
    let here: BTreeMap<&str, &FolderShard> = here.map(|s| (s.file.name.as_str(), s)).collect();
    let mut listed = BTreeSet::new();
    let mut map: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, shard) in &index.weight_map {
        if let Some(first) = map.insert(name, shard) {
            let message = format!("puts it into {first:?} and into {shard:?}");
            found.say(Check::IndexDuplicate, at().tensor(name), message);
        }
        if !listed.insert(shard.as_str()) {
            continue;
        }
        if !is_plain_shard(shard) {
            let message = format!("names the shard {shard:?}, expected a plain *.safetensors file name; not followed");
            found.say(Check::IndexShardPath, at().tensor(name), message);
        } else if !here.contains_key(shard.as_str()) && !is_told_of(&root.join(shard)) {
            found.say(Check::IndexShardMissing, at(), format!("names the shard {shard}, which is missing"));
        }
    }
    // Where each tensor is, of the shards that the index lists first.
    let mut places: BTreeMap<&str, &str> = BTreeMap::new();
    let (inside, outside): (Vec<&FolderShard>, Vec<&FolderShard>) =
        here.values().partition(|s| listed.contains(s.file.name.as_str()));
    let mut pairs = BTreeSet::new();
    for shard in inside.iter().chain(&outside) {
        for name in shard.tensors().iter().map(|t| &t.name).chain(shard.malformed()) {
            places.entry(name).or_insert(&shard.file.name);
            pairs.insert((name.as_str(), shard.file.name.as_str()));
        }
    }
    for (name, shard) in &map {
        // Of a shard that is missing or cannot be read, enough was said.
        let readable = here.get(shard).is_some_and(|s| s.is_readable());
        if pairs.contains(&(*name, *shard)) || !readable {
            continue;
        }
        match places.get(name) {
            Some(other) => {
                let message = format!("the index puts it into {shard}, it is in {other}");
                let evidence = json!({"listed": shard, "found": other});
                found.add(Check::IndexWrongShard, at().tensor(*name), message, evidence);
            }
            None => {
                let message = format!("the index puts it into {shard}, which does not hold it, nor does another");
                found.say(Check::IndexTensorMissing, at().tensor(*name), message);
            }
        }
    }
    for shard in &inside {
        for tensor in shard.tensors().iter().filter(|t| !map.contains_key(t.name.as_str())) {
            let message = "is in this shard and not in the index";
            found.say(Check::IndexTensorUnlisted, shard.file.location().tensor(&tensor.name), message);
        }
    }
    // The sizes of shards that are missing or cannot be read are not known.
    if listed.iter().any(|shard| here.get(shard).is_none_or(|s| !s.is_readable())) {
        return listed;
    }
    let bytes: u64 = inside.iter().flat_map(|s| s.tensors()).map(|t| t.bytes.end - t.bytes.start).sum();
    if let Some(total) = index.total_size
        && total != bytes as f64
    {
        let said = if total < 1e18 { total.to_string() } else { Figure(total).to_string() };
        let message = format!("total_size is {said}, the tensors have {bytes} bytes");
        found.add(Check::IndexTotalSize, at(), message, json!({"total_size": total, "found": bytes}));
    }
    listed
}

/// Tensors that two of the model's files hold.
fn in_two(model: &[&FolderShard], found: &mut Found) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for shard in model {
        for tensor in shard.tensors() {
            let other = first.entry(&tensor.name).or_insert(&shard.file.name);
            if *other != shard.file.name {
                let message = format!("is also in {other}");
                found.say(Check::TensorTwice, shard.file.location().tensor(&tensor.name), message);
            }
        }
    }
}
