//! The files of a folder and of its folders.

use crate::error::{Error, Result};
use crate::files::read_at_most;
use std::fs::{DirEntry, Metadata};
use std::path::Path;

/// Something in a folder that is not itself a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies below the folder, `/`-separated. Where a name on the way is not UTF-8, with replacement
    /// characters: such a path cannot be opened.
    pub path: String,
    /// Whether it is a file, a link, or something else.
    pub kind: Kind,
    /// Its size where it is a file, else 0.
    pub bytes: u64,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link, to whatever it may be.
    Link,
    /// A pipe, socket or device.
    Special,
    /// Anything whose path is not UTF-8.
    NotUtf8,
}

/// A file that lies below a folder: its path there; none where it lies elsewhere. It need not be there, and it may be a
/// link: where it leads is not asked.
pub fn below(root: &Path, file: &Path) -> Option<String> {
    let parent = crate::files::parent(file).ok()?.canonicalize().ok()?;
    let below = parent.strip_prefix(root.canonicalize().ok()?).ok()?.join(file.file_name()?);
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/"))
}

/// Whether a path is a folder, and no link to one, that tools keep beside a model and no loader reads: version control,
/// and what the hub's client notes of its downloads. A worktree's or submodule's `.git` is a file that says where it
/// is.
pub fn is_left_out(root: &Path, path: &str) -> bool {
    let place = root.join(path);
    let is = |kind: fn(&Metadata) -> bool| place.symlink_metadata().is_ok_and(|about| kind(&about));
    let leads = || read_at_most(&place, LONGEST_POINTER).is_ok_and(|text| is_pointer(&text));
    LEFT_OUT.contains(&path) && (is(Metadata::is_dir) || path == ".git" && is(Metadata::is_file) && leads())
}

/// Longer than any path.
const LONGEST_POINTER: u64 = 1 << 13;

/// Whether these bytes are one line, `gitdir: ` and a path.
fn is_pointer(text: &[u8]) -> bool {
    let path = text.strip_prefix(b"gitdir: ").map(|path| path.trim_ascii_end());
    path.is_some_and(|path| !path.is_empty() && path.iter().all(|b| !b.is_ascii_control()))
}

/// What [`is_left_out`] where it is a folder.
pub const LEFT_OUT: [&str; 2] = [".git", ".cache/huggingface"];

/// A virtual environment: thousands of files of other projects, code and links out of the folder among them.
pub const ENVIRONMENT: &str = ".venv";

/// More than any checkpoint holds: a folder that holds more is not taken for one.
const MOST_ENTRIES: usize = 20_000;
/// Levels of folders below the one that is walked.
const DEEPEST: usize = 32;

/// Everything below `root` but folders, sorted by path (as strings); links are not followed. What `skip` says of a path
/// holds for all below it.
///
/// # Errors
/// A folder cannot be read, or it holds more than a checkpoint does.
pub fn walk(root: &Path, skip: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    each(root, &mut |path, item| {
        if skip(&path) {
            return Ok(false);
        }
        let about = item.metadata().map_err(Error::io(item.path()))?;
        let (kind, bytes) = match about.file_type() {
            _ if item.file_name().to_str().is_none() => (Kind::NotUtf8, 0),
            t if t.is_dir() => return Ok(true),
            t if t.is_symlink() => (Kind::Link, 0),
            t if t.is_file() => (Kind::File, about.len()),
            _ => (Kind::Special, 0),
        };
        found.push(Entry { path, kind, bytes });
        Ok(false)
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Calls `visit` with everything below `root`, by its path there, `/`-separated, with replacement characters for what is
/// not UTF-8. It says whether to look into a folder.
///
/// # Errors
/// A folder cannot be read, it holds more than a checkpoint does, or what `visit` says.
pub fn each(root: &Path, visit: &mut dyn FnMut(String, &DirEntry) -> Result<bool>) -> Result<()> {
    let mut entries = 0;
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        for item in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let item = item.map_err(Error::io(&folder))?;
            entries += 1;
            if entries > MOST_ENTRIES || depth > DEEPEST {
                return Err(too_many(root));
            }
            let path = format!("{prefix}{}", item.file_name().to_string_lossy());
            let below = format!("{path}/");
            if visit(path, &item)? {
                folders.push((item.path(), below, depth + 1));
            }
        }
    }
    Ok(())
}

/// What is said of a folder that is no checkpoint's for all that lies in it.
fn too_many(root: &Path) -> Error {
    Error::file(
        root,
        format!(
            "holds over {MOST_ENTRIES} files, or folders more than {DEEPEST} deep; expected the folder of one checkpoint"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_folders_is_listed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["b", "b-c", "b/empty", ".git"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        for file in ["b/x", "b-c/x", "a", ".git/HEAD"] {
            std::fs::write(root.join(file), "123").unwrap();
        }
        let file = |path: &str| Entry { path: path.into(), kind: Kind::File, bytes: 3 };
        let skip = |path: &str| path == ".git";
        assert_eq!(walk(root, &skip).unwrap(), ["a", "b-c/x", "b/x"].map(file));
        assert_eq!(walk(root, &|_| false).unwrap().len(), 4);
        assert!(walk(&root.join("a"), &|_| false).is_err());
    }

    #[test]
    fn only_a_pointer_is_left_out_as_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (text, left_out) in [
            ("gitdir: ../.git/modules/model\n", true),
            ("gitdir: /work trees/.git/worktrees/a", true),
            ("gitdir: ", false),
            ("gitdir: a\nimport os\n", false),
            ("{\"model_type\": \"llama\"}", false),
            ("", false),
        ] {
            std::fs::write(root.join(".git"), text).unwrap();
            assert_eq!(is_left_out(root, ".git"), left_out, "{text:?}");
        }
        std::fs::write(root.join(".gitmodules"), "gitdir: a").unwrap();
        assert!(!is_left_out(root, ".gitmodules") && !is_left_out(root, "gone"));
    }

    #[cfg(unix)]
    #[test]
    fn links_sockets_and_odd_names_are_told_apart() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::os::unix::fs::symlink("..", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        std::fs::create_dir(root.join(std::ffi::OsStr::from_bytes(b"z\xff"))).unwrap();
        let kinds: Vec<(String, Kind)> =
            walk(root, &|_| false).unwrap().into_iter().map(|e| (e.path, e.kind)).collect();
        let expected = [("link", Kind::Link), ("socket", Kind::Special), ("z\u{fffd}", Kind::NotUtf8)];
        assert_eq!(kinds, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }
}
