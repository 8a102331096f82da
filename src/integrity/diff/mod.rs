//! In what two checkpoints differ, both at hand.

mod change;
mod files;
mod gguf;
mod pair;
mod repacked;

use super::difference::{Difference, Norms, TensorChange, name_experts, replaced_by};
use crate::checkpoint::packing::{NumberType, Weight};
use crate::checkpoint::quantization::FILES;
use crate::checkpoint::{Opened, Tensors};
use crate::error::Result;
use crate::progress::Progress;
use pair::{Pair, Stored, Told};
use rayon::prelude::*;
use safetensors::Dtype;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// How two checkpoints differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Tensors that both have; a packed weight is one, whatever it is stored as.
    pub tensors: usize,
    /// Of those, how many are bit for bit the same.
    pub same_tensors: usize,
    /// Files first, then tensors.
    pub differences: Vec<Difference>,
}

/// Compares two model folders: their weights, wherever they lie and whatever they are packed as, and their other files
/// byte by byte; or two files of weights, tensors by their own names. Of a folder and a file the weights are compared, by the
/// names that transformers gives them.
///
/// # Errors
/// A folder is no checkpoint, or a file cannot be read or is mostly holes.
pub fn diff(a: &Opened, b: &Opened, progress: &dyn Progress) -> Result<Diff> {
    let ggufs = [a.gguf_file()?, b.gguf_file()?];
    let of = |opened: &Opened| match ggufs {
        [Some(_), None] | [None, Some(_)] => opened.named_tensors(),
        _ => opened.all_tensors(),
    };
    let (old, new) = (of(a)?, of(b)?);
    old.refuse_holes()?;
    new.refuse_holes()?;
    let are_files = [a, b].map(Opened::is_file);
    let mut differences = match (ggufs, are_files) {
        ([None, None], [false, false]) => files::compare_files((a, &old), (b, &new))?,
        ([None, None], [true, true]) => Vec::new(),
        ([Some(a), Some(b)], _) => gguf::metadata(a, b),
        _ => {
            let problem = "the other one is of another kind: only the weights of the two were compared";
            let file = if a.is_file() { a } else { b };
            let path = crate::files::name_of(file.root());
            vec![Difference::NotExamined { path, problem: problem.into() }]
        }
    };
    let [was, is] = [&old, &new].map(Tensors::weights);
    let (mut was, mut is) = (by_name(&was), by_name(&is));
    let apart = apart((&old, &mut was), (&new, &mut is));
    let mut pairs = Vec::new();
    let names = was.keys().chain(is.keys()).map(|name| (*name, false));
    for (name, apart) in names.chain(apart.iter().map(|name| (*name, true))).collect::<BTreeSet<_>>() {
        if apart {
            match (Stored::of(&old, name), Stored::of(&new, name)) {
                (Some(was), Some(is)) => match Pair::of_stored(was, is) {
                    Some(pair) => pairs.push(pair),
                    None => differences.push(reshaped(name, was.form(), is.form())),
                },
                (was, _) => differences.push(gone_or_extra(was.is_some(), &new, name, name)),
            }
            continue;
        }
        match (was.get(name), is.get(name)) {
            (Some(was), Some(is)) => match Pair::of((&old, was), (&new, is)) {
                Some(pair) => pairs.push(pair),
                None => differences.push(reshaped(name, form(&old, was), form(&new, is))),
            },
            (was, is) => {
                let stored = is.and_then(|weight| weight.stored().first().copied()).unwrap_or(name);
                differences.push(gone_or_extra(was.is_some(), &new, name, stored));
            }
        }
    }
    let (norms, same_settings) = (Norms::of(b), settings(a) == settings(b));
    progress.begin("comparing", pairs.iter().map(Pair::bytes).sum(), "bytes");
    let told = pairs
        .par_iter()
        .with_max_len(1)
        .map(|pair| {
            let told = pair.compare(&norms, same_settings)?;
            progress.advance(pair.bytes())?;
            Ok((pair, told))
        })
        .collect::<Result<Vec<_>>>()?;
    progress.end();
    let same_tensors = told.iter().filter(|(_, told)| told.is_same()).count();
    let (mut changes, mut repacked) = (Vec::new(), Vec::new());
    for (pair, Told { change, repacked: other, stored }) in told {
        changes.extend(change.map(|change| (pair, change)));
        repacked.extend(other);
        differences.extend(stored);
    }
    // Of what only the first are shown, those that tell more than that all was rounded.
    repacked.sort_by_key(|weight| weight.lines.is_empty());
    differences.extend(repacked.into_iter().map(Difference::WeightRepacked));
    differences.extend(replaced(changes));
    name_experts(&mut differences, &|name| old.shape_of(name));
    if differences.is_empty() {
        differences = match (ggufs, are_files) {
            ([Some(a), Some(b)], _) => gguf::other_bytes(a, b),
            ([None, None], [true, true]) => files::other_bytes(&old, &new),
            _ => differences,
        };
    }
    Ok(Diff { tensors: pairs.len(), same_tensors, differences })
}

