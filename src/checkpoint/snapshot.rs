//! A snapshot in the Hugging Face cache (`models--org--name/snapshots/COMMIT`): its files are links to blobs, and each
//! blob is named by its content.

use super::hex;
use crate::error::{Error, Result};
use crate::files;
use sha1::Sha1;
use sha2::{Digest, Sha256};
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
        let named = |path: &Path, name: fn(&str) -> bool| path.file_name().and_then(|n| n.to_str()).is_some_and(name);
        let snapshots = root.ancestors().skip(1).find(|folder| named(folder, |name| name == "snapshots"))?;
        let repository = snapshots.parent().filter(|folder| named(folder, |name| name.starts_with("models--")))?;
        Some(Snapshot { blobs: repository.join("blobs").canonicalize().ok()? })
    }

    /// The blob that a link leads to. It stands for a file of the snapshot.
    pub fn blob(&self, link: &Path) -> Option<Blob> {
        let path = link.canonicalize().ok()?;
        (path.parent() == Some(&self.blobs) && path.is_file()).then_some(Blob { path })
    }
}

/// A file in the cache.
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
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_digest = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let (what, found) = match name.len() {
            64 if is_digest => ("SHA-256", sha256.map_or_else(|| self.sha256(), |digest| Ok(hex(digest)))?),
            40 if is_digest => ("git's SHA-1", self.git_sha1()?),
            _ => return Ok(None),
        };
        let problem = || format!("{what} of its bytes is {found}, the Hugging Face cache calls them {name}");
        Ok((found != name).then(problem))
    }

    fn sha256(&self) -> Result<String> {
        Ok(hex(&self.digest(Sha256::new())?))
    }

    /// As `git hash-object` has it.
    fn git_sha1(&self) -> Result<String> {
        let bytes = std::fs::metadata(&self.path).map_err(Error::io(&self.path))?.len();
        Ok(hex(&self.digest(Sha1::new_with_prefix(format!("blob {bytes}\0")))?))
    }

    fn digest<D: Digest>(&self, mut digest: D) -> Result<Vec<u8>> {
        let mut file = files::open_regular(&self.path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(Error::io(&self.path))? {
                0 => return Ok(digest.finalize().to_vec()),
                read => digest.update(&buffer[..read]),
            }
        }
    }
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
            let found = Snapshot::of(&snapshot).unwrap().blob(&snapshot.join("file")).unwrap();
            found.damage(None).unwrap()
        };
        for name in [sha256, sha1] {
            assert_eq!(link(name, "hello\n"), None);
            assert!(link(name, "hellO\n").unwrap().ends_with(&format!("calls them {name}")));
        }
        assert_eq!(link("config.json", "hello\n"), None);
        std::fs::write(snapshot.join("plain"), "").unwrap();
        std::os::unix::fs::symlink("plain", snapshot.join("beside")).unwrap();
        let found = Snapshot::of(&snapshot).unwrap();
        assert_eq!((found.blob(&snapshot.join("beside")), found.blob(&snapshot.join("gone"))), (None, None));
        assert!(Snapshot::of(&repository).is_none());
    }
}
