//! Weights as bitsandbytes stores them: 4-bit codes of a table (NF4, FP4), all elements in one row of blocks with a scale
//! each, which may be packed themselves; and 8-bit integers with a scale for each out channel.

use super::change::{Codes, OwnScales, StoredSpan};
use super::layout::{Axis, Layout};
use super::number::NumberType;
use super::parts::{Part, Parts, by_rows};
use super::rows::Rows;
use super::{Found, Outline, Packing, Usual};
use crate::error::Result;
use safetensors::Dtype;
use serde::Deserialize;
use std::ops::Range;

/// W\[r, c\] = table\[code\] · scale of the block that holds element r · columns + c.
#[derive(Debug)]
struct FourBit<'a> {
    outline: Outline<'a>,
    codes: Part<'a>,
    table: Vec<f32>,
    scales: Part<'a>,
    factors: Vec<f32>,
    block: usize,
}

/// W\[r, c\] = code · scale of r / 127.
#[derive(Debug)]
struct EightBit<'a> {
    outline: Outline<'a>,
    codes: Part<'a>,
    scales: Part<'a>,
    factors: Vec<f32>,
}

/// What `quant_state.bitsandbytes__nf4` holds, as JSON.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// A longer state is none: published ones take some 200 bytes.
const LONGEST_STATE: usize = 4096;

const USUAL: Usual = Usual { negative_scales: true, zero_scales: true, exponents: false, bias_of_nothing: false };

/// 1 / 127 as bitsandbytes has it.
const PER_STEP: f32 = 7.874_016e-3;

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    if let Some(scales) = parts.get(".SCB") {
        let codes = parts.own().filter(|codes| codes.dtype == Dtype::I8)?;
        return Some(eight_bit(parts, codes, scales).map(|found| Box::new(found) as Box<dyn Packing>));
    }
    let ends = [".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"];
    let state = parts.first(&ends).or_else(|| parts.get(".weight.quant_map"))?;
    let codes = parts.own()?;
    if codes.dtype != Dtype::U8 {
        let problem = "the storage of bitsandbytes' codes that is read (bnb_4bit_quant_storage)";
        return Some(Err(format!("{} has dtype {}, expected U8, {problem}", codes.name, codes.dtype)));
    }
    Some(four_bit(parts, codes, state).map(|found| Box::new(found) as Box<dyn Packing>))
}

fn eight_bit<'a>(
    parts: &Parts<'a, '_>,
    codes: Part<'a>,
    scales: Part<'a>,
) -> std::result::Result<EightBit<'a>, String> {
    let &[rows @ 1..=usize::MAX, columns @ 1..=usize::MAX] = codes.shape else {
        return Err(format!("{} has shape {:?}, expected a matrix", codes.name, codes.shape));
    };
    scales.expect(&[Dtype::F32, Dtype::F16], &[rows])?;
    let others = parts.all(&[".weight_format"]);
    let used = [&codes, &scales].into_iter().chain(&others);
    let layout = Layout { matrices: 1, rows, columns, number: NumberType::F32 };
    let outline = Outline::of(used, codes.shape.to_vec(), layout, "bitsandbytes INT8");
    let outline = Outline { usual: USUAL, ..outline };
    Ok(EightBit { outline, factors: scales.values(), codes, scales })
}

fn four_bit<'a>(parts: &Parts<'a, '_>, codes: Part<'a>, state: Part<'a>) -> std::result::Result<FourBit<'a>, String> {
    let of_state = |problem: String| format!("{} {problem}", state.name);
    if state.bytes.len() > LONGEST_STATE || state.dtype != Dtype::U8 {
        return Err(of_state(format!("is no state of bitsandbytes: {} bytes of {}", state.bytes.len(), state.dtype)));
    }
    let State { quant_type, blocksize, shape, nested_blocksize, nested_offset } =
        serde_json::from_slice(state.bytes).map_err(|e| of_state(format!("is no state of bitsandbytes: {e}")))?;
    let elements = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size)).filter(|n| *n > 0 && shape.len() == 2);
    let holds = elements.filter(|n| n.div_ceil(2) == codes.bytes.len() && blocksize > 0);
    let (Some(elements), Some(layout)) = (holds, Layout::of(Dtype::U8, &shape)) else {
        let problem = format!("gives shape {shape:?} in blocks of {blocksize} to {} bytes of codes", codes.bytes.len());
        return Err(of_state(problem));
    };
    let (table, scales) = (parts.needed(".weight.quant_map")?, parts.needed(".weight.absmax")?);
    table.expect(&[Dtype::F32], &[16])?;
    let blocks = elements.div_ceil(blocksize);
    let mut nested_parts = Vec::new();
    let factors: Vec<f32> = if let Some(nested_block) = nested_blocksize {
        scales.expect(&[Dtype::U8], &[blocks])?;
        let (nested, nested_table) =
            (parts.needed(".weight.nested_absmax")?, parts.needed(".weight.nested_quant_map")?);
        if nested_block == 0 {
            return Err(of_state("gives nested blocks of 0".into()));
        }
        nested.expect(&[Dtype::F32], &[blocks.div_ceil(nested_block)])?;
        nested_table.expect(&[Dtype::F32], &[256])?;
        let (of_blocks, values): (Vec<f32>, Vec<f32>) = (nested.values(), nested_table.values());
        nested_parts.extend([nested, nested_table]);
        let offset = nested_offset.unwrap_or_default();
        let decoded = scales.bytes.iter().enumerate();
        decoded.map(|(at, code)| values[usize::from(*code)] * of_blocks[at / nested_block] + offset).collect()
    } else {
        scales.expect(&[Dtype::F32], &[blocks])?;
        scales.values()
    };
    let used = [&codes, &state, &table, &scales].into_iter().chain(&nested_parts);
    let format = format!("bitsandbytes {}", quant_type.to_uppercase());
    Ok(FourBit {
        outline: Outline { usual: USUAL, ..Outline::of(used, shape, layout, &format) },
        table: table.values(),
        codes,
        scales,
        factors,
        block: blocksize,
    })
}

