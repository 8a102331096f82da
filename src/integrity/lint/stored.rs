//! What is said of stored tensors that were held against what the config asks for.

use super::check::Check;
use super::folder::File;
use super::header::{FolderShard, StoredTensor};
use super::observation::{Found, Location};
use super::weights::Weights;
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::packing::NumberType;
use serde_json::json;

pub(super) fn at(shard: &FolderShard, tensor: &TensorEntry) -> Location {
    shard.file.location().tensor(&tensor.name)
}

/// Compares the shape of a weight, packed or not, with the one that the config gives.
pub(super) fn compare_shape<'a>(place: StoredTensor<'a>, weights: &Weights<'a>, shape: &[usize], found: &mut Found) {
    let Some(own) = weights.shape(place).filter(|own| *own != shape) else { return };
    let message = format!("has shape {own:?}, the config gives {shape:?}");
    let evidence = json!({"shape": own, "expected": shape});
    found.add(Check::TensorShape, at(place.0, place.1), message, evidence);
}

pub(super) fn tell_extra((shard, tensor): StoredTensor, found: &mut Found) {
    let message = format!("has shape {:?} and dtype {}, and the config has no use for it", tensor.shape, tensor.dtype);
    found.say(Check::TensorExtra, at(shard, tensor), message);
}

/// Norms that let nothing through: each is given with the weight at which it does.
pub(super) fn shut_norms<'p>(
    norms: impl Iterator<Item = (StoredTensor<'p>, f32)>,
    shards: &[&FolderShard],
    found: &mut Found,
) {
    // Tensors that share bytes can claim far more of them than there are.
    let mut left: u64 = shards.iter().map(|shard| shard.file.bytes).sum();
    for ((shard, tensor), shut) in norms {
        match left.checked_sub(tensor.bytes.end - tensor.bytes.start) {
            Some(rest) => left = rest,
            None => return,
        }
        let values = values(shard, tensor);
        if !values.is_empty() && values.iter().all(|value| *value == shut) {
            let factor = if shut == 0.0 { "w" } else { "1 + w" };
            let message = format!(
                "all of {:?} is {shut}, and this norm multiplies by {factor}: nothing comes through",
                tensor.shape
            );
            found.add(Check::ZeroTensor, at(shard, tensor), message, json!({"value": shut}));
        }
    }
}

/// The values of a tensor; none where they cannot be read, or where tensors share bytes: they could be many times the
/// file.
pub(super) fn values(shard: &FolderShard, tensor: &TensorEntry) -> Vec<f32> {
    let bytes = shard.bytes(tensor).filter(|_| !shard.overlaps());
    bytes.map(|bytes| NumberType::of(tensor.dtype).decode_all(bytes)).unwrap_or_default()
}

/// Tensors that are not there; of many (a lost shard) the first few.
pub(super) fn tell_missing(
    check: Check,
    mut missing: Vec<(String, Vec<usize>)>,
    asked: usize,
    config: &File,
    found: &mut Found,
) {
    const LISTED: usize = 10;
    if missing.len() > LISTED {
        let count = missing.len();
        missing.truncate(LISTED);
        let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
        let message =
            format!("{count} of the {asked} tensors that the config asks for are missing, the first is {}", names[0]);
        return found.add(check, config.location(), message, json!({"count": count, "first": names}));
    }
    for (name, shape) in missing {
        let message = format!("is missing, the config asks for it with shape {shape:?}");
        found.add(check, config.location().tensor(name), message, json!({"shape": shape}));
    }
}
