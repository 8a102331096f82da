//! Weights in the blocks of a GGUF, each block with scales of its own; decoded to single precision.

use super::Packing;
use super::layout::Layout;
use super::rows::Rows;
use crate::checkpoint::gguf::GgufCheckpoint;
use crate::checkpoint::tensors::{Entry, Tensors};
use crate::error::Result;
use std::ops::Range;

#[derive(Debug)]
struct Blocks<'a> {
    gguf: &'a GgufCheckpoint,
    name: &'a str,
    entry: &'a Entry,
    layout: Layout,
}

pub(super) fn of<'a>(tensors: &'a Tensors, name: &str) -> Option<Box<dyn Packing + 'a>> {
    let gguf = tensors.gguf()?;
    let (name, entry) = tensors.entry(name)?;
    let layout = match entry.shape.as_slice() {
        // A row is one of the first dimension.
        [rows, rest @ ..] if rest.len() > 1 => Layout::of(entry.dtype, &[*rows, rest.iter().product()]),
        shape => Layout::of(entry.dtype, shape),
    }?;
    Some(Box::new(Blocks { gguf, name, entry, layout }))
}

impl Packing for Blocks<'_> {
    fn tensors(&self) -> Vec<&str> {
        vec![self.name]
    }

    fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        self.gguf.rows(self.name, rows).map(|values| Some(Rows::decoded(self.layout, values)))
    }
}
