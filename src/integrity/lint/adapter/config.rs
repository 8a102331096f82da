//! adapter_config.json: which modules of a base an adapter changes, and with what rank.

use crate::checkpoint::ConfigFile;
use crate::error::Result;
use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What an adapter's config says.
pub struct AdapterConfig {
    /// `LORA`, `IA3`, …
    pub kind: String,
    pub targets: Targets,
    pub excluded: Option<Pattern>,
    /// Modules that are saved whole.
    pub saved: BTreeSet<String>,
    /// That of modules of which `ranks` says nothing.
    rank: usize,
    ranks: Keys,
    alphas: Keys,
    /// What the change is multiplied by, but for what it is divided by.
    pub alpha: f64,
    layers: Option<Vec<u64>>,
    settings: Map<String, Value>,
}

/// The modules that are changed.
pub enum Targets {
    /// The method's own for the base's family, or what is no module.
    NotSaid,
    /// Every linear module but the head.
    AllLinear,
    Pattern(Pattern),
}

/// Names of modules as PEFT matches them.
pub enum Pattern {
    /// The whole path, or its end after a dot.
    Ends(BTreeSet<String>),
    /// A regular expression for the whole path, or why it cannot be read here.
    Whole(String, std::result::Result<Regex, Box<fancy_regex::Error>>),
}

impl Pattern {
    fn read(value: &Value) -> Option<Pattern> {
        match value {
            Value::String(text) => Some(Pattern::Whole(text.clone(), regex(&format!("^(?:{text})$")))),
            Value::Array(list) => {
                Some(Pattern::Ends(list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()))
            }
            _ => None,
        }
    }

    /// None where it cannot be told.
    pub fn matches(&self, module: &str) -> Option<bool> {
        match self {
            Pattern::Ends(names) => Some(ends(module).any(|end| names.contains(end))),
            Pattern::Whole(_, regex) => regex.as_ref().ok()?.is_match(module).ok(),
        }
    }
}

/// Parts of a path that are looked at; no module lies deeper.
const DEEPEST: usize = 64;
/// Steps back that an expression may take on one name: those that are meant for names need few.
const MOST_STEPS: usize = 10_000;

fn regex(pattern: &str) -> std::result::Result<Regex, Box<fancy_regex::Error>> {
    RegexBuilder::new(pattern).backtrack_limit(MOST_STEPS).build().map_err(Box::new)
}

/// A path, and all that it ends in after a dot.
pub fn ends(module: &str) -> impl Iterator<Item = &str> {
    let after = module.rmatch_indices('.').take(DEEPEST).map(|(dot, _)| &module[dot + 1..]);
    std::iter::once(module).chain(after)
}

