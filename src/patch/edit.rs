//! Byte edits: what changes of rows, columns and elements make of the bytes of one tensor.

use crate::architecture::place::NeuronPlace;
use crate::checkpoint::Tensors;
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::packing::{Axis, Layout, NumberType, Span};
use crate::error::{Error, Figure, Result};
use crate::integrity::receipt::Rounding;
use crate::neuron::Neuron;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// One row, column or element and its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// What is changed.
    pub place: NeuronPlace,
    /// The stored tensor's element type.
    pub dtype: Dtype,
    /// What the file calls the stored tensor: in a multimodal checkpoint, and where the weight is packed, not the name
    /// that `place` gives.
    pub stored_as: String,
    /// The stored tensor's shape; of a packed weight not the one that `place` gives.
    pub stored_shape: Vec<usize>,
    /// Which row, column or element of it: in a GGUF rows may be in another order.
    pub stored_index: usize,
    /// What its bytes are: elements, or scales between codes.
    pub number: NumberType,
    /// Where the weight is packed, its values before and after.
    pub unpacked: Option<[Vec<f64>; 2]>,
    /// The shard's file name.
    pub file: String,
    /// Which bytes of it.
    pub span: Span,
    /// They as they are, one after the other.
    pub before: Vec<u8>,
    /// They as they will be.
    pub after: Vec<u8>,
}

impl Rounding {
    pub(super) fn none() -> Rounding {
        Rounding { worst_relative: 0.0, tensor: None, to_zero: 0 }
    }
}

impl Edit {
    /// The bytes of the elements that change.
    pub fn changed_bytes(&self) -> u64 {
        let size = self.number.bytes();
        let changed = self.before.chunks(size).zip(self.after.chunks(size)).filter(|(before, after)| before != after);
        (changed.count() * size) as u64
    }

    /// Whether a value that is infinite or not a number becomes one that is finite.
    pub(super) fn removes_not_finite(&self) -> bool {
        let [before, after] = self.numbers();
        before.iter().zip(after).any(|(was, is)| !was.is_finite() && is.is_finite())
    }

    /// The shape in which the stored index counts: that of the weight, or where it is one of a stack in the file, of the
    /// stack.
    pub fn shape_in_file(&self) -> Vec<usize> {
        let shape = &self.place.shape;
        match (self.stored_shape.as_slice(), shape.last()) {
            // Columns in elements, not in bytes of blocks.
            ([outer @ .., _], Some(columns)) if outer.len() == shape.len() => [outer, &[*columns]].concat(),
            _ => shape.clone(),
        }
    }

    /// The weight's values as they are.
    pub fn values_before(&self) -> Vec<f64> {
        self.unpacked.as_ref().map_or_else(|| self.numbers()[0].clone(), |[before, _]| before.clone())
    }

    /// The weight's values as they will be.
    pub fn values_after(&self) -> Vec<f64> {
        self.unpacked.as_ref().map_or_else(|| self.numbers()[1].clone(), |[_, after]| after.clone())
    }

    /// The numbers that are stored, before and after.
    fn numbers(&self) -> [Vec<f64>; 2] {
        [&self.before, &self.after].map(|bytes| self.number.decode_all(bytes))
    }
}

/// What becomes of one element, row or column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// v β.
    Scale(f64),
    /// (1 + v) β − 1.
    ScaleOnePlus(f64),
    /// This value.
    Set(f64),
    /// These values, one after the other.
    Values(Arc<[f32]>),
}

impl Change {
    /// The value that `stored` is to become, and the offset that makes of it what the network multiplies by.
    fn apply(&self, stored: f64, at: usize) -> (f64, f64) {
        match *self {
            // Zero is zero whatever was there: infinity times 0 would be NaN.
            Change::Scale(0.0) => (0.0, 0.0),
            Change::Scale(beta) => (stored * beta, 0.0),
            Change::ScaleOnePlus(0.0) => (-1.0, 1.0),
            Change::ScaleOnePlus(1.0) => (stored, 1.0),
            Change::ScaleOnePlus(beta) => (beta.mul_add(stored, beta - 1.0), 1.0),
            Change::Set(value) => (value, 0.0),
            Change::Values(ref values) => (values.get(at).map_or(f64::NAN, |value| f64::from(*value)), 0.0),
        }
    }

    /// Whether it is a factor other than 0.
    fn scales(&self) -> bool {
        matches!(self, Change::Scale(beta) | Change::ScaleOnePlus(beta) if *beta != 0.0)
    }

    /// The same of what is stored, where that is 1 more than the weight.
    fn of_one_more(&self) -> Change {
        match self {
            Change::ScaleOnePlus(beta) => Change::Scale(*beta),
            other => other.clone(),
        }
    }

    /// Both at once. Only factors ever meet: other parts belong to one neuron each.
    pub fn and(&self, other: &Change) -> Change {
        match (self, other) {
            (Change::Scale(a), Change::Scale(b)) => Change::Scale(a * b),
            (_, last) => last.clone(),
        }
    }
}

