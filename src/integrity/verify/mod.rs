//! Holds a checkpoint against a fingerprint.

mod factor;
mod packed;
mod place;

use super::difference::{Difference, Norms, name_experts, replaced_by};
use super::fingerprint::{Cache, Fingerprint, FolderRecords, TensorRecord, take_beside};
use crate::checkpoint::{Opened, walk};
use crate::error::Result;
use crate::progress::Progress;
use place::{Marks, change};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// What differs from a fingerprint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// Every byte of every file is as it was.
    pub intact: bool,
    /// Every tensor is as it was, wherever it lies, and there are no others.
    pub same_tensors: bool,
    /// The folder's index agrees with its shards and no tensor is there twice: loaders read what was examined.
    pub loadable: bool,
    /// How many files were compared.
    pub files: usize,
    /// How many tensors were compared.
    pub tensors: usize,
    /// How many bytes of the files were read and digested.
    pub bytes: u64,
    /// Files first, then tensors.
    pub differences: Vec<Difference>,
}

/// Reads a model folder or a GGUF once and compares it. `own` is the fingerprint's file, which may lie in the folder.
///
/// # Errors
/// The folder or a file cannot be read.
pub fn verify(
    opened: &Opened,
    before: &Fingerprint,
    own: Option<&Path>,
    cache: Option<&Cache>,
    progress: &dyn Progress,
) -> Result<Verification> {
    let taken = take_beside(opened, Some(before), &before.settings, own, cache, progress)?;
    // The fingerprint's own file may have been there, empty, when it was taken.
    let own = own.and_then(|own| walk::below(opened.root(), own));
    let loadable = is_loadable(opened, &taken.fingerprint);
    let mut found = Verification { loadable, ..compare(before, &taken, &Norms::of(opened), own.as_deref()) };
    factor::confirm(opened, before, &taken.fingerprint, &mut found.differences);
    Ok(found)
}

impl Verification {
    /// The same tensors in other weight files, and nothing else differs.
    pub fn is_resharding(&self) -> bool {
        let weights = |path: &str| path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json");
        self.same_tensors
            && self.loadable
            && self.differences.iter().all(|difference| match difference {
                Difference::FileMissing { path }
                | Difference::FileExtra { path }
                | Difference::FileChanged { path, .. } => weights(path),
                other => matches!(other, Difference::TensorMoved { .. }),
            })
    }
}

/// Compares what was read with what was.
fn compare(before: &Fingerprint, taken: &FolderRecords, norms: &Norms, own: Option<&str>) -> Verification {
    let after = &taken.fingerprint;
    let mut differences: Vec<Difference> = Vec::new();
    for (path, problem) in &taken.problems {
        differences.push(Difference::NotExamined { path: path.clone(), problem: problem.clone() });
    }
    for (path, problem) in &taken.damaged {
        differences.push(Difference::FileDamaged { path: path.clone(), problem: problem.clone() });
    }
    compare_files(before, after, &taken.problems, &mut differences);
    differences.retain(|d| !matches!(d, Difference::FileMissing { path } if Some(path.as_str()) == own));
    let same_files = differences.is_empty();
    let at = differences.len();
    tensors(before, after, norms, &mut differences);
    packed::tell(before, after, norms, &mut differences);
    let tensors = before.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape));
    let weights = before.weights.iter().map(|weight| (weight.name.as_str(), &weight.shape));
    let shapes: HashMap<&str, &Vec<usize>> = tensors.chain(weights).collect();
    name_experts(&mut differences, &|name| shapes.get(name).map(|shape| shape.to_vec()));
    let moved = |d: &Difference| matches!(d, Difference::TensorMoved { .. });
    Verification {
        intact: same_files && differences.len() == at,
        same_tensors: differences[at..].iter().all(moved) && before.tensors_digest() == after.tensors_digest(),
        loadable: false,
        files: after.files.len(),
        tensors: after.tensors.len(),
        bytes: after.files.iter().map(|f| f.bytes).sum(),
        differences,
    }
}

/// Whether a loader that follows the index (or takes the one file) reads every tensor that is there, and each from the
/// only place that holds it.
fn is_loadable(opened: &Opened, taken: &Fingerprint) -> bool {
    if let Ok(Some(gguf)) = opened.gguf_file() {
        return gguf.sound().is_ok();
    }
    let names: BTreeSet<&str> = taken.tensors.iter().map(|t| t.name.as_str()).collect();
    let single = opened.base().join(&opened.weight_names().single).exists();
    let index = opened.index();
    let listed = index.as_ref().ok().and_then(|file| file.as_ref()?.index().ok());
    let index_lists_all = match (listed, &index) {
        (Some(index), _) => index.weight_map.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>() == names,
        (None, Ok(None)) => single,
        (None, _) => false,
    };
    // With both, some loaders take the one and some the other.
    names.len() == taken.tensors.len()
        && index_lists_all
        && !(single && listed.is_some())
        && opened.tensors().is_ok_and(|tensors| tensors.iter().count() == names.len())
}

