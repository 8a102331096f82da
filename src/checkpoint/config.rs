//! config.json, in the forms that transformers 4 and transformers 5 write.

use super::stand_in::StandIn;
use super::{python_json, sha256_hex};
use crate::error::{Error, Result};
use crate::files;
use serde_json::{Map, Value};
use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A config.json as read: not yet judged by the family it belongs to.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    sha256: String,
    map: Map<String, Value>,
    made: Made,
}

/// What was made of a config, by its type.
type Made = Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>;

impl ConfigFile {
    /// Reads a config.json.
    ///
    /// # Errors
    /// It cannot be read or is not a JSON object.
    pub fn read(path: &Path) -> Result<ConfigFile> {
        let text = files::read_text(path, python_json::LARGEST)?;
        match StandIn::of_text(text.as_bytes()) {
            Some(stand_in) => Err(Error::file(path, stand_in.to_string())),
            None => ConfigFile::parse(path, &text),
        }
    }

    /// Reads a config.json's text, be it as Python writes it; `path` is for messages.
    ///
    /// # Errors
    /// It is not a JSON object, or holds far more values than a config does.
    pub fn parse(path: &Path, text: &str) -> Result<ConfigFile> {
        tracing::trace!(path = %path.display(), "a config is parsed");
        // A value takes many times the memory of its shortest text, `0,`. This counts those in strings too.
        let values = text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
        if values > MOST_VALUES {
            return Err(Error::file(path, format!("holds over {MOST_VALUES} values; expected a model config")));
        }
        let not_config = |e| Error::file(path, format!("is not a model config: {e}"));
        let map: Map<String, Value> = serde_json::from_str(&python_json::standard(text).0).map_err(not_config)?;
        Ok(ConfigFile { path: path.into(), sha256: sha256_hex(text.as_bytes()), map, made: Made::default() })
    }

    /// A config made from other metadata, such as a GGUF's.
    pub fn from_map(path: &Path, map: Map<String, Value>) -> ConfigFile {
        let text = Value::Object(map.clone()).to_string();
        ConfigFile { path: path.into(), sha256: sha256_hex(text.as_bytes()), map, made: Made::default() }
    }

    /// Where it lies, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the file's bytes, lower-case hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The top-level object.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// What `make` makes of it, which is kept, so that everybody who looks at a checkpoint gets the same.
    pub(crate) fn once<T: Any + Clone + Send + Sync>(&self, make: fn(&ConfigFile) -> T) -> T {
        let mut all = self.made.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = all.get(&TypeId::of::<T>()).and_then(|known| known.downcast_ref::<T>()) {
            return known.clone();
        }
        let made = make(self);
        all.insert(TypeId::of::<T>(), Arc::new(made.clone()));
        made
    }

    /// A reader of the top-level object.
    pub fn reader(&self) -> Reader<'_> {
        Reader { path: &self.path, prefix: String::new(), map: &self.map, used: RefCell::default() }
    }
}

/// More values than any config has: labels of a classifier are the most of them.
const MOST_VALUES: usize = 50_000;

/// The largest whole number taken from a config: the product of two of them fits in 64 bits with room to spare.
const LARGEST: u64 = i32::MAX as u64;

/// Typed access to a JSON object that remembers which keys were asked for, so that what nobody asked for can be judged.
#[derive(Debug)]
pub struct Reader<'a> {
    path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
    used: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Reader<'a> {
    /// The value of `key`; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.map.get_key_value(key)?;
        self.used.borrow_mut().insert(key);
        (!value.is_null()).then_some(value)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether `key` is there, be it as `null`.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// An error that names the key, what was expected and what was found.
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::file(self.path, self.problem(key, expected))
    }

    /// As [`Reader::wrong`], of a key that may be left out: then what loaders take for it is not known here, and the
    /// config is not understood rather than wrong.
    pub fn wrong_or_left_out(&self, key: &str, expected: &str) -> Error {
        match self.has(key) {
            true => self.wrong(key, expected),
            false => Error::unsupported(self.path, self.problem(key, expected)),
        }
    }

    fn problem(&self, key: &str, expected: &str) -> String {
        let found = self.map.get(key).map_or_else(|| "nothing".to_owned(), |value| shortened(&value.to_string()));
        format!("{}{key}: expected {expected}, found {found}", self.prefix)
    }

    /// A non-negative integer, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn usize_opt(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let whole =
            value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
        match whole {
            Some(n) if n <= LARGEST => Ok(Some(n as usize)),
            _ => Err(self.wrong(key, &format!("a whole number up to {LARGEST}"))),
        }
    }

    /// A non-negative integer, or `default` where the key is absent. `null` is not absent here: config classes take
    /// it for a value, and stumble over it.
    ///
    /// # Errors
    /// It is something else.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.usize_opt(key)? {
            None if self.has(key) => Err(self.wrong(key, "a whole number")),
            n => Ok(n.unwrap_or(default)),
        }
    }

    /// A positive integer, or `default` where the key is absent; not `null`.
    ///
    /// # Errors
    /// It is zero or something else.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.usize_or(key, default)? {
            0 => Err(self.wrong(key, "a positive whole number")),
            n => Ok(n),
        }
    }

    /// A finite number, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn f64_opt(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(n) if n.is_finite() => Ok(Some(n)),
            _ => Err(self.wrong(key, "a number")),
        }
    }

    /// A finite number that has to be there.
    ///
    /// # Errors
    /// It is missing or something else.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.f64_opt(key)?.ok_or_else(|| self.wrong(key, "a number"))
    }

    /// A finite number, or `default` where the key is absent; not `null`.
    ///
    /// # Errors
    /// It is something else.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.f64_opt(key)? {
            None if self.has(key) => Err(self.wrong(key, "a number")),
            n => Ok(n.unwrap_or(default)),
        }
    }

    /// A truth value, or `default` where absent. `null` is false, as Python has it, where that is the default too.
    ///
    /// # Errors
    /// It is something else.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None if !default || !self.has(key) => Ok(default),
            value => value.and_then(Value::as_bool).ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A text, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn str_opt(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a text"))
    }

    /// A list of numbers, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn f64s_opt(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = value.as_array().and_then(|a| a.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        numbers.map(Some).ok_or_else(|| self.wrong(key, "a list of numbers"))
    }

    /// An object, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn object_opt(&self, key: &str) -> Result<Option<Reader<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(Reader { path: self.path, prefix: format!("{}{key}.", self.prefix), map, used: RefCell::default() }))
    }

    /// Keys with a value that nobody has asked for yet.
    pub fn unused(&self) -> Vec<(&'a str, &'a Value)> {
        let used = self.used.borrow();
        let asked = |key: &str| used.contains(key);
        self.map.iter().filter(|(k, v)| !v.is_null() && !asked(k)).map(|(k, v)| (k.as_str(), v)).collect()
    }
}

/// Text cut to a length that fits in an error line.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(57).chain("...".chars()).collect() }
}
