//! The logits of one row, made where they are asked for: those of all its positions may take more than the model.

use super::Model;
use super::batch::Row;
use super::hook::NoHook;
use crate::error::Result;
use crate::progress::Progress;
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// A row that has passed all layers.
#[derive(Debug)]
pub struct RowLogits<'a> {
    model: &'a Model,
    /// (positions, hidden), after the final norm.
    x: Tensor,
}

impl Model {
    /// Takes a row through the layers. Progress advances by layers.
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn row_logits(&self, row: &Row, progress: &dyn Progress) -> Result<RowLogits<'_>> {
        let groups = self.hidden(std::slice::from_ref(row), None, None, &mut NoHook, progress)?;
        Ok(RowLogits { model: self, x: groups[0].x.clone() })
    }
}

impl RowLogits<'_> {
    /// The logits at some positions, each over the vocabulary.
    ///
    /// # Errors
    /// There are no such positions, or the device fails.
    pub fn at(&self, positions: Range<usize>) -> Result<Vec<Vec<f64>>> {
        let x = self.x.narrow(0, positions.start, positions.len())?;
        let logits = self.model.logits_of(&[x])?;
        Ok(logits[0].to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2()?)
    }
}
