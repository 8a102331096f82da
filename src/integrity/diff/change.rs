//! How the values of a tensor changed: which rows and columns, by what factor, or what the change looks like.

use crate::architecture::names;
use crate::checkpoint::packing::{Axis, Layout, Rows, Weight};
use crate::error::Result;
use crate::integrity::difference::{LISTED, LineChange, Norms, Pattern, TensorChange};
use nalgebra::DMatrix;
use safetensors::Dtype;

/// A tensor or packed weight, before and after.
pub(super) struct Changed<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub dtype: Dtype,
    pub layout: Layout,
    /// The relative size of one rounding of its values.
    pub rounding: f64,
    pub values: Values<'a>,
}

/// Its values.
pub(super) enum Values<'a> {
    /// Of stored tensors; elements differ where their bytes do.
    Stored([&'a [u8]; 2], [Rows<'a>; 2]),
    /// Of packed weights; elements differ where the bits of what they are decoded to do.
    Packed([&'a Weight<'a>; 2]),
}

/// What is seen of a row: its index, its values before and after, and which of them differ, if any.
type See<'a> = &'a mut dyn FnMut(usize, [&[f32]; 2], Option<&[bool]>);

impl Changed<'_> {
    /// All rows in order.
    fn each_row(&self, see: See) -> Result<()> {
        let columns = self.layout.columns;
        let (mut before, mut after, mut differ) = (vec![0.0; columns], vec![0.0; columns], vec![false; columns]);
        let mut seen = |rows: &[Rows; 2], first: usize, row: usize| {
            // Rows that are there by the layout.
            let _ = rows[0].read(row - first, 0, &mut before) && rows[1].read(row - first, 0, &mut after);
            let any = self.differing(row, [&before, &after], &mut differ);
            see(row, [&before, &after], any.then_some(&differ));
        };
        match &self.values {
            Values::Stored(_, rows) => (0..self.layout.all_rows()).for_each(|row| seen(rows, 0, row)),
            Values::Packed([before, after]) => {
                for range in self.layout.row_chunks() {
                    let rows = [before.rows(range.clone())?, after.rows(range.clone())?];
                    range.clone().for_each(|row| seen(&rows, range.start, row));
                }
            }
        }
        Ok(())
    }

    /// Whether any element of a row differs, and which.
    fn differing(&self, row: usize, [before, after]: [&[f32]; 2], differ: &mut [bool]) -> bool {
        match &self.values {
            Values::Stored(bytes, _) => {
                let here = row * self.layout.row_bytes()..(row + 1) * self.layout.row_bytes();
                let (before, after) = (&bytes[0][here.clone()], &bytes[1][here]);
                let element = self.layout.element_bytes();
                let elements = before.chunks_exact(element).zip(after.chunks_exact(element));
                before != after && {
                    differ.iter_mut().zip(elements).for_each(|(differ, (a, b))| *differ = a != b);
                    true
                }
            }
            Values::Packed(_) => {
                let bits = before.iter().zip(after).map(|(a, b)| a.to_bits() != b.to_bits());
                differ.iter_mut().zip(bits).fold(false, |any, (to, differs)| {
                    *to = differs;
                    any | differs
                })
            }
        }
    }

    /// The values of a row, before and after.
    fn row(&self, row: usize) -> Result<[Vec<f32>; 2]> {
        match &self.values {
            Values::Stored(_, [before, after]) => Ok([before.row(row), after.row(row)]),
            Values::Packed([before, after]) => {
                Ok([before.rows(row..row + 1)?.row(0), after.rows(row..row + 1)?.row(0)])
            }
        }
    }

    /// The values of columns, before and after.
    fn columns(&self, columns: &[usize]) -> Result<[Vec<Vec<f32>>; 2]> {
        match &self.values {
            Values::Stored(_, rows) => Ok([0, 1].map(|at| columns.iter().map(|of| rows[at].column(*of)).collect())),
            Values::Packed([before, after]) => Ok([before.columns(columns)?, after.columns(columns)?]),
        }
    }
}

