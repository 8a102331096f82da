//! The values of scales of packed weights and of activations: zero, negative, or far from those of the same module in
//! other layers.

use super::check::Check;
use super::observation::Found;
use super::stored::{at, values};
use super::tensors::role;
use super::weights::{Packed, Weights, ends, module};
use crate::architecture::place::Axis;
use crate::checkpoint::packing::{NumberType, Usual};
use crate::checkpoint::quantization::{OF_OUTPUTS, is_of_activations};
use crate::escape::printable;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// What was seen of one tensor of scales.
struct Scale<'w> {
    stored: String,
    /// What the codes beside it are, and the end of its own name.
    kind: (&'w str, &'w str),
    usual: Usual,
    elements: usize,
    zero: usize,
    negative: usize,
    /// NaN of a type that is no float's, which is not looked for elsewhere.
    nan: usize,
    /// The median of log2; none where that is of zero.
    size: Option<f64>,
    /// The first that is far larger than nearly all beside it, and by how many powers of two.
    outlier: Option<(usize, f64)>,
}

/// How many powers of two a scale may lie from the median of its peers.
const FAR: f64 = 8.0;
/// As [`FAR`], where there are not three of the same module, and it is held against those of all.
const FAR_OF_ALL: f64 = 12.0;
/// How many further than all others it has to lie.
const BEYOND: f64 = 5.0;
/// How many powers of two the largest scale of a weight may lie above their median: of the largest weights that are known,
/// it lies 5 or 6 above.
const LARGEST: f64 = 9.0;
/// Of so many scales of a weight one may be that large, or one in all.
const FEW: usize = 64;
/// Elements that are decoded together.
const PIECE: usize = 1 << 20;
/// Elements that a median is taken of.
const SAMPLE: usize = 4096;

/// Examines the scales of all packed weights.
pub(super) fn examine(weights: &Weights, found: &mut Found) {
    let all: Vec<(&String, &Packed)> = weights.packed.iter().collect();
    let scales: Vec<Scale> = all
        .par_iter()
        .flat_map_iter(|(name, packed)| {
            let of_scale = ends(name, packed).into_iter().filter(|end| is_scale(end));
            of_scale.filter_map(|end| Scale::of(weights, format!("{}{end}", module(name)), packed, end))
        })
        .collect();
    // A sign that most have is the codes'.
    let mut signs: BTreeMap<(&str, &str), [usize; 2]> = BTreeMap::new();
    scales.iter().for_each(|scale| signs.entry(scale.kind).or_default()[usize::from(scale.negative > 0)] += 1);
    for scale in &scales {
        let is_signed = signs.get(&scale.kind).is_some_and(|[positive, negative]| negative > positive);
        alone(scale, is_signed, weights, found);
    }
    far(&scales, weights, found);
    of_outputs(weights, found);
}

/// Scales of the cache of keys and values: zero, or missing in a layer that holds what others hold that have one.
fn of_outputs(weights: &Weights, found: &mut Found) {
    let mut modules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut scales: BTreeMap<(String, &str), BTreeSet<&str>> = BTreeMap::new();
    for (shard, tensor) in weights.stored() {
        let name = tensor.name.as_str();
        let of_output = OF_OUTPUTS.iter().find_map(|end| Some((name.strip_suffix(end)?, *end)));
        match of_output.filter(|(_, end)| end.ends_with("scale")) {
            Some((module, end)) => {
                scales.entry((role(module), end)).or_default().insert(module);
                let values =
                    if tensor.shape.iter().all(|size| *size == 1) { values(shard, tensor) } else { Vec::new() };
                if values == [0.0] {
                    let message = "is zero: what is kept of keys or values is divided by it";
                    found.say(Check::ScaleValue, at(shard, tensor), message);
                }
            }
            None if of_output.is_some() => {}
            None => {
                // A module two levels up holds projections: `self_attn` of `self_attn.q_proj.weight`.
                let Some(parent) = name.rsplit_once('.').and_then(|(inner, _)| Some(inner.rsplit_once('.')?.0)) else {
                    continue;
                };
                modules.entry(parent).or_default().insert(&name[parent.len()..]);
            }
        }
    }
    for ((of, end), having) in scales {
        let like = having.iter().find_map(|module| modules.get(module));
        let alike = modules.iter().filter(|(module, parts)| Some(*parts) == like && role(module) == of);
        let lacking: Vec<&str> = alike.map(|(module, _)| *module).filter(|module| !having.contains(module)).collect();
        if lacking.len() * 2 > having.len() {
            continue;
        }
        let Some((shard, _)) = having.first().and_then(|first| weights.place(&format!("{first}{end}"))) else {
            continue;
        };
        for module in lacking {
            let message = format!("is missing, {} of its peers ({of}{end}) have it", having.len());
            let place = shard.file.location().tensor(format!("{module}{end}"));
            found.add(Check::PeerMissing, place, printable(&message), json!({"peers_count": having.len()}));
        }
    }
}

