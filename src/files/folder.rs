//! Folders that are opened once. Whatever their paths come to lead to meanwhile, names are looked up in the very folder
//! that was opened, and no link leads out of it.

use super::open::{check_regular, not_regular};
use crate::error::{Error, Result};
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt, OpenOptionsSyncExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A folder in which files are changed: links in it are not followed.
#[derive(Debug)]
pub struct OpenFolder {
    path: PathBuf,
    pub(super) dir: Dir,
}

impl OpenFolder {
    /// Opens a folder.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn open(path: &Path) -> Result<OpenFolder> {
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(Error::io(path))?;
        Ok(OpenFolder::of(dir, path))
    }

    pub(super) fn of(dir: Dir, path: &Path) -> OpenFolder {
        OpenFolder { path: path.to_owned(), dir }
    }

    /// Where it was when it was opened: for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds anything of this name, links that lead nowhere as well.
    pub fn holds(&self, name: &str) -> bool {
        self.dir.symlink_metadata(name).is_ok()
    }

    /// Opens a file of the folder for reading; none where there is none.
    ///
    /// # Errors
    /// It is a link or no regular file, or the system refuses.
    pub fn read(&self, name: &str) -> Result<Option<File>> {
        match self.holds(name) {
            true => self.open_own(name, false).map(Some),
            false => Ok(None),
        }
    }

    /// Opens a file of the folder to be changed where it lies.
    ///
    /// # Errors
    /// It is a link or no regular file, has other names, or is neither of the folder's owner nor the user's own; or the
    /// system refuses.
    pub fn change(&self, name: &str) -> Result<File> {
        let file = self.open_own(name, true)?;
        #[cfg(unix)]
        self.check_whose(&file, &self.path.join(name))?;
        Ok(file)
    }

    fn open_own(&self, name: &str, write: bool) -> Result<File> {
        let path = self.path.join(name);
        // To open some devices is to use them, so a look comes first.
        let about = self.dir.symlink_metadata(name).map_err(Error::io(&path))?;
        if about.is_symlink() {
            let problem = "is a link, such as those into the hub's cache, and what it leads to would change; work on a \
                           copy (`patch -o` makes one)";
            return Err(Error::file(path, problem));
        }
        if !about.is_file() {
            return Err(not_regular(&path));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(write).follow(FollowSymlinks::No).nonblock(true);
        let file = self.dir.open_with(name, &options).map_err(Error::io(&path))?.into_std();
        check_regular(&file, &path)?;
        Ok(file)
    }

    /// What is changed here must not be changed elsewhere; and root does in a folder what its owner could do or what is
    /// root's own.
    #[cfg(unix)]
    fn check_whose(&self, file: &File, path: &Path) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let about = file.metadata().map_err(Error::io(path))?;
        if about.nlink() > 1 {
            let problem = "has other names (hard links), whose checkpoints would change too; work on a copy (`patch -o` \
                           makes one)";
            return Err(Error::file(path, problem));
        }
        let folder = cap_std::fs::MetadataExt::uid(&self.dir.dir_metadata().map_err(Error::io(&self.path))?);
        let user = rustix::process::geteuid().as_raw();
        if user == 0 && about.uid() != user && about.uid() != folder {
            let problem = "belongs neither to the owner of its folder nor to root, who changes nothing of others here; \
                           run this as its owner";
            return Err(Error::file(path, problem));
        }
        Ok(())
    }

    /// Makes a file that is not there yet, for reading and writing.
    ///
    /// # Errors
    /// There is something of this name, or the system refuses.
    pub fn create_new(&self, name: &str) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).follow(FollowSymlinks::No);
        let made = self.dir.open_with(name, &options).map_err(Error::io(self.path.join(name)))?;
        Ok(made.into_std())
    }

    /// Makes the folders that a path below this one leads through, where they are not there.
    ///
    /// # Errors
    /// The system refuses.
    pub fn make_way(&self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((folders, _)) => self.dir.create_dir_all(folders).map_err(Error::io(self.path.join(folders))),
            None => Ok(()),
        }
    }

    /// Makes a link that leads to `target`, a path from the folder that the link lies in.
    ///
    /// # Errors
    /// There is something of this name, or the system refuses.
    pub fn link(&self, name: &str, target: &str) -> Result<()> {
        #[cfg(windows)]
        let made = self.dir.symlink_file(target, name);
        #[cfg(not(windows))]
        let made = self.dir.symlink(target, name);
        made.map_err(Error::io(self.path.join(name)))
    }

    /// Renames a file, replacing what has the new name.
    ///
    /// # Errors
    /// The system refuses.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.dir.rename(from, &self.dir, to).map_err(Error::io(self.path.join(to)))
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.dir.remove_file(name).map_err(Error::io(self.path.join(name)))
    }

    /// Removes a file or a link, or does nothing where there is none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove_if_there(&self, name: &str) -> Result<()> {
        match self.dir.remove_file(name) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::io(self.path.join(name))),
        }
    }

    /// Makes its names durable, where the system can.
    pub fn sync(&self) {
        self.sync_below(Path::new("."));
    }

    /// The same of a folder below it.
    pub fn sync_below(&self, folder: &Path) {
        if let Ok(folder) = self.dir.open(folder) {
            let _ = folder.into_std().sync_all();
        }
    }
}

