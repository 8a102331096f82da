//! A snapshot in the Hugging Face cache (`models--org--name/snapshots/COMMIT`): its files are links to blobs, and each
//! blob is named by its content.

use super::hex;
use super::hub::HubId;
use super::hub::content::ContentName;
use super::stand_in::StandIn;
use crate::error::{Error, Result};
use crate::files::{self, BLOBS};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The place of a snapshot's blobs.
#[derive(Debug, Clone)]
pub struct Snapshot {
    blobs: PathBuf,
}

impl Snapshot {
    /// The snapshot that a folder is, or lies in.
    pub fn of(root: &Path) -> Option<Snapshot> {
        let root = root.canonicalize().ok()?;
        files::hub_repository(&root).map(|repository| Snapshot { blobs: repository.join(BLOBS) })
    }

    /// The repository and commit that it is of, by the names of the folders on the way to `root`; none of a data set's, nor
    /// where `root` is a folder within it.
    pub fn id(&self, root: &Path) -> Option<HubId> {
        let repository = self.blobs.parent()?;
        let name = repository.file_name()?.to_str()?.strip_prefix("models--")?;
        let commit = root.strip_prefix(repository.join("snapshots")).ok()?.to_str()?;
        if commit.contains(std::path::MAIN_SEPARATOR) {
            return None;
        }
        format!("{}@{commit}", name.replacen("--", "/", 1)).parse().ok()
    }

    /// Whether `root`, the snapshot or a folder in it, or one that it lies in holds links to blobs, as on every system
    /// that has links.
    pub fn is_linked(&self, root: &Path) -> bool {
        let snapshots = self.blobs.with_file_name("snapshots");
        let Ok(root) = root.canonicalize() else { return false };
        let folders = root.ancestors().take_while(|folder| folder.starts_with(&snapshots) && **folder != *snapshots);
        let entries = folders.filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| self.blob(&path).is_some())
    }

    /// The blob that a link leads to. It stands for a file of the snapshot: a file called by a digest, as every client
    /// of the hub makes them, and no further link.
    pub fn blob(&self, link: &Path) -> Option<Blob> {
        let target = std::fs::read_link(link).ok()?;
        let path = self.blobs.join(ContentName::parse(target.file_name()?.to_str()?)?.as_str());
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|about| about.is_file());
        (is_file && link.canonicalize().is_ok_and(|found| found == path)).then_some(Blob { path })
    }
}

/// A file of the hub's cache, whose name is the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    path: PathBuf,
}

impl Blob {
    /// Why its bytes are not those that its name promises; none where they are, or it promises nothing. `sha256` is the
    /// digest of the bytes, where it is known already.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn damage(&self, sha256: Option<&[u8; 32]>) -> Result<Option<String>> {
        let Some(name) = self.name() else { return Ok(None) };
        let known = sha256.and_then(|digest| ContentName::parse(&hex(digest)));
        match known.filter(|known| known.as_str().len() == name.as_str().len()) {
            Some(known) => Ok(differ(&known, &name)),
            None => {
                let file = files::open_regular(&self.path)?;
                StandIn::refuse_holes(&file, &self.path)?;
                self.damage_of(file.metadata().map_err(Error::io(&self.path))?.len(), file)
            }
        }
    }

    /// The same of its `content`, `bytes` bytes that were opened already.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn damage_of(&self, bytes: u64, content: impl Read) -> Result<Option<String>> {
        let Some(name) = self.name() else { return Ok(None) };
        Ok(differ(&name.alike(bytes, content).map_err(Error::io(&self.path))?, &name))
    }

    fn name(&self) -> Option<ContentName> {
        ContentName::parse(self.path.file_name()?.to_str()?)
    }
}

fn differ(found: &ContentName, name: &ContentName) -> Option<String> {
    let problem = || format!("its bytes are those of {found}, and the Hugging Face cache calls them {name}");
    (found != name).then(problem)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_what_its_name_says() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        let snapshot = repository.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir(repository.join("blobs")).unwrap();
        // `sha256sum` and `git hash-object` of "hello\n".
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let sha1 = "ce013625030ba8dba906f756967f9e9ca394464a";
        let link = |blob: &str, content: &str| {
            std::fs::write(repository.join("blobs").join(blob), content).unwrap();
            let _ = std::fs::remove_file(snapshot.join("file"));
            std::os::unix::fs::symlink(Path::new("../../blobs").join(blob), snapshot.join("file")).unwrap();
            Snapshot::of(&snapshot).unwrap().blob(&snapshot.join("file"))
        };
        let damage = |blob: Option<Blob>| blob.unwrap().damage(None).unwrap();
        for name in [sha256, sha1] {
            assert_eq!(damage(link(name, "hello\n")), None);
            assert!(damage(link(name, "hellO\n")).unwrap().ends_with(name));
        }
        assert_eq!(link("config.json", "hello\n"), None, "a name that promises nothing");
        std::fs::remove_file(repository.join("blobs").join(sha1)).unwrap();
        std::os::unix::fs::symlink("config.json", repository.join("blobs").join(sha1)).unwrap();
        let found = Snapshot::of(&snapshot).unwrap();
        std::fs::remove_file(snapshot.join("file")).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(sha1), snapshot.join("file")).unwrap();
        assert_eq!(found.blob(&snapshot.join("file")), None, "a further link");
        std::fs::write(snapshot.join("plain"), "").unwrap();
        std::os::unix::fs::symlink("plain", snapshot.join("beside")).unwrap();
        let found = Snapshot::of(&snapshot).unwrap();
        assert_eq!((found.blob(&snapshot.join("beside")), found.blob(&snapshot.join("gone"))), (None, None));
        let deep = snapshot.join("snapshots/deeper");
        std::fs::create_dir_all(&deep).unwrap();
        std::os::unix::fs::symlink(Path::new("../../../../blobs").join(sha256), deep.join("file")).unwrap();
        assert!(Snapshot::of(&deep).unwrap().blob(&deep.join("file")).is_some());
        assert!(Snapshot::of(&repository).is_none());
        std::fs::rename(repository.join("blobs"), cache.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", repository.join("blobs")).unwrap();
        assert!(Snapshot::of(&snapshot).is_none(), "what a link leads to is not the repository's");
    }
}