fn is_scale(end: &str) -> bool {
    ["scale", "scale_inv", "scales", "scale_2", "absmax", "SCB"].iter().any(|last| end.ends_with(last))
}

impl<'w> Scale<'w> {
    /// None where it cannot be read, or is packed itself.
    fn of(weights: &Weights, stored: String, packed: &'w Packed, end: &'w str) -> Option<Scale<'w>> {
        let (_, tensor) = weights.place(&stored)?;
        let number = match tensor.dtype {
            Dtype::U8 if packed.usual.exponents => NumberType::F8E8M0,
            Dtype::U8 => return None,
            dtype => NumberType::of(dtype),
        };
        let bytes = weights.bytes(&stored)?;
        let is_power = number == NumberType::F8E8M0;
        let (kind, usual) = ((packed.format.as_str(), end), packed.usual);
        let mut seen =
            Scale { stored, kind, usual, elements: 0, zero: 0, negative: 0, nan: 0, size: None, outlier: None };
        let mut largest = 0f32;
        for piece in bytes.chunks(PIECE * number.bytes()) {
            let values: Vec<f32> = number.decode_all(piece);
            seen.elements += values.len();
            // The least power of two is what bytes of zeros decode to.
            seen.zero += match is_power {
                true => piece.iter().filter(|byte| **byte == 0).count(),
                false => values.iter().filter(|value| **value == 0.0).count(),
            };
            seen.negative += values.iter().filter(|value| **value < 0.0).count();
            largest = values.iter().map(|value| value.abs()).filter(|value| value.is_finite()).fold(largest, f32::max);
            seen.nan += values.iter().filter(|value| is_power && value.is_nan()).count();
        }
        let step = seen.elements.div_ceil(SAMPLE).max(1);
        let of_sample = bytes.chunks_exact(number.bytes()).step_by(step);
        let mut sample: Vec<f32> = of_sample.flat_map(|element| number.decode_all::<f32>(element)).collect();
        sample.iter_mut().for_each(|value| *value = value.abs());
        sample.sort_by(f32::total_cmp);
        let median = sample.get(sample.len() / 2).filter(|median| median.is_finite() && **median > 0.0);
        seen.size = median.map(|median| f64::from(*median).log2());
        let above = seen.size.map_or(0.0, |size| f64::from(largest).log2() - size);
        if above > LARGEST && !is_of_activations(end) {
            let from = largest * (-BEYOND).exp2() as f32;
            let mut large = Vec::new();
            for (at, piece) in bytes.chunks(PIECE * number.bytes()).enumerate() {
                let values: Vec<f32> = number.decode_all(piece);
                let is_large = values.iter().enumerate().filter(|(_, value)| value.abs() >= from);
                large.extend(is_large.map(|(element, _)| at * PIECE + element).take(seen.elements / FEW + 2));
            }
            let is_alone = large.len() <= (seen.elements / FEW).max(1);
            seen.outlier = large.first().filter(|_| is_alone).map(|first| (*first, above));
        }
        Some(seen)
    }
}

