//! Weights in 4-bit floats, two a byte, with a scale for each 16 or 32 elements: NVFP4 as compressed-tensors and Model
//! Optimizer store it, MXFP4 as gpt-oss and compressed-tensors do.

use super::change::{Codes, OwnScales, StoredSpan};
use super::layout::{Axis, Layout};
use super::number::{NumberType, power_of_two};
use super::parts::{Part, Parts, by_rows};
use super::rows::Rows;
use super::{Found, Outline, Packing, Usual};
use crate::checkpoint::quantization::OF_INPUTS;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// W\[r, c\] = value of the code · scale of row r and the group of c.
#[derive(Debug)]
struct Fp4<'a> {
    outline: Outline<'a>,
    codes: Part<'a>,
    scales: Part<'a>,
    /// Columns that share a scale.
    group: usize,
    /// What scales are divided or multiplied by, for the whole tensor.
    whole: Whole,
}

#[derive(Debug, Clone, Copy)]
enum Whole {
    Nothing,
    /// compressed-tensors' global scale.
    Divides(f32),
    /// Model Optimizer's second scale.
    Multiplies(f32),
}

/// The values of a code: a sign, two bits of exponent, one of mantissa (OCP Microscaling Formats 1.0, E2M1).
const VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let is_bytes = |codes: &Part| codes.dtype == Dtype::U8;
    let found = if let Some(codes) = parts.get("_blocks").filter(is_bytes) {
        of_blocks(parts, codes)
    } else if let Some(codes) = parts.get(".weight_packed").filter(is_bytes) {
        of_matrix(parts, codes, ".weight_global_scale", Whole::Divides)
    } else {
        let codes = parts.own().filter(|codes| is_bytes(codes) && parts.get(".weight_scale").is_some())?;
        of_matrix(parts, codes, ".weight_scale_2", Whole::Multiplies)
    };
    Some(found.map(|fp4| Box::new(fp4) as Box<dyn Packing>))
}

/// gpt-oss: blocks [experts, rows, groups, 16] and their exponents [experts, rows, groups].
fn of_blocks<'a>(parts: &Parts<'a, '_>, codes: Part<'a>) -> std::result::Result<Fp4<'a>, String> {
    let (of_codes, bytes) = match codes.shape {
        [of_codes @ .., bytes] if of_codes.len() >= 2 && is_filled(&codes) => (of_codes, *bytes),
        _ => return Err(format!("{} has shape {:?}, expected groups of bytes", codes.name, codes.shape)),
    };
    let scales = parts.needed("_scales")?;
    scales.expect(&[Dtype::U8, Dtype::F8_E8M0], of_codes)?;
    let (rows, groups) = of_codes.split_at(of_codes.len() - 1);
    let shape = [rows, &[groups[0] * bytes * 2]].concat();
    let outline = outline([&codes, &scales].into_iter(), shape, "MXFP4")?;
    Ok(Fp4 { outline, codes, scales, group: bytes * 2, whole: Whole::Nothing })
}

fn of_matrix<'a>(
    parts: &Parts<'a, '_>,
    codes: Part<'a>,
    end: &str,
    whole: fn(f32) -> Whole,
) -> std::result::Result<Fp4<'a>, String> {
    let (rows, bytes) = match codes.shape {
        [rows @ .., bytes] if !rows.is_empty() && is_filled(&codes) => (rows, *bytes),
        _ => return Err(format!("{} has shape {:?}, expected a matrix", codes.name, codes.shape)),
    };
    let scales = parts.needed(".weight_scale")?;
    let is_mx = matches!(scales.dtype, Dtype::U8 | Dtype::F8_E8M0);
    let whole_groups = scales.shape.last().filter(|groups| **groups > 0 && (2 * bytes).is_multiple_of(**groups));
    let group = whole_groups.map_or(if is_mx { 32 } else { 16 }, |groups| 2 * bytes / groups);
    let groups = (2 * bytes).div_ceil(group);
    let of_scales = [rows, &[groups]].concat();
    scales.expect(&[Dtype::F8_E4M3, Dtype::U8, Dtype::F8_E8M0], &of_scales)?;
    let of_tensor = parts.get(end);
    let whole = match (&of_tensor, is_mx) {
        (Some(of_tensor), _) => {
            let shape = if of_tensor.shape.is_empty() { &[][..] } else { &[1] };
            of_tensor.expect(&[Dtype::F32, Dtype::BF16, Dtype::F16], shape)?;
            whole(of_tensor.values().first().copied().unwrap_or_default())
        }
        (None, true) => Whole::Nothing,
        (None, false) => return Err(format!("its {}{end} is missing", parts.module())),
    };
    let (others, of_shape) = (parts.all(OF_INPUTS), parts.get(".weight_shape"));
    let used = [&codes, &scales].into_iter().chain(&of_tensor).chain(&others).chain(&of_shape);
    let outline = outline(used, [rows, &[2 * bytes]].concat(), if is_mx { "MXFP4" } else { "NVFP4" })?;
    Ok(Fp4 { outline, codes, scales, group, whole })
}

