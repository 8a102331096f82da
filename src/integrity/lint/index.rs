//! Which files loaders take the weights from, and the index against what they hold.

use super::check::Check;
use super::folder::File;
use super::header::Shard;
use super::observation::{Found, Location};
use crate::checkpoint::index::{INDEX, Index, is_plain_shard};
use crate::checkpoint::tensors::SINGLE;
use crate::files;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The files that transformers would load.
pub(super) fn compare<'s, 'f>(
    root: &Path,
    all: &'f [File],
    shards: &'s [Shard<'f>],
    found: &mut Found,
) -> Vec<&'s Shard<'f>> {
    let index = all.iter().find(|f| f.name == INDEX).and_then(|file| read(file, found));
    let single = shards.iter().find(|s| s.file.name == SINGLE);
    let listed = index.as_ref().map(|index| against_shards(root, index, shards, found)).unwrap_or_default();
    let here: Vec<&Shard> = shards.iter().filter(|s| !s.file.name.contains('/')).collect();
    let model: Vec<&Shard> = match (single, &index) {
        (Some(single), index) => {
            if index.is_some() {
                let message = format!("lies beside {INDEX}: transformers takes this file, others what the index lists");
                found.say(Check::WeightsAmbiguous, single.file.location(), message);
            }
            vec![single]
        }
        (None, Some(_)) => here.iter().copied().filter(|s| listed.contains(s.file.name.as_str())).collect(),
        (None, None) => {
            let message = format!("neither {SINGLE} nor a readable {INDEX} is there");
            found.say(Check::WeightsMissing, Location::default(), message);
            here.iter().copied().filter(|s| !is_consolidated(&s.file.name)).collect()
        }
    };
    let taken: BTreeSet<&str> = model.iter().map(|s| s.file.name.as_str()).collect();
    let known = |s: &&Shard| taken.contains(s.file.name.as_str()) || listed.contains(s.file.name.as_str());
    for shard in here.iter().copied().filter(|s| !known(s)) {
        let (check, message) = match is_consolidated(&shard.file.name) {
            true => (Check::ConsolidatedWeights, "lies beside the weights that other loaders take"),
            false => (Check::StrayWeights, "is not one of the files that hold the model"),
        };
        found.say(check, shard.file.location(), message);
    }
    in_two(&model, found);
    model
}

fn is_consolidated(name: &str) -> bool {
    name.starts_with("consolidated")
}

fn read(file: &File, found: &mut Found) -> Option<Index> {
    let read = files::read_text(&file.path).map_err(|e| e.to_string());
    match read.and_then(|text| Index::parse(&text).map_err(|e| e.to_string())) {
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
fn against_shards<'i>(root: &Path, index: &'i Index, shards: &[Shard], found: &mut Found) -> BTreeSet<&'i str> {
    let at = || Location::file(INDEX);
    let here = shards.iter().filter(|s| !s.file.name.contains('/'));
    let here: BTreeMap<&str, &Shard> = here.map(|s| (s.file.name.as_str(), s)).collect();
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
        } else if !here.contains_key(shard.as_str()) {
            let message = match root.join(shard).symlink_metadata() {
                Ok(_) => format!("names the shard {shard}, which is no file that can be read"),
                Err(_) => format!("names the shard {shard}, which is missing"),
            };
            found.say(Check::IndexShardMissing, at(), message);
        }
    }
    // Where each tensor is, of the shards that the index lists first.
    let mut places: BTreeMap<&str, &str> = BTreeMap::new();
    let (inside, outside): (Vec<&Shard>, Vec<&Shard>) =
        here.values().partition(|s| listed.contains(s.file.name.as_str()));
    let mut pairs = BTreeSet::new();
    for shard in inside.iter().chain(&outside) {
        for name in shard.header.tensors.iter().map(|t| &t.name).chain(shard.malformed.iter()) {
            places.entry(name).or_insert(&shard.file.name);
            pairs.insert((name.as_str(), shard.file.name.as_str()));
        }
    }
    for (name, shard) in &map {
        // Of a shard that is missing or cannot be read, enough was said.
        let readable = here.get(shard).is_some_and(|s| s.readable);
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
        for tensor in shard.header.tensors.iter().filter(|t| !map.contains_key(t.name.as_str())) {
            let message = "is in this shard and not in the index";
            found.say(Check::IndexTensorUnlisted, shard.file.location().tensor(&tensor.name), message);
        }
    }
    let bytes: u64 = inside.iter().flat_map(|s| &s.header.tensors).map(|t| t.bytes.end - t.bytes.start).sum();
    if let Some(total) = index.total_size
        && total != bytes as f64
    {
        let message = format!("total_size is {total}, the tensors have {bytes} bytes");
        found.add(Check::IndexTotalSize, at(), message, json!({"total_size": total, "found": bytes}));
    }
    listed
}

/// Tensors that two of the model's files hold.
fn in_two(model: &[&Shard], found: &mut Found) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for shard in model {
        for tensor in &shard.header.tensors {
            let other = first.entry(&tensor.name).or_insert(&shard.file.name);
            if *other != shard.file.name {
                let message = format!("is also in {other}");
                found.say(Check::TensorTwice, shard.file.location().tensor(&tensor.name), message);
            }
        }
    }
}
