//! What lies in the folder: links, special files, and what has no place there by its name.

use super::check::Check;
use super::observation::{Found, Location};
use crate::checkpoint::kind::ADAPTER_CONFIG;
use crate::checkpoint::snapshot::{Blob, Snapshot};
use crate::checkpoint::stand_in::unfinished;
use crate::checkpoint::walk::{self, ENVIRONMENT, LEFT_OUT};
use crate::checkpoint::{CONFIG, Opened};
use crate::error::{Count, Error, Result};
use crate::escape::is_printable;
use crate::files::kind::{is_converted, is_engine, is_keras, is_other_weights};
use crate::files::{self, UNFINISHED};
use crate::integrity::receipt::{Receipt, is_kept, receipt_of};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A regular file, or a link to one.
#[derive(Debug)]
pub(super) struct File {
    /// Relative to the checkpoint's folder, with `/` between its parts.
    pub name: String,
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it is a link to, where that is a blob of the hub's cache.
    pub blob: Option<Blob>,
}

impl File {
    pub fn location(&self) -> Location {
        Location::file(&self.name)
    }

    /// The same by its name in the folder that it begins with.
    pub fn within(&self, prefix: &str) -> File {
        let name = self.name.strip_prefix(prefix).unwrap_or(&self.name).to_owned();
        File { name, path: self.path.clone(), bytes: self.bytes, blob: None }
    }
}

/// All files in the folder and the folders in it, in order of name, but those in folders that are always left out and
/// in a virtual environment; or the one file.
pub(super) fn files_of(opened: &Opened, found: &mut Found) -> Result<Vec<File>> {
    let root = opened.root();
    if opened.is_file() {
        let bytes = std::fs::metadata(root).map_err(Error::io(root))?.len();
        let file = File { name: files::name_of(root), path: root.to_owned(), bytes, blob: None };
        odd_name(&file.name, &file.location(), found);
        return Ok(vec![file]);
    }
    let links = Links { root: std::fs::canonicalize(root).map_err(Error::io(root))?, snapshot: Snapshot::of(root) };
    let (mut listed, mut unlinked) = (Vec::new(), Vec::new());
    walk::each(root, &mut |name, entry| {
        let (path, location) = (entry.path(), Location::file(&name));
        odd_name(&entry.file_name().to_string_lossy(), &location, found);
        let own = entry.metadata().map_err(Error::io(&path))?;
        let blob = links.snapshot.as_ref().filter(|_| own.is_symlink()).and_then(|s| s.blob(&path));
        if own.is_symlink() && blob.is_none() && !links.follow(&path, &location, found) {
            return Ok(false);
        }
        let metadata = std::fs::metadata(&path).map_err(Error::io(&path))?;
        if metadata.is_file() {
            by_name(&location, found);
            if let Some(of) = receipt_of(&name) {
                receipt(&root.join(of), &location, found);
            }
            if links.snapshot.is_some() && !own.is_symlink() {
                unlinked.push(location);
            }
            listed.push(File { name, path, bytes: metadata.len(), blob });
        } else if metadata.is_dir() {
            // A folder behind a link is either met on its own or not part of the checkpoint.
            if own.is_symlink() || LEFT_OUT.contains(&name.as_str()) {
                return Ok(false);
            }
            if name != ENVIRONMENT {
                return Ok(true);
            }
            let message = "is a virtual environment, which no loader reads; what lies in it was not examined";
            found.say(Check::FolderNotExamined, location, message);
        } else {
            found.say(Check::SpecialFile, location, "is a pipe, socket or device; it was not opened");
        }
        Ok(false)
    })?;
    listed.sort_by(|a: &File, b: &File| a.name.cmp(&b.name));
    adapter(&listed, found);
    if links.snapshot.is_some_and(|snapshot| listed.iter().any(|f| f.blob.is_some()) || snapshot.is_linked(root)) {
        in_snapshot(unlinked, found);
    }
    Ok(listed)
}

/// Tells of a name that is not what it looks like.
pub(super) fn odd_name(base: &str, location: &Location, found: &mut Found) {
    if let Some(what) = odd_characters(base) {
        found.say(Check::OddFileName, location.clone(), format!("is named {base:?}, with {what}"));
    } else if let Some(known) = resembles(base) {
        found.say(Check::OddFileName, location.clone(), format!("is named {base:?}, which looks like {known}"));
    }
}

