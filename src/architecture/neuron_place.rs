//! The part of a tensor that one neuron is.

pub use crate::checkpoint::packing::Axis;
use std::fmt;

/// The part of one tensor whose change changes one neuron and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeuronPlace {
    /// The tensor by the name that it has in a text model alone.
    pub tensor: String,
    /// The whole tensor's shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Along which axis the part lies.
    pub axis: Axis,
    /// Which row, column or element, from 0, counted through all matrices of a stack.
    pub index: usize,
}

impl NeuronPlace {
    /// Whether it is an element of a module's bias, or of those of all experts.
    pub fn is_bias(&self) -> bool {
        self.axis == Axis::Element && [".bias", "_bias"].iter().any(|end| self.tensor.ends_with(end))
    }

    /// Whether it is an element of a norm's weight: no other weight is a vector.
    pub fn is_norm(&self) -> bool {
        self.axis == Axis::Element && !self.is_bias()
    }

    /// In words, by the name that the file has for the tensor.
    pub fn in_file(&self, stored_as: &str) -> String {
        in_file(self.axis, self.index, stored_as, &self.shape)
    }
}

impl fmt::Display for NeuronPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_file(&self.tensor))
    }
}

/// A row, column or element of a tensor of some shape in words: `row 7`; of a stack `row 7 of matrix 2`.
pub(crate) fn line(axis: Axis, index: usize, shape: &[usize]) -> String {
    let (name, of_each) = match (axis, shape) {
        (Axis::Row, &[_, rows, _]) => ("matrix", rows),
        (Axis::Column, &[_, _, columns]) => ("matrix", columns),
        (Axis::Element, &[_, elements]) => ("row", elements),
        _ => ("", 0),
    };
    match of_each {
        0 => format!("{} {index}", axis.as_str()),
        of_each => format!("{} {} of {name} {}", axis.as_str(), index % of_each, index / of_each),
    }
}

/// As [`line`], with the tensor that it is of.
pub(crate) fn in_file(axis: Axis, index: usize, tensor: &str, shape: &[usize]) -> String {
    format!("{} of {tensor} {shape:?}", line(axis, index, shape))
}
