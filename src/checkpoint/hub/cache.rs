//! One repository's folder in the cache, laid out as the Python `huggingface_hub` lays it out: `blobs/<digest>`,
//! `snapshots/<commit>/<file>` as relative links to blobs, `refs/<revision>` with a commit.
//!
//! Others may write to a shared cache. So every folder below it is opened without following links and used through its
//! descriptor, and so is every file that is written: see [`Store`].

use super::super::walk;
use super::content::ContentName;
use super::id::is_commit;
use super::listing::Listed;
use super::{CONFIG, HubId, INDEX, SINGLE, TOKENIZER, shards_of};
use crate::error::{Error, Result};
use crate::files;
use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt, OpenOptionsSyncExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files up to this size are digested again before the cache's copy is taken; lint digests the larger ones.
pub(super) const SMALL: u64 = 32 << 20;

/// Where a repository's folder is, to read what earlier runs and other tools left.
pub(super) struct RepoCache {
    revision: String,
    cache: PathBuf,
    folder: String,
}

impl RepoCache {
    pub(super) fn new(id: &HubId, cache: &Path) -> Result<RepoCache> {
        let cache = std::path::absolute(cache).map_err(Error::io(cache))?;
        let folder = format!("{}--{}", id.kind().plural(), id.repo().replace('/', "--"));
        Ok(RepoCache { revision: id.revision().to_owned(), cache, folder })
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    /// The commit and the snapshot of the revision, whatever that has of it; else what is missing, in words.
    pub(super) fn any_snapshot(&self) -> std::result::Result<(String, PathBuf), String> {
        let nothing = || format!("the cache {} has nothing of revision {}", self.root().display(), self.revision);
        // A commit is itself, whatever a file in refs says.
        let commit = match is_commit(&self.revision) {
            true => self.revision.clone(),
            false => self.noted().ok_or_else(nothing)?,
        };
        let folder = self.snapshot(&commit);
        match is_commit(&commit) && fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            true => Ok((commit, folder)),
            false => Err(nothing()),
        }
    }

    /// The same, where it has all that a checkpoint needs; else what it lacks.
    pub(super) fn complete_snapshot(&self) -> std::result::Result<(String, PathBuf), String> {
        let (commit, folder) = self.any_snapshot()?;
        let has = |file: &str| folder.join(file).is_file();
        let lacks = |file: &str| format!("the cache lacks {file} in {}", folder.display());
        if let Some(file) = [CONFIG, TOKENIZER].into_iter().find(|f| !has(f)) {
            return Err(lacks(file));
        }
        if !has(SINGLE) {
            if !has(INDEX) {
                return Err(lacks(&format!("{SINGLE} (or {INDEX})")));
            }
            let shards = shards_of(&folder.join(INDEX)).map_err(|e| e.to_string())?;
            if let Some(shard) = shards.iter().find(|s| !has(s)) {
                return Err(lacks(shard));
            }
        }
        Ok((commit, folder))
    }

    /// The commit that was last noted for the revision.
    fn noted(&self) -> Option<String> {
        let text = files::read_at_most(&self.root().join("refs").join(&self.revision), 100).ok()?;
        let commit = std::str::from_utf8(&text).ok()?.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Opens the folder to bring a commit into it.
    ///
    /// # Errors
    /// A folder cannot be made or opened, or there is a link in its place.
    pub(super) fn open(&self, commit: &str) -> Result<Store<'_>> {
        let (cache, root) = (&self.cache, self.root());
        Dir::create_ambient_dir_all(cache, ambient_authority()).map_err(Error::io(cache))?;
        let dir = Dir::open_ambient_dir(cache, ambient_authority()).map_err(Error::io(cache))?;
        let repo = inner(&dir, cache, &self.folder)?;
        let blobs = Blobs { dir: inner(&repo, &root, "blobs")?, path: root.join("blobs") };
        let snapshots = inner(&repo, &root, "snapshots")?;
        let path = self.snapshot(commit);
        let snapshot = inner(&snapshots, &root.join("snapshots"), commit)?;
        Ok(Store { cache: self, repo, blobs, snapshot, path })
    }
}

/// A repository's folder that is written to. No link is followed on the way to a file, and none is written through.
pub(super) struct Store<'a> {
    cache: &'a RepoCache,
    repo: Dir,
    pub(super) blobs: Blobs,
    snapshot: Dir,
    path: PathBuf,
}