/// Whether there are any codes: the sizes of nothing may be of any size, and no product of them would be checked.
fn is_filled(codes: &Part) -> bool {
    Layout::of(codes.dtype, codes.shape).is_some()
}

fn outline<'a: 'p, 'p>(
    used: impl Iterator<Item = &'p Part<'a>>,
    shape: Vec<usize>,
    format: &str,
) -> std::result::Result<Outline<'a>, String> {
    let layout = Layout::of(Dtype::U8, &shape);
    let layout = layout.ok_or_else(|| format!("has shape {shape:?}, which is empty or too large"))?;
    let usual = Usual { exponents: true, ..Usual::default() };
    Ok(Outline { usual, ..Outline::of(used, shape, layout, format) })
}

impl Fp4<'_> {
    /// What a scale's code multiplies by.
    fn scale_of(&self, code: u8) -> f32 {
        match self.scales.dtype {
            Dtype::F8_E4M3 => {
                let mut value = [0.0f32];
                NumberType::F8E4M3.decode(&[code], &mut value);
                match self.whole {
                    Whole::Nothing => value[0],
                    Whole::Divides(by) => value[0] / by,
                    Whole::Multiplies(by) => value[0] * by,
                }
            }
            _ => power_of_two(code),
        }
    }
}

impl Packing for Fp4<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let (columns, groups) = (self.outline.layout.columns, self.outline.layout.columns.div_ceil(self.group));
        let values = by_rows(rows, columns, |first, to| {
            for (row, to) in (first..).zip(to.chunks_exact_mut(columns)) {
                let codes = &self.codes.bytes[row * columns / 2..][..columns / 2];
                let scales = &self.scales.bytes[row * groups..][..groups];
                for (column, to) in to.iter_mut().enumerate() {
                    let code = codes[column / 2] >> (column % 2 * 4) & 15;
                    *to = VALUES[usize::from(code)] * self.scale_of(scales[column / self.group]);
                }
            }
        });
        Ok(Some(Rows::decoded(self.outline.layout, values)))
    }

    fn codes(&self, axis: Axis, index: usize) -> std::result::Result<Codes<'_>, String> {
        let Layout { rows, columns, .. } = self.outline.layout;
        let width = columns / 2;
        if axis == Axis::Row {
            let mut codes = Codes::new(StoredSpan::of(&self.codes, index * width, width, width, 1));
            (0..columns).for_each(|column| codes.put(column, column * 4, 4));
            return Ok(codes);
        }
        let (matrix, column) = (index / columns, index % columns);
        let mut codes = Codes::new(StoredSpan::of(&self.codes, matrix * rows * width + column / 2, 1, width, rows));
        (0..rows).for_each(|row| codes.put(row, row * 8 + column % 2 * 4, 4));
        Ok(codes)
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        let groups = self.outline.layout.columns.div_ceil(self.group);
        self.scale_of(self.scales.bytes[row * groups + column / self.group])
    }

    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        let columns = self.outline.layout.columns;
        let groups = columns.div_ceil(self.group) * self.scales.number().bytes();
        let place = StoredSpan::of(&self.scales, row * groups, groups, groups, 1);
        Ok(OwnScales { place, of_column: (0..columns).map(|column| column / self.group).collect() })
    }
}
