//! Fingerprints: what a checkpoint is, down to the row and the column.

mod cache;
mod digest;
mod encoded;
mod lines;
mod read;
mod stored;
mod sums;
mod weights;

use crate::checkpoint::snapshot::{Blob, Snapshot};
use crate::checkpoint::stand_in::StandIn;
use crate::checkpoint::walk::{self, Entry, Kind};
use crate::checkpoint::{Opened, hex};
use crate::error::{Error, Result};
use crate::files::{self, Stamp};
use crate::progress::Progress;
pub use cache::Cache;
use cache::Key;
pub use digest::Algorithm;
use globset::GlobSet;
pub use lines::{LineMark, LineStatistics};
use rayon::prelude::*;
use read::Digests;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
pub use weights::WeightRecord;

/// The identity of every file, tensor, row and column of a model folder (`achilles-audit/fingerprint/v2`, or v1).
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// What its tensors and their rows are digested by.
    pub algorithm: Algorithm,
    /// What it covers.
    pub settings: FingerprintSettings,
    /// In order of path.
    pub files: Vec<FileRecord>,
    /// In order of name, then of file.
    pub tensors: Vec<TensorRecord>,
    /// The packed weights, in order of name, where the folder is a checkpoint; none in what version 0.1.0 wrote.
    pub weights: Vec<WeightRecord>,
}

/// What a fingerprint covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FingerprintSettings {
    /// Globs over paths below the folder that are left out.
    pub ignore: Vec<String>,
    /// Globs over tensor names whose rows have digests of their own.
    pub row_digests: Vec<String>,
    /// Whether links are listed as links. Version 0.1.0 did not know them.
    #[serde(default)]
    pub links: bool,
}

impl Default for FingerprintSettings {
    fn default() -> Self {
        FingerprintSettings { ignore: Vec::new(), row_digests: vec!["*down_proj*".into()], links: true }
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// `/`-separated, below the folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// What it is a link to, as the link says; none for a file, and for a link of the Hugging Face cache to its own
    /// blob, which stands for a file.
    pub link: Option<String>,
}

/// A tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRecord {
    /// Its name in the file.
    pub name: String,
    /// The path of the file.
    pub file: String,
    /// The element type.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Of its bytes as stored, by the fingerprint's algorithm.
    pub digest: [u8; 32],
    /// What its values are like.
    pub statistics: LineStatistics,
    /// A mark for each row; for each element of a vector.
    pub rows: Vec<LineMark>,
    /// A mark for each column; none for a vector.
    pub columns: Vec<LineMark>,
    /// Of each row's bytes, where asked for.
    pub row_digests: Option<Vec<[u8; 32]>>,
}

/// What could be read of a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderRecords {
    /// All that could be read.
    pub fingerprint: Fingerprint,
    /// Paths that could not, or only as bytes, and why.
    pub problems: Vec<(String, String)>,
    /// Paths of files of the Hugging Face cache whose bytes are not those that it names them by, and how that shows.
    pub damaged: Vec<(String, String)>,
}

impl FolderRecords {
    /// The fingerprint of a folder, below `root`, with which nothing is wrong.
    ///
    /// # Errors
    /// A file could not be read, or only as bytes, or is not what the Hugging Face cache names it by.
    pub fn sound(self, root: &Path) -> Result<Fingerprint> {
        let Some((path, problem)) = self.problems.iter().chain(&self.damaged).next() else {
            return Ok(self.fingerprint);
        };
        let more = match self.problems.len() + self.damaged.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more such files)"),
        };
        let (path, is_only) = (root.join(path), self.fingerprint.files.len() < 2 && more.is_empty());
        let advice = if is_only { "" } else { "; leave it out with --ignore, or mend it" };
        let problem = problem.strip_prefix(&format!("{}: ", path.display())).unwrap_or(problem);
        Err(Error::file(path.clone(), format!("{problem}{more}{advice}")))
    }
}

/// Takes the fingerprint of a model folder or a GGUF, reading every byte once, and those of packed weights once more to
/// decode them. The folders `.git` and the hub's
/// `.cache/huggingface` are left out, and so is `except`, the fingerprint's own file, where it is a file of the folder
/// itself. With `cache`, files that have not changed are not read again.
///
/// # Errors
/// The folder or a file cannot be read, or a glob is none. What a checkpoint should not hold (a malformed header, a
/// pipe) is no error but a problem of the result.
pub fn take(
    opened: &Opened,
    settings: &FingerprintSettings,
    except: Option<&Path>,
    cache: Option<&Cache>,
    progress: &dyn Progress,
) -> Result<FolderRecords> {
    take_beside(opened, None, settings, except, cache, progress)
}