/// What a name holds that a listing of it does not show as it is.
fn odd_characters(name: &str) -> Option<&'static str> {
    // Some join or vary the character before them, where that is not a letter of ASCII (emoji, Persian).
    let joins = |c: char| matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}');
    let mut before = ' ';
    for c in name.chars() {
        let what = match c {
            char::REPLACEMENT_CHARACTER => Some("bytes that are not UTF-8"),
            _ if c.is_control() => Some("a control character"),
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                Some("a character that changes the direction of writing")
            }
            _ if joins(c) && !before.is_ascii() => None,
            '\u{2028}' | '\u{2029}' => Some("an invisible character"),
            // Other spaces are as wide as they look: macOS names its pictures of the screen with one.
            _ if !is_printable(c) && !c.is_whitespace() => Some("an invisible character"),
            _ => None,
        };
        if what.is_some() {
            return what;
        }
        before = c;
    }
    None
}

/// The file that loaders look for which a name differs from in a few characters that are not ASCII, as letters of other
/// scripts and other dots.
fn resembles(name: &str) -> Option<&'static str> {
    const KNOWN: &[&str] = &[
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "chat_template.jinja",
        "chat_template.json",
        "adapter_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "README.md",
    ];
    let differ = |known: &str| name.chars().zip(known.chars()).filter(|(a, b)| a != b).count();
    KNOWN.iter().copied().find(|known| {
        let other = name.chars().filter(|c| !c.is_ascii()).count();
        other > 0 && other * 2 < known.len() && name.chars().count() == known.len() && differ(known) == other
    })
}

/// Where links may lead.
struct Links {
    root: PathBuf,
    snapshot: Option<Snapshot>,
}

impl Links {
    /// Whether a link leads anywhere, and what is to be said of it.
    fn follow(&self, link: &Path, location: &Location, found: &mut Found) -> bool {
        let told = std::fs::read_link(link).map(|t| t.display().to_string()).unwrap_or_default();
        let evidence = json!({"target": told});
        let target = match std::fs::canonicalize(link) {
            Ok(target) => target,
            Err(e) => {
                let message = format!("is a link to {told:?}, which cannot be followed: {e}");
                found.add(Check::DanglingLink, location.clone(), message, evidence);
                return false;
            }
        };
        let is_hidden = |path: &Path| path.iter().any(|part| part.to_string_lossy().starts_with('.'));
        match target.strip_prefix(&self.root) {
            Err(_) => found.add(Check::LinkOutside, location.clone(), format!("is a link to {told:?}"), evidence),
            Ok(inside) if is_hidden(inside) && !is_hidden(Path::new(&location.file)) => {
                let message =
                    format!("is a link to {told:?}, in a hidden folder: what lies there was not all examined");
                found.add(Check::LinkHidden, location.clone(), message, evidence);
            }
            Ok(_) => {}
        }
        true
    }
}

/// An adapter beside a whole model: transformers and PEFT load it on top of the model.
fn adapter(listed: &[File], found: &mut Found) {
    let has = |name: &str| listed.iter().any(|file| file.name == name);
    if has(ADAPTER_CONFIG) && has(CONFIG) {
        let message = "makes loaders put an adapter on top of the model, which was not examined with it";
        found.say(Check::AdapterBeside, Location::file(ADAPTER_CONFIG), message);
    }
}

/// Files of a hub's snapshot that others are links to blobs beside.
fn in_snapshot(unlinked: Vec<Location>, found: &mut Found) {
    // What the system or a signer puts there is no loader's.
    let is_tools = |name: &str| name.split('/').any(|part| part.starts_with('.')) || name.ends_with(".sig");
    for location in unlinked.into_iter().filter(|location| !is_tools(&location.file)) {
        let message = "is a file, where the hub's client makes links to blobs; there is no digest to hold it against";
        found.say(Check::SnapshotFile, location, message);
    }
}

/// Tells what a file's name alone says of it.
pub(super) fn by_name(location: &Location, found: &mut Found) {
    let base = location.file.rsplit('/').next().unwrap_or_default();
    if is_leftover(base) {
        found.say(Check::LeftoverFile, location.clone(), "was left by a run of this tool that was stopped; remove it");
    } else if unfinished(base).is_some() {
        let message = "is what a download leaves that was not finished, by its name; remove it or fetch it again";
        found.say(Check::UnfinishedDownload, location.clone(), message);
    }
    let lower = base.trim_end().to_ascii_lowercase();
    if is_python(&lower) {
        found.say(Check::CustomCode, location.clone(), "is Python code");
    }
    if is_keras(base) {
        found.say(Check::KerasFile, location.clone(), "is a Keras or HDF5 model by its name");
    }
    if is_native(base) {
        found.say(Check::NativeCode, location.clone(), "is compiled code by its name");
    }
    if is_script(base) {
        found.say(Check::Script, location.clone(), "is a script by its name");
    }
    if is_secret(&lower) {
        found.say(Check::SecretFile, location.clone(), "is what keys and passwords are kept in, by its name");
    }
    if is_other_weights(base) {
        let message = "holds weights by its name, in a form that is not examined here";
        found.say(Check::OtherWeights, location.clone(), message);
    }
    if is_converted(base) {
        let message = "is a conversion of the model by its name, which was not examined";
        found.say(Check::ConvertedModel, location.clone(), message);
    }
}