impl Store<'_> {
    /// The snapshot's folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the snapshot has the file as it is listed: by a link to its blob, or where links cannot be, itself.
    pub(super) fn has(&self, file: &str, listed: &Listed) -> bool {
        let Listed { size: Some(size), content: Some(content) } = listed else { return false };
        let (folders, name) = split(file);
        let mut dir = None;
        for folder in folders {
            match dir.as_ref().unwrap_or(&self.snapshot).open_dir_nofollow(folder) {
                Ok(inner) => dir = Some(inner),
                Err(_) => return false,
            }
        }
        let dir = dir.as_ref().unwrap_or(&self.snapshot);
        match dir.read_link_contents(name) {
            Ok(target) => target == pointer(file, content) && self.blobs.holds(content, *size),
            Err(_) => is_content(dir, name, content, *size, true),
        }
    }

    /// Makes the blob appear in the snapshot, in one step.
    pub(super) fn link(&self, file: &str, content: &ContentName) -> Result<()> {
        let (folders, name) = split(file);
        let (mut dir, mut path) = (None, self.path.clone());
        for folder in folders {
            dir = Some(inner(dir.as_ref().unwrap_or(&self.snapshot), &path, folder)?);
            path.push(folder);
        }
        let dir = dir.as_ref().unwrap_or(&self.snapshot);
        let beside = files::unfinished_name();
        let placed = match self.repo.symlink_file(pointer(file, content), &beside) {
            Ok(()) => self.repo.rename(&beside, dir, name),
            // No links here (Windows, some network disks): the file itself moves, as the Python tools do it.
            Err(_) => self.blobs.dir.rename(content.as_str(), dir, name),
        };
        placed.map_err(|error| {
            let _ = self.repo.remove_file_or_symlink(&beside);
            Error::io(path.join(name))(error)
        })
    }

    /// What is in the snapshot and not among these files of the commit.
    ///
    /// # Errors
    /// A folder of it cannot be read.
    pub(super) fn extra(&self, is_listed: &dyn Fn(&str) -> bool) -> Result<Option<String>> {
        let found = walk::walk(&self.path, &|_| false)?;
        Ok(found.into_iter().map(|entry| entry.path).find(|path| !is_listed(path)))
    }

    /// Notes which commit the revision is, for those who come offline. A cache that cannot be written still serves.
    pub(super) fn point_to(&self, commit: &str) {
        let revision = &self.cache.revision;
        if revision == commit || self.cache.noted().is_some_and(|noted| noted == commit) {
            return;
        }
        if let Err(error) = self.note(revision, commit) {
            tracing::warn!("{error}; offline this revision will not be found");
        }
    }

    fn note(&self, revision: &str, commit: &str) -> Result<()> {
        let root = self.cache.root();
        let (folders, name) = split(revision);
        let (mut dir, mut path) = (inner(&self.repo, &root, "refs")?, root.join("refs"));
        for folder in folders {
            dir = inner(&dir, &path, folder)?;
            path.push(folder);
        }
        let beside = files::unfinished_name();
        let written = self.repo.open_with(&beside, OpenOptions::new().write(true).create_new(true));
        written
            .and_then(|mut file| file.write_all(commit.as_bytes()))
            .and_then(|()| self.repo.rename(&beside, &dir, name))
            .map_err(Error::io(path.join(name)))
    }
}

/// The folder of the blobs. Names are those of contents, and of contents on their way.
pub(super) struct Blobs {
    dir: Dir,
    path: PathBuf,
}

impl Blobs {
    /// The folder, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the blob is there.
    pub(super) fn holds(&self, content: &ContentName, size: u64) -> bool {
        is_content(&self.dir, content.as_str(), content, size, size <= SMALL)
    }

    /// A new file.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let options = OpenOptions::new().create_new(true).read(true).append(true).clone();
        self.dir.open_with(name, &options).map(cap_std::fs::File::into_std)
    }

    /// A file that is there, if it is no link; a pipe does not hold it up.
    pub(super) fn open_to_append(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).follow(FollowSymlinks::No).nonblock(true);
        self.dir.open_with(name, &options).map(cap_std::fs::File::into_std)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, &self.dir, to)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove_file_or_symlink(name)
    }
}

/// Whether this is a regular file of the user's own, known by no other name, with at most so many bytes.
pub(super) fn is_ours(file: &File, largest: u64) -> bool {
    let Ok(found) = file.metadata() else { return false };
    found.is_file() && found.len() <= largest && belongs_to_us(&found)
}

#[cfg(unix)]
fn belongs_to_us(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.nlink() == 1 && found.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn belongs_to_us(_: &std::fs::Metadata) -> bool {
    true
}

/// The folder of this name, made where it is not there.
fn inner(dir: &Dir, path: &Path, name: &str) -> Result<Dir> {
    let opened = dir.open_dir_nofollow(name).or_else(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            // Another run may make it meanwhile.
            dir.create_dir(name).or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })?;
            dir.open_dir_nofollow(name)
        }
        _ => Err(e),
    });
    opened.map_err(|error| {
        let path = path.join(name);
        match path.is_symlink() {
            true => {
                let problem = "is a link, and nothing is written into the hub's cache through one; put a folder there, \
                               or set HF_HUB_CACHE to another cache";
                Error::file(path, problem)
            }
            false => Error::io(path)(error),
        }
    })
}

/// The folders on the way to a file, and its name.
fn split(file: &str) -> (impl Iterator<Item = &str>, &str) {
    let (folders, name) = file.rsplit_once('/').map_or((None, file), |(folders, name)| (Some(folders), name));
    (folders.into_iter().flat_map(|folders| folders.split('/')), name)
}

/// Where the link in a snapshot leads.
fn pointer(file: &str, content: &ContentName) -> PathBuf {
    let up = "../".repeat(2 + file.matches('/').count());
    Path::new(&up).join("blobs").join(content.as_str())
}

/// Whether this is a regular file of this size and, where it is to be `read`, of this content.
fn is_content(dir: &Dir, name: &str, content: &ContentName, size: u64, read: bool) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).follow(FollowSymlinks::No).nonblock(true);
    let Ok(file) = dir.open_with(name, &options).map(cap_std::fs::File::into_std) else { return false };
    let right_size = file.metadata().is_ok_and(|found| found.is_file() && found.len() == size);
    right_size && (!read || content.names(size, file).unwrap_or(false))
}
