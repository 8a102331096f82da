//! The tensors of a folder that transformers reads: those of the checkpoint, with all experts of a layer in one where its
//! classes have them so.

use super::GgufCheckpoint;
use super::architecture::StackForm;
use crate::error::Result;
use std::collections::BTreeMap;

/// Elements that are dequantized at a time, where a row or an expert does not have more.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// A tensor of the folder.
#[derive(Debug)]
pub(super) struct Whole<'a> {
    checkpoint: &'a GgufCheckpoint,
    pub shape: Vec<usize>,
    of: Of<'a>,
}

#[derive(Debug)]
enum Of<'a> {
    /// A tensor of the checkpoint.
    Own(&'a str),
    /// A part of all experts of a module, such as `model.layers.0.mlp.experts`; `.weight` or `.bias` at the end.
    Experts { module: String, part: Part, end: &'static str, form: StackForm },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    GateUp,
    Down,
}

impl<'a> Whole<'a> {
    /// All of a checkpoint's, by name.
    pub fn all(checkpoint: &'a GgufCheckpoint) -> BTreeMap<String, Whole<'a>> {
        let mut all = BTreeMap::new();
        for (name, shape) in checkpoint.tensors() {
            match checkpoint.layout.stacks.zip(name.split_once(".experts.")) {
                None => {
                    all.insert(name.to_owned(), Whole { checkpoint, shape: shape.to_vec(), of: Of::Own(name) });
                }
                Some((form, (before, rest))) if rest.starts_with("0.") => {
                    let experts = checkpoint.layout.count_of(&format!("{before}.experts."), &rest[2..]);
                    let stack =
                        Whole::stack(checkpoint, &format!("{before}.experts"), &rest[2..], shape, experts, form);
                    all.extend(stack);
                }
                Some(_) => {}
            }
        }
        all
    }

    /// The tensor of all experts that one of the first belongs to; none of what is beside the gate, which goes with that.
    fn stack(
        checkpoint: &'a GgufCheckpoint,
        module: &str,
        name: &str,
        shape: &[usize],
        experts: usize,
        form: StackForm,
    ) -> Option<(String, Whole<'a>)> {
        let (part, end) = match name {
            "gate_proj.weight" => (Part::GateUp, ".weight"),
            "down_proj.weight" => (Part::Down, ".weight"),
            "gate_proj.bias" => (Part::GateUp, ".bias"),
            "down_proj.bias" => (Part::Down, ".bias"),
            _ => return None,
        };
        let mut of_each = shape.to_vec();
        if part == Part::GateUp {
            of_each[0] *= 2;
        }
        if form == StackForm::InOutAlternately {
            of_each.reverse();
        }
        let (stem, linear) = match part {
            Part::GateUp => ("gate_up_proj", "input_linear"),
            Part::Down => ("down_proj", "output_linear"),
        };
        let bias = if end == ".bias" { "_bias" } else { "" };
        let name = match module.strip_suffix("experts").filter(|_| form == StackForm::Linear) {
            Some(holder) => format!("{holder}{linear}{end}"),
            None => format!("{module}.{stem}{bias}"),
        };
        let of = Of::Experts { module: module.to_owned(), part, end, form };
        let shape = [&[experts], &of_each[..]].concat();
        Some((name, Whole { checkpoint, shape, of }))
    }

    /// In how many pieces it is read.
    pub fn pieces(&self) -> usize {
        let rows = self.shape.first().copied().unwrap_or(1);
        match self.of {
            Of::Own(_) => rows.div_ceil(self.rows_of_piece()),
            Of::Experts { .. } => rows,
        }
    }

    fn rows_of_piece(&self) -> usize {
        let width: usize = self.shape.iter().skip(1).product();
        (CHUNK_ELEMENTS / width.max(1)).max(1)
    }

    /// The elements of one piece, which follow those of the one before.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn piece(&self, piece: usize) -> Result<Vec<f32>> {
        match &self.of {
            Of::Own(name) => {
                let (step, rows) = (self.rows_of_piece(), self.shape.first().copied().unwrap_or(1));
                self.checkpoint.rows(name, piece * step..rows.min((piece + 1) * step))
            }
            Of::Experts { module, part, end, form } => {
                let of = |name: &str| self.part(&format!("{module}.{piece}.{name}{end}"));
                let (first, width) = of(if *part == Part::GateUp { "gate_proj" } else { "down_proj" })?;
                let second = if *part == Part::GateUp { of("up_proj")?.0 } else { Vec::new() };
                Ok(match form {
                    StackForm::OutIn | StackForm::Linear => [first, second].concat(),
                    StackForm::InOutAlternately => turned(&[first, second], width),
                })
            }
        }
    }

    /// A tensor of one expert, and how many columns it has.
    fn part(&self, name: &str) -> Result<(Vec<f32>, usize)> {
        let shape = self.checkpoint.layout.tensors.get(name).map(|source| source.shape.as_slice()).unwrap_or_default();
        let rows = self.checkpoint.rows(name, 0..shape.first().copied().unwrap_or_default())?;
        Ok((rows, shape.get(1).copied().unwrap_or(1)))
    }
}

/// The columns of matrices that take turns row by row, one after the other.
fn turned(matrices: &[Vec<f32>; 2], width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(matrices.iter().map(Vec::len).sum());
    for column in 0..width {
        for row in (0..matrices[0].len()).step_by(width.max(1)) {
            out.extend(matrices.iter().filter_map(|matrix| matrix.get(row + column)));
        }
    }
    out
}
