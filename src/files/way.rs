//! The way to what is to be written. Who shipped a model's folder does not choose, by a link in it, where that is.

use super::parent;
use crate::error::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// Links that are followed: as many as the system follows.
const MOST_LINKS: usize = 40;

/// The folder that `out` is to lie in, behind all links. The user's own are followed.
///
/// # Errors
/// There is no such folder, or a link on the way to it lies in a model's folder.
pub(super) fn place(out: &Path) -> Result<PathBuf> {
    let parent = parent(out)?;
    let whole = std::path::absolute(&parent).map_err(Error::io(&parent))?;
    let mut ahead: Vec<PathBuf> = parts(&whole);
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(part) = ahead.pop() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let Ok(target) = std::fs::read_link(&next) else {
            at = next;
            continue;
        };
        links += 1;
        if links > MOST_LINKS || at.ancestors().any(is_model) {
            let problem = format!(
                "{} on the way to it is a link in a model's folder, and results are not written through such; remove \
                 it, or name the folder that it leads to",
                next.display()
            );
            return Err(Error::file(out, problem));
        }
        ahead.extend(parts(&target));
    }
    Ok(at)
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<PathBuf> {
    let named = path.components().filter(|part| *part != Component::CurDir);
    named.rev().map(|part| Path::new(&part).to_owned()).collect()
}

/// Whether a folder holds weights or the index of them. One that all may write to, such as `/tmp`, is nobody's model,
/// whatever somebody left there.
fn is_model(folder: &Path) -> bool {
    if is_shared(folder) {
        return false;
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .any(|name| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
}

/// Whether all may make files in a folder, and remove only their own: its sticky bit is set.
#[cfg(unix)]
fn is_shared(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(folder).is_ok_and(|about| about.permissions().mode() & 0o1002 == 0o1002)
}

#[cfg(not(unix))]
fn is_shared(_: &Path) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_links_of_a_model_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |path: &str| root.join(path);
        for folder in ["model/own/below", "user/real", "victim"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("model/model.safetensors"), "").unwrap();
        for (link, to) in [
            ("model/reports", "../victim"),
            ("model/own/inner", "below"),
            ("user/mine", "real"),
            ("user/around", "../model/reports"),
            ("user/model", "../model"),
            ("user/loop", "loop"),
        ] {
            symlink(to, at(link)).unwrap();
        }
        symlink(at("victim"), at("model/absolute")).unwrap();
        for (out, folder) in [
            ("model/x", "model"),
            ("model/own/below/x", "model/own/below"),
            ("user/mine/x", "user/real"),
            ("user/mine/../x", "user"),
            ("user/model/own/x", "model/own"),
            ("victim/./x", "victim"),
        ] {
            assert_eq!(place(&at(out)).unwrap(), at(folder), "{out}");
        }
        for out in ["model/reports/x", "model/own/inner/x", "model/absolute/x", "user/around/x", "user/model/reports/x"]
        {
            let error = place(&at(out)).unwrap_err().to_string();
            assert!(error.contains("is a link in a model's folder"), "{out}: {error}");
        }
        assert!(place(&at("user/loop/x")).is_err() && place(&at("none/x")).is_err());
        // Weights that anybody left in a folder for all make no model of what others have there.
        std::fs::write(at("left.safetensors"), "").unwrap();
        assert!(place(&at("user/mine/x")).is_err());
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(place(&at("user/mine/x")).unwrap(), at("user/real"));
    }
}
