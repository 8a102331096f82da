//! What packed weights need to be read: scales and the like, where the config says that there are any.

use super::check::Check;
use super::observation::Found;
use super::scales;
use super::stated;
use super::stored::at;
use super::tensors::role;
use super::weights::{Weights, ends, module};
use crate::checkpoint::packing::NumberType;
use crate::checkpoint::quantization::Quantization;
use crate::escape::printable;
use crate::neuron::out_of_wrapper;
use serde_json::json;
use std::collections::BTreeMap;

/// Examines the parts of packed weights, but for the values of scales.
pub(super) fn examine(weights: &Weights, found: &mut Found) {
    for (name, problem) in weights.broken.iter().filter(|(name, _)| !weights.is_cut(name)) {
        let Some((shard, tensor)) = weights.place_of(name) else { continue };
        found.say(Check::PackingBroken, at(shard, tensor), printable(&format!("cannot be unpacked: {problem}")));
    }
    for (weight, parts) in &weights.left_over {
        let Some((shard, tensor)) = parts.first().and_then(|first| weights.place(first)) else { continue };
        let what = match weights.place_of(weight) {
            // That these lack a scale is told of them.
            Some((_, codes)) if !NumberType::of(codes.dtype).holds_weights() => continue,
            Some((_, other)) => format!("{weight} is not packed ({})", other.dtype),
            None => format!("{weight} is not there"),
        };
        let message = printable(&format!("is what codes need to be read, and {what}"));
        found.add(Check::PackingLeftOver, at(shard, tensor), message, json!({"tensors": parts}));
    }
    let Some(settings) = &weights.quantization else { return };
    for (name, packed) in &weights.packed {
        if !is_named(settings, module(name)) {
            continue;
        }
        let Some((shard, tensor)) = weights.place_of(name) else { continue };
        let message = format!("is packed ({}), and the config says that this module is not", packed.format);
        found.say(Check::PackedIgnored, at(shard, tensor), message);
    }
    stated::examine(settings, weights, found);
    companions(weights, found);
    scales::examine(weights, found);
    fused(weights, found);
}

/// Whether the config names a module among those that are not packed, by its own name or by that within a text model.
fn is_named(settings: &Quantization, module: &str) -> bool {
    settings.names_as_ignored(module) || out_of_wrapper(module).is_some_and(|name| settings.names_as_ignored(&name))
}

/// What some packed weights have beside their codes, by the end of its name, and of how many.
#[derive(Default)]
struct Having<'w> {
    count: usize,
    ends: BTreeMap<&'w str, usize>,
}

impl<'w> Having<'w> {
    fn take(&mut self, ends: &[&'w str]) {
        self.count += 1;
        ends.iter().for_each(|end| *self.ends.entry(end).or_default() += 1);
    }

    fn with(&self, end: &str) -> usize {
        self.ends.get(end).copied().unwrap_or_default()
    }
}

/// Weights that lack what those of their kind have.
fn companions(weights: &Weights, found: &mut Found) {
    let mut formats: BTreeMap<&str, Having> = BTreeMap::new();
    let mut roles: BTreeMap<(&str, String), Having> = BTreeMap::new();
    for (name, packed) in &weights.packed {
        let ends = ends(name, packed);
        formats.entry(&packed.format).or_default().take(&ends);
        roles.entry((&packed.format, role(name))).or_default().take(&ends);
    }
    for (name, packed) in &weights.packed {
        let own = ends(name, packed);
        let (Some(format), Some(of_role)) =
            (formats.get(packed.format.as_str()), roles.get(&(packed.format.as_str(), role(name))))
        else {
            continue;
        };
        for end in format.ends.keys().filter(|end| !own.contains(end)) {
            let (in_role, in_all) = (of_role.with(end), format.with(end));
            let usual = 4 * in_all >= 3 * format.count && (in_role > 0 || SCALES.contains(end));
            if 2 * in_role <= of_role.count && !usual {
                continue;
            }
            let Some((shard, _)) = weights.place_of(name) else { continue };
            let instead = own.iter().find(|other| SCALES.contains(other) && SCALES.contains(end));
            let instead = instead.map(|other| format!("; it has {other}")).unwrap_or_default();
            let message = format!(
                "is missing: {in_all} of {} weights of its kind ({}) have it{instead}",
                format.count, packed.format
            );
            let location = shard.file.location().tensor(format!("{}{end}", module(name)));
            found.add(
                Check::PeerMissing,
                location,
                printable(&message),
                json!({"weight": name, "with": in_all, "of": format.count}),
            );
        }
    }
}

/// The names of the scale that codes cannot be read without.
const SCALES: [&str; 4] = [".weight_scale", ".weight_scale_inv", ".scales", "_scales"];

/// Modules that servers compute as one.
const FUSED: [&[&str]; 3] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"]];

/// Weights that servers fuse and that have a scale of the whole each beside those of groups, as NVFP4 has.
fn fused(weights: &Weights, found: &mut Found) {
    let of_whole = |name: &str| -> Option<(String, f32)> {
        let packed = weights.packed.get(name)?;
        let is_whole =
            |stored: &&String| [".weight_global_scale", ".weight_scale_2"].iter().any(|end| stored.ends_with(end));
        let stored = packed.stored.iter().find(is_whole)?;
        Some((stored.clone(), weights.first_value(stored)?))
    };
    for first in weights.packed.keys() {
        let Some((parent, last)) = module(first).rsplit_once('.') else { continue };
        let Some(set) = FUSED.iter().find(|set| set[0] == last) else { continue };
        let scales = set.iter().filter_map(|name| of_whole(&format!("{parent}.{name}.weight")));
        let scales: Vec<(String, f32)> = scales.collect();
        let Some((_, usual)) = scales.first() else { continue };
        let Some((other, value)) = scales.iter().find(|(_, value)| value.to_bits() != usual.to_bits()) else {
            continue;
        };
        let Some((shard, tensor)) = weights.place(other) else { continue };
        let all: Vec<String> = scales.iter().map(|(_, scale)| scale.to_string()).collect();
        let message = format!("is {}, and {} of {parent} have {}", value, set.join(", "), all.join(", "));
        found.add(Check::ScaleDiffers, at(shard, tensor), printable(&message), json!({"modules": set, "scales": all}));
    }
}