/// The files of a model's folder, to be copied. A link is followed where it stays in the folder. A snapshot in a hub's
/// cache is nothing but links to the blobs of its own repository, so there a link may lead anywhere in that.
#[derive(Debug)]
pub struct ModelFiles {
    root: PathBuf,
    /// Of the folder that links may not leave.
    bounds: PathBuf,
    dir: Dir,
}

impl ModelFiles {
    /// Those of the folder `root`.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn of(root: &Path) -> Result<ModelFiles> {
        let real = root.canonicalize().map_err(Error::io(root))?;
        let bounds = hub_repository(&real).unwrap_or(&real).to_owned();
        let dir = Dir::open_ambient_dir(&bounds, ambient_authority()).map_err(Error::io(root))?;
        Ok(ModelFiles { root: root.to_owned(), bounds, dir })
    }

    /// Opens one for reading.
    ///
    /// # Errors
    /// It is not there, is no regular file, or is a link out of bounds; or the system refuses.
    pub fn open(&self, name: &str) -> Result<File> {
        let (path, place) = (self.root.join(name), self.place(name)?);
        if !self.dir.symlink_metadata(&place).map_err(Error::io(&path))?.is_file() {
            return Err(not_regular(&path));
        }
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No).nonblock(true);
        let file = self.dir.open_with(&place, &options).map_err(Error::io(&path))?.into_std();
        check_regular(&file, &path)?;
        Ok(file)
    }

    /// Gives one another name, in the folder `to`.
    ///
    /// # Errors
    /// As [`ModelFiles::open`]; also where it lies in another file system.
    pub fn hard_link(&self, name: &str, to: &OpenFolder) -> Result<()> {
        self.open(name)?;
        let (from, path) = (self.place(name)?, to.path.join(name));
        self.dir.hard_link(from, &to.dir, name).map_err(Error::io(&path))?;
        match to.dir.symlink_metadata(name).map_err(Error::io(&path))?.is_file() {
            true => Ok(()),
            false => Err(not_regular(&path)),
        }
    }

    /// Where a file really lies, below the bounds.
    fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        let real = path.canonicalize().map_err(Error::io(&path))?;
        match real.strip_prefix(&self.bounds) {
            Ok(place) => Ok(place.to_owned()),
            Err(_) => {
                let problem = format!(
                    "is a link out of the model's folder, to {}, and what is not the model's is not copied; put the \
                     file itself there, or remove the link",
                    real.display()
                );
                Err(Error::file(path, problem))
            }
        }
    }
}

/// Where a repository in a hub's cache keeps the contents of its files.
pub(crate) const BLOBS: &str = "blobs";

