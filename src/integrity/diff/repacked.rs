//! A weight in two forms: how far rounding has moved it, and which rows and columns are further off than that.

use crate::architecture::names;
use crate::checkpoint::packing::{Axis, Weight};
use crate::error::Result;
use crate::integrity::difference::{LISTED, LineChange, Repacked};

/// A line stands out whose relative error is so many times the median's…
const TIMES_MEDIAN: f64 = 4.0;
/// … but at least this.
const LEAST: f64 = 0.02;
/// Where lines share their scale, one that is smaller than a step is rounded away. Its error is √3 times that of a line
/// that is rounded anywhere, at most.
const TIMES_SHARED: f64 = 2.0;

/// What is summed over the elements a and b of a line.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    aa: f64,
    bb: f64,
    ab: f64,
    /// (b − a)².
    dd: f64,
}

impl Sums {
    fn add(&mut self, a: f32, b: f32) {
        let (a, b) = (f64::from(a), f64::from(b));
        self.aa += a * a;
        self.bb += b * b;
        self.ab += a * b;
        self.dd += (b - a) * (b - a);
    }

    fn remove(&mut self, a: f32, b: f32) {
        let (a, b) = (f64::from(a), f64::from(b));
        let less = |sum: f64, part: f64| (sum - part).max(0.0);
        self.aa = less(self.aa, a * a);
        self.bb = less(self.bb, b * b);
        self.ab -= a * b;
        self.dd = less(self.dd, (b - a) * (b - a));
    }

    fn relative(&self) -> f64 {
        match (self.dd / self.aa).sqrt() {
            _ if self.dd == 0.0 => 0.0,
            error if error.is_finite() => error,
            _ => f64::INFINITY,
        }
    }

    /// The factor between the lines: what is left has to be what rounding leaves of others.
    fn beta(&self, usual: f64) -> Option<f64> {
        let factor = self.ab / self.aa;
        let left = (self.bb - factor * self.ab).max(0.0).sqrt();
        let fits = self.aa > 0.0 && left <= (2.0 * usual + 1e-6) * self.bb.sqrt();
        (fits && (factor - 1.0).abs() > 2.0 * usual + 1e-6).then_some(factor)
    }
}

/// Compares two forms of one shape.
pub(super) fn compare(weights: [&Weight; 2]) -> Result<Repacked> {
    let [before, after] = weights;
    let layout = before.layout();
    let mut rows = vec![Sums::default(); layout.all_rows()];
    let mut columns = vec![Sums::default(); if layout.columns > 1 { layout.all_columns() } else { 0 }];
    let (mut a, mut b) = (vec![0.0f32; layout.columns], vec![0.0f32; layout.columns]);
    for range in layout.row_chunks() {
        let (was, is) = (before.rows(range.clone())?, after.rows(range.clone())?);
        for row in range.clone() {
            if !was.read(row - range.start, 0, &mut a) || !is.read(row - range.start, 0, &mut b) {
                continue;
            }
            let of_matrix = row / layout.rows * layout.columns;
            for (column, (a, b)) in a.iter().zip(&b).enumerate() {
                rows[row].add(*a, *b);
                if let Some(column) = columns.get_mut(of_matrix + column) {
                    column.add(*a, *b);
                }
            }
        }
    }
    let all = rows.iter().fold((0.0, 0.0), |(dd, aa), of| (dd + of.dd, aa + of.aa));
    // Where a row has a scale of its own, what is small beside other rows is not rounded away.
    let own = |row: usize| weights.iter().any(|weight| weight.is_packed() && weight.own_scales(row).is_ok());
    let (is_out, is_column_out) = (Standing::of(&rows), Standing::of(&columns));
    let mut of_rows = out(&rows, &|at, of| is_out.is_out(of, &|| own(at)));
    let mut of_columns = out(&columns, &|_, of| is_column_out.is_out(of, &|| false));
    if of_rows.len().max(of_columns.len()) <= LISTED {
        // A line stands out by more than the one element that it shares with another that does.
        let (mut by_row, mut by_column) = (rows.clone(), columns.clone());
        for row in of_rows.iter().filter(|_| !of_columns.is_empty()) {
            let (was, is) = (before.rows(*row..row + 1)?.row(0), after.rows(*row..row + 1)?.row(0));
            for column in of_columns.iter().filter(|column| *column / layout.columns == row / layout.rows) {
                let at = column % layout.columns;
                by_row[*row].remove(was[at], is[at]);
                by_column[*column].remove(was[at], is[at]);
            }
        }
        of_rows.retain(|at| is_out.is_out(&by_row[*at], &|| own(*at)));
        of_columns.retain(|at| is_column_out.is_out(&by_column[*at], &|| false));
    }
    let row_axis = if columns.is_empty() { Axis::Element } else { Axis::Row };
    let line = |axis: Axis, index: usize, of: &Sums, usual: f64| LineChange {
        axis,
        index,
        neuron: names::neuron(before.name(), before.shape().len(), axis, index),
        norm_before: of.aa.sqrt(),
        norm_after: of.bb.sqrt(),
        beta: of.beta(usual),
        relative_error: Some(of.relative()).filter(|error| error.is_finite()),
    };
    let (of_row, of_column) = (median(rows.iter().map(Sums::relative)), median(columns.iter().map(Sums::relative)));
    let listed = of_rows.iter().take(LISTED).map(|at| line(row_axis, *at, &rows[*at], of_row));
    let listed_columns = of_columns.iter().take(LISTED).map(|at| line(Axis::Column, *at, &columns[*at], of_column));
    Ok(Repacked {
        name: before.name().to_owned(),
        shape: before.shape().to_vec(),
        before: before.format(),
        after: after.format(),
        relative_error: Some((all.0 / all.1).sqrt()).filter(|error| error.is_finite()),
        rows: rows.len(),
        rows_standing_out: of_rows.len(),
        columns: columns.len(),
        columns_standing_out: of_columns.len(),
        lines: listed.chain(listed_columns).collect(),
    })
}

fn out(lines: &[Sums], is_out: &dyn Fn(usize, &Sums) -> bool) -> Vec<usize> {
    lines.iter().enumerate().filter(|(at, line)| is_out(*at, line)).map(|(at, _)| at).collect()
}

/// From where on a line is further off than rounding explains.
struct Standing {
    relative: f64,
    /// The norm of the error, where others share its scale.
    error: f64,
}

impl Standing {
    fn of(lines: &[Sums]) -> Standing {
        let usual = median(lines.iter().map(Sums::relative));
        Standing {
            // A line of zeros is off by all of itself: halfway to that, where rounding is coarse.
            relative: (TIMES_MEDIAN * usual).min((1.0 + usual) / 2.0).max(LEAST),
            error: TIMES_SHARED * median(lines.iter().map(|line| line.dd.sqrt())),
        }
    }

    fn is_out(&self, line: &Sums, has_own_scale: &dyn Fn() -> bool) -> bool {
        line.relative() > self.relative && (line.dd.sqrt() > self.error || line.dd.is_nan() || has_own_scale())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    let middle = sorted.len() / 2;
    if sorted.is_empty() { 0.0 } else { *sorted.select_nth_unstable_by(middle, f64::total_cmp).1 }
}
