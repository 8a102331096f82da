//! Weights in the blocks of a GGUF, each block with scales of its own; decoded to single precision.

use super::layout::Layout;
use super::parts::Parts;
use super::rows::Rows;
use super::{Found, Packing, dense};
use crate::checkpoint::gguf::header::TensorInfo;
use crate::checkpoint::gguf::{GgufCheckpoint, GgufFile};
use crate::checkpoint::tensors::Entry;
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// Under Hugging Face's name.
#[derive(Debug)]
struct Blocks<'a> {
    gguf: &'a GgufCheckpoint,
    name: &'a str,
    entry: &'a Entry,
    layout: Layout,
}

/// Under the name in the file.
#[derive(Debug)]
struct OwnBlocks<'a> {
    file: &'a GgufFile,
    name: &'a str,
    info: &'a TensorInfo,
    layout: Layout,
}

pub(super) fn of<'a>(parts: &Parts<'a, '_>) -> Found<'a> {
    let (name, entry) = parts.tensors.entry(parts.weight)?;
    if let Some(file) = parts.tensors.gguf_file() {
        let info = file.tensor(name)?;
        let layout =
            Layout::of(Dtype::F32, &info.shape).filter(|_| info.ty.is_supported() && info.ty.dtype().is_none());
        return match layout {
            Some(layout) => Some(Ok(Box::new(OwnBlocks { file, name, info, layout }))),
            None => dense::of(parts),
        };
    }
    let gguf = parts.tensors.gguf()?;
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

impl Packing for OwnBlocks<'_> {
    fn tensors(&self) -> Vec<&str> {
        vec![self.name]
    }

    fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn format(&self) -> String {
        self.info.ty.name.to_owned()
    }

    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>> {
        let columns = self.layout.columns;
        let mut values = vec![0.0; rows.len() * columns];
        self.file.values(self.name, rows.start * columns, &mut values)?;
        Ok(Some(Rows::decoded(self.layout, values)))
    }
}
