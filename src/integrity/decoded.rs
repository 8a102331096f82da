//! What stored tensors of a packed weight have to do with its values.

use crate::checkpoint::packing::NumberType;
use crate::checkpoint::quantization::is_of_activations;
use safetensors::Dtype;
use std::collections::BTreeMap;

/// Whether a stored tensor of a packed weight does not bear on its values: what concerns activations alone.
pub(super) fn is_beside_values(stored: &str) -> bool {
    is_of_activations(stored) || stored.ends_with(".weight_format")
}

/// The relative size of one rounding of a packed weight's values where its scales are multiplied; `stored` are its stored
/// tensors. Codes do not count: a scale is not rounded to their type. Codes without any scales beside them are a GGUF's,
/// whose blocks hold half-precision scales.
pub(super) fn rounding<'a>(stored: impl Iterator<Item = (&'a str, Dtype)>) -> f64 {
    let stored: BTreeMap<&str, Dtype> = stored.collect();
    if stored.len() == 1 && stored.values().all(|dtype| *dtype == Dtype::U8) {
        return NumberType::F16.rounding();
    }
    let of_values =
        stored.into_iter().filter(|(name, _)| !is_beside_values(name)).map(|(_, dtype)| NumberType::of(dtype));
    let scales = of_values.filter(|number| number.holds_weights()).map(NumberType::rounding);
    scales.fold(NumberType::F32.rounding(), f64::max)
}
