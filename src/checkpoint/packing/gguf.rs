//! Weights in the blocks of a GGUF, each block with scales of its own; decoded to single precision.

use super::change::{Codes, OwnScales, StoredSpan, ZeroCodes};
use super::dense::{self, Dense};
use super::layout::{Axis, Layout};
use super::number::NumberType;
use super::parts::{Part, Parts};
use super::rows::Rows;
use super::span::Span;
use super::{Found, Outline, Packing, Usual};
use crate::checkpoint::gguf::codes::{Code, Scales, Zero};
use crate::checkpoint::gguf::{GgufCheckpoint, GgufFile, StoredTensor, dequantize};
use crate::checkpoint::map::MappedFile;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// The error is what a format cannot hold, without the weight's name.
type Checked<T> = std::result::Result<T, String>;

/// Under Hugging Face's name.
#[derive(Debug)]
struct Blocks<'a> {
    gguf: &'a GgufCheckpoint,
    name: &'a str,
    outline: Outline<'a>,
    /// What it is in the file.
    stored: StoredTensor<'a>,
    stored_as: (Dtype, Vec<usize>),
    /// Where its elements are numbers of their own.
    elements: Option<Dense<'a>>,
}

/// Under Hugging Face's name, made of several tensors of the file or of other numbers.
#[derive(Debug)]
struct Made<'a> {
    gguf: &'a GgufCheckpoint,
    name: &'a str,
    outline: Outline<'a>,
}

/// Under the name in the file.
#[derive(Debug)]
struct OwnBlocks<'a> {
    file: &'a GgufFile,
    name: &'a str,
    outline: Outline<'a>,
}

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let (name, entry) = parts.tensors.entry(parts.weight)?;
    if let Some(file) = parts.tensors.gguf_file() {
        let info = file.tensor(name)?;
        let layout =
            Layout::of(Dtype::F32, &info.shape).filter(|_| info.ty.is_supported() && info.ty.dtype().is_none());
        return match layout {
            Some(layout) => {
                let outline = outline(name, &info.shape, layout, info.ty.name);
                Some(Ok(Box::new(OwnBlocks { file, name, outline })))
            }
            None => dense::of(parts),
        };
    }
    let gguf = parts.tensors.gguf()?;
    let layout = match entry.shape.as_slice() {
        // A row is one of the first dimension.
        [rows, rest @ ..] if rest.len() > 1 => Layout::of(entry.dtype, &[*rows, rest.iter().product()]),
        shape => Layout::of(entry.dtype, shape),
    }?;
    let Some(stored) = gguf.stored(name) else {
        let outline = outline(name, &entry.shape, layout, &gguf.types(name).join(" and "));
        return Some(Ok(Box::new(Made { gguf, name, outline })));
    };
    let outline = outline(name, &entry.shape, layout, stored.info.ty.name);
    let elements = stored.info.ty.dtype().map(|dtype| {
        let place = stored.info.bytes.start as u64..stored.info.bytes.end as u64;
        let (shape, bytes) = (stored.info.shape.as_slice(), gguf.file().stored(stored.info));
        let part = Part { name: stored.name, dtype, shape, bytes, file: stored.file, place };
        Dense::of(part, stored.is_one_more)
    });
    Some(Ok(Box::new(Blocks { gguf, name, outline, stored, stored_as: stored.info.stored(), elements })))
}

fn outline<'a>(name: &'a str, shape: &[usize], layout: Layout, format: &str) -> Outline<'a> {
    Outline { stored: vec![name], shape: shape.to_vec(), layout, format: format.to_owned(), usual: Usual::default() }
}

