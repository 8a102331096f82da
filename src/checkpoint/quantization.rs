//! What a config says of how its weights are packed: `quantization_config` and its other spellings.

mod method;
mod pattern;

use super::ConfigFile;
use super::config::Reader;
use crate::error::{Error, Result};
pub use method::Method;
use method::{beside, method};
use pattern::{Pattern, names, pattern, regex_of};
use serde_json::Value;

/// The keys under which configs say it, the usual one first.
pub const KEYS: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

/// Files beside the config that said it before the config did.
pub const FILES: [&str; 3] = ["hf_quant_config.json", "quantize_config.json", "quant_config.json"];

/// What packed the weights of a checkpoint, by its config.
#[derive(Debug)]
pub struct Quantization {
    /// The tool or format.
    pub method: Method,
    groups: Vec<Group>,
    /// Modules whose weights are not packed.
    ignored: Vec<Pattern>,
    /// Modules may be packed in several ways.
    pub is_mixed: bool,
    /// What the model computes with that no weight holds.
    beside: Option<String>,
    /// What else has to be stored, by the config.
    pub stores: Stores,
}

/// What a config says is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stores {
    /// Codes in place of weights: not where only activations are quantized, or codes are made when the weights are loaded.
    pub codes: bool,
    /// Scales of the inputs of modules, which are not worked out anew for each.
    pub input_scales: bool,
}

/// Modules that are packed alike.
#[derive(Debug)]
struct Group {
    /// Which they are; all that no other group has where there are none.
    targets: Vec<Pattern>,
    /// None where they are not packed.
    scheme: Option<Scheme>,
}

/// How the weights of a module are packed, as far as the config has to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scheme {
    /// Bits of a code.
    pub bits: Option<u32>,
    /// Whether a code is a float; none where the config has nothing of its kind.
    pub is_float: Option<bool>,
    /// Rows and columns that share a scale.
    pub block: Option<[usize; 2]>,
    /// Columns that share a scale.
    pub group: Option<usize>,
    /// Zero points are stored less one (GPTQ's first form).
    pub zeros_less_one: bool,
    /// Columns are not in the order of their groups: a tensor has to tell the group of each (GPTQ's `desc_act`).
    pub is_reordered: bool,
}

/// More names and patterns than any config has.
const MOST_PATTERNS: usize = 20_000;

/// What follows a module's name in that of what concerns its inputs alone.
pub const OF_INPUTS: &[&str] = &[
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    "_input_scale",
    "_activation_scale",
];

/// The same of outputs, and of the cache of keys and values.
pub const OF_OUTPUTS: &[&str] = &[
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".kv_scale",
    ".prob_scale",
    ".output_scale",
    ".k_zero_point",
    ".v_zero_point",
];

/// Whether a tensor is a scale of activations or of the cache of keys and values, which no weight depends on.
pub fn is_of_activations(name: &str) -> bool {
    OF_INPUTS.iter().chain(OF_OUTPUTS).any(|end| name.ends_with(end))
}

