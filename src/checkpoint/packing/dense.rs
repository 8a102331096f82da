//! Dense weights: a stored tensor whose elements are the weight's, each a number of its own.

use super::layout::{Axis, Layout};
use super::parts::Parts;
use super::rows::Rows;
use super::span::Span;
use super::{Found, Packing};
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::tensors::Entry;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// A dense weight and its place in a file.
#[derive(Debug)]
pub struct Dense<'a> {
    name: &'a str,
    entry: &'a Entry,
    layout: Layout,
    file: &'a MappedFile,
    place: Range<u64>,
    bytes: &'a [u8],
}

/// The stored tensor of the weight's own name.
pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let tensors = parts.tensors;
    let (name, entry) = tensors.entry(parts.weight)?;
    let (file, place) = entry.place.clone()?;
    let bytes = tensors.bytes(name)?;
    Some(Ok(Box::new(Dense {
        name,
        entry,
        layout: Layout::of_bytes(entry.dtype, &entry.shape, bytes.len()),
        file: tensors.files().get(file)?,
        place,
        bytes,
    })))
}

/// The rows of a whole tensor that is stored as `bytes`.
pub fn rows<'a>(dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Rows<'a> {
    Rows::stored(Layout::of_bytes(dtype, shape, bytes.len()), bytes)
}

impl Packing for Dense<'_> {
    fn tensors(&self) -> Vec<&str> {
        vec![self.name]
    }

    fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn format(&self) -> String {
        self.entry.dtype.to_string()
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let row = self.layout.row_bytes();
        let bytes = self.bytes.get(rows.start * row..rows.end * row);
        Ok(bytes.map(|bytes| Rows::stored(self.layout, bytes)))
    }

    fn dense(&self) -> Option<&Dense<'_>> {
        Some(self)
    }
}

impl<'a> Dense<'a> {
    /// The element type, as the file's header names it.
    pub fn dtype(&self) -> Dtype {
        self.entry.dtype
    }

    /// The file that it lies in.
    pub fn file(&self) -> &'a MappedFile {
        self.file
    }

    /// Which bytes of the file it is.
    pub fn place(&self) -> Range<u64> {
        self.place.clone()
    }

    /// Where row, column or element `index` lies; none where it has no such part, or elements that are no weights as
    /// they are.
    pub fn span(&self, axis: Axis, index: usize) -> Option<Span> {
        Span::of_dense(axis, index, &self.entry.shape, self.entry.dtype, self.place.start)
    }
}
