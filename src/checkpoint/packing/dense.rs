//! Dense weights: a stored tensor whose elements are the weight's, each a number of its own.

use super::change::StoredSpan;
use super::layout::{Axis, Layout};
use super::number::NumberType;
use super::parts::{Part, Parts};
use super::rows::Rows;
use super::span::Span;
use super::{Found, Outline, Packing, Usual};
use crate::checkpoint::map::MappedFile;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// A dense weight and its place in a file.
#[derive(Debug)]
pub struct Dense<'a> {
    outline: Outline<'a>,
    part: Part<'a>,
    is_one_more: bool,
}

/// The stored tensor of the weight's own name.
pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    parts.own().map(|part| Ok(Box::new(Dense::of(part, false)) as Box<dyn Packing>))
}

/// The rows of a whole tensor that is stored as `bytes`.
pub fn rows<'a>(dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Rows<'a> {
    Rows::stored(Layout::of_bytes(dtype, shape, bytes.len()), bytes)
}

impl Packing for Dense<'_> {
    fn outline(&self) -> &Outline<'_> {
        &self.outline
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let row = self.outline.layout.row_bytes();
        let bytes = self.part.bytes.get(rows.start * row..rows.end * row);
        Ok(bytes.map(|bytes| Rows::stored(self.outline.layout, bytes)))
    }

    fn dense(&self) -> Option<&Dense<'_>> {
        Some(self)
    }
}

impl<'a> Dense<'a> {
    /// A stored tensor, or one whose elements are `is_one_more`: 1 more than the weight's.
    pub(super) fn of(part: Part<'a>, is_one_more: bool) -> Dense<'a> {
        let outline = Outline {
            stored: vec![part.name],
            shape: part.shape.to_vec(),
            layout: Layout::of_bytes(part.dtype, part.shape, part.bytes.len()),
            format: part.dtype.to_string(),
            usual: Usual::default(),
        };
        Dense { outline, part, is_one_more }
    }

    /// The stored tensor, by its name in [`Tensors`](crate::checkpoint::Tensors); of a GGUF by that in the file.
    pub fn stored(&self) -> &str {
        self.part.name
    }

    /// Whether elements are 1 more than the weight's: a norm's that multiply by 1 + w, stored as what they multiply by.
    pub fn is_one_more(&self) -> bool {
        self.is_one_more
    }

    /// The element type, as the file's header names it.
    pub fn dtype(&self) -> Dtype {
        self.part.dtype
    }

    /// The shape of what is stored.
    pub fn shape(&self) -> &[usize] {
        self.part.shape
    }

    /// The file that it lies in.
    pub fn file(&self) -> &'a MappedFile {
        self.part.file
    }

    /// Which bytes of the file it is.
    pub fn place(&self) -> Range<u64> {
        self.part.place.clone()
    }

    /// Where row, column or element `index` of the stored tensor lies; none where it has no such part, or elements that are no weights as
    /// they are.
    pub fn span(&self, axis: Axis, index: usize) -> Option<Span> {
        Span::of_dense(axis, index, self.part.shape, self.part.dtype, self.part.place.start)
    }

    /// As [`Dense::span`], with what it lies in.
    pub(super) fn stored_span(&self, axis: Axis, index: usize) -> Option<StoredSpan<'a>> {
        let Part { name, dtype, shape, file, .. } = self.part;
        Some(StoredSpan {
            tensor: name,
            dtype,
            shape,
            file,
            span: self.span(axis, index)?,
            number: NumberType::of(dtype),
        })
    }
}
