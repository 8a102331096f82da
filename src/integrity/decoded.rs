//! Weights read a few rows at a time: what is packed has to be decoded, and all of it need not fit in memory.

use crate::checkpoint::packing::{Layout, NumberType, Weight};
use crate::error::Result;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;

/// Numbers that are decoded at a time.
const HELD: usize = 1 << 20;

/// All rows, a few at a time.
pub(super) fn chunks(layout: Layout) -> impl Iterator<Item = Range<usize>> {
    let (all, some) = (layout.all_rows(), (HELD / layout.columns.max(1)).max(1));
    (0..all).step_by(some).map(move |at| at..(at + some).min(all))
}

/// Some columns of the stack, in one pass over its rows.
pub(super) fn columns(weight: &Weight, columns: &[usize]) -> Result<Vec<Vec<f32>>> {
    let layout = weight.layout();
    let mut found = vec![Vec::with_capacity(layout.rows); columns.len()];
    for range in chunks(layout) {
        let rows = weight.rows(range.clone())?;
        for row in range.clone() {
            let of_matrix = row / layout.rows * layout.columns..(row / layout.rows + 1) * layout.columns;
            for (column, values) in columns.iter().zip(&mut found).filter(|(column, _)| of_matrix.contains(column)) {
                let mut value = [0.0f32];
                if rows.read(row - range.start, column - of_matrix.start, &mut value) {
                    values.push(value[0]);
                }
            }
        }
    }
    Ok(found)
}

/// Whether a stored tensor of a packed weight does not bear on its values: what concerns activations alone.
pub(super) fn is_beside_values(stored: &str) -> bool {
    let last = stored.rsplit('.').next().unwrap_or(stored);
    last.contains("input_") || last.contains("activation_") || last == "weight_format"
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
