//! Checkpoints from a Hugging Face hub, in the cache that the Python tools share.

mod cache;
pub mod content;
pub mod dataset;
mod headers;
mod id;
mod listing;
mod origin;
mod part;
mod patience;
pub mod published;
mod remote;
mod settings;
#[cfg(test)]
mod tests;

use super::LARGEST_NEEDED;
use super::index::{INDEX, IndexFile, SINGLE};
use crate::error::{Bytes, Error, Result};
use crate::files::kind::is_pickle_name;
use crate::progress::Progress;
use cache::{RepoCache, SMALL, Store};
pub use id::{HubId, RepoKind};
use listing::{Listed, Listing};
pub use origin::{NotFetched, Origin, State};
use remote::{Expected, Failure, Remote};
pub use settings::HubSettings;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// Where the hub's client keeps notes of its own: lint does not look into it.
const NOTES: &str = ".cache/huggingface/";
/// How many small files are fetched, and how many bytes of them.
const MOST_SMALL: (usize, u64) = (1_000, 512 << 20);

/// A commit's files in the cache.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The folder they lie in.
    pub folder: PathBuf,
    /// Which commit it is, and what of it is not there.
    pub origin: Origin,
    /// The folder, where it goes with the last who holds this.
    pub(super) passing: Option<Arc<TempDir>>,
}

impl Snapshot {
    /// Refuses an earlier commit that stands in for one that cannot be asked for.
    ///
    /// # Errors
    /// The hub could not be reached.
    pub fn current(self) -> Result<Snapshot> {
        let Origin { repository, revision, commit, state, .. } = &self.origin;
        match state {
            State::Unreachable(reason) => Err(Error::Hub {
                id: repository.clone(),
                problem: format!(
                    "cannot reach the hub ({reason}); the cache has commit {commit} of {revision} from before; check \
                     HF_ENDPOINT or the network, or set HF_HUB_OFFLINE=1 to use the cache"
                ),
            }),
            State::Current | State::Offline => Ok(self),
        }
    }
}

/// Makes sure that the cache holds all that a checkpoint needs and every small file beside it, all from one commit.
/// Where the hub cannot be reached and the cache holds a commit, it is that, and its [`State`] says so.
///
/// A download that was cut goes on where it stopped when `fetch` is called again.
///
/// # Errors
/// The repository cannot be reached and the cache lacks a file, it may not be read, it does not exist, it is no
/// safetensors checkpoint, what it lists cannot be, or the user asked to stop.
pub fn fetch(id: &HubId, settings: &HubSettings, progress: &dyn Progress) -> Result<Snapshot> {
    let cache = RepoCache::new(id, &settings.cache)?;
    match Fetching::begin(id, &cache, settings, progress)? {
        Begun::Cached(snapshot) => Ok(snapshot),
        Begun::Listed(remote, fetching) => {
            fetching.fetch(&remote, fetching.weights.iter(), progress)?;
            fetching.finish(&remote, true)
        }
    }
}

/// As [`fetch`], but of weights that the cache does not hold the headers alone. They lie in a folder of their own, with
/// copies of the small files, and the cache gets no file that is not whole.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_headers(id: &HubId, settings: &HubSettings, progress: &dyn Progress) -> Result<Snapshot> {
    let cache = RepoCache::new(id, &settings.cache)?;
    let (remote, fetching) = match Fetching::begin(id, &cache, settings, progress)? {
        Begun::Cached(snapshot) => return Ok(snapshot),
        Begun::Listed(remote, fetching) => (remote, fetching),
    };
    let (small, large): (Vec<&String>, Vec<&String>) =
        fetching.weights.iter().partition(|file| fetching.listed(file).size.is_some_and(|size| size <= headers::WHOLE));
    fetching.fetch(&remote, small.iter().copied(), progress)?;
    // Where one is not whole, of none the values are read: nothing that is told of one part holds for another.
    let is_whole = large.iter().all(|file| fetching.has(file));
    let snapshot = fetching.finish(&remote, is_whole)?;
    match is_whole {
        true => Ok(snapshot),
        false => headers::beside(&remote, &fetching, snapshot, &large, progress),
    }
}

/// A commit on its way into the cache: its small files are there.
struct Fetching<'a> {
    listing: Listing,
    store: Store<'a>,
    small: Vec<String>,
    weights: BTreeSet<String>,
}

enum Begun<'a> {
    /// The hub is not asked, or cannot be.
    Cached(Snapshot),
    Listed(Box<Remote<'a>>, Fetching<'a>),
}

