//! Weights in Mistral's own form beside the one that other loaders read: whether they are the same.

use super::check::Check;
use super::header::{FolderShard, StoredTensor};
use super::observation::{Found, Location};
use super::params;
use super::stored::at;
use crate::architecture::Recipe;
use crate::architecture::module::{AttentionRole, Role};
use crate::architecture::names;
use crate::checkpoint::header::TensorEntry;
use crate::error::Result;
use crate::progress::Progress;
use std::collections::BTreeMap;
use std::path::Path;

/// What is said of files that could not be compared.
const BESIDE: &str = "lies beside the weights that other loaders take, and was not compared with them";

/// Tells of files that there is nothing to hold against.
pub(super) fn unknown(files: &[&FolderShard], found: &mut Found) {
    files.iter().for_each(|shard| found.say(Check::ConsolidatedWeights, shard.file.location(), BESIDE));
}

/// Compares the tensors in such files with those of the text model, by their names in the model's own form.
pub(super) fn compare(
    root: &Path,
    files: &[&FolderShard],
    recipe: &Recipe,
    text: &BTreeMap<String, StoredTensor>,
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let total = files.iter().flat_map(|shard| shard.tensors()).map(|t| t.bytes.end - t.bytes.start).sum();
    progress.begin("consolidated weights", total, "bytes");
    let other = difference(files, recipe, text, progress)?;
    progress.end();
    let settings = || Some((Location::file(params::FILE), params::compare(root, recipe).err()?));
    let other = other.or_else(settings);
    match other {
        None => files.iter().for_each(|shard| {
            let message = "holds the same weights as the files that other loaders take, in Mistral's own form";
            found.say(Check::ConsolidatedSame, shard.file.location(), message);
        }),
        Some((location, problem)) => {
            let told = location.file.clone();
            found.say(
                Check::ConsolidatedWeights,
                location,
                format!("{problem}: vLLM prefers such weights to the others"),
            );
            let others: Vec<&FolderShard> = files.iter().copied().filter(|shard| shard.file.name != told).collect();
            unknown(&others, found);
        }
    }
    Ok(())
}

/// The first that is not the same, if any.
fn difference(
    files: &[&FolderShard],
    recipe: &Recipe,
    text: &BTreeMap<String, StoredTensor>,
    progress: &dyn Progress,
) -> Result<Option<(Location, String)>> {
    let mut own: BTreeMap<String, StoredTensor> = BTreeMap::new();
    for shard in files {
        for tensor in shard.tensors() {
            let Some(name) = names::of_mistral(&tensor.name) else {
                return Ok(Some((at(shard, tensor), "is not named as Mistral names tensors".into())));
            };
            if own.insert(name, (shard, tensor)).is_some() {
                return Ok(Some((at(shard, tensor), "is there twice".into())));
            }
        }
    }
    let whole = files.first().map(|shard| shard.file.location()).unwrap_or_default();
    for (name, _) in recipe.tensors() {
        let (Some((shard, tensor)), Some(other)) = (own.remove(&name), text.get(&name)) else {
            return Ok(Some((whole, format!("has no {name}, or the files beside it have none"))));
        };
        progress.advance(tensor.bytes.end - tensor.bytes.start)?;
        if !is_same((shard, tensor), *other, heads(recipe, &name)) {
            return Ok(Some((at(shard, tensor), format!("is not the same as {name}"))));
        }
    }
    Ok(own
        .into_values()
        .next()
        .map(|(shard, tensor)| (at(shard, tensor), "is not among the tensors of the config".into())))
}

/// The heads of a projection whose rows the two forms have in different order: Mistral's turns each channel with its
/// neighbour, the other with the one half a head further.
fn heads(recipe: &Recipe, name: &str) -> Option<usize> {
    let module = recipe.module(&names::module(name)?)?;
    let attention = recipe.attention(module.layer?)?;
    match module.role {
        Role::Attention(AttentionRole::Query) => Some(attention.heads),
        Role::Attention(AttentionRole::Key) => Some(attention.kv_heads),
        _ => None,
    }
}

/// Whether two tensors have the same bytes, the rows of `heads` heads in the order of the two forms.
fn is_same(own: StoredTensor, other: StoredTensor, heads: Option<usize>) -> bool {
    let kind = |t: &TensorEntry| (t.dtype, t.shape.clone());
    let shares = own.0.overlaps() || other.0.overlaps();
    let (Some(a), Some(b)) = (own.0.bytes(own.1), other.0.bytes(other.1)) else { return false };
    if shares || kind(own.1) != kind(other.1) || a.len() != b.len() {
        return false;
    }
    let Some(heads) = heads else { return a == b };
    let rows = own.1.shape.first().copied().unwrap_or(0);
    let half = rows / heads / 2;
    if half == 0 || rows != heads * half * 2 || a.len() % rows != 0 {
        return false;
    }
    let row = a.len() / rows;
    (0..rows).all(|at| {
        let (head, within) = (at / (2 * half), at % (2 * half));
        let from = (2 * half * head + 2 * (within % half) + within / half) * row;
        b.get(at * row..(at + 1) * row) == a.get(from..from + row)
    })
}
