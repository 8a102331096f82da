//! Where a tensor changed, by the marks of its rows and columns.

use crate::architecture::names;
use crate::checkpoint::packing::{Axis, NumberType};
use crate::integrity::difference::{LISTED, LineChange, Norms, Pattern, TensorChange};
use crate::integrity::fingerprint::{LineMark, LineStatistics, TensorRecord, WeightRecord};
use safetensors::Dtype;
use std::collections::BTreeSet;

/// What a fingerprint has of a stored tensor, or of a packed weight.
pub(super) struct Marks<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: &'a [usize],
    statistics: LineStatistics,
    rows: &'a [LineMark],
    columns: &'a [LineMark],
    row_digests: Option<&'a Vec<[u8; 32]>>,
    /// The relative size of one rounding of its values.
    rounding: f64,
    is_packed: bool,
}

impl<'a> Marks<'a> {
    /// A stored tensor's.
    pub fn of(tensor: &'a TensorRecord) -> Marks<'a> {
        Marks {
            name: &tensor.name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            statistics: tensor.statistics,
            rows: &tensor.rows,
            columns: &tensor.columns,
            row_digests: tensor.row_digests.as_ref(),
            rounding: NumberType::of(tensor.dtype).rounding(),
            is_packed: false,
        }
    }

    /// A packed weight's; `rounding` is that of its scales.
    pub fn of_weight(weight: &'a WeightRecord, rounding: f64) -> Marks<'a> {
        Marks {
            name: &weight.name,
            dtype: Dtype::F32,
            shape: &weight.shape,
            statistics: weight.statistics,
            rows: &weight.rows,
            columns: &weight.columns,
            row_digests: None,
            rounding,
            is_packed: true,
        }
    }
}

/// Places a change by the marks of rows and columns.
pub(super) fn change(old: &Marks, new: &Marks, norms: &Norms) -> TensorChange {
    let dimensions = old.shape.len();
    let tolerance = old.rounding;
    let differing = |a: &[LineMark], b: &[LineMark]| -> Vec<usize> {
        a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect()
    };
    let (mut rows, columns) = (differing(old.rows, new.rows), differing(old.columns, new.columns));
    if let (Some(a), Some(b)) = (old.row_digests, new.row_digests) {
        rows = a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
    }
    let row_axis = if old.columns.is_empty() { Axis::Element } else { Axis::Row };
    let line = |axis: Axis, index: usize, scaled: bool| {
        let (a, b) = match axis {
            Axis::Column => (old.columns[index], new.columns[index]),
            _ => (old.rows[index], new.rows[index]),
        };
        LineChange {
            axis,
            index,
            neuron: names::neuron(old.name, dimensions, axis, index),
            norm_before: a.norm.into(),
            norm_after: b.norm.into(),
            beta: match axis {
                // Codes round much to 0 that is not, but a line that is all zero is one whatever became of the others.
                _ if !scaled => (old.is_packed && b.is_zero() && !a.is_zero()).then_some(0.0),
                Axis::Element => norms.beta(old.name, a.extreme.into(), b.extreme.into()),
                _ => beta(a, b, tolerance),
            },
            relative_error: None,
        }
    };
    let vector = old.columns.is_empty();
    // Of a stack the matrices that changed at all.
    let few = |lines: &[usize], of: usize| {
        let matrices = if let [matrices, _, _] = *old.shape { matrices.max(1) } else { 1 };
        let each = (of / matrices).max(1);
        let touched: BTreeSet<usize> = lines.iter().map(|line| line / each).collect();
        lines.len() <= LISTED && lines.len() * 2 <= touched.len().max(1) * each
    };
    let few_columns = few(&columns, old.columns.len());
    // The only row of a matrix, such as a gate's, is a row as well.
    let few_rows = few(&rows, old.rows.len()) || rows.len() == 1 && !few_columns;
    let listed = |axis: Axis, indices: &[usize], scaled: bool| -> Vec<LineChange> {
        indices.iter().map(|at| line(axis, *at, scaled)).collect()
    };
    // Every change lies in these: where all of them are zero now they were masked, however much of them was zero before.
    let masked = |indices: &[usize], was: &[LineMark], is: &[LineMark]| {
        !indices.is_empty() && indices.iter().all(|at| is[*at].is_zero() && !was[*at].is_zero())
    };
    let (lines, pattern) = match (few_rows, few_columns) {
        (_, true) if !vector && columns.len() <= rows.len() && masked(&columns, old.columns, new.columns) => {
            (listed(Axis::Column, &columns, true), Pattern::Lines)
        }
        (true, _) if !vector && masked(&rows, old.rows, new.rows) => (listed(row_axis, &rows, true), Pattern::Lines),
        _ if vector && few_rows => (listed(row_axis, &rows, true), Pattern::Lines),
        (true, true) => {
            ([listed(row_axis, &rows, false), listed(Axis::Column, &columns, false)].concat(), Pattern::Elements)
        }
        (true, false) if !vector => (listed(row_axis, &rows, true), Pattern::Lines),
        (false, true) => (listed(Axis::Column, &columns, true), Pattern::Lines),
        _ => {
            // Where all else changed too, what a line is a multiple of is not known.
            let mut lines = listed(row_axis, &standing_out(old.rows, new.rows), false);
            lines.extend(listed(Axis::Column, &standing_out(old.columns, new.columns), false));
            (lines, Pattern::Dense)
        }
    };
    TensorChange {
        name: old.name.to_owned(),
        shape: old.shape.to_vec(),
        dtype: old.dtype,
        packed: None,
        rows_changed: rows.len(),
        rows: old.rows.len(),
        columns_changed: columns.len(),
        columns: old.columns.len(),
        relative_norm: None,
        elements_changed: None,
        became_nan: new.statistics.nan.saturating_sub(old.statistics.nan),
        pattern,
        lines,
    }
}

/// The factor that there may be between a line and what it was: norm and largest element have to agree on it, up to the
/// rounding of the element type.
fn beta(before: LineMark, after: LineMark, rounding: f64) -> Option<f64> {
    if before.is_zero() {
        return None;
    }
    if after.is_zero() {
        return Some(0.0);
    }
    let norms = f64::from(after.norm) / f64::from(before.norm);
    let extremes = f64::from(after.extreme) / f64::from(before.extreme);
    let apart = (extremes.abs() / norms - 1.0).abs();
    // One rounding of the largest element, and as much of the norm where a line is short.
    let tolerance = 2.0 * rounding + 1e-6;
    // A factor of 1 explains no change.
    let is_one = (norms.copysign(extremes) - 1.0).abs() <= tolerance;
    (apart <= tolerance && !is_one).then(|| norms.copysign(extremes))
}

/// Lines whose norm changed as none of the others' did: 20 times as much as the median's, and by 2 % or more.
fn standing_out(before: &[LineMark], after: &[LineMark]) -> Vec<usize> {
    let moved: Vec<f64> = before
        .iter()
        .zip(after)
        .map(|(a, b)| match (a.is_zero(), b.is_zero()) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            _ => (f64::from(b.norm) / f64::from(a.norm)).ln().abs(),
        })
        .collect();
    let mut sorted = moved.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let out: Vec<usize> =
        moved.iter().enumerate().filter(|(_, m)| **m > (20.0 * median).max(0.02)).map(|(at, _)| at).collect();
    if out.len() > LISTED { Vec::new() } else { out }
}