fn compare_files(
    before: &Fingerprint,
    after: &Fingerprint,
    problems: &[(String, String)],
    found: &mut Vec<Difference>,
) {
    let old: BTreeMap<&str, _> = before.files.iter().map(|f| (f.path.as_str(), f)).collect();
    let new: BTreeMap<&str, _> = after.files.iter().map(|f| (f.path.as_str(), f)).collect();
    let tensors = |of: &Fingerprint, path: &str| -> BTreeSet<String> {
        let of_file = of.tensors.iter().filter(|t| t.file == path);
        of_file.map(|t| format!("{:?}", (&t.name, t.dtype, &t.shape, t.digest))).collect()
    };
    let paths: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    for path in paths {
        if let (true, Some(a), Some(b)) = (before.settings.links, old.get(path), new.get(path))
            && let Some(link) = b.link.as_ref().filter(|link| a.link.as_ref() != Some(link))
        {
            // A file in the place of a link is no less than it was.
            let (was, is) = (a.link.clone(), link.clone());
            found.push(Difference::FileLinked { path: path.into(), before: was, after: is });
        }
        match (old.get(path), new.get(path)) {
            (Some(a), Some(b)) if a.sha256 != b.sha256 || a.bytes != b.bytes => {
                let (was, is) = (tensors(before, path), tensors(after, path));
                found.push(Difference::FileChanged {
                    path: path.into(),
                    bytes_before: a.bytes,
                    bytes_after: b.bytes,
                    // The header of a GGUF holds the tokenizer and the chat template, too.
                    same_tensors: !was.is_empty() && was == is && !path.to_ascii_lowercase().ends_with(".gguf"),
                });
            }
            (Some(_), None) if !problems.iter().any(|(at, _)| at == path) => {
                found.push(Difference::FileMissing { path: path.into() });
            }
            (None, Some(_)) => found.push(Difference::FileExtra { path: path.into() }),
            _ => {}
        }
    }
}

fn tensors(before: &Fingerprint, after: &Fingerprint, norms: &Norms, found: &mut Vec<Difference>) {
    let mut gone: Vec<&TensorRecord> = Vec::new();
    let mut changed: Vec<(&TensorRecord, &TensorRecord)> = Vec::new();
    let mut unmatched: BTreeMap<&str, Vec<&TensorRecord>> = BTreeMap::new();
    for tensor in &after.tensors {
        unmatched.entry(&tensor.name).or_default().push(tensor);
    }
    for old in &before.tensors {
        let candidates = unmatched.entry(&old.name).or_default();
        let same = candidates.iter().position(|new| new.digest == old.digest && new.file == old.file);
        let best = same.or_else(|| candidates.iter().position(|new| new.digest == old.digest));
        let Some(best) = best.or_else(|| (!candidates.is_empty()).then_some(0)) else {
            gone.push(old);
            continue;
        };
        let new = candidates.remove(best);
        if (old.dtype, &old.shape) != (new.dtype, &new.shape) {
            let (before, after) = ((old.dtype, old.shape.clone()), (new.dtype, new.shape.clone()));
            found.push(Difference::TensorReshaped { name: old.name.clone(), before, after });
        } else if old.digest != new.digest {
            changed.push((old, new));
        } else if old.file != new.file {
            let (before, after) = (old.file.clone(), new.file.clone());
            found.push(Difference::TensorMoved { name: old.name.clone(), before, after });
        }
    }
    let alike = |t: &TensorRecord| (t.digest, format!("{:?}{:?}", t.dtype, t.shape));
    found.extend(replaced(&changed, alike, norms));
    // By digest, type and shape: where several are alike the first is taken.
    let mut new: HashMap<([u8; 32], String), Vec<&TensorRecord>> = HashMap::new();
    for tensor in unmatched.into_values().flatten().rev() {
        new.entry(alike(tensor)).or_default().push(tensor);
    }
    for old in gone {
        match new.get_mut(&alike(old)).and_then(Vec::pop) {
            Some(now) => {
                found.push(Difference::TensorRenamed { before: old.name.clone(), after: now.name.clone() });
            }
            None => found.push(Difference::TensorMissing { name: old.name.clone() }),
        }
    }
    let mut extra: Vec<&TensorRecord> = new.into_values().flatten().collect();
    extra.sort_by(|a, b| (&a.name, &a.file).cmp(&(&b.name, &b.file)));
    found.extend(extra.iter().map(|t| Difference::TensorExtra { name: t.name.clone(), file: t.file.clone() }));
}

/// What became of changed tensors: some may hold what others of them held.
fn replaced(
    changed: &[(&TensorRecord, &TensorRecord)],
    alike: impl Fn(&TensorRecord) -> ([u8; 32], String),
    norms: &Norms,
) -> Vec<Difference> {
    let held: HashMap<_, &str> = changed.iter().rev().map(|(old, _)| (alike(old), old.name.as_str())).collect();
    let by: BTreeMap<&str, &str> =
        changed.iter().filter_map(|(old, new)| Some((old.name.as_str(), *held.get(&alike(new))?))).collect();
    let tell = |(old, new): &(&TensorRecord, &TensorRecord)| match by.get(old.name.as_str()) {
        None => Some(Difference::TensorChanged(change(&Marks::of(old), &Marks::of(new), norms))),
        Some(other) => replaced_by(&old.name, other, by.get(other) == Some(&old.name.as_str())),
    };
    changed.iter().filter_map(tell).collect()
}
