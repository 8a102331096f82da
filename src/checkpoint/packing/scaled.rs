//! Weights of one byte an element with scales beside them: 8-bit floats and 8-bit integers, a scale for the tensor, for
//! each out channel, or for each block or group of elements. DeepSeek's and Qwen's FP8 checkpoints, compressed-tensors
//! and Model Optimizer write these.

use super::change::{Codes, OwnScales, StoredSpan};
use super::layout::{Axis, Layout};
use super::number::NumberType;
use super::parts::{Part, Parts, by_rows};
use super::rows::Rows;
use super::{Found, Outline, Packing, Usual};
use crate::checkpoint::quantization::OF_INPUTS;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// W\[r, c\] = (code − zero point) · scale of the block that holds r and c.
#[derive(Debug)]
struct Scaled<'a> {
    outline: Outline<'a>,
    codes: Part<'a>,
    scales: Part<'a>,
    grid: Grid,
    factors: Vec<f32>,
    zeros: Option<(Part<'a>, Vec<f32>)>,
}

/// How scales lie over a stack of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows of a block, counted anew in each matrix.
    rows: usize,
    /// Columns of a block.
    columns: usize,
    /// Blocks beside each other.
    across: usize,
    /// Blocks of a matrix; 0 where all matrices share theirs.
    each: usize,
}

impl Grid {
    /// Where the scale of a row's first columns is.
    fn row(&self, matrix: usize, row: usize) -> usize {
        matrix * self.each + row / self.rows * self.across
    }
}

/// What stands beside codes of a byte as their scale.
const SCALES: &[&str] = &[".weight_scale_inv", ".weight_scale", ".scale", "_scale_inv", "_scale"];
/// The block of FP8 checkpoints whose config does not say another.
const USUAL_BLOCK: [usize; 2] = [128, 128];

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let codes = parts.own().filter(|codes| matches!(codes.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::I8))?;
    let scales = parts.first(SCALES)?;
    Some(found(parts, codes, scales).map(|scaled| Box::new(scaled) as Box<dyn Packing>))
}

fn found<'a>(parts: &Parts<'a, '_>, codes: Part<'a>, scales: Part<'a>) -> std::result::Result<Scaled<'a>, String> {
    let layout = Layout::of(codes.dtype, codes.shape).filter(|_| codes.shape.len() >= 2);
    let layout = layout.ok_or_else(|| format!("has shape {:?}, expected a matrix", codes.shape))?;
    let floats = [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F64, Dtype::F8_E8M0, Dtype::U8];
    scales.expect(&floats, scales.shape)?;
    // compressed-tensors' MXFP8 has its exponents as plain bytes.
    let factors = match scales.dtype {
        Dtype::U8 => NumberType::F8E8M0.decode_all(scales.bytes),
        _ => scales.values(),
    };
    let grid = grid(layout, scales.shape, parts.scheme()?)?;
    let zeros = parts.get(".weight_zero_point");
    if let Some(zeros) = &zeros {
        zeros.expect(&[Dtype::I8, Dtype::U8, Dtype::I32, Dtype::F8_E4M3], scales.shape)?;
    }
    let others = parts.all(OF_INPUTS);
    let used = [&codes, &scales].into_iter().chain(&zeros).chain(&others);
    let format = if codes.dtype == Dtype::I8 { "INT8" } else { "FP8" };
    let outline = Outline::of(used, codes.shape.to_vec(), layout, format);
    Ok(Scaled {
        outline: Outline { usual: Usual { exponents: true, ..Usual::default() }, ..outline },
        factors,
        zeros: zeros.map(|zeros| (zeros.clone(), zeros.values())),
        codes,
        scales,
        grid,
    })
}

/// How scales of a shape lie over codes.
fn grid(
    layout: Layout,
    scales: &[usize],
    scheme: crate::checkpoint::quantization::Scheme,
) -> std::result::Result<Grid, String> {
    let Layout { matrices, rows, columns, .. } = layout;
    let (whole, count) =
        (Grid { rows, columns, across: 1, each: 0 }, scales.iter().copied().fold(1, usize::saturating_mul));
    if count == 1 {
        return Ok(whole);
    }
    // The dimensions that are those of one matrix.
    let (each, of_matrix) = match scales {
        [first, rest @ ..] if matrices > 1 && *first == matrices => {
            (rest.iter().copied().fold(1, usize::saturating_mul), rest)
        }
        _ if matrices > 1 => return Err(unfit(layout, scales)),
        all => (0, all),
    };
    let blocks = |[high, wide]: [usize; 2]| {
        let fits = of_matrix == [rows.div_ceil(high), columns.div_ceil(wide)];
        fits.then(|| Grid { rows: high, columns: wide, across: columns.div_ceil(wide), each })
    };
    let grid = match (scheme.block, of_matrix) {
        (_, [] | [1] | [1, 1]) => Some(Grid { each, ..whole }),
        (Some(block), _) => blocks(block),
        (None, &[of_rows] | &[of_rows, 1]) if of_rows == rows => Some(Grid { rows: 1, columns, across: 1, each }),
        (None, &[of_rows, groups]) if of_rows == rows && groups > 0 => {
            let group = scheme.group.unwrap_or(columns / groups).max(1);
            (columns.div_ceil(group) == groups).then_some(Grid { rows: 1, columns: group, across: groups, each })
        }
        (None, _) => blocks(USUAL_BLOCK),
    };
    grid.ok_or_else(|| match scheme.block {
        Some([high, wide]) => format!("{}, blocks of {high} × {wide} as the config has it", unfit(layout, scales)),
        None => unfit(layout, scales),
    })
}

