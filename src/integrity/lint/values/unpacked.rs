//! The values that codes stand for, where the codes are no floats themselves: some rows at a time, on all cores.

use super::bits::{Count, Format, ValueCounts};
use super::{KEPT, zeros};
use crate::architecture::names;
use crate::architecture::place::Axis;
use crate::checkpoint::packing::{Layout, Rows};
use crate::error::Result;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::header::StoredTensor;
use crate::integrity::lint::observation::{Found, More};
use crate::integrity::lint::weights::Weights;
use crate::progress::Progress;
use rayon::prelude::*;
use serde_json::json;

/// Elements that are decoded together.
const PIECE: usize = 1 << 20;
/// Longer rows are none of a model's.
const LONGEST: usize = 1 << 24;

/// A packed weight whose codes are no floats.
pub struct Unpacked<'w> {
    name: &'w str,
    weights: &'w Weights<'w>,
    codes: StoredTensor<'w>,
}

/// All of them, but for those that share bytes with others.
pub fn all<'w>(weights: &'w Weights<'w>) -> Vec<Unpacked<'w>> {
    let of = |name: &'w String| {
        let stored = weights.packed.get(name)?.stored.first()?;
        let codes = weights.place(stored).filter(|(_, tensor)| Format::of(tensor.dtype).is_none())?;
        weights.bytes(stored)?;
        Some(Unpacked { name, weights, codes })
    };
    weights.packed.keys().filter_map(of).collect()
}

impl Unpacked<'_> {
    /// Bytes of its codes.
    pub fn bytes(&self) -> u64 {
        self.codes.1.bytes.end - self.codes.1.bytes.start
    }

    /// What its values are. The error is that the user asked to stop.
    fn seen(&self, progress: &dyn Progress) -> Result<std::result::Result<ValueCounts, String>> {
        let Some(weight) = self.weights.read(self.name) else { return Ok(Ok(ValueCounts::default())) };
        let layout = weight.layout();
        if layout.columns > LONGEST {
            return Ok(Err(format!("has rows of {} columns, which is too long to be examined", layout.columns)));
        }
        let is_short = layout.columns as u64 <= super::LONGEST_ROW;
        let matrices = if is_short { names::matrices(self.name, weight.shape()) } else { 0 };
        let mut seen = ValueCounts { columns: vec![false; matrices * layout.columns], ..ValueCounts::default() };
        let (all, together) = (layout.all_rows(), (PIECE / layout.columns.max(1)).max(1));
        let mut advanced = 0;
        for from in (0..all).step_by(together) {
            let to = all.min(from + together);
            match weight.rows(from..to) {
                Ok(rows) => take(rows, layout, from as u64, &mut seen),
                Err(error) => return Ok(Err(error.to_string())),
            }
            let done = (u128::from(self.bytes()) * to as u128 / all as u128) as u64;
            progress.advance(done - advanced)?;
            advanced = done;
        }
        Ok(Ok(seen))
    }

    fn tell(&self, seen: &ValueCounts, found: &mut Found) {
        let (shard, codes) = self.codes;
        let at = || shard.file.location().tensor(&codes.name);
        let Some(packed) = self.weights.packed.get(self.name) else { return };
        let (shape, columns) = (&packed.shape, packed.shape.last().copied().unwrap_or(1).max(1) as u64);
        // Of a scale that is no number enough is said.
        let is_told = |found: &Found| {
            packed.stored.iter().skip(1).any(|part| {
                found.observations.iter().any(|o| {
                    [Check::Nan, Check::Infinite, Check::ScaleValue].contains(&o.check)
                        && o.location.tensor.as_ref() == Some(part)
                })
            })
        };
        for (check, what, count) in [(Check::Nan, "NaN", seen.nan), (Check::Infinite, "infinite", seen.infinite)] {
            let Some(first) = count.first.filter(|_| !is_told(found)) else { continue };
            let place = at().at(Axis::Row, first / columns).and(More::InTensor(count.count - 1));
            let (row, column) = (first / columns, first % columns);
            let message = format!(
                "{} of its values are {what} once unpacked, the first at row {row}, column {column}",
                count.count
            );
            found.add(check, place, message, json!({"count": count.count, "first_element": first}));
        }
        let rows = shape.split_last().map_or(0, |(_, rows)| rows.iter().product::<usize>() as u64);
        zeros((self.name, shape), rows, seen, at(), found);
    }
}

/// Unpacks all and tells of what is in them.
pub fn scan(all: &[Unpacked], found: &mut Found, progress: &dyn Progress) -> Result<()> {
    // Columns of so many together are kept at once.
    for some in all.chunks(256) {
        let seen: Vec<_> = some.par_iter().map(|one| one.seen(progress)).collect::<Result<_>>()?;
        for (one, seen) in some.iter().zip(seen) {
            match seen {
                Ok(seen) => one.tell(&seen, found),
                Err(problem) => {
                    let location = one.codes.0.file.location().tensor(&one.codes.1.name);
                    found.say(Check::PackingBroken, location, problem);
                }
            }
        }
    }
    Ok(())
}

/// Counts what is in rows, the first of which is row `from`.
fn take(rows: Rows, layout: Layout, from: u64, seen: &mut ValueCounts) {
    let values: Vec<f32> = rows.into_values();
    let columns = layout.columns;
    for (row, values) in (from..).zip(values.chunks_exact(columns.max(1))) {
        let mut any = false;
        for value in values {
            any |= *value != 0.0;
        }
        let first = row as usize / layout.rows * columns;
        for (column, value) in seen.columns.iter_mut().skip(first).zip(values) {
            *column |= *value != 0.0;
        }
        seen.any |= any;
        if !any {
            seen.zero_rows += 1;
            if seen.first_zero_rows.len() < KEPT {
                seen.first_zero_rows.push(row);
            }
        }
        if values.iter().all(|value| value.is_finite()) {
            continue;
        }
        for (element, value) in (row * columns as u64..).zip(values) {
            let count = match value {
                value if value.is_nan() => &mut seen.nan,
                value if value.is_infinite() => &mut seen.infinite,
                _ => continue,
            };
            *count = Count { count: count.count + 1, first: count.first.or(Some(element)) };
        }
    }
}