impl<'a> Fetching<'a> {
    fn begin(
        id: &'a HubId,
        cache: &'a RepoCache,
        settings: &'a HubSettings,
        progress: &dyn Progress,
    ) -> Result<Begun<'a>> {
        if settings.offline {
            let cached = from_cache(id, cache, State::Offline).map_err(|lack| {
                let advice = format!(
                    "HF_HUB_OFFLINE is set, and {lack}; unset it to download, or run `hf download {} --revision {}` \
                     where there is a network and bring the cache here",
                    id.repo(),
                    id.revision()
                );
                id.error(advice)
            });
            return cached.map(Begun::Cached);
        }
        let remote = Box::new(Remote::new(id, settings)?);
        let listing = match remote.listing() {
            Ok(listing) => listing,
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Unreachable(reason)) => {
                let state = State::Unreachable(format!("{}: {reason}", remote.endpoint()));
                let cached = from_cache(id, cache, state)
                    .map_err(|lack| id.error(remote.unreachable(&reason, &format!("{lack}; "))));
                return cached.map(Begun::Cached);
            }
        };
        let (tensors, small): (Vec<_>, Vec<_>) =
            small_files(id, &listing)?.into_iter().partition(|file| file.ends_with(".safetensors"));
        let store = cache.open(&listing.commit)?;
        let what = "config, tokenizer and other small files";
        fetch_missing(&store, &remote, &listing, what, small.iter(), progress)?;
        let mut weights = weight_files(id, &store, &listing)?;
        weights.extend(tensors);
        Ok(Begun::Listed(remote, Fetching { listing, store, small, weights }))
    }

    /// What the hub lists of a file.
    fn listed(&self, file: &str) -> Listed {
        self.listing.files.get(file).cloned().unwrap_or_default()
    }

    /// Whether the cache holds a file.
    fn has(&self, file: &str) -> bool {
        self.listing.files.get(file).is_some_and(|listed| self.store.has(file, listed))
    }

    fn fetch<'f>(
        &self,
        remote: &Remote,
        files: impl Iterator<Item = &'f String>,
        progress: &dyn Progress,
    ) -> Result<()> {
        fetch_missing(&self.store, remote, &self.listing, "weights", files, progress)
    }

    /// What there is of the commit now; where it is whole, it is what those who come offline find.
    fn finish(&self, remote: &Remote, is_whole: bool) -> Result<Snapshot> {
        let Fetching { listing, store, small, weights, .. } = self;
        if let Some(extra) = store.extra(&|file| listing.files.contains_key(file))? {
            let problem = "is no file of this commit; remove it, or set HF_HUB_CACHE to another cache";
            return Err(Error::file(store.path().join(extra), problem));
        }
        if is_whole {
            store.point_to(&listing.commit);
        }
        let here: BTreeSet<&String> = small.iter().chain(weights).collect();
        let left = listing.files.iter().filter(|(file, listed)| !here.contains(file) && !store.has(file, listed));
        let origin = Origin {
            repository: remote.id().repo().into(),
            revision: remote.id().revision().into(),
            not_fetched: left.map(|(file, listed)| NotFetched { path: file.clone(), bytes: listed.size }).collect(),
            headers: Vec::new(),
            commit: listing.commit.clone(),
            state: State::Current,
        };
        Ok(Snapshot { folder: store.path().to_owned(), origin, passing: None })
    }
}

fn from_cache(id: &HubId, cache: &RepoCache, state: State) -> std::result::Result<Snapshot, String> {
    let (commit, folder) = cache.complete_snapshot()?;
    let (repository, revision) = (id.repo().into(), id.revision().into());
    let origin = Origin { repository, revision, commit, state, not_fetched: Vec::new(), headers: Vec::new() };
    Ok(Snapshot { folder, origin, passing: None })
}

/// What is wanted besides the weights: what a checkpoint needs, and every file that is small and no pickle, as
/// those are never read. An error
/// where it is no checkpoint that can be audited.
fn small_files(id: &HubId, listing: &Listing) -> Result<Vec<String>> {
    let has = |file: &str| listing.files.contains_key(file);
    if !has(SINGLE) && !has(INDEX) {
        return Err(id.error(no_weights(listing)));
    }
    for file in [CONFIG, TOKENIZER] {
        if !has(file) {
            let problem = format!(
                "has no {file} at commit {}; look for a revision that has it, or write the checkpoint anew with \
                 transformers: save_pretrained(DIR) of the model and of AutoTokenizer",
                listing.commit
            );
            return Err(id.error(problem));
        }
    }
    let mut files: Vec<String> = [CONFIG, TOKENIZER, INDEX].into_iter().filter(|f| has(f)).map(str::to_owned).collect();
    let (mut count, mut bytes) = (0, 0);
    for (file, listed) in &listing.files {
        let Some(size) = listed.size.filter(|size| *size <= SMALL && !is_pickle_name(file) && !file.starts_with(NOTES))
        else {
            continue;
        };
        if [CONFIG, TOKENIZER, INDEX, SINGLE].contains(&file.as_str()) {
            continue;
        }
        (count, bytes) = (count + 1, bytes + size);
        if count <= MOST_SMALL.0 && bytes <= MOST_SMALL.1 {
            files.push(file.clone());
        }
    }
    Ok(files)
}

