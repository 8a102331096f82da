//! Parts of the model that text does not go through, against the config where it is known what they hold.

use super::check::Check;
use super::folder::File;
use super::header::StoredTensor;
use super::index::{Lost, Model};
use super::observation::Found;
use super::stored::{compare_shape, shut_norms, tell_extra, tell_missing};
use super::weights::Weights;
use crate::architecture::OtherParts;
use crate::checkpoint::names::{Meaning, Names, module};
use crate::error::{Count, Error};
use crate::escape::printable;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Compares the tensors of other parts, by the names of transformers 5, with what the config gives.
pub(super) fn compare<'a>(
    expected: std::result::Result<&OtherParts, &Error>,
    names: &Names,
    stored: &BTreeMap<String, StoredTensor<'a>>,
    (model, weights): (&Model, &Weights<'a>),
    config: &File,
    found: &mut Found,
) {
    let tensors = match expected {
        Ok(OtherParts::Known(tensors)) => tensors,
        Ok(OtherParts::Unknown) => return not_examined(stored.keys().map(String::as_str), config, found),
        Err(e) => {
            let message = format!("the tensors that text does not go through were not compared with it: {e}");
            return found.say(Check::ConfigRefused, config.location(), message);
        }
    };
    let part_name = |stored: &str| match names.meaning(stored) {
        Meaning::OtherPart(name) => Some(name),
        _ => None,
    };
    let malformed = model.shards.iter().flat_map(|shard| shard.malformed());
    let told: Option<BTreeSet<String>> = match &model.lost {
        Lost::Any => None,
        Lost::Tensors(names) => Some(names.iter().chain(malformed).filter_map(|name| part_name(name)).collect()),
    };
    let mut extra = stored.clone();
    let (mut missing, mut asked) = (Vec::new(), 0);
    for tensor in tensors {
        asked += usize::from(tensor.is_read);
        match extra.remove(&tensor.name) {
            Some(place) => compare_shape(place, weights, &tensor.shape, found),
            None if tensor.is_read && told.as_ref().is_some_and(|told| !told.contains(&tensor.name)) => {
                missing.push((tensor.name.clone(), tensor.shape.clone()));
            }
            None => {}
        }
    }
    tell_missing(Check::PartMissing, missing, asked, config, found);
    let norms = tensors.iter().filter_map(|tensor| Some((*stored.get(&tensor.name)?, tensor.shut?)));
    shut_norms(norms, &model.shards, found);
    extra.into_values().for_each(|place| tell_extra(place, found));
}

/// Names the modules of which no more is known than that text does not go through them.
pub(super) fn not_examined<'n>(tensors: impl Iterator<Item = &'n str>, config: &File, found: &mut Found) {
    let mut modules: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in tensors {
        *modules.entry(module(tensor)).or_default() += 1;
    }
    for (module, count) in modules {
        let (name, tensors) = (printable(module), Count(count, "tensor", "tensors"));
        let message =
            format!("{tensors} of {name}, whose names and shapes are not known here, were not compared with it");
        found.add(Check::PartNotExamined, config.location(), message, json!({"module": module, "tensors": count}));
    }
}
