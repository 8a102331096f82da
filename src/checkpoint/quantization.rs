//! What a config says of how its weights are packed: `quantization_config` and its other spellings.

mod patterns;

use super::ConfigFile;
use super::config::Reader;
use crate::error::{Error, Result};
use patterns::{Pattern, ignored, names, pattern};
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
    /// The group of each input, whose order is not that of groups (GPTQ's `desc_act`).
    pub groups_of_inputs: bool,
}

/// The tools and formats, as `quant_method` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// 8-bit floats with a scale a block or a tensor (`fp8`, `fbgemm_fp8`).
    Fp8,
    /// What llm-compressor writes (`compressed-tensors`).
    CompressedTensors,
    /// NVIDIA's Model Optimizer (`modelopt`).
    ModelOpt,
    /// `gptq`.
    Gptq,
    /// `awq`.
    Awq,
    /// 4-bit floats of the OCP Microscaling Formats (`mxfp4`).
    Mxfp4,
    /// `bitsandbytes`.
    BitsAndBytes,
    /// One that is not known here.
    Other(String),
}

impl Method {
    /// As `quant_method` has it.
    pub fn name(&self) -> &str {
        match self {
            Method::Fp8 => "fp8",
            Method::CompressedTensors => "compressed-tensors",
            Method::ModelOpt => "modelopt",
            Method::Gptq => "gptq",
            Method::Awq => "awq",
            Method::Mxfp4 => "mxfp4",
            Method::BitsAndBytes => "bitsandbytes",
            Method::Other(name) => name,
        }
    }
}

/// Modules that are packed alike.
#[derive(Debug)]
struct Group {
    targets: Vec<Pattern>,
    scheme: Scheme,
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
}

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

/// What follows the name of a module in that of what concerns its outputs, or the cache of keys and values.
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
                        zeros_less_one: false,
                    };
                    groups.push(Group { targets, scheme });
                }
            }
            Method::Gptq => {
                let format = c.str_opt("checkpoint_format")?.unwrap_or("gptq");
                if !["gptq", "gptq_v2"].contains(&format) {
                    return Err(c.wrong("checkpoint_format", "gptq or gptq_v2"));
                }
                let scheme = Scheme {
                    bits: bits(c, "bits")?,
                    group: group_size(c)?,
                    zeros_less_one: format != "gptq_v2",
                    ..Scheme::default()
                };
                groups.push(Group { targets: Vec::new(), scheme });
            }
            Method::Awq => {
                let version = c.str_opt("version")?.unwrap_or("gemm");
                if !version.eq_ignore_ascii_case("gemm") {
                    return Err(c.wrong("version", "gemm, the layout that checkpoints are published in"));
                }
                let width = if c.has("bits") { "bits" } else { "w_bit" };
                let scheme = Scheme { bits: bits(c, width)?, group: group_size(c)?, ..Scheme::default() };
                groups.push(Group { targets: Vec::new(), scheme });
            }
            Method::Fp8 => {
                let scheme = Scheme { block: block(c, "weight_block_size")?, ..Scheme::default() };
                groups.push(Group { targets: Vec::new(), scheme });
            }
            _ => {}
        }
        let is_mixed = groups.len() > 1 || c.has("quantized_layers") || c.has("dynamic") || c.has("extra_config");
        let stores = stores(c, &method, !groups.is_empty());
        Ok(Quantization { method, groups, ignored, is_mixed, stores })
    }

    /// Whether the config says that this module's weights are not packed.
    pub fn ignores(&self, module: &str) -> bool {
        self.ignored.iter().any(|pattern| pattern.matches(module))
    }

    /// As [`Quantization::ignores`], by whole names: tools differ in whether a part of one (`mlp.gate` of `mlp.gate_proj`)
    /// counts.
    pub fn names_as_ignored(&self, module: &str) -> bool {
        let dotted = format!(".{module}.");
        self.ignored.iter().any(|pattern| match pattern {
            Pattern::Part(part) => dotted.contains(&format!(".{}.", part.trim_matches('.'))),
            _ => pattern.matches(module),
        })
    }

    /// Whether the config says that a linear module of this name is packed, whatever is stored.
    pub fn packs(&self, module: &str) -> bool {
        !self.ignores(module) && self.is_target(module, Pattern::is_linear)
    }

    /// Whether a module may be one of those that are packed, by what the config says of those: of what class a module is
    /// is not known.
    pub fn may_target(&self, module: &str) -> bool {
        self.is_target(module, Pattern::is_class)
    }

    fn is_target(&self, module: &str, is_its_class: fn(&Pattern) -> bool) -> bool {
        let is_of = |group: &Group| {
            group.targets.is_empty() || group.targets.iter().any(|t| is_its_class(t) || t.matches(module))
        };
        self.groups.is_empty() || self.groups.iter().any(is_of)
    }

    /// How the config says that a module's weights are packed.
    pub fn scheme(&self, module: &str) -> Scheme {
        let named = self.groups.iter().find(|group| group.targets.iter().any(|target| target.matches(module)));
        let of_class = || self.groups.iter().find(|group| group.targets.iter().any(Pattern::is_linear));
        named.or_else(of_class).or(self.groups.first()).map(|group| group.scheme.clone()).unwrap_or_default()
    }

    /// Refuses a method that is not known here.
    ///
    /// # Errors
    /// It is not.
    pub fn check_known(&self, config: &ConfigFile) -> Result<()> {
        let Method::Other(method) = &self.method else { return Ok(()) };
        let problem = format!("the weights are quantized with {method}, which is not supported; use the original");
        Err(Error::unsupported(config.path(), problem))
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
        groups_of_inputs: *method == Method::Gptq
            && c.get("desc_act") == Some(&Value::Bool(true))
            && c.get("static_groups") != Some(&Value::Bool(true)),
    }
}

fn method(c: &Reader) -> Result<Method> {
    let named = c.str_opt("quant_method")?;
    let algorithm = c.str_opt("quant_algo")?;
    let sparsity = c.object_opt("sparsity_config")?;
    let sparsity = sparsity.as_ref().map(|of| of.str_opt("format")).transpose()?.flatten();
    if let Some(sparsity) = sparsity.filter(|form| *form != "dense") {
        return Ok(Method::Other(format!("compressed-tensors ({sparsity})")));
    }
    if c.str_opt("checkpoint_format")? == Some("marlin") || c.bool_or("is_marlin_format", false)? {
        return Ok(Method::Other("gptq (marlin's own layout)".to_owned()));
    }
    Ok(match named {
        Some("fp8" | "fbgemm_fp8" | "finegrained_fp8") => Method::Fp8,
        Some("compressed-tensors" | "compressed_tensors") => Method::CompressedTensors,
        Some("modelopt" | "modelopt_fp4") => Method::ModelOpt,
        Some("gptq" | "gptq_marlin") => Method::Gptq,
        Some("awq" | "awq_marlin") => Method::Awq,
        Some("mxfp4") => Method::Mxfp4,
        Some("bitsandbytes" | "bitsandbytes_4bit" | "bitsandbytes_8bit") => Method::BitsAndBytes,
        Some(other) => Method::Other(other.to_owned()),
        None if algorithm.is_some() => Method::ModelOpt,
        None if c.has("config_groups") => Method::CompressedTensors,
        None if c.has("load_in_4bit") || c.has("load_in_8bit") => Method::BitsAndBytes,
        None if c.has("desc_act") || c.has("bits") => Method::Gptq,
        None if c.has("w_bit") => Method::Awq,
        None => Method::Other("an unknown method".to_owned()),
    })
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
