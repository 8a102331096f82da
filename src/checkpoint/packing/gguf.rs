//! Weights in the blocks of a GGUF, each block with scales of its own; decoded to single precision.

use super::layout::Layout;
use super::parts::Parts;
use super::rows::Rows;
use super::{Found, Outline, Packing, Usual, dense};
use crate::checkpoint::gguf::{GgufCheckpoint, GgufFile};
use crate::error::Result;
use safetensors::Dtype;
use std::ops::Range;

/// Under Hugging Face's name.
#[derive(Debug)]
struct Blocks<'a> {
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
    let outline = outline(name, &entry.shape, layout, gguf.type_of(name).unwrap_or("GGUF"));
    Some(Ok(Box::new(Blocks { gguf, name, outline })))
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