/// Whether a path is this one or ends in it.
pub fn ends_in(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// PEFT's methods that are no change of modules but inputs that are put before the text.
const OF_PROMPTS: &[&str] = &["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"];
/// Methods whose names are known here; of others nothing is compared.
const KNOWN: &[&str] = &[
    "LORA",
    "ADALORA",
    "IA3",
    "LOHA",
    "LOKR",
    "OFT",
    "BOFT",
    "VERA",
    "FOURIERFT",
    "LN_TUNING",
    "HRA",
    "VBLORA",
    "BONE",
    "MISS",
    "RANDLORA",
    "ROAD",
    "C3A",
    "SHIRA",
    "TRAINABLE_TOKENS",
];

impl AdapterConfig {
    /// Reads what PEFT reads.
    ///
    /// # Errors
    /// A key has a value that it cannot follow.
    pub fn read(config: &ConfigFile) -> Result<AdapterConfig> {
        let c = config.reader();
        let Some(kind) = c.str_opt("peft_type")? else { return Err(c.wrong("peft_type", "a method, such as LORA")) };
        let has_rank = ["LORA", "LOHA", "LOKR"].contains(&kind);
        let get = |key: &str| c.get(key);
        let targets = match get("target_modules") {
            None => Targets::NotSaid,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
            Some(value) => match Pattern::read(value) {
                Some(pattern) => Targets::Pattern(pattern),
                None => return Err(c.wrong("target_modules", "a list of names, a regular expression or all-linear")),
            },
        };
        let map = |key: &str| get(key).and_then(Value::as_object).into_iter().flatten();
        let mut ranks = Vec::new();
        // Of AdaLoRA, which of the rank's parts are kept.
        for (key, rank) in map("rank_pattern").filter(|_| has_rank) {
            match rank.as_u64().and_then(|rank| usize::try_from(rank).ok()) {
                Some(rank) if rank > 0 => ranks.push((key.clone(), rank)),
                _ => return Err(c.wrong("rank_pattern", "positive whole numbers by names of modules")),
            }
        }
        let alphas = map("alpha_pattern").filter(|_| has_rank).map(|(key, _)| (key.clone(), 0));
        let layers = match get("layers_to_transform") {
            Some(Value::Array(list)) => Some(list.iter().filter_map(Value::as_u64).collect()),
            Some(Value::Number(number)) => Some(number.as_u64().into_iter().collect()),
            _ => None,
        };
        let saved = get("modules_to_save").and_then(Value::as_array).into_iter().flatten();
        Ok(AdapterConfig {
            kind: kind.to_owned(),
            targets,
            excluded: get("exclude_modules").and_then(Pattern::read),
            saved: saved.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            rank: if has_rank { c.size_or("r", 8)? } else { 0 },
            ranks: Keys::of(ranks.into_iter()),
            alphas: Keys::of(alphas),
            alpha: if kind == "LORA" { c.f64_or("lora_alpha", 8.0)? } else { 1.0 },
            layers,
            settings: config.map().clone(),
        })
    }

    /// Whether it is known here what such adapters hold.
    pub fn is_known(&self) -> bool {
        KNOWN.contains(&self.kind.as_str()) || self.is_of_prompts()
    }

    /// Whether it puts something before the text and changes no module.
    pub fn is_of_prompts(&self) -> bool {
        OF_PROMPTS.contains(&self.kind.as_str())
    }

    /// Whether a switch is on.
    pub fn is_set(&self, key: &str) -> bool {
        self.settings.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A whole number.
    pub fn number(&self, key: &str) -> Option<usize> {
        self.settings.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok())
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.settings.get(key).and_then(Value::as_str)
    }

    /// Names in a list.
    pub fn names(&self, key: &str) -> Vec<&str> {
        self.settings.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Whether anything is said of a key.
    pub fn has(&self, key: &str) -> bool {
        let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        self.settings.get(key).is_some_and(|value| !is_empty(value))
    }

    /// Whether all layers are changed alike, as far as it says.
    pub fn is_of_all_layers(&self) -> bool {
        self.layers.is_none() && !matches!(self.targets, Targets::Pattern(Pattern::Whole(..)))
    }

    /// Whether a module of the base is to be changed; none where that cannot be told. `is_linear`: it is one that
    /// `all-linear` means.
    pub fn is_target(&self, module: &str, is_linear: bool) -> Option<bool> {
        if self.excluded.as_ref().and_then(|excluded| excluded.matches(module)) == Some(true) {
            return Some(false);
        }
        let matched = match &self.targets {
            Targets::NotSaid => return None,
            Targets::AllLinear => is_linear,
            Targets::Pattern(pattern) => pattern.matches(module)?,
        };
        Some(matched && self.is_of_layers(module))
    }

    /// Whether the module is in one of the layers that are changed.
    fn is_of_layers(&self, module: &str) -> bool {
        let Some(layers) = &self.layers else { return true };
        let mut numbers = module.split('.').filter_map(|part| part.parse::<u64>().ok());
        numbers.any(|layer| layers.contains(&layer))
    }

    /// The rank that a module's change is to have.
    pub fn rank_of(&self, module: &str) -> usize {
        self.ranks.get(module).map_or(self.rank, |(_, rank)| rank)
    }

    /// Keys of `rank_pattern` and `alpha_pattern` that none of these modules is meant by.
    pub fn unused_patterns(&self, modules: &[&str]) -> Vec<(&'static str, &str)> {
        let ranks = self.ranks.unused(modules).into_iter().map(|key| ("rank_pattern", key));
        ranks.chain(self.alphas.unused(modules).into_iter().map(|key| ("alpha_pattern", key))).collect()
    }
}

/// Values by what modules are meant, as PEFT has it: a key is a regular expression for the end of a path or, from `^` on,
/// for its beginning.
#[derive(Default)]
struct Keys {
    /// Those that are names, which most are.
    names: BTreeMap<String, usize>,
    others: Vec<(String, Option<Regex>, usize)>,
}

/// Keys that are no names and are looked at.
const MOST_EXPRESSIONS: usize = 100;

impl Keys {
    fn of(keys: impl Iterator<Item = (String, usize)>) -> Keys {
        let is_name = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let mut own = Keys::default();
        for (key, value) in keys {
            if is_name(&key) {
                own.names.insert(key, value);
            } else if own.others.len() < MOST_EXPRESSIONS {
                let whole = if key.starts_with('^') { key.clone() } else { format!(r"^(.*\.)?(?:{key})$") };
                own.others.push((key, regex(&whole).ok(), value));
            }
        }
        own
    }

    /// The key that a module is meant by, and its value.
    fn get(&self, module: &str) -> Option<(&str, usize)> {
        let by_name = || ends(module).find_map(|end| self.names.get_key_value(end));
        let is_it = |pattern: &Option<Regex>| pattern.as_ref().is_some_and(|of| of.is_match(module).unwrap_or(false));
        let by_pattern = || self.others.iter().find(|(_, pattern, _)| is_it(pattern));
        let named = by_name().map(|(key, value)| (key.as_str(), *value));
        named.or_else(|| by_pattern().map(|(key, _, value)| (key.as_str(), *value)))
    }

    /// Those that none of these modules is meant by.
    fn unused(&self, modules: &[&str]) -> Vec<&str> {
        let used: BTreeSet<&str> = modules.iter().filter_map(|module| Some(self.get(module)?.0)).collect();
        let all = self.names.keys().chain(self.others.iter().map(|(key, ..)| key)).map(String::as_str);
        all.filter(|key| !used.contains(key)).collect()
    }
}

/// PEFT puts all of these names into the config of an adapter for the task, and a model has one of them.
pub const HEADS_OF_TASKS: &[&str] = &["classifier", "score", "qa_outputs"];

/// Whether a module gives the model's answers, which `all-linear` leaves out.
pub fn is_head(module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or_default();
    ["lm_head", "embed_out"].contains(&last) || HEADS_OF_TASKS.contains(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_targets_mean_the_modules_that_peft_means() {
        let keys =
            [("down_proj", 16), ("layers.0.self_attn.q_proj", 2), (r"^model\.layers\.1\.", 4), ("up_pro(j)?", 8)];
        let keys = Keys::of(keys.into_iter().map(|(key, value)| (key.to_owned(), value)));
        for (module, value) in [
            ("model.layers.3.mlp.down_proj", Some(16)),
            ("model.layers.3.mlp.my_down_proj", None),
            ("model.layers.0.self_attn.q_proj", Some(2)),
            ("model.layers.10.self_attn.q_proj", None),
            ("model.layers.1.self_attn.q_proj", Some(4)),
            ("a.model.layers.1.self_attn.q_proj", None),
            ("up_proj", Some(8)),
            ("mlp.up_projs", None),
        ] {
            assert_eq!(keys.get(module).map(|(_, value)| value), value, "{module}");
        }
        assert_eq!(
            keys.unused(&["mlp.down_proj", "mlp.up_proj"]),
            ["layers.0.self_attn.q_proj", r"^model\.layers\.1\."]
        );
        let pattern = |value: Value| Pattern::read(&value).unwrap();
        let list = pattern(serde_json::json!(["q_proj", "to_out.0"]));
        for (module, is) in
            [("a.q_proj", true), ("q_proj", true), ("a.xq_proj", false), ("b.to_out.0", true), ("b.0", false)]
        {
            assert_eq!(list.matches(module), Some(is), "{module}");
        }
        let whole = pattern("^(?!.*vision).*q_proj".into());
        assert_eq!([whole.matches("a.q_proj"), whole.matches("vision.q_proj")], [Some(true), Some(false)]);
        assert_eq!(pattern("(".into()).matches("a"), None);
        // One that would take ages is given up.
        assert_eq!(pattern("(a*)*(?=b)c".into()).matches(&"a".repeat(60)), None);
    }
}
