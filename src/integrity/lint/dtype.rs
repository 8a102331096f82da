//! The dtype that weights are stored in, and the one that the config asks for: loaders turn the stored values into it
//! before they compute.

use super::check::Check;
use super::folder::File;
use super::header::FolderShard;
use super::observation::{Found, Location};
use super::stored::at;
use super::vocabulary::of_text;
use super::weights::{Part, Weights};
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::packing::{NumberType, name_of};
use crate::checkpoint::quantization::{FILES, KEYS};
use crate::checkpoint::{ConfigFile, Opened};
use crate::escape::printable;
use serde_json::{Value, json};

/// What loaders compute in.
const KNOWN: &[&str] = &["auto", "float32", "float", "float64", "double", "float16", "half", "bfloat16"];

pub(super) fn compare(opened: &Opened, files: &[File], weights: &Weights, found: &mut Found) {
    let Ok(Some(config)) = opened.config() else { return };
    stored(opened, (config, files), weights, found);
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
    for (shard, tensor) in weights.stored() {
        let Some(element) = first_beyond_half(shard, tensor) else { continue };
        let message =
            format!("holds values that the dtype that the config asks for, {asked}, does not: element {element}");
        let evidence = json!({"dtype": asked, "stored": tensor.dtype.to_string(), "element": element});
        found.add(Check::DtypeOverflow, at(shard, tensor), message, evidence);
    }
}

/// Weights in a dtype to which only a quantizer's settings give a meaning.
fn stored(opened: &Opened, (config, files): (&ConfigFile, &[File]), weights: &Weights, found: &mut Found) {
    let codes = || weights.stored().filter(|(_, t)| is_weight(t) && !NumberType::of(t.dtype).holds_weights());
    let unknown = match opened.quantization() {
        Ok(Some(_)) if weights.quantization.is_some() => None,
        Ok(Some(settings)) => {
            Some(format!("the weights are quantized with {}, which is not known", settings.method.name()))
        }
        Ok(None) => None,
        Err(error) => {
            let message = printable(&format!("cannot be unpacked: {error}"));
            let first = codes().next();
            return first.into_iter().for_each(|(shard, t)| found.say(Check::PackingBroken, at(shard, t), &*message));
        }
    };
    if let Some(problem) = unknown {
        let maps = [config.map(), of_text(config.map())];
        let is_said = |key: &&str| maps.iter().any(|map| map.get(*key).is_some_and(|settings| !settings.is_null()));
        let beside = files.iter().find(|file| FILES.contains(&file.name.as_str()));
        let beside = beside.filter(|_| !KEYS.iter().any(is_said));
        let location = beside.map_or(Location::file("config.json"), File::location);
        if let Some((_, first)) = codes().next() {
            let message = format!("{} and the like were not unpacked: {problem}", first.name);
            found.say(Check::ConfigUnknown, location, printable(&message));
        }
        return;
    }
    let is_said = weights.quantization.is_some();
    let is_alone = |name: &str| weights.part(name) == Part::Alone && !weights.is_cut(&name_of(name));
    for (shard, tensor) in codes().filter(|(_, tensor)| is_alone(&tensor.name)) {
        let evidence = json!({"stored": tensor.dtype.to_string()});
        let (check, problem) = match is_said {
            true => (Check::PackingBroken, "no scale beside it tells what its codes stand for"),
            false => (Check::DtypeStored, "nothing in the config tells what numbers these stand for"),
        };
        found.add(check, at(shard, tensor), format!("is {}, and {problem}", tensor.dtype), evidence);
    }
    for packed in weights.packed.values().filter(|_| !is_said) {
        let Some((shard, tensor)) = packed.stored.first().and_then(|codes| weights.place(codes)) else { continue };
        let message =
            format!("holds codes ({}), and nothing in the config tells loaders how to unpack them", packed.format);
        found.add(Check::DtypeStored, at(shard, tensor), message, json!({"stored": tensor.dtype.to_string()}));
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
