//! Files and folders that somebody else may have put there, or changes meanwhile: what was opened is what is checked
//! and used, and what is written to is never opened by its path again. What is written appears whole or not at all.

mod copy;
mod folder;
mod holes;
pub mod kind;
mod new_folder;
mod open;
mod stamp;
mod way;
mod write;

use crate::error::{Error, Result};
pub use copy::copy;
pub(crate) use folder::{BLOBS, hub_repository};
pub use folder::{ModelFiles, OpenFolder};
pub(crate) use holes::holes;
pub(crate) use new_folder::{MARKER, UNFINISHED, unfinished_name};
pub use new_folder::{NewFolder, check_new_file, check_new_folder};
pub(crate) use open::{LARGEST_READ, read_open};
pub use open::{open_regular, read_at_most, read_regular, read_text};
pub use stamp::{Stamp, identity};
use std::path::{Path, PathBuf};
pub use write::{check_writable, write_whole};

/// The folder that a file is to lie in.
///
/// # Errors
/// There is no such folder.
pub fn parent(path: &Path) -> Result<PathBuf> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(Error::file(path, "the folder it is to lie in does not exist; create it first"));
    }
    Ok(parent.to_owned())
}

/// The names of what lies in a folder, as far as they are text.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A file's name without the way to it.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A folder of the user's cache, `achilles-audit/NAME` in `$XDG_CACHE_HOME`, else in `~/.cache`; it is made, for this
/// user alone, where it is not there.
///
/// # Errors
/// Neither variable is set, the folder cannot be made, or others could put into it what would be believed.
pub fn user_cache(name: &str) -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    let base = base.ok_or_else(|| Error::input("no place for the cache: set XDG_CACHE_HOME or HOME"))?;
    let folder = base.join("achilles-audit").join(name);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&folder).map_err(Error::io(&folder))?;
    #[cfg(unix)]
    check_private(&folder)?;
    Ok(folder)
}

/// Refuses a cache that others write to, or put in another's place: its folder and the one that that lies in.
#[cfg(unix)]
fn check_private(cache: &Path) -> Result<()> {
    check_own(&parent(cache)?)?;
    check_own(cache)
}

#[cfg(unix)]
fn check_own(folder: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(folder).map_err(Error::io(folder))?;
    if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o002 != 0 {
        let problem = "belongs to another user or can be written to by everybody, and what lies in a cache is \
                       believed; set XDG_CACHE_HOME to a folder of your own";
        return Err(Error::file(folder, problem));
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_cache_that_others_write_to_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("fingerprint");
        std::fs::create_dir(&cache).unwrap();
        for folder in [place.path(), &cache] {
            for (mode, good) in [(0o777, false), (0o1777, false), (0o775, true), (0o700, true)] {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
                assert_eq!(check_private(&cache).is_ok(), good, "{} {mode:o}", folder.display());
            }
        }
    }
}
