//! Which commit of a repository a checkpoint is, and what of it stayed on the hub.

use crate::error::{Bytes, Count};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which commit of which repository a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The repository, `org/name`.
    pub repository: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that the files are of.
    pub commit: String,
    /// Whether the hub was asked.
    pub state: State,
    /// Files of the commit that were not fetched, so that nobody looked into them; empty where the hub was not asked.
    pub not_fetched: Vec<NotFetched>,
    /// Files of weights of which the headers alone were fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NotFetched>,
}

/// Whether the commit is the one that the revision names now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The hub says so.
    Current,
    /// The hub was not to be asked.
    Offline,
    /// The hub could not be reached, for this reason: the commit is an earlier one, it may be.
    Unreachable(String),
}

/// A file that was left on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFetched {
    /// Its path in the repository.
    pub path: String,
    /// Its size as the hub lists it.
    pub bytes: Option<u64>,
}

impl Origin {
    /// Why the repository as a whole was not examined, a sentence each; `left` are the files that nobody looked at.
    pub fn not_examined<'a>(&self, left: impl IntoIterator<Item = &'a NotFetched>) -> Vec<String> {
        let Origin { repository, revision, commit, .. } = self;
        let mut why = Vec::new();
        if let State::Unreachable(reason) = &self.state {
            why.push(format!(
                "the hub cannot be reached ({reason}): whether {revision} of {repository} is still commit {commit}, and \
                 what else is in it, is not known; set HF_HUB_OFFLINE=1 to examine what the cache has of it"
            ));
        }
        if !self.headers.is_empty() {
            let (bytes, names) = told(&self.headers.iter().collect::<Vec<_>>());
            why.push(format!(
                "of {} ({bytes}) the headers alone were read, as the hub sent them, and nothing of their values; \
                 `lint --download {repository}@{commit}` reads all: {names}",
                Count(self.headers.len(), "file of weights", "files of weights"),
            ));
        }
        let left: Vec<&NotFetched> = left.into_iter().collect();
        if !left.is_empty() {
            let (bytes, names) = told(&left);
            why.push(format!(
                "{} of the repository ({bytes}) {} not fetched; to have all examined, `hf download {repository} --revision \
                 {commit} --local-dir DIR` and give DIR: {names}",
                Count(left.len(), "file", "files"),
                if left.len() == 1 { "was" } else { "were" },
            ));
        }
        why
    }
}

/// How many bytes files have together, and their names, the first of many.
fn told(files: &[&NotFetched]) -> (Bytes, String) {
    const NAMED: usize = 10;
    let bytes = files.iter().filter_map(|file| file.bytes).fold(0, u64::saturating_add);
    let mut names: Vec<&str> = files.iter().take(NAMED).map(|file| file.path.as_str()).collect();
    names.extend((files.len() > NAMED).then_some("…"));
    (Bytes(bytes), names.join(", "))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hub: {} {} is commit {}", self.repository, self.revision, self.commit)?;
        f.write_str(match &self.state {
            State::Current => "",
            State::Offline => " in the cache; the hub was not asked",
            State::Unreachable(_) => " in the cache; the hub cannot be reached",
        })?;
        match self.not_fetched.len() {
            0 => Ok(()),
            left => write!(f, "; {} of it not fetched", Count(left, "file", "files")),
        }
    }
}
