//! What packed the weights of a checkpoint.

use crate::checkpoint::config::Reader;
use crate::error::Result;
use serde_json::Value;

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

/// The formats of compressed-tensors that are read, as `format` names them.
const FORMATS: [&str; 9] = [
    "dense",
    "naive-quantized",
    "int-quantized",
    "float-quantized",
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
];

/// What packed the weights.
pub(super) fn method(c: &Reader) -> Result<Method> {
    let named = c.str_opt("quant_method")?;
    let algorithm = c.str_opt("quant_algo")?;
    let sparsity = c.object_opt("sparsity_config")?;
    let sparsity = sparsity.as_ref().map(|of| of.str_opt("format")).transpose()?.flatten();
    if let Some(sparsity) = sparsity.filter(|form| *form != "dense") {
        return Ok(Method::Other(format!("compressed-tensors ({sparsity})")));
    }
    let is_marlin = ["checkpoint_format", "format"].iter().any(|key| c.get(key).is_some_and(|of| of == "marlin"));
    if is_marlin || c.bool_or("is_marlin_format", false)? {
        return Ok(Method::Other("gptq (marlin's own layout)".to_owned()));
    }
    let method = match named {
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
    };
    let groups = c.object_opt("config_groups")?;
    let groups = groups.iter().flat_map(Reader::unused).filter_map(|(_, group)| group.get("format"));
    let mut formats = c.get("format").into_iter().chain(groups).filter_map(Value::as_str);
    match formats.find(|format| method == Method::CompressedTensors && !FORMATS.contains(format)) {
        Some(format) => Ok(Method::Other(format!("compressed-tensors ({format})"))),
        None => Ok(method),
    }
}

/// What is computed beside the weights, as far as a config can ask for it.
pub(super) fn beside(c: &Reader) -> Result<Option<String>> {
    if let Some(transforms) = c.object_opt("transform_config")?
        && transforms.object_opt("config_groups")?.is_none_or(|groups| !groups.is_empty())
        && !transforms.is_empty()
    {
        return Ok(Some("transform_config asks for transforms of what goes into or out of modules".to_owned()));
    }
    let algorithm = c.str_opt("quant_algo")?.filter(|name| ["AWQ", "SQ", "SVD"].iter().any(|end| name.ends_with(end)));
    Ok(algorithm.map(|name| format!("quant_algo {name} may scale what goes into modules")))
}