/// What rounding costs, while it is counted.
pub(super) struct Cost {
    pub rounding: Rounding,
    /// Values that are not 0 and are to be multiplied by something that is not.
    pub scaled: u64,
}

/// The changes of one tensor, by index.
#[derive(Debug, Default)]
pub(super) struct TensorChanges {
    pub rows: BTreeMap<usize, (Change, Vec<Neuron>)>,
    pub columns: BTreeMap<usize, (Change, Vec<Neuron>)>,
    pub elements: BTreeMap<usize, (Change, Vec<Neuron>)>,
}

/// Tells the bytes of a part of a stored tensor, named and counted as in the file, that the edits begin from.
pub(super) type Before<'a> = &'a dyn Fn(&str, Axis, usize, Span, &MappedFile) -> Option<Vec<u8>>;

impl TensorChanges {
    /// Appends the edits of a tensor whose elements are each a number of its own.
    pub fn edits(
        &self,
        tensors: &Tensors,
        name: &str,
        before: Before,
        to: &mut Vec<Edit>,
        cost: &mut Cost,
    ) -> Result<()> {
        let missing = || Error::tensor(tensors.root(), tensors.stored_name(name), "is not where its header says");
        let weight = tensors.weight(name).map_err(|_| missing())?;
        let dense = weight.dense().filter(|_| weight.is_float()).ok_or_else(missing)?;
        let stored_as = tensors.stored_name(dense.stored());
        let bad = |problem: String| Error::tensor(tensors.root(), stored_as, problem);
        let (number, file) = (NumberType::of(dense.dtype()), dense.file());
        let Layout { rows, columns, .. } = weight.layout();
        let stored_rows: BTreeMap<usize, &(Change, _)> =
            self.rows.iter().map(|(row, change)| (weight.stored_index(Axis::Row, *row), change)).collect();
        let first_row = |matrix: usize| weight.stored_index(Axis::Row, matrix * rows);
        let axes = [(Axis::Row, &self.rows), (Axis::Column, &self.columns), (Axis::Element, &self.elements)];
        for (axis, of_axis) in axes {
            if let Some(why) = weight.refusal(axis).filter(|_| !of_axis.is_empty()) {
                return Err(bad(why));
            }
            for (&index, (change, neurons)) in of_axis {
                let place = NeuronPlace { tensor: name.into(), shape: weight.shape().to_vec(), axis, index };
                let stored_index = weight.stored_index(axis, index);
                let span = dense.span(axis, stored_index).ok_or_else(missing)?;
                let length = span.bytes() as usize / number.bytes();
                if let Change::Values(values) = change
                    && values.len() != length
                {
                    return Err(bad(format!("has {length} values in {} {index}, not {}", axis.as_str(), values.len())));
                }
                let change = if dense.is_one_more() { change.of_one_more() } else { change.clone() };
                let before =
                    before(stored_as, axis, stored_index, span, file).filter(|b| b.len() as u64 == span.bytes());
                let before = before.ok_or_else(missing)?;
                let mut after = Vec::with_capacity(before.len());
                let stored = before.chunks_exact(number.bytes()).zip(number.decode_all::<f64>(&before));
                for (at, (bytes, value)) in stored.enumerate() {
                    // A row meets columns that change too, and a column rows.
                    let crossing = match axis {
                        Axis::Row => self.columns.get(&(index / rows * columns + at)),
                        Axis::Column => stored_rows.get(&(first_row(index / columns) + at)).copied(),
                        Axis::Element => None,
                    };
                    let crossed = crossing.map(|(other, _)| change.and(other));
                    let change = crossed.as_ref().unwrap_or(&change);
                    let (exact, offset) = change.apply(value, at);
                    if exact.is_nan() && value.is_nan() {
                        after.extend(bytes);
                        continue;
                    }
                    let rounded = number.encode(exact, &mut after);
                    if !rounded.is_finite() && value.is_finite() {
                        let (place, value) = (place.in_file(stored_as), Figure(value));
                        let problem = format!("{place}: {value} would become {exact:e}, beyond {}", dense.dtype());
                        return Err(bad(format!("{problem}; use a smaller factor")));
                    }
                    let error = (rounded - exact).abs() / (exact + offset).abs();
                    if error > cost.rounding.worst_relative {
                        cost.rounding.worst_relative = error;
                        cost.rounding.tensor = Some(stored_as.to_owned());
                    }
                    if change.scales() && value + offset != 0.0 {
                        cost.scaled += 1;
                        // Also where the product itself is 0, and the error no number.
                        cost.rounding.to_zero += u64::from(rounded + offset == 0.0);
                    }
                }
                to.push(Edit {
                    neurons: neurons.clone(),
                    place,
                    dtype: dense.dtype(),
                    stored_as: stored_as.to_owned(),
                    stored_shape: dense.shape().to_vec(),
                    stored_index,
                    number,
                    unpacked: None,
                    file: file_name(file.path()),
                    span,
                    before,
                    after,
                });
            }
        }
        Ok(())
    }
}

/// The name of a file within its folder.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
