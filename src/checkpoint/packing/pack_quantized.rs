//! Codes of a few bits, one after the other in words of 32 bits, the lowest bits first: the pack-quantized format of
//! compressed-tensors. Where 32 is no multiple of their bits, codes lie across words since version 0.16; before, words
//! ended with bits that no code had.

use super::change::{Codes, OwnScales, StoredSpan};
use super::layout::{Axis, Layout};
use super::parts::{Part, Parts, bits_at, by_rows};
use super::rows::Rows;
use super::{Found, Outline, Packing, Usual, check_columns};
use crate::checkpoint::quantization::OF_INPUTS;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// W\[r, c\] = (code − 2^(bits − 1) − zero point) · scale of row r and the group of c.
#[derive(Debug)]
struct Words<'a> {
    outline: Outline<'a>,
    codes: Part<'a>,
    codes_at: Stream,
    /// Groups of a row.
    groups: usize,
    scales: Part<'a>,
    factors: Vec<f32>,
    /// Packed along the rows; groups stand beside each other.
    zeros: Option<(Part<'a>, Stream)>,
    /// The group of each column.
    group_of: Vec<usize>,
}

/// How codes follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    bits: usize,
    /// Words that they take.
    words: usize,
    /// No bit is left between them.
    is_dense: bool,
}

impl Stream {
    /// `count` codes in `words` words; none where that is not how many they take.
    fn of(bits: usize, count: usize, words: usize) -> Option<Stream> {
        let dense = count.checked_mul(bits)?.div_ceil(32) == words;
        let spaced = count.div_ceil(32 / bits) == words;
        (dense || spaced).then_some(Stream { bits, words, is_dense: dense })
    }

    /// The first bit of a code.
    fn place(&self, at: usize) -> usize {
        let each = 32 / self.bits;
        if self.is_dense { at * self.bits } else { at / each * 32 + at % each * self.bits }
    }
}

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let codes = parts.get(".weight_packed").filter(|codes| codes.dtype == Dtype::I32)?;
    Some(found(parts, codes).map(|words| Box::new(words) as Box<dyn Packing>))
}

fn found<'a>(parts: &Parts<'a, '_>, codes: Part<'a>) -> std::result::Result<Words<'a>, String> {
    let shape = parts.needed(".weight_shape")?;
    shape.expect(&[Dtype::I64, Dtype::I32], shape.shape)?;
    let sizes: Vec<f64> = if shape.shape.len() == 1 && shape.bytes.len() <= 64 { shape.values() } else { Vec::new() };
    let not_held = || format!("{} says {sizes:?}, which the {:?} of its codes do not hold", shape.name, codes.shape);
    let (&[ref stack @ .., width], Some((columns, rows))) = (codes.shape, sizes.split_last()) else {
        return Err(not_held());
    };
    let most = width.saturating_mul(32) as f64;
    if rows.len() != stack.len()
        || rows.iter().zip(stack).any(|(a, b)| *a != *b as f64)
        || !(1.0..=most).contains(columns)
    {
        return Err(not_held());
    }
    let columns = *columns as usize;
    let shape_of_weight = [stack, &[columns]].concat();
    let layout =
        Layout::of(Dtype::U8, &shape_of_weight).filter(|_| matches!(stack.len(), 1 | 2)).ok_or_else(not_held)?;
    let scheme = parts.scheme()?;
    let stream = |bits: u32| Stream::of(bits as usize, columns, width);
    let codes_at = match scheme.bits.filter(|bits| *bits <= 8) {
        Some(bits) => stream(bits),
        None => [4, 8, 2, 3, 5, 6, 7, 1].into_iter().find_map(stream),
    };
    let Some(codes_at) = codes_at else {
        let problem = format!("{} has shape {:?}, which does not hold {columns} columns", codes.name, codes.shape);
        return Err(scheme.bits.map_or(problem.clone(), |bits| format!("{problem} of {bits} bits")));
    };
    let scales = parts.needed(".weight_scale")?;
    let groups = match scales.shape {
        [of_rows @ .., groups] if of_rows.len() == stack.len() && *groups > 0 => *groups,
        _ => 1,
    };
    let of_scales = if scales.shape.len() == stack.len() { stack.to_vec() } else { [stack, &[groups]].concat() };
    scales.expect(&[Dtype::F32, Dtype::BF16, Dtype::F16], &of_scales)?;
    let zeros = match parts.get(".weight_zero_point") {
        None => None,
        Some(zeros) => {
            let words = zeros.shape.get(stack.len() - 1).copied().unwrap_or_default();
            let stream = Stream::of(codes_at.bits, layout.rows, words);
            let of_zeros = [&stack[..stack.len() - 1], &[words, groups]].concat();
            zeros.expect(&[Dtype::I32], &of_zeros)?;
            let problem =
                || format!("{} has shape {:?}, too much or little for {} rows", zeros.name, zeros.shape, layout.rows);
            let stream = stream.ok_or_else(problem)?;
            Some((zeros, stream))
        }
    };
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
            match in_order {
                true => in_groups(columns, groups, scheme.group)?,
                false => values.iter().map(|group| *group as usize).collect(),
            }
        }
        None => in_groups(columns, groups, scheme.group)?,
    };
    let others = parts.all(OF_INPUTS);
    let of_zeros = zeros.as_ref().map(|(part, _)| part);
    let used = [&codes, &shape, &scales].into_iter().chain(of_zeros).chain(&of_columns).chain(&others);
    let outline = Outline::of(used, shape_of_weight, layout, &format!("INT{}", codes_at.bits));
    Ok(Words {
        outline: Outline { usual: Usual { negative_scales: true, ..Usual::default() }, ..outline },
        codes_at,
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
    check_columns(columns)?;
    let size = if groups == 1 { columns } else { group.unwrap_or(columns.div_ceil(groups)) }.max(1);
    if columns.div_ceil(size) != groups {
        return Err(format!("has {groups} scales a row, expected one for each {size} of its {columns} columns"));
    }
    Ok((0..columns).map(|column| column / size).collect())
}

impl Words<'_> {
    /// What a code stands for without a zero point: unsigned codes have their middle for 0.
    fn signed(&self, code: u32) -> i32 {
        code as i32 - (1 << (self.codes_at.bits - 1))
    }

    fn code(&self, row: usize, column: usize) -> i32 {
        let Stream { bits, words, .. } = self.codes_at;
        self.signed(bits_at(|word| self.codes.word(row * words + word), self.codes_at.place(column), bits))
    }

    /// The zero point of a row's group.
    fn zero(&self, row: usize, group: usize) -> i32 {
        let Some((part, stream)) = &self.zeros else { return 0 };
        let (matrix, row) = (row / self.outline.layout.rows, row % self.outline.layout.rows);
        let word = |word: usize| part.word((matrix * stream.words + word) * self.groups + group);
        self.signed(bits_at(word, stream.place(row), stream.bits))
    }
}

