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

/// Bytes of logits that are asked for at once where the head is kept.
const USUAL_BYTES: u64 = 64 << 20;
/// The share of the memory that is left which they take where the head is streamed, one part in so many: copies of them
/// and those of another model take several times as much.
const SHARE: u64 = 16;

impl RowLogits<'_> {
    /// Positions whose logits are worth asking for at once; at least one. A streamed head is read anew each time, so that
    /// there are as many as memory has room for.
    pub fn at_once(&self) -> usize {
        let is_streamed = self.model.resident_head().is_none();
        let bytes = bytes_at_once(is_streamed.then(|| self.model.memory.for_rows()));
        let of_one = (self.model.recipe.vocab_size * size_of::<f64>()) as u64;
        usize::try_from(bytes / of_one).unwrap_or(usize::MAX).clamp(1, self.x.dims()[0])
    }

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

/// Bytes of logits to ask for at once; `left`: of memory, where the head is streamed.
fn bytes_at_once(left: Option<u64>) -> u64 {
    USUAL_BYTES.max(left.unwrap_or(0) / SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Arithmetic, Residency, fixture};
    use crate::progress::Silent;

    #[test]
    fn more_is_asked_for_at_once_where_the_head_is_read_anew() {
        assert_eq!([None, Some(0), Some(16 << 30)].map(bytes_at_once), [64 << 20, 64 << 20, 1 << 30]);
        let model = fixture::model("llama", Arithmetic::F32, Some(Residency::Streamed));
        let row = Row::clean((0..12).collect());
        assert_eq!(model.row_logits(&row, &Silent).unwrap().at_once(), 12);
    }
}
