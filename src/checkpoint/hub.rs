//! Checkpoints from a Hugging Face hub, in the cache that the Python tools share.

mod cache;
mod remote;
#[cfg(test)]
mod tests;

use super::index::{INDEX, read_index};
use super::tensors::SINGLE;
use crate::error::{Error, Result};
use crate::progress::Progress;
use cache::RepoCache;
use remote::{Expected, Failure, Info, Remote};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// Fetched where the repository has them.
const OPTIONAL: [&str; 4] =
    ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"];

/// Makes sure that the cache holds all that a checkpoint needs, all from one commit, and returns its snapshot folder.
///
/// A download that was cut goes on where it stopped when `fetch` is called again.
///
/// # Errors
/// The repository cannot be reached and the cache lacks a file, it may not be read, it does not exist, it is no
/// safetensors checkpoint, or the user asked to stop.
pub fn fetch(id: &HubId, settings: &HubSettings, progress: &dyn Progress) -> Result<PathBuf> {
    let cache = RepoCache::new(id, &settings.cache)?;
    if settings.offline {
        return cache.complete_snapshot().map_err(|lack| {
            let advice = format!(
                "HF_HUB_OFFLINE is set, and {lack}; unset it to download, or run `hf download {} --revision {}` where \
                 there is a network and bring the cache here",
                id.repo(),
                id.revision()
            );
            id.error(advice)
        });
    }
    let remote = Remote::new(id, settings)?;
    let info = match remote.info() {
        Ok(info) => info,
        Err(Failure::Refused(error)) => return Err(error),
        Err(Failure::Unreachable(reason)) => return without_network(id, &cache, &remote, &reason),
    };
    cache.prepare(&info.commit)?;
    fetch_missing(&cache, &remote, &info, "config and tokenizer", small_files(id, &info)?, progress)?;
    fetch_missing(&cache, &remote, &info, "weights", weight_files(id, &cache, &info)?, progress)?;
    cache.point_to(&info.commit);
    Ok(cache.snapshot(&info.commit))
}

fn without_network(id: &HubId, cache: &RepoCache, remote: &Remote, reason: &str) -> Result<PathBuf> {
    match cache.complete_snapshot() {
        Ok(folder) => {
            let endpoint = remote.endpoint();
            tracing::warn!("hub {id}: cannot reach {endpoint} ({reason}); using {}", folder.display());
            Ok(folder)
        }
        Err(lack) => Err(id.error(format!(
            "cannot reach {} ({reason}); {lack}; check HF_ENDPOINT or the network, or set HF_HUB_OFFLINE=1 to use \
             the cache",
            remote.endpoint()
        ))),
    }
}

/// What is wanted besides the weights; an error where it is no checkpoint that can be audited.
fn small_files(id: &HubId, info: &Info) -> Result<Vec<String>> {
    let has = |file: &str| info.files.contains_key(file);
    let ends_with = |ends: &[&str]| info.files.keys().find(|f| ends.iter().any(|end| f.ends_with(end)));
    if !has(SINGLE) && !has(INDEX) {
        let other = if let Some(gguf) = ends_with(&[".gguf"]) {
            format!(
                "holds GGUF files but no {SINGLE} or {INDEX}; download one ({gguf}) and give its path, or turn it into \
                 a checkpoint with `achilles-audit import FILE.gguf -o DIR`"
            )
        } else if let Some(pickle) = ends_with(&[".bin", ".pt", ".pth", ".ckpt", ".pkl"]) {
            format!(
                "has no safetensors, only pickle ({pickle}), which can run code and is never read; look for a revision \
                 with safetensors (often refs/pr/N), or convert it with transformers: save_pretrained(DIR)"
            )
        } else if let Some(adapter) = ends_with(&["adapter_model.safetensors"]) {
            format!("is an adapter ({adapter}), not a checkpoint; merge it into its base model first")
        } else {
            format!("has neither {SINGLE} nor {INDEX}")
        };
        return Err(id.error(other));
    }
    for file in [CONFIG, TOKENIZER] {
        if !has(file) {
            let problem = format!(
                "has no {file} at commit {}; look for a revision that has it, or write the checkpoint anew with \
                 transformers: save_pretrained(DIR) of the model and of AutoTokenizer",
                info.commit
            );
            return Err(id.error(problem));
        }
    }
    let mut files = vec![CONFIG.to_owned(), TOKENIZER.to_owned()];
    files.extend(OPTIONAL.iter().filter(|f| has(f)).map(|f| f.to_string()));
    if !has(SINGLE) {
        files.push(INDEX.to_owned());
    }
    Ok(files)
}

fn weight_files(id: &HubId, cache: &RepoCache, info: &Info) -> Result<Vec<String>> {
    if info.files.contains_key(SINGLE) {
        return Ok(vec![SINGLE.to_owned()]);
    }
    let index = cache.snapshot(&info.commit).join(INDEX);
    let shards = shards_of(&index)?;
    if let Some(absent) = shards.iter().find(|s| !info.files.contains_key(*s)) {
        return Err(id.error(format!("{INDEX} names {absent}, which the repository does not have")));
    }
    Ok(shards.into_iter().collect())
}

/// The shards that an index names, each a plain file name: what a file says never leads out of its folder.
fn shards_of(index: &Path) -> Result<BTreeSet<String>> {
    Ok(read_index(index)?.into_values().collect())
}