/// How the tensor changed; none where it did not.
pub(super) fn compare(changed: &Changed, norms: &Norms) -> Result<Option<TensorChange>> {
    let layout = changed.layout;
    let counts = Counts::of(changed)?;
    if counts.elements == 0 {
        return Ok(None);
    }
    let vector = layout.columns == 1;
    let row_axis = if vector { Axis::Element } else { Axis::Row };
    let of_rows = |rows: &[usize], scaled: bool| -> Result<Vec<LineChange>> {
        let line = |at: &usize| {
            let [before, after] = changed.row(*at)?;
            Ok(line_change(changed, (row_axis, *at), [&before, &after], scaled, norms))
        };
        rows.iter().map(line).collect()
    };
    let of_columns = |columns: &[usize], scaled: bool| -> Result<Vec<LineChange>> {
        let [before, after] = changed.columns(columns)?;
        let values = columns.iter().zip(before.iter().zip(&after));
        let line = |(at, (a, b)): (&usize, (&Vec<f32>, &Vec<f32>))| {
            line_change(changed, (Axis::Column, *at), [a, b], scaled, norms)
        };
        Ok(values.map(line).collect())
    };
    let at = |counts: &[u32], more_than: usize| -> Vec<usize> {
        counts.iter().enumerate().filter(|(_, n)| **n as usize > more_than).map(|(at, _)| at).collect()
    };
    let (rows, columns) = (at(&counts.rows, 0), at(&counts.columns, 0));
    let whole_rows = at(&counts.rows, layout.columns / 2);
    let whole_columns = if vector { Vec::new() } else { at(&counts.columns, layout.rows / 2) };
    // A change of every row is also one of every column: whichever are fewer tell it.
    // The only row of a matrix, such as a gate's, is a row as well.
    let told = |whole: Vec<usize>, of: usize| {
        let few = whole.len() <= LISTED && whole.len() * 2 <= of;
        if few || whole.len() == 1 { whole } else { Vec::new() }
    };
    let (told_rows, told_columns) = match vector {
        true => (told(rows.clone(), layout.all_rows()), Vec::new()),
        false => (told(whole_rows, layout.all_rows()), told(whole_columns, layout.all_columns())),
    };
    let covered = counts.covered(changed, &told_rows, &told_columns)?;
    let few = |lines: &[usize], of: usize| lines.len() <= LISTED && lines.len() * 2 <= of;
    // Every change lies in these: where all of them are zero now they were masked, however much of them was zero before.
    let masked = |lines: &[LineChange]| !lines.is_empty() && lines.iter().all(|line| line.beta == Some(0.0));
    let few_columns = !vector && few(&columns, layout.all_columns()) && columns.len() <= rows.len();
    let masked_columns = if few_columns { of_columns(&columns, true)? } else { Vec::new() };
    let few_rows = !vector && few(&rows, layout.all_rows());
    let masked_rows = if few_rows { of_rows(&rows, true)? } else { Vec::new() };
    let mut lines = Vec::new();
    let pattern = if masked(&masked_columns) {
        lines = masked_columns;
        Pattern::Lines
    } else if masked(&masked_rows) {
        lines = masked_rows;
        Pattern::Lines
    } else if covered == counts.elements {
        lines.extend(of_rows(&told_rows, true)?);
        lines.extend(of_columns(&told_columns, true)?);
        Pattern::Lines
    } else if !vector && few(&rows, layout.all_rows()) && few(&columns, layout.all_columns()) {
        lines.extend(of_rows(&rows, false)?);
        lines.extend(of_columns(&columns, false)?);
        Pattern::Elements
    } else {
        low_rank(changed)?.map_or(Pattern::Dense, |rank| Pattern::LowRank { rank })
    };
    Ok(Some(TensorChange {
        name: changed.name.to_owned(),
        shape: changed.shape.to_vec(),
        dtype: changed.dtype,
        packed: None,
        rows_changed: rows.len(),
        rows: layout.all_rows(),
        columns_changed: if vector { 0 } else { columns.len() },
        columns: if vector { 0 } else { layout.all_columns() },
        relative_norm: Some((counts.change / counts.norm).sqrt()).filter(|n| n.is_finite()),
        elements_changed: Some(counts.elements),
        became_nan: counts.nan.1.saturating_sub(counts.nan.0),
        pattern,
        lines,
    }))
}

/// Changed elements.
struct Counts {
    rows: Vec<u32>,
    columns: Vec<u32>,
    elements: u64,
    /// ‖after − before‖².
    change: f64,
    /// ‖before‖².
    norm: f64,
    /// Values that are not a number, before and after.
    nan: (u64, u64),
}

impl Counts {
    fn of(changed: &Changed) -> Result<Counts> {
        let layout = changed.layout;
        let (rows, columns) = (layout.all_rows(), layout.all_columns());
        let mut found =
            Counts { rows: vec![0; rows], columns: vec![0; columns], elements: 0, change: 0.0, norm: 0.0, nan: (0, 0) };
        changed.each_row(&mut |row, [a, b], differ| {
            found.norm += a.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
            let Some(differ) = differ else { return };
            found.change += a.iter().zip(b).map(|(a, b)| (f64::from(*b) - f64::from(*a)).powi(2)).sum::<f64>();
            let nan = |values: &[f32]| values.iter().filter(|v| v.is_nan()).count() as u64;
            found.nan = (found.nan.0 + nan(a), found.nan.1 + nan(b));
            let first = row / layout.rows * layout.columns;
            for (column, differs) in differ.iter().enumerate() {
                found.rows[row] += u32::from(*differs);
                found.columns[first + column] += u32::from(*differs);
            }
            found.elements += u64::from(found.rows[row]);
        })?;
        Ok(found)
    }