impl Packing for Blocks<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        self.gguf.rows(self.name, rows).map(|values| Some(Rows::decoded(self.outline.layout, values)))
    }

    fn refusal(&self, axis: Axis) -> Option<String> {
        self.stored.refusal(axis == Axis::Column).map(|why| format!("{why}; patch the original and convert that"))
    }

    fn codes(&self, axis: Axis, index: usize) -> Checked<Codes<'_>> {
        match (axis, self.stored.info.ty.zero) {
            (Axis::Column, Zero::Code { lies, .. }) => {
                let index = self.stored.column_within(index);
                Ok(self.codes_of(index, lies(index % self.stored.info.ty.block_elements)))
            }
            (Axis::Column, Zero::None(why)) => {
                let problem =
                    format!("column {index} of {} cannot be set to zero by itself: {why}", self.outline.format);
                Err(format!("{problem}; mask a row instead, or patch the original and quantize that"))
            }
            _ => Err(format!("{} {index} of {} cannot be changed by itself", axis.as_str(), self.outline.format)),
        }
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        let ty = self.stored.info.ty;
        let mut scale = [1.0f32];
        if let Scales::Half { at, .. } = ty.scales {
            let block = self.stored.column_within(column) / ty.block_elements;
            let at = self.row_start(row) + block * ty.block_bytes + at;
            NumberType::F16.decode(self.stored.file.bytes().get(at..at + 2).unwrap_or_default(), &mut scale);
        }
        scale[0]
    }

    fn zero_code(&self, _: usize, _: usize) -> Checked<u32> {
        match self.stored.info.ty.zero {
            Zero::Code { zero, .. } => Ok(zero),
            Zero::None(why) => Err(why.to_owned()),
        }
    }

    /// A row is zero where its blocks' scales are; of a type whose scale is never 0, where all codes are.
    fn zero_row(&self, row: usize) -> Option<ZeroCodes<'_>> {
        let ty = self.stored.info.ty;
        let (at, bytes, number) = match ty.scales {
            Scales::Half { at, count } => (at, 2 * count, NumberType::F16),
            Scales::Small { at, count } => (at, count, NumberType::U8),
            Scales::Exponent { at } => (at + 1, ty.block_bytes - at - 1, NumberType::U8),
            Scales::Scattered { at } => (at, 8, NumberType::U8),
            Scales::None => return None,
        };
        let is_scattered = matches!(ty.scales, Scales::Scattered { .. });
        let place = self.in_blocks(row, at, bytes, number);
        let codes = vec![0; place.span.bytes() as usize];
        let mask = (0..codes.len()).map(|at| if is_scattered { [0, 0xf0][at % 2] } else { u8::MAX }).collect();
        Some(ZeroCodes { place, mask, codes })
    }

    fn own_scales(&self, row: usize) -> Checked<OwnScales<'_>> {
        let ty = self.stored.info.ty;
        let (number, at, count) = match ty.scales {
            Scales::Half { at, count } => (NumberType::F16, at, count),
            Scales::Exponent { at } => (NumberType::F8E8M0, at, 1),
            Scales::Small { at, count } => (NumberType::F8E4M3, at, count),
            Scales::Scattered { .. } => {
                return Err(format!("the scales of {} lie in parts, four bits each, between others", ty.name));
            }
            Scales::None => return Err(format!("{} has no scales", ty.name)),
        };
        let of_block = |column: usize| {
            // Of several scales of 8 bits each has as many columns; a minimum goes with its block's scale.
            let within =
                if number == NumberType::F16 { 0 } else { column % ty.block_elements * count / ty.block_elements };
            column / ty.block_elements * count + within
        };
        let columns = 0..self.outline.layout.columns;
        let of_column = columns.map(|column| of_block(self.stored.column_within(column))).collect();
        Ok(OwnScales { place: self.in_blocks(row, at, count * number.bytes(), number), of_column })
    }

    fn own_place(&self) -> Option<(&MappedFile, Range<u64>)> {
        Some((self.stored.file, self.stored.place()))
    }

    fn own_row(&self, row: usize) -> Option<StoredSpan<'_>> {
        let bytes = self.row_bytes() as u64;
        let span = Span { offset: self.row_start(row) as u64, piece_bytes: bytes, stride_bytes: bytes, pieces: 1 };
        self.refusal(Axis::Row).is_none().then(|| self.place(span, NumberType::U8))
    }

    fn row_with(&self, row: usize, span: Span, bytes: &[u8]) -> Option<Vec<f64>> {
        let ty = self.stored.info.ty;
        let start = self.row_start(row);
        let mut whole = self.stored.file.bytes().get(start..start + self.row_bytes())?.to_vec();
        for (at, piece) in span.offsets().zip(bytes.chunks_exact(span.piece_bytes as usize)) {
            let at = (at as usize).checked_sub(start)?;
            whole.get_mut(at..at + piece.len())?.copy_from_slice(piece);
        }
        let mut values = vec![0.0; self.outline.layout.columns];
        dequantize(ty, &whole, &mut values).ok()?;
        let columns = (0..values.len()).map(|column| self.stored.column_within(column));
        columns.map(|column| values.get(column).copied().map(f64::from)).collect()
    }

    fn stored_row(&self, row: usize) -> usize {
        self.stored.row(row)
    }

    fn stored_column(&self, column: usize) -> usize {
        self.stored.column(column)
    }

    /// All of them are: rows are decoded, and may lie in another order.
    fn is_packed(&self) -> bool {
        true
    }

    fn dense(&self) -> Option<&Dense<'_>> {
        self.elements.as_ref()
    }
}

