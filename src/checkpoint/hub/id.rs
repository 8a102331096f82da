//! What a repository on the hub is called.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A repository on the hub and, where given, a branch, tag or commit of it: `org/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubId {
    kind: RepoKind,
    repo: String,
    revision: Option<String>,
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl RepoKind {
    /// What its plural is called in addresses of the API and in names of the cache's folders.
    pub(super) fn plural(self) -> &'static str {
        match self {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        }
    }
}

impl HubId {
    /// A data set's, `org/name[@revision]`.
    ///
    /// # Errors
    /// It is no such name.
    pub fn dataset(text: &str) -> Result<HubId> {
        Ok(HubId { kind: RepoKind::Dataset, ..text.parse()? })
    }

    /// The same repository at another revision.
    pub fn at(&self, revision: &str) -> HubId {
        HubId { revision: Some(revision.to_owned()), ..self.clone() }
    }

    /// What the repository holds.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Whether a revision was given.
    pub fn has_revision(&self) -> bool {
        self.revision.is_some()
    }

    /// Where its pages and files are below the endpoint.
    pub(super) fn path(&self) -> String {
        match self.kind {
            RepoKind::Model => self.repo.clone(),
            kind => format!("{}/{}", kind.plural(), self.repo),
        }
    }

    /// The repository, `org/name`, without a revision.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit; `main` where none was given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Hub { id: self.to_string(), problem: problem.into() }
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.path()),
            None => f.write_str(&self.path()),
        }
    }
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<HubId> {
        let bad = |problem: String| Error::Name { what: "hub id", text: text.to_owned(), problem };
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let parts: Vec<&str> = repo.split('/').collect();
        if parts.len() != 2 {
            return Err(bad("expected org/name[@revision], with one slash before the revision".into()));
        }
        // The hub's own rule; and `--` stands for the slash in the cache's folder names.
        for part in parts {
            if !is_plain(part) || part.ends_with(['.', '-']) || part.contains("--") || part.contains("..") {
                let rule = "letters, digits, `.`, `_`, `-`; no `.` or `-` at either end, no `--`, no `..`, at most 96";
                return Err(bad(format!("{part:?} is not a name on the hub; expected {rule}")));
            }
        }
        if let Some(revision) = revision
            && (revision.len() > 200 || revision.split('/').any(|part| !is_plain(part) || part.contains("..")))
        {
            let rule = "a branch, tag or commit of letters, digits, `.`, `_`, `-` and `/`, without `..`";
            return Err(bad(format!("{revision:?} is not a revision; expected {rule}")));
        }
        Ok(HubId { kind: RepoKind::Model, repo: repo.to_owned(), revision: revision.map(str::to_owned) })
    }
}

/// A name that is one path component and needs no quoting: not `..`, not hidden, not an option.
fn is_plain(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=96).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(plain)
}

/// Whether this is a Git object name, SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
