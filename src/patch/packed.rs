//! Byte edits of packed weights: a row or column becomes zero by its codes, a row a multiple of itself by its scales.

use super::bits::{Bits, Held};
use super::edit::{Before, Change, Cost, Edit, TensorChanges, file_name};
use crate::architecture::place::NeuronPlace;
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::{Axis, OwnScales, StoredSpan, Weight, ZeroCodes};
use crate::error::{Error, Figure, Result};
use crate::neuron::Neuron;

/// Appends the edits of one weight.
pub(super) fn edits(
    changes: &TensorChanges,
    tensors: &Tensors,
    weight: &Weight,
    before: Before,
    to: &mut Vec<Edit>,
    cost: &mut Cost,
) -> Result<()> {
    let work = Work { tensors, weight, before };
    let mut zeroed = Vec::new();
    for (axis, of_axis) in [(Axis::Row, &changes.rows), (Axis::Column, &changes.columns)] {
        for (&index, (change, neurons)) in of_axis {
            match *change {
                Change::Values(_) => return Err(work.cannot(axis, index, "to given values")),
                Change::Scale(0.0) => {
                    zeroed.push((axis, index, neurons, weight.zero_codes(axis, index)?));
                }
                Change::Scale(factor) if axis == Axis::Row => {
                    to.push(work.scaled(index, factor, neurons, &weight.own_scales(index)?, cost)?);
                }
                _ => return Err(work.cannot(axis, index, "by a factor other than 0")),
            }
        }
    }
    if let Some(index) = changes.elements.keys().next() {
        return Err(work.cannot(Axis::Element, *index, "by itself"));
    }
    let all: Vec<Held> = zeroed.iter().map(|(.., zero)| Held::of(&zero.place, &zero.mask, &zero.codes)).collect();
    let codes = Bits::of(&all).unwrap_or_default();
    for (axis, index, neurons, zero) in &zeroed {
        to.push(work.zeroed(*axis, *index, neurons, zero, &codes)?);
    }
    Ok(())
}

/// One packed weight that is changed.
struct Work<'a> {
    tensors: &'a Tensors,
    weight: &'a Weight<'a>,
    before: Before<'a>,
}

impl Work<'_> {
    fn cannot(&self, axis: Axis, index: usize, how: &str) -> Error {
        let format = self.weight.format();
        let problem = format!(
            "is packed as {format}, in which {} {index} cannot be changed {how}; mask it instead (factor 0), or patch the \
             original and quantize that",
            axis.as_str()
        );
        Error::tensor(self.tensors.root(), self.weight.name(), problem)
    }

    /// The bytes that an edit begins from.
    fn bytes(&self, place: &StoredSpan, axis: Axis, index: usize) -> Result<Vec<u8>> {
        let stored_as = self.tensors.stored_name(place.tensor);
        let index = self.weight.stored_index(axis, index);
        let bytes = (self.before)(stored_as, axis, index, place.span, place.file);
        let missing = || Error::tensor(self.tensors.root(), stored_as, "is not where its header says");
        bytes.filter(|bytes| bytes.len() as u64 == place.span.bytes()).ok_or_else(missing)
    }

    /// The values of a row or column, as they are decoded.
    fn values(&self, axis: Axis, index: usize) -> Result<Vec<f64>> {
        if axis == Axis::Row {
            return Ok(self.weight.rows(index..index + 1)?.row(0));
        }
        Ok(self.weight.columns(&[index])?.concat())
    }

    fn edit(&self, axis: Axis, index: usize, neurons: &[Neuron], place: &StoredSpan, before: Vec<u8>) -> Edit {
        Edit {
            neurons: neurons.to_vec(),
            place: NeuronPlace {
                tensor: self.weight.name().to_owned(),
                shape: self.weight.shape().to_vec(),
                axis,
                index,
            },
            dtype: place.dtype,
            stored_as: self.tensors.stored_name(place.tensor).to_owned(),
            stored_shape: place.shape.to_vec(),
            stored_index: self.weight.stored_index(axis, index),
            number: place.number,
            unpacked: None,
            file: file_name(place.file.path()),
            span: place.span,
            after: before.clone(),
            before,
        }
    }

    /// `codes` are those of all rows and columns that become zero: edits meet where these share a byte.
    fn zeroed(&self, axis: Axis, index: usize, neurons: &[Neuron], zero: &ZeroCodes, codes: &Bits) -> Result<Edit> {
        let mut edit = self.edit(axis, index, neurons, &zero.place, self.bytes(&zero.place, axis, index)?);
        codes.put(&edit.file, edit.span, &mut edit.after);
        let values = self.values(axis, index)?;
        edit.unpacked = Some([values.clone(), vec![0.0; values.len()]]);
        Ok(edit)
    }

    fn unfit(&self, row: usize, scale: f64, exact: f64, problem: String) -> Error {
        let problem = format!("the scale {} of row {row} would become {exact:e}, {problem}", Figure(scale));
        Error::tensor(self.tensors.root(), self.tensors.stored_name(self.weight.name()), problem)
    }

    fn scaled(&self, row: usize, factor: f64, neurons: &[Neuron], own: &OwnScales, cost: &mut Cost) -> Result<Edit> {
        let mut edit = self.edit(Axis::Row, row, neurons, &own.place, self.bytes(&own.place, Axis::Row, row)?);
        let number = edit.number;
        let scales: Vec<f64> = number.decode_all(&edit.before);
        edit.after.clear();
        let mut ratios = Vec::with_capacity(scales.len());
        for scale in &scales {
            let exact = scale * factor;
            let rounded = number.encode(exact, &mut edit.after);
            if !rounded.is_finite() && scale.is_finite() {
                return Err(self.unfit(row, *scale, exact, format!("beyond {number}; use a smaller factor")));
            }
            if own.are_coarse() && (rounded != exact || factor < 0.0) {
                let advice =
                    "use a power of two such as 0.5, mask it (factor 0), or patch the original and quantize that";
                return Err(self.unfit(row, *scale, exact, format!("which {number} cannot hold; {advice}")));
            }
            if rounded == 0.0 && *scale != 0.0 {
                let advice = "and all weights that it is of 0; use a larger factor, or 0 to mask the row";
                return Err(self.unfit(row, *scale, exact, format!("which {number} rounds to 0, {advice}")));
            }
            let error = (rounded - exact).abs() / exact.abs();
            if error > cost.rounding.worst_relative {
                cost.rounding.worst_relative = error;
                cost.rounding.tensor = Some(edit.stored_as.clone());
            }
            cost.scaled += u64::from(*scale != 0.0);
            ratios.push(if *scale == 0.0 { factor } else { rounded / scale });
        }
        let values = self.values(Axis::Row, row)?;
        let by_scales = || {
            let ratio = |of: &usize| ratios.get(*of).copied().unwrap_or(factor);
            values.iter().zip(&own.of_column).map(|(value, of)| value * ratio(of)).collect()
        };
        let after = self.weight.row_with(row, edit.span, &edit.after).unwrap_or_else(by_scales);
        edit.unpacked = Some([values, after]);
        Ok(edit)
    }
}
