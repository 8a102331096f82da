//! Frequencies of the rotary embedding that a file holds, as old versions of transformers saved them.

use super::check::Check;
use super::header::StoredTensor;
use super::observation::Found;
use super::stored::{at, values};
use crate::architecture::Recipe;
use crate::checkpoint::number::{NumberType, Real};
use crate::checkpoint::packing::Axis;
use crate::error::Figure;
use half::{bf16, f16};
use serde_json::json;

/// Whether a tensor of the text model is such a buffer; one that is not what the config gives is told of.
pub(super) fn examine(recipe: &Recipe, name: &str, (shard, tensor): StoredTensor, found: &mut Found) -> bool {
    let is_float = NumberType::of(tensor.dtype).float_bits().is_some();
    let rope = recipe.rotary_buffer(name, &tensor.shape).filter(|_| is_float);
    let Some(rope) = rope else { return false };
    let (stored, readings) = (values(shard, tensor), rope.saved_frequencies());
    let other = |reading: &Vec<f64>| stored.iter().zip(reading).position(|(value, of)| !is_rounded(*value, *of));
    // Of the three ways that they may have been saved in, the one that is followed furthest.
    let furthest = readings.iter().map(|reading| other(reading).map_or((usize::MAX, 0.0), |at| (at, reading[at])));
    let Some((element, expected)) = furthest.max_by_key(|(at, _)| *at).filter(|(at, _)| *at < stored.len()) else {
        return true;
    };
    let message = format!(
        "element {element} is {}, the config gives {}: old versions of transformers turn by what the file holds, others by \
         the config",
        Figure(stored[element].into()),
        Figure(expected)
    );
    let evidence = json!({"element": element, "found": stored[element], "expected": expected});
    found.add(Check::RotaryBuffer, at(shard, tensor).at(Axis::Element, element as u64), message, evidence);
    true
}

/// Whether a stored value is a frequency, computed in f32 and perhaps rounded to half precision at some time.
fn is_rounded(stored: f32, frequency: f64) -> bool {
    // The power is computed in f32, with the exponent rounded: some units in the last place of six digits.
    const ROUNDING: f64 = 1e-5;
    let around = [1.0 - ROUNDING, 1.0, 1.0 + ROUNDING].map(|factor| frequency * factor);
    let half =
        |f: &f64| <f16 as Real>::from_f64(*f).to_f32() == stored || <bf16 as Real>::from_f64(*f).to_f32() == stored;
    (around[0]..=around[2]).contains(&f64::from(stored)) || around.iter().any(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_is_known_in_every_precision() {
        for (theta, dim) in [(10_000.0f64, 128), (1e6, 64), (5e5, 128)] {
            for i in 0..dim / 2 {
                let exact = theta.powf(-2.0 * f64::from(i) / f64::from(dim));
                let single = 1.0 / (theta as f32).powf(2.0 * i as f32 / dim as f32);
                for stored in [single, f16::from_f32(single).to_f32(), bf16::from_f32(single).to_f32()] {
                    assert!(is_rounded(stored, exact), "{theta} {i}: {stored}");
                }
                for wrong in [single * 1.0001, single * 1.02, -single, f32::NAN, 1e30] {
                    assert!(!is_rounded(wrong, exact), "{theta} {i}: {wrong}");
                }
            }
        }
    }
}
