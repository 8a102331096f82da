//! Whether lines of a tensor are multiples of what they were, as far as a fingerprint can tell.
//!
//! A fingerprint has each line's norm and largest element. Those of two lines that have nothing to do with each other
//! agree on a factor now and then. But each element of a row stands in a column too: where row i is βᵢ times what it
//! was and holds yᵢⱼ now, and no other row changed, the square of column j's norm has grown by Σᵢ (1 − βᵢ⁻²) yᵢⱼ².

use super::packed;
use crate::checkpoint::Opened;
use crate::checkpoint::packing::{Axis, Layout, NumberType, Rows, dense};
use crate::integrity::difference::{Difference, LineChange, Pattern, TensorChange};
use crate::integrity::fingerprint::{Fingerprint, LineMark, TensorRecord};

/// Takes back factors that the other lines of a tensor contradict, or do not bear out.
pub(super) fn confirm(opened: &Opened, before: &Fingerprint, after: &Fingerprint, differences: &mut [Difference]) {
    for difference in differences {
        let Difference::TensorChanged(change) = difference else { continue };
        let is_told = |line: &LineChange| line.axis != Axis::Element && line.beta.is_some_and(|beta| beta != 0.0);
        if change.pattern != Pattern::Lines || !change.lines.iter().any(is_told) {
            continue;
        }
        let fits = match change.packed {
            None => of_tensor(opened, before, after, change),
            Some(_) => of_weight(opened, before, after, change),
        };
        if fits != Some(true) {
            change.lines.iter_mut().filter(|line| is_told(line)).for_each(|line| line.beta = None);
        }
    }
}

/// None where that cannot be told: the file cannot be read, or a line is no multiple or zero.
fn of_tensor(opened: &Opened, before: &Fingerprint, after: &Fingerprint, change: &TensorChange) -> Option<bool> {
    let named = |of: &'_ Fingerprint| of.tensors.iter().position(|tensor| tensor.name == change.name);
    let (old, new): (&TensorRecord, &TensorRecord) = (&before.tensors[named(before)?], &after.tensors[named(after)?]);
    let layout = Layout::of(new.dtype, &new.shape)?;
    let (tensors, shard);
    let bytes = if opened.is_gguf() {
        tensors = opened.tensors().ok()?;
        tensors.bytes(&new.name)?
    } else {
        shard = opened.shard(&opened.root().join(&new.file)).ok()?;
        shard.bytes(shard.sound_header().ok()?.tensors.iter().find(|tensor| tensor.name == new.name)?)?
    };
    let all = dense::rows(new.dtype, &new.shape, bytes);
    let crossing = match change.lines.first()?.axis {
        Axis::Row => [&old.columns, &new.columns],
        _ => [&old.rows, &new.rows],
    };
    let values: Vec<Vec<f32>> = change.lines.iter().map(|line| elements(&all, line)).collect();
    fits(layout, layout.number.rounding(), change, &values, crossing)
}

/// Of a packed weight's decoded values.
fn of_weight(opened: &Opened, before: &Fingerprint, after: &Fingerprint, change: &TensorChange) -> Option<bool> {
    let named = |of: &'_ Fingerprint| of.weights.iter().position(|weight| weight.name == change.name);
    let (old, new) = (&before.weights[named(before)?], &after.weights[named(after)?]);
    let tensors = opened.tensors().ok()?;
    let weight = tensors.weight(&change.name).ok()?;
    let indices = || change.lines.iter().map(|line| line.index);
    let (values, crossing) = match change.lines.first()?.axis {
        Axis::Row => {
            let rows = indices().map(|row| Some(weight.rows(row..row + 1).ok()?.row(0)));
            (rows.collect::<Option<Vec<Vec<f32>>>>()?, [&old.columns, &new.columns])
        }
        _ => (weight.columns(&indices().collect::<Vec<_>>()).ok()?, [&old.rows, &new.rows]),
    };
    let layout = Layout { number: NumberType::F32, ..weight.layout() };
    fits(layout, packed::rounding(after, new).max(packed::rounding(before, old)), change, &values, crossing)
}

/// Whether the lines that cross those that changed, whose marks before and after are given, bear the factors out;
/// `values` are the changed lines' elements now.
fn fits(
    layout: Layout,
    rounding: f64,
    change: &TensorChange,
    values: &[Vec<f32>],
    [was, is]: [&Vec<LineMark>; 2],
) -> Option<bool> {
    // How much the square of each crossing line's norm should have grown, and how large what it grew by is.
    let (mut grown, mut size) = (vec![0.0; is.len()], vec![0.0; is.len()]);
    for (line, values) in change.lines.iter().zip(values) {
        let share = 1.0 - line.beta.filter(|beta| *beta != 0.0)?.powi(-2);
        let first = match line.axis {
            Axis::Row => line.index / layout.rows * layout.columns,
            _ => line.index / layout.columns * layout.rows,
        };
        if values.is_empty() {
            return None;
        }
        for (crossing, value) in (first..).zip(values) {
            let square = f64::from(*value) * f64::from(*value);
            *grown.get_mut(crossing)? += share * square;
            *size.get_mut(crossing)? += (1.0 + share.abs()) * square;
        }
    }
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let square = |line: &LineMark| f64::from(line.norm) * f64::from(line.norm);
    let pairs = || was.iter().zip(is);
    let left = length(&mut pairs().zip(&grown).map(|((was, is), grown)| square(is) - square(was) - grown));
    let all = length(&mut pairs().map(|(was, is)| square(was) + square(is)));
    // Of elements, a rounding each and what the factor is off by; of norms, that they are sums in f32.
    Some(left <= (4.0 * rounding + 1e-6) * length(&mut size.iter().copied()) + 4e-6 * all)
}

/// The elements of a line; none where there is no such line.
fn elements(all: &Rows, line: &LineChange) -> Vec<f32> {
    match line.axis {
        Axis::Row => all.row(line.index),
        _ => all.column(line.index),
    }
}