/// As [`take`], by the algorithm of `before`; of packed weights that are as they were only what that says of them, and of
/// none where it knows of none.
pub(super) fn take_beside(
    opened: &Opened,
    before: Option<&Fingerprint>,
    settings: &FingerprintSettings,
    except: Option<&Path>,
    cache: Option<&Cache>,
    progress: &dyn Progress,
) -> Result<FolderRecords> {
    let root = opened.base();
    let algorithm = before.map_or(Algorithm::Blake3, |before| before.algorithm);
    let row_digests = globs(&settings.row_digests)?;
    let (found, mut problems) = files_of(opened, &settings.ignore, except)?;
    let mut order = by_identity(&found);
    for (first, others) in &order {
        if read::is_safetensors(&first.path) && others.len() >= MOST_NAMES {
            let problem = format!("has {} names in the folder, expected at most {MOST_NAMES}", others.len() + 1);
            return Err(Error::file(root.join(&first.path), problem));
        }
    }
    progress.begin("fingerprint", order.iter().map(|(first, _)| first.bytes).sum(), "bytes");
    // The largest first, so that none is left to one core at the end.
    order.sort_by_key(|(first, _)| std::cmp::Reverse(first.bytes));
    let digests = Digests { algorithm, of_rows: &|name| row_digests.is_match(name) };
    let mut read = order
        .into_par_iter()
        .with_max_len(1)
        .map(|(first, others)| {
            let kept = cache.filter(|_| !opened.is_gguf()).map(|cache| (cache, settings.row_digests.as_slice()));
            let read = read_or_known(opened, first, kept, digests, progress)?;
            let again = others.into_iter().map(|listed| (listed, read.of(&listed.path))).collect::<Vec<_>>();
            let all = std::iter::once((first, read)).chain(again);
            all.map(|(listed, mut read)| {
                read.file.link.clone_from(&listed.link);
                let damage = listed.blob.as_ref().map_or(Ok(None), |blob| blob.damage(Some(&read.file.sha256)))?;
                Ok((read, damage))
            })
            .collect::<Result<Vec<_>>>()
        })
        .collect::<Result<Vec<_>>>()?
        .concat();
    progress.end();
    read.sort_by(|(a, _), (b, _)| a.file.path.cmp(&b.file.path));
    let (mut files, mut tensors, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for (read, damage) in read {
        if let Some(problem) = read.problem {
            problems.push((read.file.path.clone(), problem));
        }
        damaged.extend(damage.map(|damage| (read.file.path.clone(), damage)));
        files.push(read.file);
        tensors.extend(read.tensors);
    }
    tensors.sort_by(|a, b| (&a.name, &a.file).cmp(&(&b.name, &b.file)));
    let settings = FingerprintSettings { links: true, ..settings.clone() };
    let mut fingerprint = Fingerprint { algorithm, settings, files, tensors, weights: Vec::new() };
    fingerprint.weights = weights::take(opened, &fingerprint, before, progress)?;
    Ok(FolderRecords { fingerprint, problems, damaged })
}

/// Names of one file of tensors: each has all of them.
const MOST_NAMES: usize = 16;

/// Files, each with those that are the same by other names or links: it is read once.
fn by_identity(found: &[Listed]) -> Vec<(&Listed, Vec<&Listed>)> {
    let mut groups: Vec<(&Listed, Vec<&Listed>)> = Vec::new();
    let mut places = HashMap::new();
    for listed in found {
        let here = groups.len();
        let key = listed.identity.map(|identity| (identity, read::is_safetensors(&listed.path)));
        let place = key.map_or(here, |key| *places.entry(key).or_insert(here));
        match groups.get_mut(place) {
            Some((_, others)) => others.push(listed),
            None => groups.push((listed, Vec::new())),
        }
    }
    groups
}

/// Reads a file, unless it is known: `cache` says of what the digests of rows are, too.
fn read_or_known(
    opened: &Opened,
    Listed { path, bytes, .. }: &Listed,
    cache: Option<(&Cache, &[String])>,
    digests: Digests,
    progress: &dyn Progress,
) -> Result<read::FileRead> {
    let full = &opened.base().join(path);
    let file = files::open_regular(full)?;
    StandIn::refuse_holes(&file, full)?;
    let stamp = || file.metadata().map(|about| Stamp::of(&about)).map_err(Error::io(full));
    let key = |stamp, row_digests| Key::of(stamp, full, path, (digests.algorithm, row_digests));
    if let Some(((cache, row_digests), now)) = cache.zip(stamp()?)
        && let Some(kept) = key(now, row_digests).and_then(|key| cache.get(&key, path))
    {
        return progress.advance(*bytes).map(|()| kept);
    }
    let lasting = cache.and_then(|_| Stamp::lasting(&file));
    let read = read::read((opened, &file), full, path, digests, progress)?;
    if let (Some((cache, row_digests)), Some(lasting), None) = (cache, lasting, &read.problem)
        && Some(&lasting) == stamp()?.as_ref()
        && let Some(key) = key(lasting, row_digests)
    {
        cache.put(key, &read);
    }
    Ok(read)
}

/// A file that is to be read, or a link to one.
pub(super) struct Listed {
    /// Below the folder, `/`-separated.
    pub path: String,
    pub bytes: u64,
    /// Where it leads, if it is a link to no blob.
    pub link: Option<String>,
    /// The file of the hub's cache that it is.
    pub blob: Option<Blob>,
    identity: Option<(u64, u64)>,
}

/// Paths, and what is wrong with each.
pub(super) type Problems = Vec<(String, String)>;

/// The files of what is no folder.
fn parts(opened: &Opened) -> Result<Vec<Listed>> {
    let of = |path: PathBuf| {
        let about = std::fs::metadata(&path).map_err(Error::io(&path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Listed { path: name, bytes: about.len(), link: None, blob: None, identity: files::identity(&about) })
    };
    opened.places().into_iter().map(of).collect()
}

/// The files of a model to read, but `except`, and the paths that cannot be, with the reason.
pub(super) fn files_of(opened: &Opened, ignore: &[String], except: Option<&Path>) -> Result<(Vec<Listed>, Problems)> {
    match opened.is_file() {
        true => Ok((parts(opened)?, Problems::new())),
        false => list(opened.base(), ignore, except),
    }
}

fn list(root: &Path, ignore: &[String], except: Option<&Path>) -> Result<(Vec<Listed>, Problems)> {
    let ignore = globs(ignore)?;
    let snapshot = Snapshot::of(root);
    let own = except.and_then(|path| walk::below(root, path));
    let left_out = |path: &str| ignore.is_match(path) || walk::is_left_out(root, path);
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for Entry { path, kind, bytes } in walk::walk(root, &left_out)? {
        let full = root.join(&path);
        let blob = snapshot.as_ref().filter(|_| kind == Kind::Link).and_then(|s| s.blob(&full));
        let is_file = kind == Kind::File || blob.is_some();
        if is_file && own.as_ref() == Some(&path) {
            continue;
        }
        let target = std::fs::metadata(&full);
        let problem = match (kind, target) {
            (Kind::NotUtf8, _) => "has a name that is not UTF-8",
            (Kind::Special, _) => "is a pipe, socket or device",
            (Kind::Link, Err(_)) => "is a link that leads nowhere",
            (Kind::Link, Ok(target)) if !target.is_file() => "is a link to something that is not a file",
            (_, target) => {
                let link = if is_file { None } else { Some(read_link(&full)?) };
                let identity = target.as_ref().ok().and_then(files::identity);
                found.push(Listed { path, bytes: target.map_or(bytes, |t| t.len()), link, blob, identity });
                continue;
            }
        };
        problems.push((path, problem.to_owned()));
    }
    if found.is_empty() {
        return Err(Error::file(root, "holds no file; expected a model folder"));
    }
    Ok((found, problems))
}

/// Where a link leads, as it says, with `/` between the parts.
pub(super) fn read_link(link: &Path) -> Result<String> {
    let target = std::fs::read_link(link).map_err(Error::io(link))?;
    Ok(target.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/"))
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    crate::glob::set(patterns).map_err(|problem| Error::input(format!("what the fingerprint covers: {problem}")))
}

impl Fingerprint {
    /// Identity of the tensors, whatever files they lie in and in whatever order: the digest, by the fingerprint's
    /// algorithm, of one line a tensor, sorted, each the compact JSON array `["NAME","DTYPE",[SHAPE],"DIGEST"]` and a
    /// newline.
    pub fn tensors_digest(&self) -> [u8; 32] {
        let lines = self.tensors.iter().map(|t| serde_json::json!([t.name, t.dtype, t.shape, hex(&t.digest)]));
        root(self.algorithm, lines)
    }

    /// Identity of the packed weights' values, as far as marks tell; none where nothing is packed. The digest, by the
    /// fingerprint's algorithm, of one line a weight, sorted, each the compact JSON array
    /// `["NAME","FORMAT",[SHAPE],["STORED"],"DIGEST"]` and a newline, `STORED` the names of its stored tensors, `DIGEST`
    /// that of the marks of its rows, then of its columns.
    pub fn weights_digest(&self) -> Option<[u8; 32]> {
        let lines = self.weights.iter().map(|weight| weight.identity(self.algorithm));
        (!self.weights.is_empty()).then(|| root(self.algorithm, lines))
    }

    /// Identity of the files: SHA-256 over one line a file, sorted, each the compact JSON array
    /// `["PATH",BYTES,"SHA256"]`, of a link `["PATH",BYTES,"SHA256","TARGET"]`, and a newline.
    pub fn files_sha256(&self) -> [u8; 32] {
        let lines = self.files.iter().map(|f| match &f.link {
            None => serde_json::json!([f.path, f.bytes, hex(&f.sha256)]),
            Some(link) => serde_json::json!([f.path, f.bytes, hex(&f.sha256), link]),
        });
        root(Algorithm::Sha256, lines)
    }
}

fn root(algorithm: Algorithm, records: impl Iterator<Item = serde_json::Value>) -> [u8; 32] {
    let mut lines: Vec<String> = records.map(|r| format!("{r}\n")).collect();
    lines.sort();
    algorithm.digest(lines.concat().as_bytes())
}
