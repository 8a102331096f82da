//! Tensors against what the metadata say, and where these are of a family that is not known, against each other.

use super::{part, tensor};
use crate::checkpoint::gguf::{GgufFile, Mismatch, mismatches};
use crate::error::Error;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::observation::Found;
use crate::integrity::lint::peers::stacks::{Stacks, Unit, numbers};
use serde_json::json;
use std::collections::BTreeSet;

/// What stands before the number of a layer.
const LAYERS: &str = "blk.";
/// The token embedding, and the output layer that may stand for itself.
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// Tells what does not fit.
pub fn compare(file: &GgufFile, found: &mut Found) {
    if let Some((name, _)) = file.tensors().find(|(name, _)| name.is_empty() || name.contains(['/', '\\'])) {
        found.say(Check::OddTensorName, tensor(file, name), "has a name that is a path");
    }
    if file.tensor_count() == 0 {
        found.say(Check::WeightsMissing, part(file, 0), "holds no tensor");
    }
    match mismatches(file, Found::KEPT as usize) {
        Ok(list) => list.iter().for_each(|(name, mismatch)| tell(file, name, mismatch, found)),
        Err(error) => {
            let (check, message) = match error {
                Error::Unsupported { what, .. } => (Check::ConfigUnknown, format!("static audit only: {what}")),
                e => (Check::ConfigRefused, format!("the tensors were not compared with the metadata: {e}")),
            };
            found.say(check, part(file, 0), message);
            peers(file, found);
            sizes(file, found);
        }
    }
}

fn tell(file: &GgufFile, name: &str, mismatch: &Mismatch, found: &mut Found) {
    let at = tensor(file, name);
    match mismatch {
        Mismatch::Missing => found.say(Check::TensorMissing, at, "is missing, expected from the metadata"),
        Mismatch::Extra => found.say(Check::TensorExtra, at, "is not a tensor of this family"),
        Mismatch::Shape(expected) => {
            let shape = file.tensor(name).map(|info| info.shape.clone()).unwrap_or_default();
            let message = format!("has shape {shape:?}, expected {expected:?} from the metadata");
            found.add(Check::TensorShape, at, message, json!({"shape": shape, "expected": expected}));
        }
    }
}

/// Layers and experts against each other.
fn peers(file: &GgufFile, found: &mut Found) {
    let units: Vec<Unit> = file.tensors().map(|(name, info)| Unit { name, shape: &info.shape }).collect();
    let stacks = Stacks::of(&units, &[]);
    for odd in stacks.odd_members() {
        let Some(first) = odd.missing.first() else { continue };
        let more = odd.missing.len() - 1;
        let others = if more > 0 { format!(", and so are {more} more of {}", odd.member) } else { String::new() };
        let message = format!("is missing, {} of its peers ({}) have it{others}", odd.peers, odd.stack);
        let evidence = json!({"missing": odd.missing, "peers_count": odd.peers});
        let at = part(file, file.tensor(odd.beside).map_or(0, |info| info.part));
        found.add(Check::PeerMissing, at.tensor(first), message, evidence);
    }
    for odd in stacks.odd_shapes() {
        let (shape, usual) = (odd.unit.shape, odd.usual);
        let message = format!("has shape {shape:?}, {} of its peers ({}) {usual:?}", odd.peers, odd.role);
        let evidence = json!({"shape": shape, "peers": usual, "peers_count": odd.peers});
        found.add(Check::PeerShape, tensor(file, odd.unit.name), message, evidence);
    }
}

/// What families have in common: how many layers there are, and the shapes of embedding and output.
fn sizes(file: &GgufFile, found: &mut Found) {
    let Ok(Some(architecture)) = file.str_opt("general.architecture") else { return };
    let size = |key: &str| file.u64_opt(&format!("{architecture}.{key}")).ok().flatten();
    let layer = |name: &str| numbers(name).find(|(prefix, ..)| *prefix == LAYERS).map(|(_, number, _)| number as u64);
    let layers: BTreeSet<u64> = file.tensors().filter_map(|(name, _)| layer(name)).collect();
    if let Some(count) = size("block_count") {
        let there = layers.range(..count).count() as u64;
        if let Some(first) = (0..count).find(|number| !layers.contains(number)).filter(|_| !layers.is_empty()) {
            let message = format!("is missing as a whole; of {count} layers {there} are there");
            found.say(Check::TensorMissing, part(file, 0).tensor(format!("{LAYERS}{first}")), message);
        }
        if let Some(first) = layers.range(count..).next() {
            let message = format!("is there, but the metadata count {count} layers");
            found.say(Check::TensorExtra, part(file, 0).tensor(format!("{LAYERS}{first}")), message);
        }
    }
    let embedding = file.tensor(EMBEDDING).map(|info| info.shape.as_slice());
    if let (Some(&[rows, width]), Some(expected)) = (embedding, size("embedding_length"))
        && width as u64 != expected
    {
        let message = format!("has shape [{rows}, {width}], expected [{rows}, {expected}] from the metadata");
        found.say(Check::TensorShape, tensor(file, EMBEDDING), message);
    }
    let output = file.tensor(OUTPUT).map(|info| info.shape.as_slice());
    if let (Some(embedding @ &[..]), Some(output)) = (embedding, output)
        && embedding != output
    {
        let message = format!("has shape {output:?}, the embedding {embedding:?}");
        found.say(Check::TensorShape, tensor(file, OUTPUT), message);
    }
}