    /// Changed elements that lie in these rows and columns.
    fn covered(&self, changed: &Changed, rows: &[usize], columns: &[usize]) -> Result<u64> {
        let layout = changed.layout;
        let sum = |counts: &[u32], of: &[usize]| of.iter().map(|at| u64::from(counts[*at])).sum::<u64>();
        let (mut twice, mut differ) = (0, vec![false; layout.columns]);
        for row in rows.iter().filter(|_| !columns.is_empty()) {
            let [before, after] = changed.row(*row)?;
            changed.differing(*row, [&before, &after], &mut differ);
            for column in columns.iter().filter(|c| *c / layout.columns == row / layout.rows) {
                twice += u64::from(differ[column % layout.columns]);
            }
        }
        Ok(sum(&self.rows, rows) + sum(&self.columns, columns) - twice)
    }
}

fn line_change(
    changed: &Changed,
    (axis, index): (Axis, usize),
    [a, b]: [&[f32]; 2],
    scaled: bool,
    norms: &Norms,
) -> LineChange {
    let rounding = changed.rounding;
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let (aa, ab, bb) = (dot(a, a), dot(a, b), dot(b, b));
    // Least squares; what is left has to be rounding: at most one a element.
    let factor = ab / aa;
    let left = a.iter().zip(b).map(|(a, b)| (f64::from(*b) - factor * f64::from(*a)).powi(2)).sum::<f64>();
    let fits = aa > 0.0 && left.sqrt() <= (rounding + 1e-7) * bb.sqrt();
    let becomes_zero = matches!(changed.values, Values::Packed(_)) && aa > 0.0 && bb == 0.0;
    let beta = match (axis, a, b) {
        _ if !scaled => becomes_zero.then_some(0.0),
        (Axis::Element, [a], [b]) => norms.beta(changed.name, (*a).into(), (*b).into()),
        _ => (fits && (factor - 1.0).abs() > 3.0 * rounding + 1e-6).then_some(factor),
    };
    LineChange {
        axis,
        index,
        neuron: names::neuron(changed.name, changed.shape.len(), axis, index),
        norm_before: aa.sqrt(),
        norm_after: bb.sqrt(),
        beta,
        relative_error: None,
    }
}

/// Rows and columns of the sample that a rank is told from.
const SAMPLE: usize = 160;

/// The rank of the change where it is low: singular values of a sample of its rows and columns that stand above what
/// rounding to the element type gives, if what is left of the change is no more than rounding.
fn low_rank(changed: &Changed) -> Result<Option<usize>> {
    let (layout, rounding) = (changed.layout, changed.rounding);
    let (rows, columns) = (layout.rows.min(SAMPLE), layout.columns.min(SAMPLE));
    // What is merged into a packed weight is rounded to its codes.
    let is_packed = matches!(changed.values, Values::Packed(_));
    if rows < 8 || columns < 8 || layout.matrices > 1 || rounding == 0.0 || is_packed {
        return Ok(None);
    }
    let spread = |at: usize, of: usize, from: usize| at * from / of;
    let (mut noise, mut delta) = (0.0, DMatrix::<f64>::zeros(rows, columns));
    for i in 0..rows {
        let [a, b] = changed.row(spread(i, rows, layout.rows))?;
        for j in 0..columns {
            let at = spread(j, columns, layout.columns);
            let (a, b) = (f64::from(a[at]), f64::from(b[at]));
            delta[(i, j)] = b - a;
            // A rounding is uniform over the gap between neighbouring numbers: twice `rounding` of the power of two
            // below.
            let gap = if b == 0.0 { 0.0 } else { 2.0 * rounding * b.abs().log2().floor().exp2() };
            noise += gap * gap / 12.0;
        }
    }
    if delta.iter().any(|d| !d.is_finite()) {
        return Ok(None);
    }
    let deviation = (noise / (rows * columns) as f64).sqrt();
    let values = delta.singular_values();
    let largest = values.iter().copied().fold(0.0, f64::max);
    // The largest singular value of noise (Marchenko and Pastur 1967), and that of arithmetic in f32.
    let floor = (1.2 * deviation * ((rows as f64).sqrt() + (columns as f64).sqrt())).max(1e-6 * largest);
    let rank = values.iter().filter(|v| **v > floor).count();
    let left: f64 = values.iter().filter(|v| **v <= floor).map(|v| v * v).sum();
    let is_rounding = left <= 2.0 * noise + 1e-9 * largest * largest;
    Ok((rank > 0 && rank * 3 <= rows.min(columns) && is_rounding).then_some(rank))
}
