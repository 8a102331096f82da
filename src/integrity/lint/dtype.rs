//! The dtype that weights are stored in, and the one that the config asks for: loaders turn the stored values into it
//! before they compute.

use super::Expected;
use super::check::Check;
use super::folder::File;
use super::header::FolderShard;
use super::observation::{Found, Location};
use super::vocabulary::of_text;
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::packing::NumberType;
use crate::checkpoint::{ConfigFile, Opened};
use crate::error::Result;
use crate::escape::printable;
use serde_json::{Value, json};

/// What loaders compute in.
const KNOWN: &[&str] = &["auto", "float32", "float", "float64", "double", "float16", "half", "bfloat16"];

/// Keys of a config that says how packed weights are to be read.
const PACKED_BY: &[&str] = &["quantization_config", "compression_config", "quantization"];
/// Files beside it that said so before the config did.
const PACKED_BESIDE: &[&str] = &["hf_quant_config.json", "quantize_config.json", "quant_config.json"];

pub(super) fn compare(
    opened: &Opened,
    files: &[File],
    model: &[&FolderShard],
    expected: Option<&Result<Expected>>,
    found: &mut Found,
) {
    let Ok(Some(config)) = opened.config() else { return };
    stored(config, files, model, expected.is_some_and(Result::is_ok), found);
    let asked = |key: &str| of_text(config.map()).get(key).or(config.map().get(key)).and_then(Value::as_str);
    let Some(asked) = asked("dtype").or(asked("torch_dtype")) else { return };
    let name = asked.strip_prefix("torch.").unwrap_or(asked);
    if !KNOWN.contains(&name) {
        let message = format!("asks for the dtype {asked:?}, in which no loader computes");
        found.say(Check::DtypeAsked, Location::file("config.json"), message);
    }
    if !["float16", "half"].contains(&name) {
        return;
    }
    for (shard, tensor) in model.iter().flat_map(|shard| shard.tensors().iter().map(move |t| (shard, t))) {
        let Some(at) = first_beyond_half(shard, tensor) else { continue };
        let message = format!("holds values that the dtype that the config asks for, {asked}, does not: element {at}");
        let evidence = json!({"dtype": asked, "stored": tensor.dtype.to_string(), "element": at});
        found.add(Check::DtypeOverflow, shard.file.location().tensor(&tensor.name), message, evidence);
    }
}

/// Weights in a dtype to which only a quantizer's settings give a meaning. Of a config that is not understood that is
/// told already.
fn stored(config: &ConfigFile, files: &[File], model: &[&FolderShard], is_understood: bool, found: &mut Found) {
    let maps = [config.map(), of_text(config.map())];
    let settings = |key: &&str| maps.iter().filter_map(|map| map.get(*key)?.as_object()).any(|map| !map.is_empty());
    let packed_by = PACKED_BY.iter().copied().find(settings);
    if packed_by.is_some() && !is_understood {
        return;
    }
    let beside = files.iter().find(|file| PACKED_BESIDE.contains(&file.name.as_str()));
    let by_config = packed_by.map(|key| (Location::file("config.json"), format!("{key} tells")));
    let settings = by_config.or(beside.map(|file| (file.location(), "tells".to_owned())));
    let tensors = model.iter().flat_map(|shard| shard.tensors().iter().map(move |tensor| (shard, tensor)));
    for (shard, tensor) in tensors.filter(|(_, t)| is_weight(t) && !NumberType::of(t.dtype).holds_weights()) {
        if let Some((location, tells)) = settings {
            let name = printable(&tensor.name);
            let message = format!("{tells} how {name} and the like are packed: they were not examined");
            return found.say(Check::ConfigUnknown, location, message);
        }
        let message = format!("is {}, and nothing in the config tells what numbers these stand for", tensor.dtype);
        let evidence = json!({"stored": tensor.dtype.to_string()});
        found.add(Check::DtypeStored, shard.file.location().tensor(&tensor.name), message, evidence);
    }
}

/// Whether a tensor is multiplied or added, by its name: masks, which some call biases, have more dimensions.
fn is_weight(tensor: &TensorEntry) -> bool {
    tensor.name.ends_with("weight") || (tensor.name.ends_with("bias") && tensor.shape.len() == 1)
}

/// The first finite value that becomes infinite in half precision, whose largest number is 65504.
fn first_beyond_half(shard: &FolderShard, tensor: &TensorEntry) -> Option<usize> {
    let number = Some(NumberType::of(tensor.dtype)).filter(|number| number.holds_weights())?;
    // From here on values are rounded up to 65536, which is infinite.
    number.position(shard.bytes(tensor)?, |value| value.is_finite() && value.abs() >= 65520.0)
}
