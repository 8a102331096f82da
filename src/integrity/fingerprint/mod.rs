//! Fingerprints: what a checkpoint is, down to the row and the column.

mod cache;
mod lines;
mod read;
mod stored;

use crate::checkpoint::hex;
use crate::checkpoint::walk::{self, Kind};
use crate::error::{Error, Result};
use crate::files::{self, Stamp};
use crate::progress::Progress;
pub use cache::Cache;
use cache::Key;
use globset::{Glob, GlobSet, GlobSetBuilder};
pub use lines::{Line, Statistics};
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The identity of every file, tensor, row and column of a model folder (`achilles-audit/fingerprint/v1`).
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// What it covers.
    pub settings: Settings,
    /// In order of path.
    pub files: Vec<FileRecord>,
    /// In order of name, then of file.
    pub tensors: Vec<TensorRecord>,
}

/// What a fingerprint covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Globs over paths below the folder that are left out.
    pub ignore: Vec<String>,
    /// Globs over tensor names whose rows have SHA-256 digests of their own.
    pub row_digests: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { ignore: Vec::new(), row_digests: vec!["*down_proj*".into()] }
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// `/`-separated, below the folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Of its content.
    pub sha256: [u8; 32],
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
    /// Of its bytes as stored.
    pub sha256: [u8; 32],
    /// What its values are like.
    pub statistics: Statistics,
    /// A mark for each row; for each element of a vector.
    pub rows: Vec<Line>,
    /// A mark for each column; none for a vector.
    pub columns: Vec<Line>,
    /// SHA-256 of each row's bytes, where asked for.
    pub row_sha256: Option<Vec<[u8; 32]>>,
}

/// What could be read of a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// All that could be read.
    pub fingerprint: Fingerprint,
    /// Paths that could not, or only as bytes, and why.
    pub problems: Vec<(String, String)>,
}

/// Takes the fingerprint of a model folder, reading every byte once. Files in `.git` and the hub's `.cache/huggingface` are left
/// out, and so is `except`: the fingerprint's own file. With `cache`, files that have not changed are not read again.
///
/// # Errors
/// The folder or a file cannot be read, or a glob is none. What a checkpoint should not hold (a malformed header, a
/// pipe) is no error but a problem of the result.
pub fn take(
    root: &Path,
    settings: &Settings,
    except: Option<&Path>,
    cache: Option<&Cache>,
    progress: &dyn Progress,
) -> Result<Taken> {
    let (ignore, row_digests) = (globs(&settings.ignore)?, globs(&settings.row_digests)?);
    let except = except.and_then(|path| path.canonicalize().ok());
    let left_out = |path: &str| {
        ALWAYS_IGNORED.contains(&path)
            || ignore.is_match(path)
            || except.as_ref().is_some_and(|e| root.join(path).canonicalize().is_ok_and(|p| p == *e))
    };
    let mut problems = Vec::new();
    let mut paths = Vec::new();
    for entry in walk::walk(root, &left_out)? {
        let target = std::fs::metadata(root.join(&entry.path));
        let problem = match (entry.kind, target) {
            (Kind::NotUtf8, _) => "has a name that is not UTF-8",
            (Kind::Special, _) => "is a pipe, socket or device",
            (Kind::Link, Err(_)) => "is a link that leads nowhere",
            (Kind::Link, Ok(target)) if !target.is_file() => "is a link to something that is not a file",
            (_, target) => {
                paths.push((entry.path, target.map_or(entry.bytes, |t| t.len())));
                continue;
            }
        };
        problems.push((entry.path, problem.to_owned()));
    }
    if paths.is_empty() {
        return Err(Error::file(root, "holds no file; expected a model folder"));
    }
    progress.begin("fingerprint", paths.iter().map(|(_, bytes)| bytes).sum(), "bytes");
    // The largest first, so that none is left to one core at the end.
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(paths[*at].1));
    let digest_rows = |name: &str| row_digests.is_match(name);
    let mut read = order
        .into_par_iter()
        .with_max_len(1)
        .map(|at| {
            let (path, bytes) = &paths[at];
            let full = root.join(path);
            let file = files::open_regular(&full)?;
            let stamp = || file.metadata().map(|about| Stamp::of(&about)).map_err(Error::io(&full));
            let key = |stamp| Key::of(stamp, &full, path, &settings.row_digests);
            if let Some((cache, now)) = cache.zip(stamp()?)
                && let Some(kept) = key(now).and_then(|key| cache.get(&key, path))
            {
                return progress.advance(*bytes).map(|()| kept);
            }
            let lasting = cache.and_then(|_| Stamp::lasting(&file));
            let read = read::read(&file, &full, path, &digest_rows, progress)?;
            if let (Some(cache), Some(lasting), None) = (cache, lasting, &read.problem)
                && Some(&lasting) == stamp()?.as_ref()
                && let Some(key) = key(lasting)
            {
                cache.put(key, &read);
            }
            Ok(read)
        })
        .collect::<Result<Vec<_>>>()?;
    progress.end();
    read.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for read in read {
        if let Some(problem) = read.problem {
            problems.push((read.file.path.clone(), problem));
        }
        files.push(read.file);
        tensors.extend(read.tensors);
    }
    tensors.sort_by(|a, b| (&a.name, &a.file).cmp(&(&b.name, &b.file)));
    Ok(Taken { fingerprint: Fingerprint { settings: settings.clone(), files, tensors }, problems })
}

/// Folders that tools keep beside a model and no loader reads.
const ALWAYS_IGNORED: [&str; 2] = [".git", ".cache/huggingface"];

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = Glob::new(pattern).map_err(|e| Error::input(format!("glob {pattern:?}: {}", e.kind())))?;
        set.add(glob);
    }
    set.build().map_err(|e| Error::input(format!("globs: {e}")))
}

impl Fingerprint {
    /// Identity of the tensors, whatever files they lie in and in whatever order: SHA-256 over one line a tensor, sorted,
    /// each the compact JSON array `["NAME","DTYPE",[SHAPE],"SHA256"]` and a newline.
    pub fn tensors_sha256(&self) -> [u8; 32] {
        root(self.tensors.iter().map(|t| serde_json::json!([t.name, t.dtype, t.shape, hex(&t.sha256)])))
    }

    /// Identity of the files: SHA-256 over one line a file, sorted, each the compact JSON array
    /// `["PATH",BYTES,"SHA256"]` and a newline.
    pub fn files_sha256(&self) -> [u8; 32] {
        root(self.files.iter().map(|f| serde_json::json!([f.path, f.bytes, hex(&f.sha256)])))
    }
}

fn root(records: impl Iterator<Item = serde_json::Value>) -> [u8; 32] {
    let mut lines: Vec<String> = records.map(|r| format!("{r}\n")).collect();
    lines.sort();
    let mut hasher = Sha256::new();
    lines.iter().for_each(|line| hasher.update(line));
    hasher.finalize().into()
}