/// Weights by their names.
type ByName<'a> = BTreeMap<&'a str, &'a Weight<'a>>;

fn by_name<'a>(weights: &'a [Weight<'a>]) -> ByName<'a> {
    weights.iter().map(|weight| (weight.name(), weight)).collect()
}

/// What tells what packed codes mean: the config, and files beside it.
fn settings(opened: &Opened) -> Vec<Option<Value>> {
    let config = opened.config().ok().flatten().map(|config| Value::Object(config.map().clone()));
    let files = FILES.iter().map(|name| opened.settings::<Value>(name).ok().flatten());
    std::iter::once(config).chain(files).collect()
}

/// Takes out weights that are packed in only one of the two because what they are packed in is broken in the other, and
/// gives their stored tensors, which are compared as they are.
fn apart<'a>((old, was): (&Tensors, &mut ByName<'a>), (new, is): (&Tensors, &mut ByName<'a>)) -> BTreeSet<&'a str> {
    let is_packed = |of: &ByName<'a>, name: &str| of.get(name).is_some_and(|weight| weight.is_packed());
    let has_codes = |tensors: &Tensors, weight: &Weight| {
        let codes = weight.stored().first().and_then(|codes| tensors.get(codes));
        codes.is_some_and(|codes| !NumberType::of(codes.dtype).holds_weights())
    };
    let of_one = |one: &ByName<'a>, other: &ByName<'a>, tensors: &Tensors| -> Vec<&'a str> {
        let packed = one.values().filter(|weight| weight.is_packed() && !is_packed(other, weight.name()));
        packed.filter(|weight| has_codes(tensors, weight)).map(|weight| weight.name()).collect()
    };
    let mut stored = BTreeSet::new();
    for name in [of_one(was, is, new), of_one(is, was, old)].concat() {
        stored.extend([was.remove(name), is.remove(name)].into_iter().flatten().flat_map(Weight::stored));
    }
    was.retain(|name, weight| weight.is_packed() || !stored.contains(name));
    is.retain(|name, weight| weight.is_packed() || !stored.contains(name));
    stored
}

/// Type and shape.
type Form = (Dtype, Vec<usize>);

fn form(tensors: &Tensors, weight: &Weight) -> Form {
    let dtype = weight.stored().first().and_then(|name| tensors.get(name)).map(|entry| entry.dtype);
    (dtype.unwrap_or(Dtype::F32), weight.shape().to_vec())
}

fn reshaped(name: &str, before: Form, after: Form) -> Difference {
    Difference::TensorReshaped { name: name.into(), before, after }
}

/// A tensor that only one of the two has; `stored` is the one of the file that a weight of this name begins with.
fn gone_or_extra(is_gone: bool, new: &Tensors, name: &str, stored: &str) -> Difference {
    if is_gone {
        return Difference::TensorMissing { name: name.into() };
    }
    let file = new.get(stored).and_then(|e| e.place.as_ref()).map(|(at, _)| new.files()[*at].path());
    let file = file.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    Difference::TensorExtra { name: name.into(), file: file.unwrap_or_default() }
}

/// What became of changed tensors: some may hold what others of them held.
fn replaced(changes: Vec<(&Pair<'_>, TensorChange)>) -> Vec<Difference> {
    // Tensors that begin alike, so that few are compared whole.
    fn start<'a>(stored: &[Stored<'a>]) -> Option<(String, &'a [usize], &'a [u8])> {
        let first = stored.first()?;
        Some((first.dtype.to_string(), first.shape, &first.bytes[..first.bytes.len().min(4096)]))
    }
    let mut held: HashMap<_, Vec<&Pair<'_>>> = HashMap::new();
    for (pair, _) in &changes {
        held.entry(start(&pair.before)).or_default().push(pair);
    }
    let holder = |pair: &Pair<'_>| -> Option<&str> {
        let alike = held.get(&Some(start(&pair.after)?))?;
        alike.iter().find(|other| Stored::same(&other.before, &pair.after)).map(|other| other.name())
    };
    let by: BTreeMap<&str, &str> = changes.iter().filter_map(|(pair, _)| Some((pair.name(), holder(pair)?))).collect();
    let tell = |(pair, change): (&Pair<'_>, TensorChange)| match by.get(pair.name()) {
        None => Some(Difference::TensorChanged(change)),
        Some(other) => replaced_by(pair.name(), other, by.get(other) == Some(&pair.name())),
    };
    changes.into_iter().filter_map(tell).collect()
}
