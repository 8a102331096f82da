//! Where the hub is, where its cache is, and who asks.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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
    /// How long to wait for anything small, and for each MiB of what is large.
    pub patience: Duration,
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
    /// As [`from_env`](Self::from_env), of variables that `var` gives.
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
            patience: Duration::from_secs(30),
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
            .field("patience", &self.patience)
            .finish()
    }
}
