//! In what two checkpoints differ: files, then tensors, then rows and columns, then neurons.

mod sentence;

use crate::architecture::place::Axis;
use crate::architecture::recipe::{NormStyle, Recipe};
use crate::checkpoint::Opened;
use crate::neuron::Neuron;
use safetensors::Dtype;
use serde::Serialize;

/// Rows or columns of a tensor that are listed one by one; where more changed they are counted.
pub const LISTED: usize = 64;

/// One difference. `before` is the fingerprint's side, or A's of a diff.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Difference {
    /// A file is not there any more.
    FileMissing {
        /// Its path below the folder.
        path: String,
    },
    /// A file was not there.
    FileExtra {
        /// Its path below the folder.
        path: String,
    },
    /// A file has other content.
    FileChanged {
        /// Its path below the folder.
        path: String,
        /// Its size before.
        bytes_before: u64,
        /// Its size now.
        bytes_after: u64,
        /// It is a safetensors file with the same tensors: the header or the order changed.
        same_tensors: bool,
    },
    /// A link leads elsewhere than it did, or stands where a file was.
    FileLinked {
        /// Its path below the folder.
        path: String,
        /// Where it led; none where it was no link.
        before: Option<String>,
        /// Where it leads.
        after: String,
    },
    /// A file of the Hugging Face cache has other bytes than it is named by.
    FileDamaged {
        /// Its path below the folder.
        path: String,
        /// How that shows.
        problem: String,
    },
    /// A file, or the tensors in it, cannot be told.
    NotExamined {
        /// Its path below the folder.
        path: String,
        /// Why.
        problem: String,
    },
    /// A tensor is not there any more.
    TensorMissing {
        /// Its name.
        name: String,
    },
    /// A tensor was not there.
    TensorExtra {
        /// Its name.
        name: String,
        /// The file it lies in.
        file: String,
    },
    /// The same bytes under another name.
    TensorRenamed {
        /// Its name before.
        before: String,
        /// Its name now.
        after: String,
    },
    /// A tensor has another type or shape.
    TensorReshaped {
        /// Its name.
        name: String,
        /// Type and shape before.
        before: (Dtype, Vec<usize>),
        /// Type and shape now.
        after: (Dtype, Vec<usize>),
    },
    /// The same tensor lies in another file.
    TensorMoved {
        /// Its name.
        name: String,
        /// The file before.
        before: String,
        /// The file now.
        after: String,
    },
    /// A tensor holds what another one held.
    TensorReplaced {
        /// Its name.
        name: String,
        /// The tensor that held this.
        other: String,
        /// That one holds what this one held.
        swapped: bool,
    },
    /// A tensor has other values.
    TensorChanged(TensorChange),
}

/// How a tensor's values changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorChange {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its type.
    pub dtype: Dtype,
    /// Rows with a changed element (elements, of a vector), of all rows.
    pub rows_changed: usize,
    /// Rows.
    pub rows: usize,
    /// Columns with a changed element.
    pub columns_changed: usize,
    /// Columns; 0 of a vector.
    pub columns: usize,
    /// ‖after − before‖ / ‖before‖; only where both were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_norm: Option<f64>,
    /// Changed elements; only where both were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elements_changed: Option<u64>,
    /// How many more values are not a number than before.
    #[serde(skip_serializing_if = "is_zero")]
    pub became_nan: u64,
    /// What the change looks like as a whole.
    pub pattern: Pattern,
    /// The rows and columns that tell it: all that changed where they are few, else those that stand out.
    pub lines: Vec<LineChange>,
}

/// What a change looks like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub enum Pattern {
    /// A few elements.
    Elements,
    /// A few whole rows or columns: what a lesion is.
    Lines,
    /// A matrix of low rank was added, as by a merged LoRA.
    LowRank {
        /// Singular values above the rounding of the element type.
        rank: usize,
    },
    /// Most of the tensor.
    Dense,
}

/// How a row or column changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LineChange {
    /// Row, column, or element of a vector.
    pub axis: Axis,
    /// Which one; of a stack of matrices, counted through all of them.
    pub index: usize,
    /// The neuron it is, where the tensor is a module's weight or bias.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub neuron: Option<Neuron>,
    /// Its norm before.
    pub norm_before: f64,
    /// Its norm now.
    pub norm_after: f64,
    /// It is β times what it was, up to rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn as_text<S: serde::Serializer>(neuron: &Option<Neuron>, to: S) -> Result<S::Ok, S::Error> {
    neuron.as_ref().map(ToString::to_string).serialize(to)
}

/// A tensor that holds what another one held. Of two that were swapped the first, by name, tells it.
pub fn replaced_by(name: &str, other: &str, swapped: bool) -> Option<Difference> {
    let told = !swapped || name < other;
    told.then(|| Difference::TensorReplaced { name: name.to_owned(), other: other.to_owned(), swapped })
}

/// The neuron that a line of a tensor is: an output channel for a row, an input channel for a column.
pub fn neuron(tensor: &str, dimensions: usize, axis: Axis, index: usize) -> Option<Neuron> {
    let module = tensor.strip_suffix(".weight").or_else(|| tensor.strip_suffix(".bias"))?;
    let side = match (axis, dimensions) {
        (Axis::Row, 2) | (Axis::Element, 1) => "out",
        (Axis::Column, 2) => "in",
        _ => return None,
    };
    format!("{module}:{side}:{index}").parse().ok()
}

/// Tells what the elements of norms' weights multiply by.
#[derive(Debug, Clone, Copy)]
pub struct Norms {
    one_plus: bool,
}

impl Norms {
    /// By the folder's config.json; without a readable one, the weights themselves.
    pub fn of(opened: &Opened) -> Norms {
        let config = opened.config().ok().flatten();
        let recipe = config.and_then(|config| Recipe::read(config).ok());
        Norms { one_plus: recipe.is_some_and(|r| r.norm.style == NormStyle::OnePlusWeightThenRound) }
    }

    /// The factor between an element of a vector and what it was: of Gemma's norms, between 1 + w.
    pub fn beta(self, tensor: &str, before: f64, after: f64) -> Option<f64> {
        let added = if self.one_plus && tensor.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let beta = (added + after) / (added + before);
        beta.is_finite().then_some(beta)
    }
}