impl Packing for FourBit<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let columns = self.outline.layout.columns;
        let values = by_rows(rows, columns, |first, to| {
            for (at, to) in (first * columns..).zip(to) {
                // The first of two elements lies in the high bits.
                let code = self.codes.bytes[at / 2] >> (4 - at % 2 * 4) & 15;
                *to = self.table[usize::from(code)] * self.factors[at / self.block];
            }
        });
        Ok(Some(Rows::decoded(self.outline.layout, values)))
    }

    fn codes(&self, axis: Axis, index: usize) -> std::result::Result<Codes<'_>, String> {
        let Layout { rows, columns, .. } = self.outline.layout;
        // The first of two elements lies in the high bits.
        let bit = |element: usize| element / 2 * 8 + (4 - element % 2 * 4);
        if axis == Axis::Row {
            let (first, last) = (index * columns / 2, ((index + 1) * columns - 1) / 2);
            let bytes = last - first + 1;
            let mut codes = Codes::new(StoredSpan::of(&self.codes, first, bytes, bytes, 1));
            (0..columns).for_each(|column| codes.put(column, bit(index * columns + column) - first * 8, 4));
            return Ok(codes);
        }
        if columns % 2 == 1 {
            return Err("its rows begin within bytes, so that a column lies at no equal distances".into());
        }
        let mut codes = Codes::new(StoredSpan::of(&self.codes, index / 2, 1, columns / 2, rows));
        (0..rows).for_each(|row| codes.put(row, row * 8 + (4 - index % 2 * 4), 4));
        Ok(codes)
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        self.factors[(row * self.outline.layout.columns + column) / self.block]
    }

    fn zero_code(&self, _: usize, _: usize) -> std::result::Result<u32, String> {
        let zero = self.table.iter().position(|value| *value == 0.0);
        Ok(zero.ok_or("its table of values has no zero")? as u32)
    }

    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        let columns = self.outline.layout.columns;
        if !columns.is_multiple_of(self.block) {
            return Err("its scales are shared by rows".into());
        }
        let (size, blocks) = (self.scales.number().bytes(), columns / self.block);
        let place = StoredSpan::of(&self.scales, row * blocks * size, blocks * size, blocks * size, 1);
        Ok(OwnScales { place, of_column: (0..columns).map(|column| column / self.block).collect() })
    }
}

impl Packing for EightBit<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let columns = self.outline.layout.columns;
        let values = by_rows(rows, columns, |first, to| {
            self.codes.number().decode(&self.codes.bytes[first * columns..first * columns + to.len()], to);
            for (row, to) in (first..).zip(to.chunks_exact_mut(columns)) {
                to.iter_mut().for_each(|value| *value = *value * self.factors[row] * PER_STEP);
            }
        });
        Ok(Some(Rows::decoded(self.outline.layout, values)))
    }

    fn codes(&self, axis: Axis, index: usize) -> std::result::Result<Codes<'_>, String> {
        let Layout { rows, columns, .. } = self.outline.layout;
        Ok(Codes::bytes(match axis {
            Axis::Row => StoredSpan::of(&self.codes, index * columns, columns, columns, 1),
            _ => StoredSpan::of(&self.codes, index, 1, columns, rows),
        }))
    }

    fn scale(&self, row: usize, _: usize) -> f32 {
        self.factors[row]
    }

    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        let size = self.scales.number().bytes();
        let place = StoredSpan::of(&self.scales, row * size, size, size, 1);
        Ok(OwnScales { place, of_column: vec![0; self.outline.layout.columns] })
    }
}