fn no_weights(listing: &Listing) -> String {
    let find = |wanted: &dyn Fn(&str) -> bool| listing.files.keys().find(|file| wanted(file));
    if let Some(gguf) = find(&|f| f.ends_with(".gguf")) {
        format!(
            "holds GGUF files but no {SINGLE} or {INDEX}; download one ({gguf}) and give its path, or turn it into a \
             checkpoint with `achilles-audit import FILE.gguf -o DIR`"
        )
    } else if let Some(pickle) = find(&is_pickle_name) {
        format!(
            "has no safetensors, only pickle ({pickle}), which can run code and is never read; look for a revision \
             with safetensors (often refs/pr/N), or convert it with transformers: save_pretrained(DIR)"
        )
    } else if let Some(adapter) = find(&|f| f.ends_with("adapter_model.safetensors")) {
        format!("is an adapter ({adapter}), not a checkpoint; merge it into its base model first")
    } else {
        format!("has neither {SINGLE} nor {INDEX}")
    }
}

/// The one file, and what an index lists: where both are there, loaders differ in what they take.
fn weight_files(id: &HubId, store: &Store, listing: &Listing) -> Result<BTreeSet<String>> {
    let has = |file: &str| listing.files.contains_key(file);
    let single = has(SINGLE).then(|| SINGLE.to_owned());
    if !has(INDEX) {
        return Ok(single.into_iter().collect());
    }
    let shards = match (shards_of(&store.path().join(INDEX)), &single) {
        (Err(error), None) => return Err(error),
        // Lint tells what is wrong with it.
        (shards, _) => shards.unwrap_or_default(),
    };
    match shards.iter().find(|s| !has(s)) {
        Some(absent) if single.is_none() => {
            Err(id.error(format!("{INDEX} names {absent}, which the repository does not have")))
        }
        _ => Ok(single.into_iter().chain(shards.into_iter().filter(|s| has(s))).collect()),
    }
}

/// The shards that an index names, each a plain file name: what a file says never leads out of its folder.
fn shards_of(index: &Path) -> Result<BTreeSet<String>> {
    Ok(IndexFile::read(index)?.weight_map()?.into_values().map(str::to_owned).collect())
}

fn fetch_missing<'a>(
    store: &Store,
    remote: &Remote,
    listing: &Listing,
    what: &str,
    files: impl Iterator<Item = &'a String>,
    progress: &dyn Progress,
) -> Result<()> {
    let unknown = Listed::default();
    let listed = |file: &str| listing.files.get(file).unwrap_or(&unknown);
    let missing: Vec<&String> = files.filter(|file| !store.has(file, listed(file))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let total = missing.iter().filter_map(|file| listed(file).size).fold(0, u64::saturating_add);
    let until = remote.deadline(missing.len(), total);
    progress.begin(&format!("download {}: {what}", remote.id().repo()), total, "bytes");
    let done = missing.into_iter().try_for_each(|file| {
        progress.advance(0)?;
        let expected = remote.head(&listing.commit, file, listed(file), until, progress)?;
        check_size(remote.id(), file, &expected)?;
        if !store.blobs.holds(&expected.content, expected.size) {
            remote.download(&listing.commit, file, &expected, &store.blobs, until, progress)?;
        }
        store.link(file, &expected.content)
    });
    progress.end();
    done
}

/// Refuses what is not weights and cannot be so large.
fn check_size(id: &HubId, file: &str, expected: &Expected) -> Result<()> {
    let size = expected.size;
    if size > LARGEST_NEEDED && [CONFIG, TOKENIZER, INDEX].contains(&file) {
        let problem =
            format!("{file} has {} by the hub's list, expected at most {}", Bytes(size), Bytes(LARGEST_NEEDED));
        return Err(id.error(problem));
    }
    Ok(())
}
