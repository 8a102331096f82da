//! Weights: how much a channel of `down_proj` can carry by the norms of the weights around it. No text, no pass.
//!
//! The gated product i is at most ‖gate_i‖ ‖up_i‖ ‖x‖² but for the activation and biases, so that this is what column i of
//! `down_proj` is weighed by. Rows are decoded a few at a time, whatever they are packed in, and sums are in f64.

use super::stage::Stage;
use super::tally::Tally;
use crate::architecture::Recipe;
use crate::architecture::module::{Module, SiteInfo, Stack};
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::Weight;
use crate::error::{Error, Result};
use crate::neuron::Side;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Of an output c √(Σ_i (W[c, i] ‖gate_i‖ ‖up_i‖)²), of an input i ‖W[:, i]‖ ‖gate_i‖ ‖up_i‖.
pub(super) fn rank(stage: Stage) -> Result<Tally> {
    let (recipe, tensors) = (stage.model.recipe(), stage.model.checkpoint().tensors());
    let mut tally = stage.tally();
    stage.progress.begin("importance", stage.sites.len() as u64, "modules");
    for info in stage.sites {
        let norms = norms(info, recipe, tensors)?;
        tally.take(&info.site, &Tensor::new(norms, &Device::Cpu)?.unsqueeze(0)?)?;
        stage.progress.advance(1)?;
    }
    stage.progress.end();
    Ok(tally)
}

/// What the channels of one side of a `down_proj` are ranked by.
fn norms(SiteInfo { site, module, .. }: &SiteInfo, recipe: &Recipe, tensors: &Tensors) -> Result<Vec<f64>> {
    let missing = || Error::Compute(format!("the recipe has no gate and up beside {}", module.path));
    let [(gate, first_gate), (up, first_up)] = recipe.gate_and_up(module).ok_or_else(missing)?;
    let down = Matrix::of(module, tensors)?;
    let (of_gate, of_up) = (Matrix::of(&gate, tensors)?, Matrix::of(&up, tensors)?);
    let gates = of_gate.squares(Side::Out, None)?;
    let ups = if of_up.is(&of_gate) { gates.clone() } else { of_up.squares(Side::Out, None)? };
    let fed = |i: usize| (gates[of_gate.output(first_gate + i)] * ups[of_up.output(first_up + i)]).sqrt();
    let fed: Vec<f64> = (0..module.inputs).map(fed).collect();
    let squares = match site.side {
        Side::Out => down.squares(Side::Out, Some(&fed))?,
        Side::In => down.squares(Side::In, None)?.iter().zip(&fed).map(|(square, fed)| square * fed * fed).collect(),
    };
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

/// A matrix of the file that a module's weight is, or lies in.
struct Matrix<'a> {
    weight: Weight<'a>,
    /// Its rows among those of all experts.
    rows: Range<usize>,
    /// A row is an input.
    is_transposed: bool,
    /// Which outputs are the module's, where not all are.
    stack: Option<&'a Stack>,
}

impl<'a> Matrix<'a> {
    fn of(module: &'a Module, tensors: &'a Tensors) -> Result<Matrix<'a>> {
        let Some(stack) = module.stack.as_ref().filter(|stack| tensors.holds(&stack.tensor)) else {
            let weight = tensors.weight(&module.weight())?;
            return Ok(Matrix { rows: 0..weight.layout().all_rows(), weight, is_transposed: false, stack: None });
        };
        let weight = tensors.weight(&stack.tensor)?;
        let (shape, is_transposed) = stack.shape(module.inputs, weight.shape(), weight.is_packed());
        let rows = stack.expert * shape[1]..(stack.expert + 1) * shape[1];
        Ok(Matrix { weight, rows, is_transposed, stack: Some(stack) })
    }

    /// Which of its outputs a module's is.
    fn output(&self, channel: usize) -> usize {
        self.stack.map_or(channel, |stack| stack.output(channel))
    }

    fn is(&self, other: &Matrix) -> bool {
        self.weight.name() == other.weight.name() && self.rows == other.rows
    }

    /// Of each channel of a side the sum of squares of its elements, each times the factor of the other side's channel
    /// that it meets.
    fn squares(&self, side: Side, factors: Option<&[f64]>) -> Result<Vec<f64>> {
        let of_rows = (side == Side::Out) != self.is_transposed;
        let columns = self.weight.layout().columns.max(1);
        let factor = |other: usize| factors.map_or(1.0, |factors| factors[other]);
        let sums = self.pieces().into_par_iter().map(|piece| {
            let mut sums = vec![0.0; if of_rows { piece.len() } else { columns }];
            let together = (HELD / columns).max(1);
            for first in piece.clone().step_by(together) {
                let some = self.weight.rows(first..(first + together).min(piece.end))?.into_values::<f64>();
                for (row, values) in (first..).zip(some.chunks(columns)) {
                    for (column, value) in values.iter().enumerate() {
                        let (at, other) =
                            if of_rows { (row - piece.start, column) } else { (column, row - self.rows.start) };
                        sums[at] += (value * factor(other)).powi(2);
                    }
                }
            }
            Ok(sums)
        });
        let sums: Vec<Vec<f64>> = sums.collect::<Result<_>>()?;
        if of_rows {
            return Ok(sums.concat());
        }
        let add = |mut all: Vec<f64>, part: Vec<f64>| {
            all.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            all
        };
        Ok(sums.into_iter().fold(vec![0.0; columns], add))
    }

    /// Its rows in pieces that cores share; the same on every machine, as sums round.
    fn pieces(&self) -> Vec<Range<usize>> {
        let Range { start, end } = self.rows;
        let rows = self.rows.len().div_ceil(PIECES).max(1);
        (start..end).step_by(rows).map(|at| at..(at + rows).min(end)).collect()
    }
}

/// Pieces of a matrix at most.
const PIECES: usize = 32;

/// Numbers that a core decodes at a time.
const HELD: usize = 1 << 16;