fn fetch_missing(
    cache: &RepoCache,
    remote: &Remote,
    info: &Info,
    what: &str,
    files: Vec<String>,
    progress: &dyn Progress,
) -> Result<()> {
    let expected = |file: &str| info.files.get(file).cloned().unwrap_or_default();
    let mut wanted: Vec<(String, Expected)> = Vec::new();
    for file in files.iter().filter(|f| !cache.holds(&info.commit, f, expected(f).size)) {
        progress.advance(0)?;
        let head = remote.head(&info.commit, file, expected(file))?;
        match cache.blob(&head.etag, head.size) {
            Some(_) => cache.link(&info.commit, file, &head.etag)?,
            None => wanted.push((file.clone(), head)),
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let total = wanted.iter().filter_map(|(_, head)| head.size).sum();
    progress.begin(&format!("download {}: {what}", remote.id().repo()), total, "bytes");
    let done = wanted.iter().try_for_each(|(file, head)| {
        remote.download(&info.commit, file, head, cache, progress)?;
        cache.link(&info.commit, file, &head.etag)
    });
    progress.end();
    done
}

/// A repository on the hub and, where given, a branch, tag or commit of it: `org/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubId {
    repo: String,
    revision: Option<String>,
}

impl HubId {
    /// `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit; `main` where none was given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    fn error(&self, problem: impl Into<String>) -> Error {
        Error::Hub { id: self.to_string(), problem: problem.into() }
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.repo),
            None => f.write_str(&self.repo),
        }
    }
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<HubId> {
        let bad = |problem: String| Error::Name { what: "hub id", text: text.to_owned(), problem };
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let parts: Vec<&str> = repo.split('/').collect();
        if parts.len() != 2 {
            return Err(bad("expected org/name[@revision], with one slash before the revision".into()));
        }
        // The hub's own rule; and `--` stands for the slash in the cache's folder names.
        for part in parts {
            if !is_plain(part) || part.ends_with(['.', '-']) || part.contains("--") || part.contains("..") {
                let rule = "letters, digits, `.`, `_`, `-`; no `.` or `-` at either end, no `--`, no `..`, at most 96";
                return Err(bad(format!("{part:?} is no name on the hub; expected {rule}")));
            }
        }
        if let Some(revision) = revision
            && (revision.len() > 200 || revision.split('/').any(|part| !is_plain(part) || part.contains("..")))
        {
            let rule = "a branch, tag or commit of letters, digits, `.`, `_`, `-` and `/`, without `..`";
            return Err(bad(format!("{revision:?} is no revision; expected {rule}")));
        }
        Ok(HubId { repo: repo.to_owned(), revision: revision.map(str::to_owned) })
    }
}

/// A name that is one path component and needs no quoting: not `..`, not hidden, not an option.
fn is_plain(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=96).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(plain)
}

/// Where and how to look for hub repositories.
#[derive(Clone)]
pub struct HubSettings {
    /// The folder of `models--org--name` folders.
    pub cache: PathBuf,
    /// `https://huggingface.co` or a mirror of it, `http(s)://host[:port][/path]`.
    pub endpoint: String,
    /// Sent to the endpoint's host, and to no other.
    pub token: Option<String>,
    /// Whether to use the cache alone.
    pub offline: bool,
}

impl HubSettings {
    /// Reads the environment as the Python `huggingface_hub` does: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE,
    /// HF_TOKEN or the token file of `hf auth login`, HF_HUB_DISABLE_IMPLICIT_TOKEN.
    ///
    /// # Errors
    /// No variable says where the cache is and there is no home folder, or a variable makes no sense.
    pub fn from_env() -> Result<HubSettings> {
        HubSettings::from_vars(|name| std::env::var_os(name))
    }

    /// [`from_env`](HubSettings::from_env) with another source of variables.
    ///
    /// # Errors
    /// As there.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<HubSettings> {
        let first = |names: &[&str]| names.iter().find_map(|name| var(name).filter(|value| !value.is_empty()));
        let home = first(&["HOME", "USERPROFILE"]).map(PathBuf::from);
        let path = |names: &[&str]| match (first(names).map(PathBuf::from), &home) {
            (Some(path), Some(home)) => Some(path.strip_prefix("~").map(|rest| home.join(rest)).unwrap_or(path)),
            (path, _) => path,
        };
        let text = |names: &[&str]| match first(names).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value.trim().to_owned())),
            Some(Err(_)) => Err(Error::input(format!("{}: expected text in UTF-8", names.join(" or ")))),
        };
        let is_true = |names: &[&str]| {
            let value = first(names).map(|v| v.to_string_lossy().to_ascii_uppercase());
            value.is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.as_str()))
        };
        let hugging_home = path(&["HF_HOME"])
            .or_else(|| path(&["XDG_CACHE_HOME"]).map(|p| p.join("huggingface")))
            .or_else(|| home.as_ref().map(|p| p.join(".cache/huggingface")));
        let cache = path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
            .or_else(|| hugging_home.as_ref().map(|p| p.join("hub")))
            .ok_or_else(|| Error::input("no place for the hub cache: HOME is not set; set HF_HOME to a folder"))?;
        let token_file = path(&["HF_TOKEN_PATH"]).or_else(|| hugging_home.map(|p| p.join("token")));
        let token = if is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            None
        } else {
            text(&["HF_TOKEN"])?.or_else(|| std::fs::read_to_string(token_file?).ok())
        };
        Ok(HubSettings {
            cache: std::path::absolute(&cache).map_err(Error::io(&cache))?,
            endpoint: text(&["HF_ENDPOINT"])?.unwrap_or_else(|| "https://huggingface.co".into()),
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            offline: is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
        })
    }
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("offline", &self.offline)
            .finish()
    }
}