/// The folder of a repository in a hub's cache, `models--ORG--NAME`, where `folder` is one of its `snapshots/COMMIT` or
/// lies in one; `folder` is a path without links.
pub(crate) fn hub_repository(folder: &Path) -> Option<&Path> {
    let snapshots = folder.ancestors().skip(1).filter(|above| above.ends_with("snapshots"));
    snapshots.filter_map(Path::parent).find(|repository| {
        let is_named = repository.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("models--"));
        is_named && repository.join(BLOBS).symlink_metadata().is_ok_and(|blobs| blobs.is_dir())
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    fn text(file: Result<File>) -> std::result::Result<String, String> {
        let mut text = String::new();
        file.map_err(|e| e.to_string())?.read_to_string(&mut text).map_err(|e| e.to_string())?;
        Ok(text)
    }

    #[test]
    fn nothing_is_changed_through_a_link_or_another_name() {
        let place = tempfile::tempdir().unwrap();
        let (model, outside) = (place.path().join("model"), place.path().join("outside"));
        std::fs::create_dir(&model).unwrap();
        std::fs::write(&outside, "theirs").unwrap();
        std::fs::write(model.join("own"), "own").unwrap();
        std::fs::write(model.join("two"), "two").unwrap();
        std::fs::hard_link(model.join("two"), place.path().join("names")).unwrap();
        symlink("../outside", model.join("link")).unwrap();
        symlink("own", model.join("inner")).unwrap();
        symlink("..", model.join("up")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(model.join("pipe")).status().unwrap().success());
        let folder = OpenFolder::open(&model).unwrap();
        for (name, says) in [
            ("link", "is a link"),
            ("inner", "is a link"),
            ("up/outside", "outside of the filesystem"),
            ("../outside", "outside of the filesystem"),
            ("two", "has other names"),
            ("pipe", "expected a file"),
            (".", "expected a file"),
            ("none", "is not there"),
        ] {
            let error = folder.change(name).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
        for name in ["link", "inner", "own", "pipe"] {
            assert!(folder.create_new(name).unwrap_err().to_string().contains("exists"), "{name}");
        }
        assert!(folder.read("none").unwrap().is_none());
        assert!(folder.read("link").unwrap_err().to_string().contains("is a link"));
        folder.change("own").unwrap().write_all(b"new").unwrap();
        folder.rename("own", "link").unwrap();
        folder.remove("inner").unwrap();
        assert_eq!(std::fs::read_to_string(model.join("link")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "theirs");
    }

    /// The path is another folder's by the time that something is written.
    #[test]
    fn a_folder_that_was_opened_stays_that_folder() {
        let place = tempfile::tempdir().unwrap();
        let (model, moved, theirs) =
            (place.path().join("model"), place.path().join("moved"), place.path().join("theirs"));
        for folder in [&model, &theirs] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("file"), "old").unwrap();
        }
        let folder = OpenFolder::open(&model).unwrap();
        std::fs::rename(&model, &moved).unwrap();
        symlink(&theirs, &model).unwrap();
        folder.change("file").unwrap().write_all(b"new").unwrap();
        folder.create_new("more").unwrap();
        assert_eq!(std::fs::read_to_string(moved.join("file")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(theirs.join("file")).unwrap(), "old");
        assert!(moved.join("more").exists() && !theirs.join("more").exists());
    }

    #[test]
    fn a_link_is_copied_from_where_it_stays_inside() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for folder in [
            "model/sub",
            "models--a--b/blobs",
            "models--a--b/snapshots/c/sub/snapshots/d",
            "models--a--c/blobs",
            "plain/snapshots/c",
        ] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["model/own", "model/sub/own", "outside", "models--a--b/blobs/1", "models--a--c/blobs/2"] {
            std::fs::write(at(file), file).unwrap();
        }
        for (link, to) in [
            ("model/inner", "sub/own"),
            ("model/twice", "inner"),
            ("model/out", "../outside"),
            ("model/folder", "sub"),
            ("model/gone", "nowhere"),
            ("models--a--b/snapshots/c/blob", "../../blobs/1"),
            ("models--a--b/snapshots/c/sub/blob", "../../../blobs/1"),
            ("models--a--b/snapshots/c/sub/snapshots/d/blob", "../../../../../blobs/1"),
            ("models--a--b/snapshots/c/sub/out", "../../../../outside"),
            ("models--a--b/snapshots/c/other", "../../../models--a--c/blobs/2"),
            ("models--a--b/snapshots/c/out", "../../../outside"),
            ("plain/snapshots/c/out", "../../../outside"),
        ] {
            symlink(to, at(link)).unwrap();
        }
        symlink(at("model/own"), at("model/absolute")).unwrap();
        symlink("/proc/self/environ", at("model/environ")).unwrap();
        symlink("models--a--b/snapshots/c", at("current")).unwrap();
        let read = |folder: &str, name: &str| text(ModelFiles::of(&at(folder)).unwrap().open(name));
        for (folder, name, from) in [
            ("model", "own", "model/own"),
            ("model", "inner", "model/sub/own"),
            ("model", "twice", "model/sub/own"),
            ("model", "absolute", "model/own"),
            ("models--a--b/snapshots/c", "blob", "models--a--b/blobs/1"),
            ("current", "blob", "models--a--b/blobs/1"),
            ("models--a--b/snapshots/c/sub", "blob", "models--a--b/blobs/1"),
            ("models--a--b/snapshots/c/sub/snapshots/d", "blob", "models--a--b/blobs/1"),
        ] {
            assert_eq!(read(folder, name).as_deref(), Ok(from), "{folder} {name}");
        }
        for (folder, name, says) in [
            ("model", "out", "is a link out of the model's folder"),
            ("model", "environ", "is a link out of the model's folder"),
            ("model", "gone", "is not there"),
            ("model", "folder", "expected a file"),
            ("models--a--b/snapshots/c", "other", "is a link out of the model's folder"),
            ("models--a--b/snapshots/c", "out", "is a link out of the model's folder"),
            ("models--a--b/snapshots/c/sub", "out", "is a link out of the model's folder"),
            ("plain/snapshots/c", "out", "is a link out of the model's folder"),
        ] {
            let error = read(folder, name).unwrap_err();
            assert!(error.contains(says), "{folder} {name}: {error}");
        }
        std::fs::create_dir(at("to")).unwrap();
        let (from, to) = (ModelFiles::of(&at("current")).unwrap(), OpenFolder::open(&at("to")).unwrap());
        from.hard_link("blob", &to).unwrap();
        assert!(from.hard_link("out", &to).is_err());
        assert_eq!(std::fs::read_to_string(at("to/blob")).unwrap(), "models--a--b/blobs/1");
        assert!(!at("to/blob").is_symlink() && !at("to/out").exists());
    }
}
