//! Whether lines of a tensor are multiples of what they were, as far as a fingerprint can tell.
//!
//! A fingerprint has each line's norm and largest element. Those of two lines that have nothing to do with each other
//! agree on a factor now and then. But each element of a row stands in a column too: where row i is βᵢ times what it
//! was and holds yᵢⱼ now, and no other row changed, the square of column j's norm has grown by Σᵢ (1 − βᵢ⁻²) yᵢⱼ².

use super::difference::{Difference, LineChange, Pattern, TensorChange};
use super::fingerprint::{Fingerprint, LineMark, TensorRecord};
use crate::checkpoint::Opened;
use crate::checkpoint::packing::{Axis, Layout, Rows, dense};

/// Takes back factors that the other lines of a tensor contradict, or do not bear out.
pub(super) fn confirm(opened: &Opened, before: &Fingerprint, after: &Fingerprint, differences: &mut [Difference]) {
    let named = |of: &Fingerprint, name: &str| of.tensors.iter().position(|tensor| tensor.name == name);
    for difference in differences {
        let Difference::TensorChanged(change) = difference else { continue };
        let is_told = |line: &LineChange| line.axis != Axis::Element && line.beta.is_some_and(|beta| beta != 0.0);
        if change.pattern != Pattern::Lines || !change.lines.iter().any(is_told) {
            continue;
        }
        let records = named(before, &change.name).zip(named(after, &change.name));
        let fits = records.and_then(|(old, new)| fits(opened, &before.tensors[old], &after.tensors[new], change));
        if fits != Some(true) {
            change.lines.iter_mut().filter(|line| is_told(line)).for_each(|line| line.beta = None);
        }
    }
}

/// None where that cannot be told: the file cannot be read, or a line is no multiple or zero.
fn fits(opened: &Opened, old: &TensorRecord, new: &TensorRecord, change: &TensorChange) -> Option<bool> {
    let layout = Layout::of(new.dtype, &new.shape)?;
    let shard = opened.shard(&opened.root().join(&new.file)).ok()?;
    let bytes = shard.bytes(shard.sound_header().ok()?.tensors.iter().find(|tensor| tensor.name == new.name)?)?;
    let all = dense::rows(new.dtype, &new.shape, bytes);
    let axis = change.lines.first()?.axis;
    let (was, is) = match axis {
        Axis::Row => (&old.columns, &new.columns),
        _ => (&old.rows, &new.rows),
    };
    // How much the square of each crossing line's norm should have grown, and how large what it grew by is.
    let (mut grown, mut size) = (vec![0.0; is.len()], vec![0.0; is.len()]);
    for line in &change.lines {
        let share = 1.0 - line.beta.filter(|beta| *beta != 0.0)?.powi(-2);
        for (crossing, value) in elements(layout, &all, axis, line.index)? {
            let square = f64::from(value) * f64::from(value);
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
    Some(left <= (4.0 * layout.number.rounding() + 1e-6) * length(&mut size.iter().copied()) + 4e-6 * all)
}

/// The elements of a line, each with the line that crosses it there.
fn elements(layout: Layout, all: &Rows, axis: Axis, index: usize) -> Option<impl Iterator<Item = (usize, f32)>> {
    let Layout { rows, columns, .. } = layout;
    let (first, values) = match axis {
        Axis::Row => (index / rows * columns, all.row::<f32>(index)),
        _ => (index / columns * rows, all.column::<f32>(index)),
    };
    (!values.is_empty()).then(|| (first..).zip(values))
}
