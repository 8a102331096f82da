//! What a patched folder takes along beside the weights: all that is the original folder's own, whatever reads it.

use super::disk::partial;
use super::{RECEIPT, UNDO};
use crate::checkpoint::index::INDEX;
use crate::checkpoint::walk::{Kind, LEFT_OUT, below, is_left_out, walk};
use crate::error::{Error, Result};
use crate::files::MARKER;
use crate::files::kind::is_weights;
use crate::integrity::receipt::is_kept;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The files of a folder beside the weights, by path below it, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carried {
    /// Regular files, and links to such that lie elsewhere.
    pub files: Vec<String>,
    /// Links to one of these files, and which it is.
    pub links: BTreeMap<String, String>,
    /// What stays behind: weights, hidden folders, what is no file, and what has the name of a file that is written.
    pub behind: Vec<String>,
}

impl Carried {
    /// Those of `root`, but for a patched folder `out` that lies in it.
    ///
    /// # Errors
    /// The folder cannot be read, or it holds more than a checkpoint does.
    pub fn of(root: &Path, out: &Path) -> Result<Carried> {
        let out = below(root, out);
        let hidden = RefCell::new(Vec::new());
        let skip = |path: &str| {
            if is_left_out(root, path) || out.as_deref() == Some(path) {
                return true;
            }
            let is_hidden =
                base(path).starts_with('.') && root.join(path).symlink_metadata().is_ok_and(|about| about.is_dir());
            // What always lies in it goes unsaid.
            let skipped =
                is_hidden && !LEFT_OUT.iter().any(|left_out| Path::new(left_out).parent() == Some(Path::new(path)));
            if skipped {
                hidden.borrow_mut().push(path.to_owned());
            }
            skipped
        };
        let entries = walk(root, &skip)?;
        let mut carried = Carried { files: Vec::new(), links: BTreeMap::new(), behind: hidden.into_inner() };
        let mut leading = BTreeMap::new();
        let real = root.canonicalize().map_err(Error::io(root))?;
        for entry in entries.into_iter().filter(|entry| !is_kept(base(&entry.path))) {
            let is_file = match entry.kind {
                Kind::File => true,
                Kind::Link => root.join(&entry.path).is_file(),
                Kind::Special | Kind::NotUtf8 => false,
            };
            let is_hidden = entry.path.split('/').rev().skip(1).any(|folder| folder.starts_with('.'));
            let is_carried = |path: &str| !is_written(path) && (path == INDEX || !is_weights(path));
            let target = (entry.kind == Kind::Link).then(|| below_real(&real, &entry.path)).flatten();
            match target {
                _ if !is_file || is_hidden || !is_carried(&entry.path) => carried.behind.push(entry.path),
                Some(target) if !is_carried(&target) => carried.behind.push(entry.path),
                Some(target) => _ = leading.insert(entry.path, target),
                None => carried.files.push(entry.path),
            }
        }
        // What a link leads to may be hidden.
        let files: BTreeSet<String> = carried.files.iter().cloned().collect();
        for (path, target) in leading {
            match files.contains(&target) {
                true => _ = carried.links.insert(path, target),
                false => carried.files.push(path),
            }
        }
        carried.files.sort();
        carried.behind.sort();
        Ok(carried)
    }
}

/// Whether a path is, or lies in, what a patched folder has of its own while it is written.
fn is_written(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or(path);
    [MARKER, &partial(RECEIPT), &partial(UNDO)].iter().any(|own| own.eq_ignore_ascii_case(first))
}

/// Where the file that a path leads to really lies below the folder `real`, a path without links.
fn below_real(real: &Path, path: &str) -> Option<String> {
    let place = real.join(path).canonicalize().ok()?;
    let parts: Option<Vec<&str>> = place.strip_prefix(real).ok()?.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

/// The way from the folder that `link` lies in to `target`, both paths below one folder.
pub(super) fn way(link: &str, target: &str) -> String {
    format!("{}{target}", "../".repeat(link.matches('/').count()))
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_but_weights_and_hidden_folders_is_carried() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        let carried = [
            ".gitattributes",
            "1_Pooling/config.json",
            "LICENSE",
            "README.md",
            "additional_chat_templates/tool_use.jinja",
            "config.json",
            "hidden",
            "model.safetensors.index.json",
            "onnx/config.json",
            "original/params.json",
            "original/tokenizer.model",
        ];
        let behind = [
            ".achilles-audit-unfinished",
            ".cache/other/x",
            ".venv/lib/x.py",
            "achilles-patch.json.partial",
            "dangling",
            "folder",
            "model-00001-of-00001.safetensors",
            "onnx/.cache/x",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "original/consolidated.00.pth",
            "original/model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "tiny.Q4_K_M.GGUF",
            "weights",
        ];
        let neither = [
            "tiny.Q4_K_M.GGUF.achilles-patch.undo",
            ".git/HEAD",
            ".cache/huggingface/x.lock",
            "out/config.json",
            RECEIPT,
            "sub/achilles-patch.undo",
        ];
        for path in carried
            .iter()
            .chain(&behind)
            .chain(&neither)
            .filter(|p| !["dangling", "folder", "hidden", "weights"].contains(p))
        {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), path).unwrap();
        }
        symlink("README.md", root.join("inner")).unwrap();
        symlink(root.join("original/../inner"), root.join("original/up")).unwrap();
        symlink(".cache/other/x", root.join("hidden")).unwrap();
        symlink("onnx/model.onnx", root.join("weights")).unwrap();
        symlink("nothing", root.join("dangling")).unwrap();
        symlink("original", root.join("folder")).unwrap();
        let found = Carried::of(root, &root.join("out")).unwrap();
        let top = |path: &&str| match *path {
            ".venv/lib/x.py" => ".venv".to_owned(),
            "onnx/.cache/x" => "onnx/.cache".to_owned(),
            path => path.to_owned(),
        };
        assert_eq!(found.files, carried);
        let links = [("inner", "README.md"), ("original/up", "README.md")];
        assert_eq!(found.links, links.map(|(link, target)| (link.to_owned(), target.to_owned())).into());
        assert_eq!((way("inner", "README.md"), way("a/b/c", "a/x")), ("README.md".into(), "../../a/x".into()));
        assert_eq!(found.behind, behind.iter().map(top).collect::<Vec<_>>());
    }
}
