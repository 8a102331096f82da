//! Weights in the blocks of a GGUF, each block with scales of its own; decoded to single precision.

use super::layout::Layout;
use super::parts::Parts;
use super::rows::Rows;
use super::{Found, Packing};
use crate::checkpoint::gguf::GgufCheckpoint;
use crate::checkpoint::tensors::Entry;
use crate::error::Result;
use std::ops::Range;

#[derive(Debug)]
struct Blocks<'a> {
    gguf: &'a GgufCheckpoint,
    name: &'a str,
    entry: &'a Entry,
    layout: Layout,
}

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let gguf = parts.tensors.gguf()?;
    let (name, entry) = parts.tensors.entry(parts.weight)?;
    let layout = match entry.shape.as_slice() {
        // A row is one of the first dimension.
        [rows, rest @ ..] if rest.len() > 1 => Layout::of(entry.dtype, &[*rows, rest.iter().product()]),
        shape => Layout::of(entry.dtype, shape),
    }?;
    Some(Ok(Box::new(Blocks { gguf, name, entry, layout })))
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

    fn format(&self) -> String {
        self.gguf.type_of(self.name).unwrap_or("GGUF").to_owned()
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        self.gguf.rows(self.name, rows).map(|values| Some(Rows::decoded(self.layout, values)))
    }
}
