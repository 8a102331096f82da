//! Codes of a few bits, one after the other in words of 32 bits, the lowest bits first: the pack-quantized format of
//! compressed-tensors.

use super::change::{OwnScales, StoredSpan, ZeroCodes};
use super::layout::{Axis, Layout};
use super::number::NumberType;
use super::parts::{Part, Parts, by_rows};
use super::rows::Rows;
use super::{Found, Packing};
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// W\[r, c\] = (code − 2^(bits − 1) − zero point) · scale of row r and the group of c.
#[derive(Debug)]
struct Words<'a> {
    parts: Vec<&'a str>,
    codes: Part<'a>,
    bits: usize,
    shape: Vec<usize>,
    layout: Layout,
    /// Groups of a row.
    groups: usize,
    scales: Part<'a>,
    factors: Vec<f32>,
    /// Codes of zero by word: rows are packed, groups stand beside each other.
    zeros: Option<Part<'a>>,
    /// The group of each column.
    group_of: Vec<usize>,
}

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let codes = parts.get(".weight_packed").filter(|codes| codes.dtype == Dtype::I32)?;
    Some(found(parts, codes).map(|words| Box::new(words) as Box<dyn Packing>))
}

fn found<'a>(parts: &Parts<'a, '_>, codes: Part<'a>) -> std::result::Result<Words<'a>, String> {
    let shape = parts.needed(".weight_shape")?;
    shape.expect(&[Dtype::I64, Dtype::I32], &[2])?;
    let sizes: Vec<f64> = shape.values();
    let (&[rows, width], &[high, wide]) = (codes.shape, sizes.as_slice()) else {
        return Err(format!("{} has shape {:?}, expected a matrix", codes.name, codes.shape));
    };
    let columns = width.checked_mul(32).filter(|most| high == rows as f64 && wide >= 1.0 && wide <= *most as f64);
    let Some(columns) = columns.map(|_| wide as usize) else {
        return Err(format!(
            "{} says {high} × {wide}, which the {:?} of its codes cannot hold",
            shape.name, codes.shape
        ));
    };
    let scheme = parts.scheme()?;
    let fits = |bits: &u32| columns.div_ceil(32 / *bits as usize) == width;
    let bits = scheme.bits.or_else(|| [4, 8, 2, 3, 5, 6, 7, 1].into_iter().find(fits)).filter(fits);
    let Some(bits) = bits.map(|bits| bits as usize) else {
        let problem = format!("{} has shape {:?}, which does not hold {columns} columns", codes.name, codes.shape);
        return Err(scheme.bits.map_or(problem.clone(), |bits| format!("{problem} of {bits} bits")));
    };
    let scales = parts.needed(".weight_scale")?;
    let groups = match *scales.shape {
        [_, groups @ 1..=usize::MAX] => groups,
        _ => 1,
    };
    let of_scales = if scales.shape.len() == 1 { vec![rows] } else { vec![rows, groups] };
    scales.expect(&[Dtype::F32, Dtype::BF16, Dtype::F16], &of_scales)?;
    let zeros = parts.get(".weight_zero_point");
    if let Some(zeros) = &zeros {
        zeros.expect(&[Dtype::I32], &[rows.div_ceil(32 / bits), groups])?;
    }
    let of_columns = parts.get(".weight_g_idx");
    let group_of = match &of_columns {
        Some(of_columns) => {
            of_columns.expect(&[Dtype::I32, Dtype::I64], &[columns])?;
            let values: Vec<f64> = of_columns.values();
            // -1 in all places stands for the order of the columns.
            let in_order = values.iter().all(|group| *group == -1.0);
            if let Some(group) = values.iter().find(|group| !in_order && !(0.0..groups as f64).contains(*group)) {
                return Err(format!("{} names the group {group}, there are {groups}", of_columns.name));
            }
            if in_order {
                in_groups(columns, groups, scheme.group)?
            } else {
                values.iter().map(|g| *g as usize).collect()
            }
        }
        None => in_groups(columns, groups, scheme.group)?,
    };
    let others = parts.all(&[".input_scale", ".input_zero_point", ".weight_global_scale"]);
    let used = [&codes, &shape, &scales].into_iter().chain(&zeros).chain(&of_columns).chain(&others);
    Ok(Words {
        parts: used.map(|part| part.name).collect(),
        bits,
        shape: vec![rows, columns],
        layout: Layout { matrices: 1, rows, columns, number: NumberType::F32 },
        groups,
        factors: scales.values(),
        scales,
        zeros,
        group_of,
        codes,
    })
}

