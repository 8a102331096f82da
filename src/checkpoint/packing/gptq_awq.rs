//! Weights that are stored as [in, out], words of 32 bits with a zero point and a scale for each group of inputs: GPTQ,
//! whose words hold consecutive inputs of one output, and AWQ, whose words hold eight outputs of one input.

use super::change::{Codes, OwnScales, StoredSpan};
use super::layout::{Axis, Layout};
use super::number::NumberType;
use super::pack_quantized::in_groups;
use super::parts::{Part, Parts, bits_at, by_rows};
use super::rows::Rows;
use super::{Found, Outline, Packing, Usual};
use crate::checkpoint::quantization::Method;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// W\[r, c\] = (code − zero point) · scale, the latter two of output r and the group of input c.
#[derive(Debug)]
struct Columns<'a> {
    kind: Kind,
    outline: Outline<'a>,
    codes: Part<'a>,
    zeros: Part<'a>,
    scales: Part<'a>,
    factors: Vec<f32>,
    /// The group of each input.
    group_of: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bits of a code, and what zero points are stored less.
    Gptq {
        bits: usize,
        less: u32,
    },
    Awq,
}

/// Which four bits of a word hold the first, the second, … of eight outputs.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let codes = parts.get(".qweight").filter(|codes| codes.dtype == Dtype::I32)?;
    Some(found(parts, codes).map(|columns| Box::new(columns) as Box<dyn Packing>))
}

fn found<'a>(parts: &Parts<'a, '_>, codes: Part<'a>) -> std::result::Result<Columns<'a>, String> {
    const MOST: usize = usize::MAX;
    let (scales, zeros) = (parts.needed(".scales")?, parts.needed(".qzeros")?);
    // The sizes of nothing may be of any size, and no product of them would be checked.
    let (&[high @ 1..=MOST, wide @ 1..=MOST], &[groups @ 1..=MOST, outputs @ 1..=MOST]) = (codes.shape, scales.shape)
    else {
        return Err(format!("{} and {} have shapes {:?} and {:?}", codes.name, scales.name, codes.shape, scales.shape));
    };
    let scheme = parts.scheme()?;
    let of_groups = parts.get(".g_idx");
    let unfit =
        || format!("{} has shape {:?}, which does not go with scales of {:?}", codes.name, codes.shape, scales.shape);
    let is_awq = match parts.tensors.method() {
        Some(Method::Awq) => true,
        Some(Method::Gptq) => false,
        _ => wide != outputs,
    };
    let (kind, inputs, of_zeros) = if is_awq {
        if wide.checked_mul(8) != Some(outputs) {
            return Err(unfit());
        }
        (Kind::Awq, high, wide)
    } else {
        let bits = match (scheme.bits, of_groups.as_ref().map(|of| of.shape)) {
            (Some(bits), _) => bits as usize,
            (None, Some(&[inputs @ 1..=usize::MAX])) => (high * 32) / inputs,
            (None, _) => 4,
        };
        let fits = wide == outputs && [2, 3, 4, 8].contains(&bits) && (high * 32).is_multiple_of(bits);
        let of_zeros = Some(outputs * bits).filter(|all| fits && all.is_multiple_of(32)).ok_or_else(unfit)?;
        (Kind::Gptq { bits, less: u32::from(scheme.zeros_less_one) }, high * 32 / bits, of_zeros / 32)
    };
    if !is_awq && parts.tensors.method() != Some(&Method::Gptq) {
        let problem = "and no config says whether zero points are stored less one (checkpoint_format)";
        return Err(format!("{} is laid out as GPTQ's, {problem}", codes.name));
    }
    zeros.expect(&[Dtype::I32], &[groups, of_zeros])?;
    scales.expect(&[Dtype::F16, Dtype::BF16, Dtype::F32], scales.shape)?;
    let group_of = match of_groups.as_ref().filter(|_| !is_awq) {
        None if !is_awq && scheme.is_reordered && groups > 1 => {
            return Err(format!("its {}.g_idx is missing, and the config says desc_act", parts.module()));
        }
        None => in_groups(inputs, groups, scheme.group)?,
        Some(of_groups) => {
            of_groups.expect(&[Dtype::I32, Dtype::I64], &[inputs])?;
            let values: Vec<f64> = of_groups.values();
            if let Some(group) = values.iter().find(|group| !(0.0..groups as f64).contains(*group)) {
                return Err(format!("{} names the group {group}, there are {groups}", of_groups.name));
            }
            values.iter().map(|group| *group as usize).collect()
        }
    };
    let used = [&codes, &zeros, &scales].into_iter().chain(&of_groups);
    let layout = Layout { matrices: 1, rows: outputs, columns: inputs, number: NumberType::F32 };
    let format = match kind {
        Kind::Gptq { bits, .. } => format!("GPTQ INT{bits}"),
        Kind::Awq => "AWQ INT4".to_owned(),
    };
    let usual = Usual { negative_scales: true, bias_of_nothing: true, ..Usual::default() };
    Ok(Columns {
        kind,
        outline: Outline { usual, ..Outline::of(used, vec![outputs, inputs], layout, &format) },
        factors: scales.values(),
        zeros,
        scales,
        group_of,
        codes,
    })
}

