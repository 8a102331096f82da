//! Files other than the weights that were read, byte by byte.

use crate::checkpoint::Opened;
use crate::checkpoint::snapshot::Snapshot;
use crate::checkpoint::stand_in::StandIn;
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::walk::{self, Kind};
use crate::checkpoint::weight_names::WeightNames;
use crate::error::{Error, Result};
use crate::files;
use crate::integrity::difference::Difference;
use crate::integrity::fingerprint::read_link;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// Files other than the weights that were read and their index, which the tensors stand for. Weights that other loaders
/// may read instead are files.
pub(super) fn compare_files(
    (a, a_tensors): (&Opened, &Tensors),
    (b, b_tensors): (&Opened, &Tensors),
) -> Result<Vec<Difference>> {
    let unlisted = [unlisted(a, a_tensors)?, unlisted(b, b_tensors)?];
    let names = [a.weight_names(), b.weight_names()];
    let (a, b) = (a.root(), b.root());
    let all = |root: &Path| walk::walk(root, &|path| walk::is_left_out(root, path));
    let (all_a, all_b) = (all(a)?, all(b)?);
    let of = |root: &Path, names: &WeightNames, tensors: &Tensors, entries: &[walk::Entry]| -> BTreeMap<String, Kind> {
        let read: Vec<&Path> = tensors.files().iter().map(|file| file.path()).collect();
        let by_index = !read.contains(&root.join(&names.single).as_path());
        let stood_for = |path: &str| read.contains(&root.join(path).as_path()) || by_index && path == names.index;
        entries.iter().filter(|e| !stood_for(&e.path)).map(|e| (e.path.clone(), e.kind)).collect()
    };
    let (old, new) = (of(a, names[0], a_tensors, &all_a), of(b, names[1], b_tensors, &all_b));
    let mut found = linked((a, &all_a), (b, &all_b))?;
    found.extend(unlisted.into_iter().flatten());
    for path in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let readable = |kind: Option<&Kind>| matches!(kind, Some(Kind::File | Kind::Link));
        match (old.get(path), new.get(path)) {
            (Some(_), None) => found.push(Difference::FileMissing { path: path.clone() }),
            (None, Some(_)) => found.push(Difference::FileExtra { path: path.clone() }),
            (was, is) if readable(was) && readable(is) => {
                let (was, is) = (a.join(path), b.join(path));
                let length = |path: &Path| -> Result<u64> {
                    Ok(files::open_regular(path)?.metadata().map_err(Error::io(path))?.len())
                };
                let (bytes_before, bytes_after) = (length(&was)?, length(&is)?);
                if bytes_before != bytes_after || !same(&was, &is)? {
                    let path = path.clone();
                    found.push(Difference::FileChanged { path, bytes_before, bytes_after, same_tensors: false });
                }
            }
            _ => found.push(Difference::NotExamined {
                path: path.clone(),
                problem: "is a pipe, a device or has a name that is not UTF-8".into(),
            }),
        }
    }
    Ok(found)
}

/// Two single files of weights of which no tensor tells a difference: metadata, the order of tensors.
pub(super) fn other_bytes(a: &Tensors, b: &Tensors) -> Vec<Difference> {
    let bytes = |tensors: &Tensors| tensors.files().iter().map(|file| file.bytes().len() as u64).sum();
    let same = a.files().iter().map(|file| file.bytes()).eq(b.files().iter().map(|file| file.bytes()));
    let path = b.files().first().map(|file| files::name_of(file.path())).unwrap_or_default();
    let changed = Difference::FileChanged { path, bytes_before: bytes(a), bytes_after: bytes(b), same_tensors: true };
    if same { Vec::new() } else { vec![changed] }
}

/// Links of `b`, weights among them, where `a` has no such link: a file, another link, or nothing.
fn linked((a, all_a): (&Path, &[walk::Entry]), (b, all_b): (&Path, &[walk::Entry])) -> Result<Vec<Difference>> {
    let of = |root: &Path, entries: &[walk::Entry]| -> Result<BTreeMap<String, String>> {
        let snapshot = Snapshot::of(root);
        let is_file = |path: &str| snapshot.as_ref().is_some_and(|s| s.blob(&root.join(path)).is_some());
        let links = entries.iter().filter(|e| e.kind == Kind::Link && !is_file(&e.path));
        links.map(|e| Ok((e.path.clone(), read_link(&root.join(&e.path))?))).collect()
    };
    let (mut old, new) = (of(a, all_a)?, of(b, all_b)?);
    let told = |(path, after): (String, String)| {
        let before = old.remove(&path);
        (before.as_ref() != Some(&after)).then_some(Difference::FileLinked { path, before, after })
    };
    Ok(new.into_iter().filter_map(told).collect())
}

/// Tensors that lie in a shard and that the index does not list: loaders differ in whether they read them.
fn unlisted(opened: &Opened, tensors: &Tensors) -> Result<Option<Difference>> {
    let WeightNames { single, index: name } = opened.weight_names();
    let Some(index) = opened.index()?.filter(|_| !opened.root().join(single).exists()) else { return Ok(None) };
    let listed = index.weight_map()?;
    let missing: Vec<&str> = tensors.iter().map(|(name, _)| name).filter(|name| !listed.contains_key(name)).collect();
    let problem = |first: &&str| format!("does not list {} tensors that its shards hold, {first} first", missing.len());
    Ok(missing.first().map(|first| Difference::NotExamined { path: name.clone(), problem: problem(first) }))
}

/// Whether two files of one length have the same content.
fn same(a: &Path, b: &Path) -> Result<bool> {
    let (mut left, mut right) = (files::open_regular(a)?, files::open_regular(b)?);
    for (file, path) in [(&left, a), (&right, b)] {
        StandIn::refuse_holes(file, path)?;
    }
    let (mut one, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = left.read(&mut one).map_err(Error::io(a))?;
        if read == 0 {
            return Ok(true);
        }
        right.read_exact(&mut other[..read]).map_err(Error::io(b))?;
        if one[..read] != other[..read] {
            return Ok(false);
        }
    }
}