/// What is wrong with a scale, whatever others are but for their sign.
fn alone(scale: &Scale, is_signed: bool, weights: &Weights, found: &mut Found) {
    let Some((shard, tensor)) = weights.place(&scale.stored) else { return };
    let Scale { kind: (format, end), usual, elements, zero, negative, nan, .. } = scale;
    // Blocks of zeros have such scales in formats whose scales are small floats.
    let may_be_zero = tensor.dtype.bitsize() == 8 || usual.zero_scales;
    let may_be_negative = (usual.negative_scales && !is_of_activations(end)) || is_signed;
    let zero = if *zero < *elements && may_be_zero { &0 } else { zero };
    let negative = if may_be_negative { &0 } else { negative };
    if let Some((element, above)) = scale.outlier {
        let message = format!("is {:.0} times the median of the {elements} scales of its weight", above.exp2());
        let place = at(shard, tensor).at(Axis::Element, element as u64);
        found.add(Check::ScaleValue, place, message, json!({"times": above.exp2()}));
    }
    for (count, what) in [(zero, "zero"), (negative, "negative"), (nan, "NaN")] {
        if *count > 0 {
            let of = if *elements == 1 { "the scale".into() } else { format!("{count} of {elements} scales") };
            let verb = if *elements == 1 || *count == 1 { "is" } else { "are" };
            let message = format!("{of} {verb} {what}, beside codes ({format})");
            found.add(Check::ScaleValue, at(shard, tensor), message, json!({"count": count, "elements": elements}));
        }
    }
}

/// Scales that are far from those of the same module in other layers.
fn far(scales: &[Scale], weights: &Weights, found: &mut Found) {
    let mut kinds: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut roles: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let sized = || {
        scales
            .iter()
            .filter_map(|scale| Some((scale, scale.size?)))
            .filter(|(s, _)| s.zero < s.elements && !is_of_activations(s.kind.1))
    };
    for (scale, size) in sized() {
        kinds.entry(scale.kind).or_default().push(size);
        roles.entry(role(&scale.stored)).or_default().push(size);
    }
    kinds.values_mut().chain(roles.values_mut()).for_each(|sizes| sizes.sort_by(f64::total_cmp));
    for (scale, size) in sized() {
        let of_role = roles.get(&role(&scale.stored)).filter(|sizes| sizes.len() > 2).map(|sizes| (sizes, FAR));
        let of_kind = || kinds.get(&scale.kind).filter(|sizes| sizes.len() > 2).map(|sizes| (sizes, FAR_OF_ALL));
        let Some((sizes, far)) = of_role.or_else(of_kind) else { continue };
        let Some(usual) = usual_far_from(size, sizes, far) else { continue };
        let Some((shard, tensor)) = weights.place(&scale.stored) else { continue };
        let [own, usual] = [size, usual].map(|size| size.exp2() as f32);
        let message = format!("is about {}, those of its {} peers {}", own, sizes.len() - 1, usual);
        found.add(Check::ScaleValue, at(shard, tensor), message, json!({"median": own, "peers": usual}));
    }
}

/// The median of sorted sizes, where one of them is far from it and from all but a few that lie with it.
fn usual_far_from(size: f64, sizes: &[f64], far: f64) -> Option<f64> {
    let median = *sizes.get(sizes.len() / 2)?;
    let distance = (size - median).abs();
    let beside = match size > median {
        true => sizes.len() - sizes.partition_point(|other| *other <= median + distance - BEYOND),
        false => sizes.partition_point(|other| *other < median - distance + BEYOND),
    };
    (distance > far && beside <= (sizes.len() / 4).max(1)).then_some(median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_is_what_is_far_from_nearly_all() {
        let far = |size: f64, sizes: &[f64]| usual_far_from(size, sizes, FAR);
        assert_eq!(far(-30.0, &[-30.0, -12.0, -11.0]), Some(-12.0));
        assert_eq!(far(0.0, &[-12.0, -12.0, -11.0, -11.0, 0.0]), Some(-11.0));
        assert_eq!(far(-5.0, &[-12.0, -12.0, -11.0, -11.0, -5.0]), None);
        // A spread that is usual for these.
        assert_eq!(far(-1.0, &[-12.0, -10.0, -8.0, -5.0, -1.0]), None);
        assert_eq!(far(-1.0, &[-12.0, -11.0, -10.0, -4.0, -1.0]), None);
    }
}