impl Columns<'_> {
    fn code(&self, row: usize, column: usize) -> i32 {
        let outputs = self.outline.layout.rows;
        match self.kind {
            Kind::Gptq { bits, .. } => {
                bits_at(|word| self.codes.word(word * outputs + row), column * bits, bits) as i32
            }
            Kind::Awq => awq(self.codes.word(column * (outputs / 8) + row / 8), row),
        }
    }

    fn zero(&self, row: usize, group: usize) -> i32 {
        let outputs = self.outline.layout.rows;
        match self.kind {
            Kind::Gptq { bits, less } => {
                let of_group = group * (outputs * bits / 32);
                let stored = bits_at(|word| self.zeros.word(of_group + word), row * bits, bits);
                // AutoGPTQ, whose form it is, adds within as many bits: the largest stands for 0.
                ((stored + less) & ((1 << bits) - 1)) as i32
            }
            Kind::Awq => awq(self.zeros.word(group * (outputs / 8) + row / 8), row),
        }
    }
}

/// The byte that holds an output among those of all outputs, and the first of its four bits there.
fn awq_half(row: usize) -> (usize, usize) {
    let at = AWQ_ORDER[row % 8];
    (row / 8 * 4 + at / 2, at % 2 * 4)
}

fn awq(word: u32, row: usize) -> i32 {
    (word >> (4 * AWQ_ORDER[row % 8]) & 15) as i32
}

impl Packing for Columns<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let Layout { rows: outputs, columns, .. } = self.outline.layout;
        let groups = self.factors.len() / outputs;
        let values = by_rows(rows, columns, |first, to| {
            let rows = first..first + to.len() / columns;
            let zeros: Vec<i32> =
                rows.clone().flat_map(|row| (0..groups).map(move |group| self.zero(row, group))).collect();
            for column in 0..columns {
                let group = self.group_of[column];
                for (at, row) in rows.clone().enumerate() {
                    let steps = self.code(row, column) - zeros[at * groups + group];
                    to[at * columns + column] = steps as f32 * self.factors[group * outputs + row];
                }
            }
        });
        Ok(Some(Rows::decoded(self.outline.layout, values)))
    }

    fn codes(&self, axis: Axis, index: usize) -> std::result::Result<Codes<'_>, String> {
        let Layout { rows: outputs, columns, .. } = self.outline.layout;
        let mut codes;
        match (self.kind, axis) {
            // An output is a column of the file: of words where it has them for itself, else of half bytes.
            (Kind::Gptq { bits, .. }, Axis::Row) => {
                codes = Codes::new(StoredSpan::of(&self.codes, index * 4, 4, outputs * 4, columns * bits / 32));
                (0..columns).for_each(|column| codes.put(column, column * bits, bits));
            }
            (Kind::Awq, Axis::Row) => {
                let (byte, half) = awq_half(index);
                codes = Codes::new(StoredSpan::of(&self.codes, byte, 1, outputs / 2, columns));
                (0..columns).for_each(|column| codes.put(column, column * 8 + half, 4));
            }
            (Kind::Gptq { bits, .. }, _) => {
                let (at, width) = (index * bits, outputs * 4);
                let words = (at + bits - 1) / 32 - at / 32 + 1;
                codes = Codes::new(StoredSpan::of(&self.codes, at / 32 * width, words * width, words * width, 1));
                (0..outputs).for_each(|row| codes.put_in_words(row, row * 32 + at % 32, bits, width * 8));
            }
            (Kind::Awq, _) => {
                let width = outputs / 2;
                codes = Codes::new(StoredSpan::of(&self.codes, index * width, width, width, 1));
                for row in 0..outputs {
                    let (byte, half) = awq_half(row);
                    codes.put(row, byte * 8 + half, 4);
                }
            }
        }
        Ok(codes)
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        self.factors[self.group_of[column] * self.outline.layout.rows + row]
    }

    fn zero_code(&self, row: usize, column: usize) -> std::result::Result<u32, String> {
        Ok(self.zero(row, self.group_of[column]) as u32)
    }

    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        let (size, outputs) = (self.scales.number().bytes(), self.outline.layout.rows);
        let groups = self.factors.len() / outputs;
        let place = StoredSpan::of(&self.scales, row * size, size, outputs * size, groups);
        Ok(OwnScales { place, of_column: self.group_of.clone() })
    }

    fn own_zeros(&self, row: usize) -> Option<Codes<'_>> {
        let outputs = self.outline.layout.rows;
        let groups = self.factors.len() / outputs;
        let (first, last, bits) = match self.kind {
            Kind::Gptq { bits, .. } => (row * bits, row * bits + bits - 1, bits),
            Kind::Awq => {
                let (byte, half) = awq_half(row);
                (byte * 8 + half, byte * 8 + half, 4)
            }
        };
        let piece = last / 8 - first / 8 + 1;
        let width = outputs * bits / 8;
        let mut codes = Codes::new(StoredSpan::of(&self.zeros, first / 8, piece, width, groups));
        (0..groups).for_each(|group| codes.put(group, group * piece * 8 + first % 8, bits));
        Some(codes)
    }
}