/// Whether a file is named as what a run of this tool leaves where it is stopped.
fn is_leftover(name: &str) -> bool {
    name.starts_with(UNFINISHED) || name.strip_suffix(".partial").is_some_and(is_kept)
}

/// Tells of the receipt of a patch of a model folder or GGUF, if there is one.
pub(super) fn receipt(model: &Path, location: &Location, found: &mut Found) {
    let (message, evidence) = match Receipt::read(model) {
        Ok(Some(receipt)) if receipt.only_hardens() => {
            let rows: Vec<String> = receipt.spares.iter().map(|spare| spare.stands_for.to_string()).collect();
            let spares = Count(rows.len(), "spare", "spares");
            let message = format!("lists {spares} and {}", Count(receipt.edits.len(), "edit", "edits"));
            let evidence = json!({"stand_in_for": rows, "state": receipt.state, "time_utc": receipt.time_utc});
            return found.add(Check::HardenedReceipt, location.clone(), message, evidence);
        }
        Ok(Some(receipt)) => {
            let neurons: Vec<String> = receipt.asked.iter().take(10).map(|a| a.neuron.to_string()).collect();
            let count = receipt.asked.len();
            let changed = Count(count, "changed neuron", "changed neurons");
            let message = format!("lists {changed} and {}", Count(receipt.edits.len(), "edit", "edits"));
            (message, json!({"neurons": neurons, "count": count, "state": receipt.state, "time_utc": receipt.time_utc}))
        }
        Ok(None) => return,
        Err(e) => ("is named as a receipt of this tool and is none".to_owned(), json!({"problem": e.to_string()})),
    };
    found.add(Check::LesionReceipt, location.clone(), message, evidence);
}

/// Compiled for a processor or an accelerator.
const NATIVE: &[&str] = &[
    ".so",
    ".dll",
    ".dylib",
    ".pyd",
    ".exe",
    ".node",
    ".ko",
    ".sys",
    ".scr",
    ".msi",
    ".wasm",
    ".cubin",
    ".fatbin",
    ".hsaco",
    ".metallib",
];
/// Run by a shell or another interpreter.
const SCRIPTS: &[&str] = &[
    ".sh", ".bash", ".zsh", ".fish", ".command", ".bat", ".cmd", ".ps1", ".psm1", ".vbs", ".wsf", ".js", ".mjs",
    ".cjs", ".pl", ".rb",
];

/// Whether a file is named as compiled code.
pub(super) fn is_native(name: &str) -> bool {
    let lower = name.trim_end().to_ascii_lowercase();
    NATIVE.iter().any(|end| lower.ends_with(end)) || lower.contains(".so.") || is_engine(&lower)
}

/// Whether a file is named as Python code; `name` is in lower case.
pub(super) fn is_python(name: &str) -> bool {
    [".py", ".pyc", ".pyw"].iter().any(|end| name.trim_end().ends_with(end))
}

/// Whether a file is named as a script.
pub(super) fn is_script(name: &str) -> bool {
    let lower = name.trim_end().to_ascii_lowercase();
    SCRIPTS.iter().any(|end| lower.ends_with(end))
}

/// Whether a file is named as one that holds keys or passwords; `name` is in lower case.
fn is_secret(name: &str) -> bool {
    const NAMES: &[&str] = &[
        ".env",
        ".netrc",
        "_netrc",
        ".git-credentials",
        ".pgpass",
        ".pypirc",
        ".htpasswd",
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "id_ecdsa_sk",
        "id_ed25519_sk",
    ];
    // Those that are kept as examples hold none.
    let is_env = name.strip_prefix(".env.").is_some_and(|of| {
        !["example", "sample", "template", "dist", "defaults", "schema"].iter().any(|end| of.ends_with(end))
    });
    is_env || NAMES.contains(&name) || [".p12", ".pfx", ".ppk", ".jks"].iter().any(|end| name.ends_with(end))
}
