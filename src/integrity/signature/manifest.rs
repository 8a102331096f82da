//! What a signature says of a model: its files, or pieces of them, with their digests.

use super::{FILES_ONLY, hex};
use crate::checkpoint::walk::{Entry, Kind};
use sha2::{Digest, Sha256};
use std::ops::Range;

/// A model's resources as a signature lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The name of the model's folder or file. Informational: a model may be renamed.
    pub(super) name: String,
    /// How the list was made.
    pub(super) policy: Policy,
    /// In the signature's order, which the root depends on.
    pub(super) resources: Vec<Resource>,
}

/// How a model's files become a list of resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whole files or pieces.
    pub method: Method,
    /// Whether links to files stand for these files; else a link is an error.
    pub allow_symlinks: bool,
    /// Paths below the model that are left out, with all below them.
    pub ignore_paths: Vec<String>,
}

/// Whole files or pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One resource a file.
    Files,
    /// One resource for each piece of so many bytes; the last one of a file may be shorter. Empty files have none.
    Shards {
        /// The size of a piece, at least 1.
        bytes: u64,
    },
}

/// A file or a piece of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// Below the model, `/`-separated; `.` is a model that is a single file.
    pub(super) path: String,
    /// Which bytes; none for all of them.
    pub(super) range: Option<Range<u64>>,
    /// SHA-256 of these bytes.
    pub(super) sha256: [u8; 32],
}

impl Manifest {
    /// SHA-256 over the raw digests of the resources in their order: the digest of the model.
    pub(super) fn root(&self) -> String {
        let mut root = Sha256::new();
        self.resources.iter().for_each(|r| root.update(r.sha256));
        hex(&root.finalize())
    }
}

impl Policy {
    /// Which of its paths leaves this out: its own, or that of a folder it lies in. One that is not a plain relative
    /// path leaves out nothing, that of a signature no folder, and what version control keeps in a file only a file.
    pub(super) fn ignored_by(&self, entry: &Entry) -> Option<&str> {
        let plain = self.ignore_paths.iter().map(|ignored| ignored.trim_end_matches('/'));
        plain.filter(|ignored| !ignored.is_empty()).find(|ignored| match entry.path.strip_prefix(ignored) {
            Some("") => entry.kind == Kind::File || !FILES_ONLY.contains(ignored),
            Some(below) => below.starts_with('/') && !ignored.ends_with(".sig") && !FILES_ONLY.contains(ignored),
            None => false,
        })
    }
}

impl Method {
    /// The ranges of a file of `bytes` bytes: none where whole files are listed.
    pub(super) fn ranges(self, bytes: u64) -> Box<dyn Iterator<Item = Option<Range<u64>>>> {
        match self {
            Method::Files => Box::new(std::iter::once(None)),
            Method::Shards { bytes: piece } => {
                let piece = piece.max(1);
                let pieces = 0..self.count(bytes);
                Box::new(pieces.map(move |i| Some(i * piece..bytes.min((i * piece).saturating_add(piece)))))
            }
        }
    }

    /// How many resources a file of `bytes` bytes makes.
    pub(super) fn count(self, bytes: u64) -> u64 {
        match self {
            Method::Files => 1,
            Method::Shards { bytes: piece } => bytes.div_ceil(piece.max(1)),
        }
    }

    /// What the resources' digests are called.
    pub(super) fn algorithm(self) -> String {
        match self {
            Method::Files => "sha256".to_owned(),
            Method::Shards { bytes } => format!("sha256-sharded-{bytes}"),
        }
    }
}

impl Resource {
    /// As it is listed: `path`, or `path:start:end`.
    pub(super) fn name(&self) -> String {
        match &self.range {
            None => self.path.clone(),
            Some(range) => format!("{}:{}:{}", self.path, range.start, range.end),
        }
    }
}

/// What is wrong with a path that a signature lists or is to list; none where it is a plain relative one.
pub(super) fn bad_path(path: &str) -> Option<&'static str> {
    let drive =
        |p: &str| p.as_bytes().get(1) == Some(&b':') && p.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    match path {
        "." => None,
        p if p.starts_with('/') => Some("is absolute"),
        p if cfg!(windows) && drive(p) => Some("is absolute"),
        p if p.contains('\\') => Some("holds a backslash"),
        p if p.contains('\0') => Some("holds a NUL"),
        p if p.split('/').any(|part| part == "..") => Some("leads out of the model"),
        p if p.split('/').any(|part| part.is_empty() || part == ".") => Some("is not in plain form"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_file_once() {
        let ranges = |piece, bytes| {
            let method = Method::Shards { bytes: piece };
            let ranges: Vec<(u64, u64)> = method.ranges(bytes).flatten().map(|r| (r.start, r.end)).collect();
            assert_eq!(ranges.len() as u64, method.count(bytes));
            ranges
        };
        assert_eq!(ranges(8, 20), [(0, 8), (8, 16), (16, 20)]);
        assert_eq!(ranges(8, 16), [(0, 8), (8, 16)]);
        assert_eq!(ranges(8, 3), [(0, 3)]);
        assert_eq!(ranges(8, 0), []);
        let most = u64::MAX;
        assert_eq!(ranges(most - 1, most), [(0, most - 1), (most - 1, most)]);
        assert_eq!(Method::Files.ranges(20).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn only_plain_relative_paths_are_listed() {
        for path in ["a", "a/b", "..a", "a..", "a b", ".", "é", "a:1:2"] {
            assert_eq!(bad_path(path), None, "{path}");
        }
        for path in ["", "/a", "a/", "a//b", "./a", "a/.", "..", "../a", "a/../b", "a\\b", "a\0", "\\\\host\\a"] {
            assert!(bad_path(path).is_some(), "{path}");
        }
    }

    #[test]
    fn ignored_paths_are_exact() {
        let policy = |paths: &[&str]| Policy {
            method: Method::Files,
            allow_symlinks: false,
            ignore_paths: paths.iter().map(|p| (*p).to_owned()).collect(),
        };
        let of = |kind, path: &str| Entry { path: path.to_owned(), kind, bytes: 0 };
        let file = |path: &str| of(Kind::File, path);
        let git = policy(&[".git/", "a/b"]);
        assert!([".git", ".git/HEAD"].iter().all(|p| git.ignored_by(&file(p)) == Some(".git")));
        assert!(["a/b", "a/b/c"].iter().all(|p| git.ignored_by(&file(p)) == Some("a/b")));
        assert!([".gitignore", "x/.git", "a", "a/bc"].iter().all(|p| git.ignored_by(&file(p)).is_none()));
        let signature = policy(&["model.sig"]);
        assert_eq!(signature.ignored_by(&file("model.sig")), Some("model.sig"));
        assert_eq!(signature.ignored_by(&file("model.sig/model.safetensors")), None);
        let usual = policy(&super::super::IGNORED);
        for name in FILES_ONLY {
            assert_eq!(usual.ignored_by(&file(name)), Some(name));
            let others = [file(&format!("{name}/evil.py")), of(Kind::Link, name), of(Kind::Special, name)];
            assert!(others.iter().all(|entry| usual.ignored_by(entry).is_none()), "{name}");
        }
        let odd = policy(&[".", "", "/", "../model", "/etc"]);
        assert!(["a", "etc", "model"].iter().all(|p| odd.ignored_by(&file(p)).is_none()));
    }
}