/// The group of each column where they follow each other.
pub(super) fn in_groups(
    columns: usize,
    groups: usize,
    group: Option<usize>,
) -> std::result::Result<Vec<usize>, String> {
    let size = if groups == 1 { columns } else { group.unwrap_or(columns.div_ceil(groups)) }.max(1);
    if columns.div_ceil(size) != groups {
        return Err(format!("has {groups} scales a row, expected one for each {size} of its {columns} columns"));
    }
    Ok((0..columns).map(|column| column / size).collect())
}

impl Words<'_> {
    /// What bits `place` of a word of codes stand for, counted in codes: without a zero point.
    fn code(&self, part: &Part, word: usize, place: usize) -> i32 {
        let mask = (1u32 << self.bits) - 1;
        (part.word(word) >> (place * self.bits) & mask) as i32 - (1 << (self.bits - 1))
    }

    /// The zero point of a row's group.
    fn zero(&self, row: usize, group: usize) -> i32 {
        let each = 32 / self.bits;
        self.zeros.as_ref().map_or(0, |zeros| self.code(zeros, row / each * self.groups + group, row % each))
    }
}

impl Packing for Words<'_> {
    fn tensors(&self) -> Vec<&str> {
        self.parts.clone()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn format(&self) -> String {
        format!("INT{}", self.bits)
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let (columns, each) = (self.layout.columns, 32 / self.bits);
        let width = columns.div_ceil(each);
        let values = by_rows(rows, columns, |first, to| {
            for (row, to) in (first..).zip(to.chunks_exact_mut(columns)) {
                let zeros: Vec<i32> = (0..self.groups).map(|group| self.zero(row, group)).collect();
                let factors = &self.factors[row * self.groups..][..self.groups];
                for (column, to) in to.iter_mut().enumerate() {
                    let group = self.group_of[column];
                    let code = self.code(&self.codes, row * width + column / each, column % each);
                    *to = (code - zeros[group]) as f32 * factors[group];
                }
            }
        });
        Ok(Some(Rows::decoded(self.layout, values)))
    }

    fn zero_codes(&self, axis: Axis, index: usize) -> std::result::Result<ZeroCodes<'_>, String> {
        let Layout { rows, columns, .. } = self.layout;
        let (bits, each) = (self.bits, 32 / self.bits);
        let width = columns.div_ceil(each) * 4;
        let place = |column: usize| column / each * 32 + column % each * bits;
        let code = |row: usize, column: usize| (self.zero(row, self.group_of[column]) + (1 << (bits - 1))) as u32;
        if axis == Axis::Row {
            let mut found = ZeroCodes::new(StoredSpan::of(&self.codes, index * width, width, width, 1));
            (0..columns).for_each(|column| found.put(place(column), bits, code(index, column)));
            return Ok(found);
        }
        let (first, last) = (place(index) / 8, (place(index) + bits - 1) / 8);
        let piece = last - first + 1;
        let mut found = ZeroCodes::new(StoredSpan::of(&self.codes, first, piece, width, rows));
        (0..rows).for_each(|row| found.put(row * piece * 8 + place(index) % 8, bits, code(row, index)));
        Ok(found)
    }

    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        let size = self.scales.number().bytes() * self.groups;
        OwnScales::of(StoredSpan::of(&self.scales, row * size, size, size, 1), self.group_of.clone())
    }
}
