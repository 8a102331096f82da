//! From weights to norms: one pass over the file, row by row, and one more over `up_proj` and `down_proj` together.

use super::site::{Kind, SITES, Site};
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::{Layout, Rows, Weight};
use crate::error::Result;
use crate::neuron::Side;
use rayon::prelude::*;
use std::ops::Range;

/// Rows that are longer are not read: no model has them, and memory is to stay bounded.
pub(super) const MOST_COLUMNS: usize = 1 << 20;
/// Pieces that a tensor is cut into at most. Not the number of threads, so that sums do not depend on it.
const PIECES: usize = 64;
/// Output channels whose cosines are summed together at most: a cache line of `up_proj` is then used whole.
const TILE: usize = 64;
/// Rows that are decoded together: where codes lie by columns, those of as many share a cache line.
const TOGETHER: usize = 16;
/// Numbers that all pieces, or the tile of one thread, hold at a time.
const HELD: usize = 1 << 22;

/// Numbers of a packed matrix that are decoded at a time.
const DECODED: usize = 1 << 25;

/// What is known of one decoder layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    /// Natural logarithms of norms by [`Site::index`]; −∞ where all elements are zero. None where there is no such
    /// tensor or it cannot be read.
    pub log_norms: [Option<Vec<f32>>; SITES.len()],
    /// Of each channel i the cosine of row i of `down_proj` and column i of `up_proj`.
    pub cosines: Option<Vec<f32>>,
}

/// Norms of a matrix's rows and columns, as natural logarithms.
pub(super) struct Norms {
    pub rows: Vec<f32>,
    pub columns: Vec<f32>,
}

impl Norms {
    /// Norms of the matrix `name`, or of all matrices of a stack; none where its elements are not floats.
    pub fn of(tensors: &Tensors, name: &str) -> Result<Option<Norms>> {
        let weight = tensors.weight(name)?;
        if !weight.is_float() {
            return Ok(None);
        }
        let Layout { matrices, rows, .. } = weight.layout();
        let mut all = Norms { rows: Vec::new(), columns: Vec::new() };
        for matrix in 0..matrices {
            let Some(norms) = Norms::of_rows(&weight, matrix * rows..(matrix + 1) * rows)? else { return Ok(None) };
            all.rows.extend(norms.rows);
            all.columns.extend(norms.columns);
        }
        Ok(Some(all))
    }

