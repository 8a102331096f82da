//! Indicators of a lesion in the weights alone, with nothing to compare them to.
//!
//! Rows and columns have partners. A channel of the residual stream has a row in every `o_proj` and `down_proj` and a
//! column in every other projection, whose norms follow one another from layer to layer; an intermediate neuron has a
//! row in `gate_proj`, one in `up_proj` and a column in `down_proj`; a head's channel likewise. The log norm that a
//! robust regression on the partners gives is compared with what is there. A factor below 0 does not show in norms,
//! but in many layers row i of `down_proj` points along column i of `up_proj` (or against it) as its neighbours do, and
//! then a changed sign shows.
//!
//! Norms of a clean model have heavy tails, so each indicator carries a p-value, the probability of one as strong in a
//! clean checkpoint of this size, from tails measured on clean models ([`MEASURED`]), and only what has one of
//! [`REPORTED_P_VALUE`] at most is reported. Not seen are: factors close to 1; rows that are strong themselves, scaled
//! to what an ordinary row is; and eight or more lesions of one direction in one tensor, which look like its nature.
//! What cannot be judged is listed as not examined. Vectors (norms, biases) and everything outside the decoder layers
//! are not looked at.

mod expect;
mod fit;
mod lesioned;
mod measure;
mod observe;
mod p_value;
mod search;
mod site;
mod statistics;
#[cfg(test)]
pub(crate) mod tests;
mod zeros;

use crate::architecture::place::NeuronPlace;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::neuron::{Neuron, Side};
use crate::progress::Progress;
use measure::Layer;
pub use observe::{INDICATOR_P_VALUE, observe};
pub use p_value::{MEASURED, Tail, Tails};
use serde::Serialize;
use site::{Heads, Kind};

/// The largest p-value that an indicator is reported with: of four clean models, judged by the tails of the other
/// three, none had an indicator at it.
pub const REPORTED_P_VALUE: f64 = 0.25;
/// What gives a lesion away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IndicatorKind {
    /// All elements are zero, those of its partners are not.
    Zero,
    /// The norm is far from what its partners' norms say.
    Scaled,
    /// The weights point the other way than those of its neighbours.
    Opposite,
}

/// A row or column that looks lesioned.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Indicator {
    /// In what way.
    pub kind: IndicatorKind,
    /// The neuron that it is.
    pub neuron: Neuron,
    /// A neuron of which a lesion would look the same: a cosine has two sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub or: Option<Neuron>,
    /// Where it lies in the file.
    #[serde(serialize_with = "as_text")]
    pub place: NeuronPlace,
    /// Its norm; of [`IndicatorKind::Opposite`] the cosine of row i of `down_proj` and column i of `up_proj`.
    pub statistic: f64,
    /// What its partners make expect.
    pub expected: f64,
    /// Off by so many times what is usual for the strongest of the same tensor; none for zeros.
    pub strength: Option<f64>,
    /// The factor that would explain it.
    pub beta_estimate: f64,
    /// The probability of at least one indicator as strong in a clean checkpoint of this size. For zeros a bound: no
    /// clean model had any.
    #[serde(rename = "chance")]
    pub p_value: f64,
}

/// Rows or columns of zeros beyond those listed as indicators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MoreZeros {
    /// The tensor by its stored name.
    pub tensor: String,
    /// Rows (out) or columns (in).
    pub side: Side,
    /// How many of them are not listed.
    pub count: usize,
}

/// What was not judged, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotExamined {
    /// A tensor or a side of one.
    pub what: String,
    /// The reason; where rows and columns of zeros were looked for all the same it says so.
    pub why: String,
}

/// All indicators of a lesion that a checkpoint has.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LesionReport {
    /// Rows and columns that look lesioned: zeros first, then by p-value.
    #[serde(rename = "signs")]
    pub indicators: Vec<Indicator>,
    /// Zeros that are too many to list.
    pub more_zeros: Vec<MoreZeros>,
    /// Sides of tensors judged by norm.
    pub examined_sides: usize,
    /// Tensors that were not judged by norm, and why.
    pub not_examined: Vec<NotExamined>,
}

/// The norms of a checkpoint's decoder layers.
#[derive(Debug, Clone)]
pub struct Statistics {
    layers: Vec<Layer>,
    shapes: Vec<[Option<[usize; 2]>; Kind::ALL.len()]>,
    /// Layers in which the outputs of `o_proj` and `down_proj` are normalized.
    normalized_outputs: Vec<bool>,
    heads: Option<Heads>,
    /// Lines of zeros in other matrices, and in stacks of them.
    other_zeros: Vec<(NeuronPlace, Neuron)>,
    not_examined: Vec<NotExamined>,
}

/// Looks for indicators: one pass over the decoder layers, tensor by tensor; memory is what norms need (a few bytes for
/// each row and column of the model).
///
/// # Errors
/// A tensor cannot be read, or the user asked to stop.
pub fn examine(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<LesionReport> {
    Ok(Statistics::measure(checkpoint, progress)?.report(&MEASURED))
}

fn as_text<S: serde::Serializer>(place: &NeuronPlace, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(place)
}