impl Packing for Words<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let columns = self.outline.layout.columns;
        let values = by_rows(rows, columns, |first, to| {
            for (row, to) in (first..).zip(to.chunks_exact_mut(columns)) {
                let zeros: Vec<i32> = (0..self.groups).map(|group| self.zero(row, group)).collect();
                let factors = &self.factors[row * self.groups..][..self.groups];
                for (column, to) in to.iter_mut().enumerate() {
                    let group = self.group_of[column];
                    *to = (self.code(row, column) - zeros[group]) as f32 * factors[group];
                }
            }
        });
        Ok(Some(Rows::decoded(self.outline.layout, values)))
    }

    fn codes(&self, axis: Axis, index: usize) -> std::result::Result<Codes<'_>, String> {
        let Layout { rows, columns, .. } = self.outline.layout;
        let Stream { bits, words, .. } = self.codes_at;
        let (width, place) = (words * 4, |column: usize| self.codes_at.place(column));
        if axis == Axis::Row {
            let mut codes = Codes::new(StoredSpan::of(&self.codes, index * width, width, width, 1));
            (0..columns).for_each(|column| codes.put(column, place(column), bits));
            return Ok(codes);
        }
        let (matrix, at) = (index / columns, place(index % columns));
        let (first, last) = (at / 8, (at + bits - 1) / 8);
        let piece = last - first + 1;
        let mut codes = Codes::new(StoredSpan::of(&self.codes, matrix * rows * width + first, piece, width, rows));
        (0..rows).for_each(|row| codes.put(row, row * piece * 8 + at % 8, bits));
        Ok(codes)
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        self.factors[row * self.groups + self.group_of[column]]
    }

    fn zero_code(&self, row: usize, column: usize) -> std::result::Result<u32, String> {
        Ok((self.zero(row, self.group_of[column]) + (1 << (self.codes_at.bits - 1))) as u32)
    }

    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        let size = self.scales.number().bytes() * self.groups;
        let place = StoredSpan::of(&self.scales, row * size, size, size, 1);
        Ok(OwnScales { place, of_column: self.group_of.clone() })
    }

    fn own_zeros(&self, row: usize) -> Option<Codes<'_>> {
        let (part, stream) = self.zeros.as_ref()?;
        let (matrix, row) = (row / self.outline.layout.rows, row % self.outline.layout.rows);
        let (at, width) = (stream.place(row), self.groups * 4);
        let words = (at + stream.bits - 1) / 32 - at / 32 + 1;
        let from = (matrix * stream.words + at / 32) * width;
        let mut codes = Codes::new(StoredSpan::of(part, from, words * width, words * width, 1));
        (0..self.groups).for_each(|group| codes.put_in_words(group, group * 32 + at % 32, stream.bits, width * 8));
        Some(codes)
    }
}