    /// Norms of one matrix.
    fn of_rows(weight: &Weight, matrix: Range<usize>) -> Result<Option<Norms>> {
        let columns = weight.layout().columns;
        let piece = matrix.len().div_ceil((HELD / columns.max(1)).clamp(1, PIECES)).max(1);
        let pieces: Vec<Range<usize>> =
            matrix.clone().step_by(piece).map(|at| at..(at + piece).min(matrix.end)).collect();
        let sums = pieces.into_par_iter().map(|range| -> Result<Option<(Vec<f64>, Vec<f64>)>> {
            let mut of_rows = Vec::with_capacity(range.len());
            let mut of_columns = vec![0.0; columns];
            let mut row = vec![0.0; columns];
            let together = ((HELD / PIECES) / columns.max(1)).clamp(1, TOGETHER);
            for first in range.clone().step_by(together) {
                let some = weight.rows(first..(first + together).min(range.end))?;
                for at in 0..together.min(range.end - first) {
                    if !some.read(at, 0, &mut row) {
                        return Ok(None);
                    }
                    let squares = row.iter().map(|v| v * v);
                    of_rows.push(squares.clone().sum());
                    of_columns.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
                }
            }
            Ok(Some((of_rows, of_columns)))
        });
        let sums = sums.collect::<Result<Vec<_>>>()?.into_iter().collect::<Option<Vec<_>>>();
        let Some(sums) = sums else { return Ok(None) };
        let mut of_columns = vec![0.0; columns];
        for (_, part) in &sums {
            of_columns.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let logs = |sums: &[f64]| sums.iter().map(|sum| (sum.ln() / 2.0) as f32).collect();
        let of_rows: Vec<f64> = sums.into_iter().flat_map(|(rows, _)| rows).collect();
        Ok(Some(Norms { rows: logs(&of_rows), columns: logs(&of_columns) }))
    }
}

/// Cosines of row i of `down` [hidden, intermediate] and column i of `up` [intermediate, hidden]; 0 where one of them
/// is zero. None where the elements are not floats.
pub(super) fn cosines(
    tensors: &Tensors,
    down: &str,
    up: &str,
    [hidden, intermediate]: [usize; 2],
) -> Result<Option<Vec<f32>>> {
    let (down, up) = (tensors.weight(down)?, tensors.weight(up)?);
    if !down.is_float() || !up.is_float() {
        return Ok(None);
    }
    // What is packed is not decoded as a whole.
    let most = if down.is_packed() || up.is_packed() { (DECODED / intermediate.max(1)).max(1) } else { hidden };
    let mut cosines = Vec::with_capacity(hidden);
    for first in (0..hidden).step_by(most.max(1)) {
        let channels = first..(first + most).min(hidden);
        let down = Part { rows: down.rows(channels.clone())?, first_row: first, first_column: 0 };
        let up = match up.is_packed() {
            false => Part { rows: up.all()?, first_row: 0, first_column: 0 },
            true => Part { rows: columns_of(&up, channels.clone())?, first_row: 0, first_column: first },
        };
        let Some(of_channels) = cosines_of(&down, &up, channels, intermediate) else { return Ok(None) };
        cosines.extend(of_channels);
    }
    Ok(Some(cosines))
}

/// Some rows, and some columns, of a matrix.
struct Part<'a> {
    rows: Rows<'a>,
    first_row: usize,
    first_column: usize,
}

impl Part<'_> {
    /// As [`Rows::read`], by the matrix's own rows and columns.
    #[must_use]
    fn read(&self, row: usize, from: usize, to: &mut [f64]) -> bool {
        self.rows.read(row - self.first_row, from - self.first_column, to)
    }
}

/// Some columns of a packed matrix.
fn columns_of(weight: &Weight, columns: Range<usize>) -> Result<Rows<'static>> {
    let layout = weight.layout();
    let (width, mut values) = (columns.len(), vec![0.0f32; layout.rows * columns.len()]);
    for range in layout.row_chunks() {
        let some = weight.rows(range.clone())?;
        for (at, to) in values[range.start * width..range.end * width].chunks_exact_mut(width).enumerate() {
            // Rows that are there by the layout.
            let _ = some.read(at, columns.start, to);
        }
    }
    Ok(Rows::decoded(Layout { columns: width, ..layout }, values))
}

fn cosines_of(down: &Part, up: &Part, channels: Range<usize>, intermediate: usize) -> Option<Vec<f32>> {
    let width = (HELD / intermediate.max(1)).clamp(1, TILE);
    let tiles: Vec<Range<usize>> =
        channels.clone().step_by(width).map(|at| at..(at + width).min(channels.end)).collect();
    let of_tiles = tiles.into_par_iter().map(|tile| -> Option<Vec<f32>> {
        let mut sums = vec![[0.0f64; 3]; tile.len()];
        let mut rows = vec![0.0; tile.len() * intermediate];
        for (row, at) in rows.chunks_mut(intermediate.max(1)).zip(tile.clone()) {
            down.read(at, 0, row).then_some(())?;
        }
        let mut part = vec![0.0; tile.len()];
        for at in 0..intermediate {
            up.read(at, tile.start, &mut part).then_some(())?;
            for (channel, (sum, up)) in sums.iter_mut().zip(&part).enumerate() {
                let down = rows[channel * intermediate + at];
                sum[0] += down * up;
                sum[1] += down * down;
                sum[2] += up * up;
            }
        }
        Some(sums.iter().map(|[dot, a, b]| (dot / (a * b).sqrt().max(f64::MIN_POSITIVE)) as f32).collect())
    });
    let of_tiles: Option<Vec<_>> = of_tiles.collect();
    of_tiles.map(|tiles| tiles.concat())
}