impl Quantization {
    /// What `config` says; none where it says nothing of it.
    ///
    /// # Errors
    /// What it says cannot be: the message names the key, what was expected and what is there.
    pub fn read(config: &ConfigFile) -> Result<Option<Quantization>> {
        let whole = config.reader();
        let text = whole.object_opt("text_config").ok().flatten();
        for reader in [Some(&whole), text.as_ref()].into_iter().flatten() {
            for key in KEYS {
                if let Some(settings) = reader.object_opt(key)?.filter(|settings| !settings.is_empty()) {
                    return Quantization::of(&settings).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// The settings of Model Optimizer's `hf_quant_config.json`, or of another file that holds them alone.
    ///
    /// # Errors
    /// As [`Quantization::read`].
    pub fn of_file(file: &ConfigFile) -> Result<Quantization> {
        let whole = file.reader();
        match whole.object_opt("quantization")? {
            Some(settings) => Quantization::of(&settings),
            None => Quantization::of(&whole),
        }
    }

    fn of(c: &Reader) -> Result<Quantization> {
        let method = method(c)?;
        let ignored = ignored(c, &method)?;
        let bits = |c: &Reader, key: &str| match c.usize_opt(key)? {
            Some(bits @ (1..=8 | 16)) => Ok(Some(bits as u32)),
            None => Ok(None),
            Some(_) => Err(c.wrong(key, "1 to 8 or 16 bits")),
        };
        let mut groups = Vec::new();
        match &method {
            Method::CompressedTensors | Method::ModelOpt => {
                let of_config = c.object_opt("config_groups")?;
                for (key, _) in of_config.as_ref().map(Reader::unused).unwrap_or_default() {
                    let group = of_config.as_ref().and_then(|c| c.object_opt(key).transpose()).transpose()?;
                    let Some(group) = group else { continue };
                    let targets = names(&group, "targets")?.into_iter().map(|name| pattern(&group, "targets", name));
                    let targets = targets.collect::<Result<Vec<_>>>()?;
                    let Some(weights) = group.object_opt("weights")? else { continue };
                    let scheme = Scheme {
                        bits: bits(&weights, "num_bits")?,
                        is_float: weights.str_opt("type")?.map(|kind| kind == "float"),
                        block: block(&weights, "block_structure")?,
                        group: group_size(&weights)?,
                        ..Scheme::default()
                    };
                    groups.push(Group { targets, scheme: Some(scheme) });
                }
            }
            Method::Gptq => {
                let format = agreed(c, &["checkpoint_format", "format"], &["gptq", "gptq_v2"])?;
                let scheme = Scheme {
                    bits: bits(c, "bits")?,
                    group: group_size(c)?,
                    zeros_less_one: format != "gptq_v2",
                    // With static groups columns are in order again.
                    is_reordered: c.bool_or("desc_act", false)? && !c.bool_or("static_groups", false)?,
                    block: None,
                    is_float: None,
                };
                groups = dynamic(c, &scheme, bits)?;
            }
            Method::Awq => {
                agreed(c, &["version", "checkpoint_format", "format"], &["gemm"])?;
                let width = if c.has("bits") { "bits" } else { "w_bit" };
                let scheme = Scheme { bits: bits(c, width)?, group: group_size(c)?, ..Scheme::default() };
                groups = dynamic(c, &scheme, bits)?;
            }
            Method::Fp8 => {
                let scheme = Scheme { block: block(c, "weight_block_size")?, ..Scheme::default() };
                groups.push(Group { targets: Vec::new(), scheme: Some(scheme) });
            }
            _ => {}
        }
        let is_mixed = groups.len() > 1 || c.has("quantized_layers") || c.has("dynamic") || c.has("extra_config");
        if ignored.len().saturating_add(groups.iter().map(|group| group.targets.len()).sum()) > MOST_PATTERNS {
            return Err(c.wrong("ignore", &format!("at most {MOST_PATTERNS} names")));
        }
        let stores = stores(c, &method, !groups.is_empty());
        Ok(Quantization { method, groups, ignored, is_mixed, beside: beside(c)?, stores })
    }

    /// Whether the config says that this module's weights are not packed.
    pub fn ignores(&self, module: &str) -> bool {
        self.ignored.iter().any(|pattern| pattern.matches(module)) || self.leaves(module)
    }

    /// Whether it is of a group that is not packed.
    fn leaves(&self, module: &str) -> bool {
        self.group(module).is_some_and(|group| group.scheme.is_none())
    }

    /// The group that a module is of: its own name counts before patterns, these before its class, as compressed-tensors
    /// has it.
    fn group(&self, module: &str) -> Option<&Group> {
        let of = |is_of: fn(&Pattern, &str) -> bool| {
            self.groups.iter().find(|group| group.targets.iter().any(|target| is_of(target, module)))
        };
        let ways = [Pattern::is_name_of, Pattern::matches, Pattern::is_class_of];
        ways.into_iter().find_map(of).or_else(|| self.groups.iter().find(|group| group.targets.is_empty()))
    }

    /// As [`Quantization::ignores`], by whole names: tools differ in whether a part of one (`mlp.gate` of `mlp.gate_proj`)
    /// counts.
    pub fn names_as_ignored(&self, module: &str) -> bool {
        let dotted = format!(".{module}.");
        self.ignored.iter().any(|pattern| match pattern {
            Pattern::Part(part) => dotted.contains(&format!(".{}.", part.trim_matches('.'))),
            _ => pattern.matches(module),
        }) || self.leaves(module)
    }

    /// Whether the config says that a linear module of this name is packed, whatever is stored.
    pub fn packs(&self, module: &str) -> bool {
        !self.ignores(module) && (self.groups.is_empty() || self.group(module).is_some())
    }

    /// Whether a module may be one of those that are packed, by what the config says of those: of what class a module is
    /// is not known.
    pub fn may_target(&self, module: &str) -> bool {
        let may = |pattern: &Pattern| pattern.is_class() || pattern.matches(module);
        let of = |group: &Group| group.targets.is_empty() || group.targets.iter().any(may);
        self.groups.is_empty() || self.groups.iter().any(of)
    }

    /// How the config says that a module's weights are packed.
    pub fn scheme(&self, module: &str) -> Scheme {
        let usual = || self.groups.iter().find(|group| group.targets.is_empty()).or(self.groups.first());
        let of = |group: &Group| group.scheme.clone();
        self.group(module).and_then(of).or_else(|| usual().and_then(of)).unwrap_or_default()
    }

    /// Why packed weights are not read, whatever they are stored as; none where the method is known here.
    pub fn refusal(&self) -> Option<String> {
        let Method::Other(method) = &self.method else { return None };
        Some(format!("quantized with {method}, which is not supported; use the original"))
    }

    /// Refuses a method that is not known here, and what would be computed with beside the weights.
    ///
    /// # Errors
    /// It is not known, or there is such.
    pub fn check_known(&self, config: &ConfigFile) -> Result<()> {
        let of_method = self.refusal().map(|why| format!("the weights are {why}"));
        let of_rest = || self.beside.as_ref().map(|what| format!("{what}, which is not computed; use the original"));
        of_method.or_else(of_rest).map_or(Ok(()), |problem| Err(Error::unsupported(config.path(), problem)))
    }
}

fn stores(c: &Reader, method: &Method, has_groups: bool) -> Stores {
    let is = |key: &str, value: &str| c.get(key).and_then(Value::as_str) == Some(value);
    let is_static = |group: &Value| group.pointer("/input_activations/dynamic") == Some(&Value::Bool(false));
    let groups = c.get("config_groups").and_then(Value::as_object);
    Stores {
        codes: match method {
            Method::Fp8 | Method::Gptq | Method::Awq => true,
            Method::CompressedTensors => {
                has_groups
                    && !is("format", "dense")
                    && (!c.has("quantization_status") || is("quantization_status", "compressed"))
            }
            Method::ModelOpt => has_groups || c.has("quant_algo"),
            _ => false,
        },
        input_scales: match method {
            Method::Fp8 => is("activation_scheme", "static"),
            Method::CompressedTensors => groups.is_some_and(|groups| groups.values().any(is_static)),
            _ => false,
        },
    }
}

/// What the keys that are there say, of these layouts, which is the same; the first one where none is there.
fn agreed<'l>(c: &Reader, keys: &[&str], layouts: &[&'l str]) -> Result<&'l str> {
    let mut said = None;
    for key in keys {
        let Some(text) = c.str_opt(key)? else { continue };
        let layout = layouts.iter().copied().find(|layout| layout.eq_ignore_ascii_case(text));
        let layout = layout.ok_or_else(|| c.wrong(key, &layouts.join(" or ")))?;
        match said.replace((*key, layout)) {
            Some((other, before)) if before != layout => {
                return Err(c.wrong(key, &format!("{before}, as {other} says")));
            }
            _ => {}
        }
    }
    Ok(said.map_or(layouts[0], |(_, layout)| layout))
}

/// The groups of GPTQModel's `dynamic`: of the regular expressions that match a module the first counts. `-:` before it
/// leaves modules as they are; `+:` or nothing gives them settings of their own.
fn dynamic(c: &Reader, usual: &Scheme, bits: impl Fn(&Reader, &str) -> Result<Option<u32>>) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let rules = c.object_opt("dynamic")?;
    for (name, _) in rules.as_ref().map(Reader::unused).unwrap_or_default() {
        let regex = name.strip_prefix("-:").or_else(|| name.strip_prefix("+:")).unwrap_or(name);
        let targets = vec![regex_of(c, "dynamic", regex)?];
        let own = rules.as_ref().and_then(|rules| rules.object_opt(name).transpose()).transpose()?;
        let scheme = match own.filter(|_| !name.starts_with("-:")) {
            None => None,
            Some(own) => Some(Scheme {
                bits: bits(&own, "bits")?.or(usual.bits),
                group: if own.has("group_size") { group_size(&own)? } else { usual.group },
                is_reordered: own.bool_or("desc_act", usual.is_reordered)?,
                ..usual.clone()
            }),
        };
        groups.push(Group { targets, scheme });
    }
    groups.push(Group { targets: Vec::new(), scheme: Some(usual.clone()) });
    Ok(groups)
}

