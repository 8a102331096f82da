//! What a patched folder takes along beside the weights: all that is the original folder's own, whatever reads it.

use super::{RECEIPT, UNDO};
use crate::checkpoint::index::INDEX;
use crate::checkpoint::walk::{Kind, LEFT_OUT, below, is_left_out, walk};
use crate::checkpoint::weights::is_weights;
use crate::error::Result;
use std::cell::RefCell;
use std::path::Path;

/// The files of a folder beside the weights, by path below it, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carried {
    /// Regular files, and links to such.
    pub files: Vec<String>,
    /// What stays behind: weights, hidden folders, and what is no file.
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
        let mut carried = Carried { files: Vec::new(), behind: hidden.into_inner() };
        for entry in entries.into_iter().filter(|entry| ![RECEIPT, UNDO].contains(&base(&entry.path))) {
            let is_file = match entry.kind {
                Kind::File => true,
                Kind::Link => root.join(&entry.path).is_file(),
                Kind::Special | Kind::NotUtf8 => false,
            };
            let is_hidden = entry.path.split('/').rev().skip(1).any(|folder| folder.starts_with('.'));
            match is_file && !is_hidden && (entry.path == INDEX || !is_weights(&entry.path)) {
                true => carried.files.push(entry.path),
                false => carried.behind.push(entry.path),
            }
        }
        carried.behind.sort();
        Ok(carried)
    }
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
            "inner",
            "model.safetensors.index.json",
            "onnx/config.json",
            "original/params.json",
            "original/tokenizer.model",
        ];
        let behind = [
            ".cache/other/x",
            ".venv/lib/x.py",
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
        ];
        let neither = [".git/HEAD", ".cache/huggingface/x.lock", "out/config.json", RECEIPT, "sub/achilles-patch.undo"];
        for path in
            carried.iter().chain(&behind).chain(&neither).filter(|p| !["inner", "dangling", "folder"].contains(p))
        {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), path).unwrap();
        }
        symlink("README.md", root.join("inner")).unwrap();
        symlink("nothing", root.join("dangling")).unwrap();
        symlink("original", root.join("folder")).unwrap();
        let found = Carried::of(root, &root.join("out")).unwrap();
        let top = |path: &&str| match *path {
            ".venv/lib/x.py" => ".venv".to_owned(),
            "onnx/.cache/x" => "onnx/.cache".to_owned(),
            path => path.to_owned(),
        };
        assert_eq!(found.files, carried);
        assert_eq!(found.behind, behind.iter().map(top).collect::<Vec<_>>());
    }
}