fn unfit(layout: Layout, scales: &[usize]) -> String {
    let Layout { matrices, rows, columns, .. } = layout;
    let shape = if matrices > 1 { vec![matrices, rows, columns] } else { vec![rows, columns] };
    format!("has scales of shape {scales:?}, which do not lie over its {shape:?}")
}

impl Packing for Scaled<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let Layout { rows: height, columns, .. } = self.outline.layout;
        let number = self.codes.number();
        let values = by_rows(rows, columns, |first, to| {
            number.decode(&self.codes.bytes[first * columns..first * columns + to.len()], to);
            for (row, to) in (first..).zip(to.chunks_exact_mut(columns)) {
                let at = self.grid.row(row / height, row % height);
                for (block, to) in to.chunks_mut(self.grid.columns).enumerate() {
                    let zero = self.zeros.as_ref().map_or(0.0, |(_, zeros)| zeros[at + block]);
                    let factor = self.factors[at + block];
                    to.iter_mut().for_each(|value| *value = (*value - zero) * factor);
                }
            }
        });
        Ok(Some(Rows::decoded(self.outline.layout, values)))
    }

    fn codes(&self, axis: Axis, index: usize) -> std::result::Result<Codes<'_>, String> {
        let Layout { rows, columns, .. } = self.outline.layout;
        Ok(Codes::bytes(match axis {
            Axis::Row => StoredSpan::of(&self.codes, index * columns, columns, columns, 1),
            _ => {
                let from = index / columns * rows * columns + index % columns;
                StoredSpan::of(&self.codes, from, 1, columns, rows)
            }
        }))
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        self.factors[self.block(row, column)]
    }

    fn zero_code(&self, row: usize, column: usize) -> std::result::Result<u32, String> {
        let Some((_, zeros)) = &self.zeros else { return Ok(0) };
        let zero = zeros[self.block(row, column)];
        let mut code = Vec::new();
        if self.codes.number().encode(f64::from(zero), &mut code) != f64::from(zero) {
            return Err(format!("no code of {} is its zero point of {zero}", self.outline.format));
        }
        Ok(code.first().copied().unwrap_or_default().into())
    }

    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        let Layout { rows, columns, .. } = self.outline.layout;
        let of_column = (0..columns).map(|column| column / self.grid.columns).collect();
        match self.beside_row(&self.scales, row) {
            Some(place) => Ok(OwnScales { place, of_column }),
            None => {
                let block = self.grid.rows.min(rows);
                Err(format!("{block} rows share a scale, so that a factor would change them all"))
            }
        }
    }

    fn own_zeros(&self, row: usize) -> Option<Codes<'_>> {
        let (zeros, _) = self.zeros.as_ref()?;
        Some(Codes::bytes(self.beside_row(zeros, row)?))
    }
}

impl<'a> Scaled<'a> {
    /// Which scale an element has.
    fn block(&self, row: usize, column: usize) -> usize {
        let rows = self.outline.layout.rows;
        self.grid.row(row / rows, row % rows) + column / self.grid.columns
    }

    /// What scales or zero points hold of a row; none where it shares them with others.
    fn beside_row(&self, part: &Part<'a>, row: usize) -> Option<StoredSpan<'a>> {
        let Layout { matrices, rows, .. } = self.outline.layout;
        let is_shared = self.grid.rows > 1 || (self.grid.each == 0 && matrices > 1);
        let size = part.number().bytes();
        let (from, across) = (self.grid.row(row / rows, row % rows) * size, self.grid.across * size);
        (!is_shared).then(|| StoredSpan::of(part, from, across, across, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::quantization::Scheme;

    #[test]
    fn scales_lie_over_codes_as_their_shape_and_the_config_say() {
        let of = |shape: &[usize], scales: &[usize], scheme: Scheme| {
            grid(Layout::of(Dtype::I8, shape).unwrap(), scales, scheme)
        };
        let block = |block| Scheme { block: Some(block), ..Scheme::default() };
        let grid = |rows, columns, across, each| Ok(Grid { rows, columns, across, each });
        assert_eq!(of(&[6, 8], &[], Scheme::default()), grid(6, 8, 1, 0));
        assert_eq!(of(&[6, 8], &[1], Scheme::default()), grid(6, 8, 1, 0));
        assert_eq!(of(&[6, 8], &[6, 1], Scheme::default()), grid(1, 8, 1, 0));
        assert_eq!(of(&[6, 8], &[6, 2], Scheme::default()), grid(1, 4, 2, 0));
        assert_eq!(of(&[6, 8], &[2, 3], block([4, 3])), grid(4, 3, 3, 0));
        assert_eq!(of(&[200, 300], &[2, 3], Scheme::default()), grid(128, 128, 3, 0));
        assert_eq!(of(&[3, 6, 8], &[3], Scheme::default()), grid(6, 8, 1, 1));
        assert_eq!(of(&[3, 6, 8], &[3, 6, 1], Scheme::default()), grid(1, 8, 1, 6));
        assert_eq!(of(&[3, 6, 8], &[3, 2, 3], block([4, 3])), grid(4, 3, 3, 6));
        for (shape, scales, scheme) in [
            (&[6, 8][..], &[2, 2][..], block([4, 3])),
            (&[6, 8], &[6, 1], block([4, 3])),
            (&[6, 8], &[5], Scheme::default()),
            (&[3, 6, 8], &[6, 1], Scheme::default()),
            (&[6, 8], &[6, 3], Scheme { group: Some(4), ..Scheme::default() }),
        ] {
            let problem = of(shape, scales, scheme).unwrap_err();
            assert!(problem.contains("which do not lie over its"), "{problem}");
        }
    }
}