/// Modules that are left as they are: every tool has a key for them, and its own way to match names.
fn ignored(c: &Reader, method: &Method) -> Result<Vec<Pattern>> {
    let mut patterns = Vec::new();
    for key in ["ignore", "ignored_layers", "exclude_modules", "modules_to_not_convert", "llm_int8_skip_modules"] {
        for name in names(c, key)? {
            patterns.push(match method {
                Method::CompressedTensors => pattern(c, key, name)?,
                Method::ModelOpt if name.contains(['*', '?', '[']) => {
                    Pattern::Glob(crate::glob::one(name).map_err(|problem| c.wrong(key, &problem))?)
                }
                Method::ModelOpt => Pattern::Name(name.to_owned()),
                _ => Pattern::Part(name.to_owned()),
            });
        }
    }
    Ok(patterns)
}

/// Two sizes, as a list or as `128x128`.
fn block(c: &Reader, key: &str) -> Result<Option<[usize; 2]>> {
    let Some(value) = c.get(key) else { return Ok(None) };
    let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
    let sizes: Option<Vec<usize>> = match value {
        Value::Array(sizes) => sizes.iter().map(size).collect(),
        Value::String(sizes) => sizes.split('x').map(|size| size.parse().ok()).collect(),
        _ => None,
    };
    match sizes.as_deref() {
        Some(&[rows @ 1..=usize::MAX, columns @ 1..=usize::MAX]) => Ok(Some([rows, columns])),
        _ => Err(c.wrong(key, "two positive whole numbers")),
    }
}

/// Columns that share a scale; none where all of a row do.
fn group_size(c: &Reader) -> Result<Option<usize>> {
    let key = if c.has("q_group_size") { "q_group_size" } else { "group_size" };
    match c.get(key).map(|value| (value.as_i64(), value)) {
        None | Some((Some(-1), _)) => Ok(None),
        Some((Some(size @ 1..), _)) => Ok(usize::try_from(size).ok()),
        Some(_) => Err(c.wrong(key, "a positive whole number, or -1")),
    }
}

#[cfg(test)]
mod tests;