impl Blocks<'_> {
    /// Bytes of a row of blocks.
    fn row_bytes(&self) -> usize {
        let ty = self.stored.info.ty;
        self.outline.layout.columns / ty.block_elements * ty.block_bytes
    }

    /// Where a row begins in the file.
    fn row_start(&self, row: usize) -> usize {
        self.stored.info.bytes.start + self.stored.row(row) * self.row_bytes()
    }

    fn place(&self, span: Span, number: NumberType) -> StoredSpan<'_> {
        let (dtype, shape) = &self.stored_as;
        StoredSpan { tensor: self.stored.name, dtype: *dtype, shape, file: self.stored.file, span, number }
    }

    /// The same bytes of every block of a row.
    fn in_blocks(&self, row: usize, at: usize, bytes: usize, number: NumberType) -> StoredSpan<'_> {
        let ty = self.stored.info.ty;
        let span = Span {
            offset: (self.row_start(row) + at) as u64,
            piece_bytes: bytes as u64,
            stride_bytes: ty.block_bytes as u64,
            pieces: (self.outline.layout.columns / ty.block_elements) as u64,
        };
        self.place(span, number)
    }

    /// The codes of a column, where they lie so in their blocks.
    fn codes_of(&self, column: usize, code: Code) -> Codes<'_> {
        let (ty, rows) = (self.stored.info.ty, self.outline.layout.rows);
        let used = || code.iter().filter(|bits| bits.count > 0);
        let first = used().map(|bits| bits.at / 8).min().unwrap_or_default();
        let end = used().map(|bits| (bits.at + bits.count).div_ceil(8)).max().unwrap_or_default();
        let block = column / ty.block_elements * ty.block_bytes;
        let slice = self.stored.slice().start;
        let span = Span {
            offset: (self.stored.info.bytes.start + slice * self.row_bytes() + block + first) as u64,
            piece_bytes: (end - first) as u64,
            stride_bytes: self.row_bytes() as u64,
            pieces: rows as u64,
        };
        let mut found = Codes::new(self.place(span, NumberType::U8));
        for row in 0..rows {
            let (at, mut from) = ((self.stored.row(row) - slice) * (end - first) * 8, 0);
            for bits in used() {
                found.put_part(row, at + bits.at - first * 8, bits.count, from);
                from += bits.count;
            }
        }
        found
    }
}

impl Packing for Made<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        self.gguf.rows(self.name, rows).map(|values| Some(Rows::decoded(self.outline.layout, values)))
    }

    fn refusal(&self, _: Axis) -> Option<String> {
        Some("is made of several tensors of the file; patch the original and convert that".into())
    }
}

impl Packing for OwnBlocks<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let columns = self.outline.layout.columns;
        let mut values = vec![0.0; rows.len() * columns];
        self.file.values(self.name, rows.start * columns, &mut values)?;
        Ok(Some(Rows::decoded(self.outline.layout, values)))
    }
}
