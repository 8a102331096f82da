//! What changes of neurons make of each tensor, and the byte edits of them all.

use super::edit::{Before, Change, Cost, Edit, TensorChanges};
use super::packed;
use crate::architecture::place::NeuronPlace;
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::Axis;
use crate::error::Result;
use crate::integrity::receipt::Rounding;
use crate::neuron::{Action, Neuron};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The changes of all tensors.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<String, TensorChanges>);

impl Changes {
    /// Adds what `action` makes of everything that a factor on `neuron` multiplies. `one_plus`: norms multiply by 1 +
    /// w.
    pub fn add(&mut self, neuron: &Neuron, action: Action, parts: &[NeuronPlace], one_plus: bool) {
        let factor = match action {
            Action::Scale(beta) => beta,
            Action::Zero | Action::Set(_) => 0.0,
        };
        for part in parts {
            let change = match action {
                Action::Set(value) if part.is_bias() => Change::Set(value),
                _ if part.is_norm() && one_plus => Change::ScaleOnePlus(factor),
                _ => Change::Scale(factor),
            };
            self.add_part(part, change, neuron);
        }
    }

    /// Adds values for the row or column that a neuron is.
    pub fn add_values(&mut self, neuron: &Neuron, values: &Arc<[f32]>, parts: &[NeuronPlace]) {
        for part in parts {
            self.add_part(part, Change::Values(values.clone()), neuron);
        }
    }

    /// The edits, by file and offset.
    pub fn edits(&self, tensors: &Tensors, before: Before) -> Result<(Vec<Edit>, Cost)> {
        let mut edits = Vec::new();
        let mut cost = Cost { rounding: Rounding::none(), scaled: 0 };
        for (name, of_tensor) in &self.0 {
            match tensors.weight(name) {
                Ok(weight) if weight.dense().is_none() => {
                    packed::edits(of_tensor, tensors, &weight, before, &mut edits, &mut cost)?
                }
                _ => of_tensor.edits(tensors, name, before, &mut edits, &mut cost)?,
            }
        }
        edits.sort_by(|a: &Edit, b| (&a.file, a.span).cmp(&(&b.file, b.span)));
        Ok((edits, cost))
    }

    fn add_part(&mut self, place: &NeuronPlace, change: Change, neuron: &Neuron) {
        let of_tensor = self.0.entry(place.tensor.clone()).or_default();
        let of_axis = match place.axis {
            Axis::Row => &mut of_tensor.rows,
            Axis::Column => &mut of_tensor.columns,
            Axis::Element => &mut of_tensor.elements,
        };
        let entry = of_axis.entry(place.index);
        let entry =
            entry.and_modify(|(known, _)| *known = known.and(&change)).or_insert_with(|| (change.clone(), Vec::new()));
        entry.1.push(neuron.clone());
    }
}
