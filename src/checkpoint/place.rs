//! What a neuron is in the file: a row, a column or an element of a tensor.

use super::tensors::Tensors;
use crate::neuron::{Neuron, Side};
use std::fmt;

/// The part of one tensor whose change changes one neuron and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The tensor's name.
    pub tensor: String,
    /// The tensor's shape.
    pub shape: Vec<usize>,
    /// Along which axis the part lies.
    pub axis: Axis,
    /// Which row, column or element.
    pub index: usize,
}

/// How a neuron lies in its tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// One row of a [out, in] matrix: an output channel.
    Row,
    /// One column of it: an input channel.
    Column,
    /// One element of a vector: a norm's channel.
    Element,
}

impl Axis {
    /// `row`, `column` or `element`.
    pub fn as_str(self) -> &'static str {
        match self {
            Axis::Row => "row",
            Axis::Column => "column",
            Axis::Element => "element",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {} {:?}", self.axis.as_str(), self.index, self.tensor, self.shape)
    }
}

/// Finds what `neuron` is in the file; none where no single tensor holds it alone (the input of a norm, a q/k norm
/// that all heads share).
pub fn place(neuron: &Neuron, tensors: &Tensors) -> Option<Place> {
    let module = neuron.site.module.as_str();
    // The output of the activation enters down_proj after a product with up_proj's: zeroing it zeroes that column.
    let is_activation = [".act_fn", ".activation_fn"].iter().find_map(|end| module.strip_suffix(end));
    let (tensor, side) = match (is_activation, neuron.site.side) {
        (Some(mlp), Side::Out) => (format!("{mlp}.down_proj.weight"), Side::In),
        _ => (format!("{module}.weight"), neuron.site.side),
    };
    let shape = tensors.get(&tensor)?.shape.clone();
    let axis = match (shape.len(), side) {
        (2, Side::Out) => Axis::Row,
        (2, Side::In) => Axis::Column,
        (1, Side::Out) => Axis::Element,
        _ => return None,
    };
    let length = if axis == Axis::Column { shape[1] } else { shape[0] };
    (neuron.channel < length).then_some(Place { tensor, shape, axis, index: neuron.channel })
}
