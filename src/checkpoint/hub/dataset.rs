//! Files of a data set, fetched one by one.

use super::cache::RepoCache;
use super::listing::Listing;
use super::remote::{Failure, Remote};
use super::{HubId, HubSettings, fetch_missing};
use crate::checkpoint::walk;
use crate::error::{Error, Result};
use crate::progress::Progress;
use std::path::PathBuf;

/// A commit of a data set.
pub struct Dataset<'a> {
    id: &'a HubId,
    cache: RepoCache,
    place: Place<'a>,
}

enum Place<'a> {
    Hub(Box<Remote<'a>>, Listing),
    /// What the cache has of the commit, which need not be all.
    Cache(PathBuf, Vec<String>),
}

impl<'a> Dataset<'a> {
    /// Asks the hub for the list of files; offline, looks what the cache has.
    ///
    /// # Errors
    /// The hub cannot be reached, there is no such repository or revision or it may not be read, what it lists cannot be,
    /// or the cache has nothing of it.
    pub fn open(id: &'a HubId, settings: &'a HubSettings) -> Result<Dataset<'a>> {
        Dataset::find(id, settings).map_err(|failure| match failure {
            Failure::Refused(error) => error,
            Failure::Unreachable(problem) => id.error(problem),
        })
    }

    /// As [`Dataset::open`]; none where there is no such repository or revision, or it may not be read.
    ///
    /// # Errors
    /// The hub cannot be reached.
    pub fn open_if_there(id: &'a HubId, settings: &'a HubSettings) -> Result<Option<Dataset<'a>>> {
        match Dataset::find(id, settings) {
            Ok(found) => Ok(Some(found)),
            Err(Failure::Refused(_)) => Ok(None),
            Err(Failure::Unreachable(problem)) => Err(id.error(problem)),
        }
    }

    fn find(id: &'a HubId, settings: &'a HubSettings) -> std::result::Result<Dataset<'a>, Failure> {
        let cache = RepoCache::new(id, &settings.cache).map_err(Failure::Refused)?;
        if settings.offline {
            let (_, folder) = cache.any_snapshot().map_err(|lack| {
                Failure::Refused(id.error(format!("HF_HUB_OFFLINE is set, and {lack}; unset it to download")))
            })?;
            let found = walk::walk(&folder, &|_| false).map_err(Failure::Refused)?;
            let files = found.into_iter().map(|entry| entry.path).collect();
            return Ok(Dataset { id, cache, place: Place::Cache(folder, files) });
        }
        let remote = Remote::new(id, settings).map_err(Failure::Refused)?;
        let listing = remote.listing().map_err(|failure| match failure {
            Failure::Unreachable(reason) => Failure::Unreachable(remote.unreachable(&reason, "")),
            refused => refused,
        })?;
        Ok(Dataset { id, cache, place: Place::Hub(Box::new(remote), listing) })
    }

    /// Whether only those files are known that the cache has.
    pub fn is_of_cache(&self) -> bool {
        matches!(self.place, Place::Cache(..))
    }

    /// Its files, by their paths in the repository, in order.
    pub fn files(&self) -> Vec<&str> {
        match &self.place {
            Place::Hub(_, listing) => listing.files.keys().map(String::as_str).collect(),
            Place::Cache(_, files) => files.iter().map(String::as_str).collect(),
        }
    }

    /// Makes sure that a file is in the cache, whole and checked, and tells where.
    ///
    /// # Errors
    /// There is no such file, it does not arrive, or the user asked to stop.
    pub fn fetch(&self, file: &str, progress: &dyn Progress) -> Result<PathBuf> {
        match &self.place {
            Place::Cache(folder, _) => Ok(folder.join(file)),
            Place::Hub(remote, listing) => {
                let Some((file, _)) = listing.files.get_key_value(file) else {
                    return Err(self.error(format!("has no file {file}")));
                };
                let store = self.cache.open(&listing.commit)?;
                fetch_missing(&store, remote, listing, file, [file].into_iter(), progress)?;
                store.point_to(&listing.commit);
                Ok(store.path().join(file))
            }
        }
    }

    /// What is wrong with it.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        self.id.error(problem)
    }
}
