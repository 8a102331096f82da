//! What the config says of packed weights, against how they are stored: told once, of however many weights.

use super::check::Check;
use super::observation::{Found, Location};
use super::peers::stacks::numbers;
use super::weights::{Packed, Part, Weights, ends, may_be_dense, module};
use crate::checkpoint::CONFIG;
use crate::checkpoint::packing::NumberType;
use crate::checkpoint::quantization::{Method, OF_INPUTS, Quantization};
use crate::escape::printable;
use crate::neuron::out_of_wrapper;
use safetensors::Dtype;
use serde_json::json;
use std::collections::BTreeMap;

/// Names that evidence lists.
const LISTED: usize = 20;

pub(super) fn examine(settings: &Quantization, weights: &Weights, found: &mut Found) {
    let mut alike: BTreeMap<(Check, String), Vec<&str>> = BTreeMap::new();
    for (name, packed) in &weights.packed {
        let differences = [
            outside(settings, name, packed).map(|what| (Check::PackedIgnored, what)),
            number(settings, weights, name, packed).map(|what| (Check::PackingBroken, what)),
            groups(settings, weights, name, packed).map(|what| (Check::PackingBroken, what)),
        ];
        differences.into_iter().flatten().for_each(|difference| alike.entry(difference).or_default().push(name));
    }
    if let Some((what, names)) = scale(settings, weights) {
        alike.insert((Check::PackingBroken, what), names);
    }
    for ((check, what), names) in alike {
        let of = match names.as_slice() {
            [only] => (*only).to_owned(),
            [first, ..] => format!("{} weights, the first is {first}", names.len()),
            [] => continue,
        };
        let evidence = json!({"count": names.len(), "tensors": names[..names.len().min(LISTED)]});
        found.add(check, Location::file(CONFIG), printable(&format!("{what}: {of}")), evidence);
    }
    nowhere(settings, weights, found);
}

/// A module that is none of those that the config says are packed.
fn outside(settings: &Quantization, name: &str, packed: &Packed) -> Option<String> {
    let own = module(name);
    // Of experts that are one tensor the config has the names that each of them had.
    let is_told = name.contains(".experts.") || packed.shape.len() > 2 || settings.ignores(own);
    let may = settings.may_target(own) || out_of_wrapper(own).is_some_and(|name| settings.may_target(&name));
    (!is_told && !may).then(|| "gives targets, and what is none of them is packed".to_owned())
}

/// Floats where the config says whole numbers, or the reverse.
fn number(settings: &Quantization, weights: &Weights, name: &str, packed: &Packed) -> Option<String> {
    let is_float = settings.scheme(module(name)).is_float.filter(|_| !settings.is_mixed)?;
    let (_, codes) = weights.place(packed.stored.first()?)?;
    let stored = match codes.dtype {
        Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::U8 => true,
        Dtype::I8 | Dtype::I32 => false,
        _ => return None,
    };
    let kind = |is_float| if is_float { "floats" } else { "whole numbers" };
    let message =
        || format!("says that codes are {}, and {} are stored ({})", kind(is_float), kind(stored), packed.format);
    (stored != is_float).then(message)
}

/// Scales of other groups of inputs than the config gives, where the groups are stored and so nothing else tells.
fn groups(settings: &Quantization, weights: &Weights, name: &str, packed: &Packed) -> Option<String> {
    let size = settings.scheme(module(name)).group.filter(|_| !settings.is_mixed)?;
    let ends = ends(name, packed);
    let (end, axis) = [(".g_idx", ".scales", 0), (".weight_g_idx", ".weight_scale", 1)].into_iter().find_map(
        |(groups, scales, axis)| (ends.contains(&groups) && ends.contains(&scales)).then_some((scales, axis)),
    )?;
    let (_, scales) = weights.place(&format!("{}{end}", module(name)))?;
    let (groups, inputs) = (*scales.shape.get(axis)?, *packed.shape.last()?);
    let message = || {
        format!("gives groups of {size} inputs, and scales are stored for groups of {}", inputs.div_ceil(groups.max(1)))
    };
    (inputs.div_ceil(size) != groups).then(message)
}

/// Scales by the name that another tool's loaders look for, in all of the model: of one weight it is told as of a peer.
fn scale<'w>(settings: &Quantization, weights: &'w Weights) -> Option<(String, Vec<&'w str>)> {
    const NAMES: [&str; 2] = [".weight_scale", ".weight_scale_inv"];
    let is_of_blocks = weights.packed.keys().any(|name| settings.scheme(module(name)).block.is_some());
    let (expected, other) = match settings.method {
        Method::CompressedTensors => (NAMES[0], NAMES[1]),
        Method::Fp8 if is_of_blocks => (NAMES[1], NAMES[0]),
        _ => return None,
    };
    let having = |end: &str| {
        let has = |(name, packed): &(&'w String, &'w Packed)| ends(name, packed).contains(&end);
        weights.packed.iter().filter(has).map(|(name, _)| name.as_str()).collect::<Vec<&str>>()
    };
    let others = having(other);
    let by = settings.method.name();
    (having(expected).is_empty() && !others.is_empty())
        .then(|| (format!("is of {by}, whose scales are called {expected}, and {other} is stored"), others))
}

/// What the config says is stored, and no weight has.
fn nowhere(settings: &Quantization, weights: &Weights, found: &mut Found) {
    let has = |ends: &[&str]| weights.stored().any(|(_, tensor)| ends.iter().any(|end| tensor.name.ends_with(end)));
    if settings.stores.input_scales && !weights.packed.is_empty() && !has(OF_INPUTS) {
        let message = "says that the scales of inputs are static, and no input_scale is stored";
        found.say(Check::TensorMissing, Location::file(CONFIG), message);
    }
    let is_any_packed = !weights.packed.is_empty() || !weights.broken.is_empty() || !weights.left_over.is_empty();
    let is_code = |name: &str, dtype| name.ends_with(".weight") && !NumberType::of(dtype).holds_weights();
    if !settings.stores.codes || is_any_packed || weights.stored().any(|(_, t)| is_code(&t.name, t.dtype)) {
        return;
    }
    let is_to_be = |name: &str| {
        name.ends_with(".weight") && numbers(name).next().is_some() && !may_be_dense(settings, module(name))
    };
    let of_layers =
        weights.stored().filter(|(_, tensor)| tensor.shape.len() == 2 && weights.part(&tensor.name) == Part::Alone);
    if let Some((_, first)) = of_layers.into_iter().find(|(_, tensor)| is_to_be(&tensor.name)) {
        let by = settings.method.name();
        let message = format!("says that weights are packed ({by}), and none is: {} is {}", first.name, first.dtype);
        found.say(Check::PackingBroken, Location::file(CONFIG), printable(&message));
    }
}