/// One row or column of a matrix, widened; empty where its elements are not floats.
pub(super) fn line(tensors: &Tensors, name: &str, side: Side, index: usize) -> Result<Vec<f64>> {
    let weight = tensors.weight(name)?;
    match side {
        _ if !weight.is_float() => Ok(Vec::new()),
        Side::Out => Ok(weight.rows(index..index + 1)?.row(0)),
        Side::In if weight.is_packed() => Ok(columns_of(&weight, index..index + 1)?.into_values()),
        Side::In => Ok(weight.all()?.column(index)),
    }
}

/// The tensor of a kind in a layer.
pub(super) fn tensor_name(layer: usize, kind: Kind) -> String {
    format!("model.layers.{layer}.{}.weight", kind.module())
}

impl Layer {
    /// The log norms of a site.
    pub fn of(&self, site: Site) -> Option<&Vec<f32>> {
        self.log_norms[site.index()].as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::packing::NumberType;
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize_to_file};

    /// Every float dtype against sums written out: values are small quarters, exact in all of them.
    #[test]
    fn norms_and_cosines_in_every_dtype() {
        let quarter = |i: usize| (i * 7 % 23) as f64 / 4.0 - 2.0;
        let [hidden, inner] = [70, 33];
        let down: Vec<f64> = (0..hidden * inner).map(quarter).collect();
        let up: Vec<f64> = (0..hidden * inner).map(|i| quarter(i * 3 + 1)).collect();
        let bytes = |dtype, values: &[f64]| -> Vec<u8> {
            let mut bytes = Vec::new();
            values.iter().for_each(|value| _ = NumberType::of(dtype).encode(*value, &mut bytes));
            bytes
        };
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8] {
            let folder = tempfile::tempdir().unwrap();
            let (of_down, of_up) = (bytes(dtype, &down), bytes(dtype, &up));
            let views = [
                ("down", TensorView::new(dtype, vec![hidden, inner], &of_down).unwrap()),
                ("up", TensorView::new(dtype, vec![inner, hidden], &of_up).unwrap()),
            ];
            serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
            let tensors = crate::checkpoint::Opened::folder_at(folder.path()).tensors().unwrap();
            let norms = Norms::of(&tensors, "down").unwrap();
            let cosines = cosines(&tensors, "down", "up", [hidden, inner]).unwrap();
            let row = line(&tensors, "down", Side::Out, 69).unwrap();
            let column = line(&tensors, "down", Side::In, 32).unwrap();
            if dtype == Dtype::I8 {
                assert!(norms.is_none() && cosines.is_none() && row.is_empty() && column.is_empty());
                continue;
            }
            assert_eq!(row, down[69 * inner..]);
            assert_eq!(column, (0..hidden).map(|i| down[i * inner + 32]).collect::<Vec<_>>());
            let (norms, cosines) = (norms.unwrap(), cosines.unwrap());
            let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
            for (at, found) in norms.rows.iter().enumerate() {
                assert!((f64::from(*found) - norm(&down[at * inner..][..inner]).ln()).abs() < 1e-6, "{dtype} row {at}");
            }
            for (at, found) in norms.columns.iter().enumerate() {
                let column: Vec<f64> = (0..hidden).map(|i| down[i * inner + at]).collect();
                assert!((f64::from(*found) - norm(&column).ln()).abs() < 1e-6, "{dtype} column {at}");
            }
            for (at, found) in cosines.iter().enumerate() {
                let row = &down[at * inner..][..inner];
                let column: Vec<f64> = (0..inner).map(|j| up[j * hidden + at]).collect();
                let dot: f64 = row.iter().zip(&column).map(|(a, b)| a * b).sum();
                assert!((f64::from(*found) - dot / norm(row) / norm(&column)).abs() < 1e-6, "{dtype} cosine {at}");
            }
        }
    }
}
