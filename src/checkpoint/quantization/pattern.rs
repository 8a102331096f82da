//! How configs name modules.

use crate::checkpoint::config::Reader;
use crate::error::Result;
use fancy_regex::{Regex, RegexBuilder};
use globset::GlobSet;
use serde_json::Value;

/// Names of modules.
#[derive(Debug)]
pub(super) enum Pattern {
    /// The module, or all of a class where it is one of torch's (`Linear`).
    Name(String),
    /// What the name begins with (Python's `re.match`).
    Regex(Box<Regex>),
    Glob(GlobSet),
    /// A part of the name.
    Part(String),
}

impl Pattern {
    pub fn matches(&self, module: &str) -> bool {
        match self {
            Pattern::Name(name) => name == module,
            Pattern::Regex(regex) => regex.is_match(module).unwrap_or(false),
            Pattern::Glob(glob) => glob.is_match(module),
            Pattern::Part(part) => module.contains(part.as_str()),
        }
    }

    /// Whether it is the module's own name.
    pub fn is_name_of(&self, module: &str) -> bool {
        matches!(self, Pattern::Name(name) if name == module)
    }

    /// Whether it names a class and not a module.
    pub fn is_class(&self) -> bool {
        matches!(self, Pattern::Name(name) if name.starts_with(char::is_uppercase) && !name.contains('.'))
    }

    /// Whether it is the class of torch that a module of this name has.
    pub fn is_class_of(&self, module: &str) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        let class = if last.contains("embed") || last == "wte" { "Embedding" } else { "Linear" };
        self.is_name_of(class)
    }
}

/// Steps that a regular expression of a config may take on a name.
const MOST_STEPS: usize = 10_000;
/// Bytes that one may take when it is compiled.
const LARGEST_REGEX: usize = 1 << 20;

/// A list of texts; none where the key is absent.
pub(super) fn names<'a>(c: &Reader<'a>, key: &str) -> Result<Vec<&'a str>> {
    let Some(value) = c.get(key) else { return Ok(Vec::new()) };
    let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    list.ok_or_else(|| c.wrong(key, "a list of names"))
}

/// As compressed-tensors has it: a name, or `re:` and a regular expression.
pub(super) fn pattern(c: &Reader, key: &str, name: &str) -> Result<Pattern> {
    match name.strip_prefix("re:") {
        Some(regex) => regex_of(c, key, regex),
        None => Ok(Pattern::Name(name.to_owned())),
    }
}

pub(super) fn regex_of(c: &Reader, key: &str, regex: &str) -> Result<Pattern> {
    let anchored = format!("^(?:{regex})");
    let built = RegexBuilder::new(&anchored).backtrack_limit(MOST_STEPS).delegate_size_limit(LARGEST_REGEX).build();
    built.map(|regex| Pattern::Regex(Box::new(regex))).map_err(|_| c.wrong(key, "regular expressions"))
}
