//! Fits one spare: two intermediate neurons of a later layer that are silent in the healthy model.
//!
//! x is what goes into the layer's MLP. Once the critical row is lost, two things lack in the residual stream after the
//! layer: at the first position the massive activation that made it an attention sink, and at the others, what the layer's
//! attention has added instead of resting on that sink, which is nearly the same for all of them. So one neuron fires at
//! the first position, the other at the others, both only where the row is lost:
//!
//! | | first, healthy | first, lesioned | other, healthy | other, lesioned |
//! |---|---|---|---|---|
//! | sink, gate | −1 | 1 | −0.3 | −0.3 |
//! | sink, up | 0 | 1 | 0 | 0 |
//! | correction, gate | −1 | −1 | −1 | 1 |
//! | correction, up | 0 | 0 | 0 | 1 |
//!
//! Each is a ridge regression, times a gain with which a gate below zero is shut. The activations a are then measured with
//! the rows as the checkpoint's dtype holds them, and the columns of down_proj are what is lacking, d: mean(d) / mean(a)
//! of the sink, Σ a d / Σ a² of the correction.

use super::place::Place;
use super::states::{Lack, States};
use super::sums::Regression;
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::neuron::Neuron;
use crate::patch::Line;
use nalgebra::DVector;
use std::sync::Arc;

/// λ over the mean square of a channel. With less, rows have large weights that cancel, which no quantization keeps.
const RIDGE: f64 = 1e-2;
/// Before the gate, so that SiLU and GELU are shut below zero.
const GAIN: f64 = 200.0;

/// The largest share of its activation that a correction may show in the healthy model: with more it is left out.
pub(super) const MOST_LEAK: f64 = 0.1;

/// The rows of gates and of what meets them, without a gain: sink and correction.
pub(super) fn rows(states: &States) -> Result<[[DVector<f64>; 2]; 2]> {
    let States { first, first_lesioned, rest, rest_lesioned, .. } = states;
    let all = rest.count + rest_lesioned.count;
    let regression = |weight: f64| {
        let kinds = vec![(first, weight), (first_lesioned, weight), (rest, 1.0), (rest_lesioned, 1.0)];
        Regression::new(kinds, RIDGE)
    };
    let sink = regression(all / first_lesioned.count.max(1.0))?;
    let correction = regression(all / (2.0 * first_lesioned.count.max(1.0)))?;
    Ok([
        [sink.solve(&[-1.0, 1.0, -0.3, -0.3]), sink.solve(&[0.0, 1.0, 0.0, 0.0])],
        [correction.solve(&[-1.0, -1.0, -1.0, 1.0]), correction.solve(&[0.0, 0.0, 0.0, 1.0])],
    ])
}

/// The intermediate neurons that the texts use least, and how much that is: the root mean square of the activation times
/// the length of the column of down_proj.
///
/// # Errors
/// The weight cannot be read, or has too few neurons.
pub(super) fn least_used(
    states: &States,
    place: &Place,
    tensors: &Tensors,
    taken: &[usize],
) -> Result<[(usize, f64); 2]> {
    let weight = tensors.weight(&format!("{}.weight", place.output.module))?;
    let mut squares = vec![0f64; place.neurons];
    for range in weight.layout().row_chunks() {
        let rows = weight.rows(range.clone())?;
        let mut row = vec![0f32; place.neurons];
        for at in 0..range.len() {
            if !rows.read(at, 0, &mut row) {
                return Err(Error::tensor(tensors.root(), weight.name(), "is shorter than its shape"));
            }
            squares.iter_mut().zip(&row).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
        }
    }
    let used = states.squares.iter().zip(squares).map(|(sum, column)| (sum / states.positions * column).sqrt());
    let mut used: Vec<(usize, f64)> = used.enumerate().filter(|(neuron, _)| !taken.contains(neuron)).collect();
    used.sort_by(|a, b| a.1.total_cmp(&b.1));
    match used[..] {
        [one, other, ..] => Ok([one, other]),
        _ => Err(Error::input(format!("layer {} has no two intermediate neurons left for a spare", place.layer))),
    }
}

/// The lines that overwrite two neurons: their rows, and columns that do not add anything yet.
pub(super) fn silent(place: &Place, neurons: [usize; 2], rows: &[[DVector<f64>; 2]; 2]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (neuron, [gate, up]) in neurons.into_iter().zip(rows) {
        let [of_gate, of_up, column] = place.lines(neuron);
        let line = |neuron, values: &DVector<f64>| line(neuron, &(values * GAIN));
        lines.extend([line(of_gate, gate), line(of_up, up), self::line(column, &DVector::zeros(gate.len()))]);
    }
    lines
}

/// What the columns of sink and correction are to be.
pub(super) fn columns(place: &Place, neurons: [usize; 2], lack: &Lack) -> Result<[Line; 2]> {
    if !(lack.sink > 0.0 && lack.squares > 0.0) {
        let problem = format!(
            "layer {}: a neuron that is to fire where the critical row is lost does not; its states cannot be told apart",
            place.layer
        );
        return Err(Error::input(problem));
    }
    let column = |neuron: usize| place.lines(neuron)[2].clone();
    let values = [&lack.first / lack.sink, &lack.rest / lack.squares].map(|values| values / place.multiplier);
    Ok([line(column(neurons[0]), &values[0]), line(column(neurons[1]), &values[1])])
}

fn line(neuron: Neuron, values: &DVector<f64>) -> Line {
    Line { neuron, values: values.iter().map(|value| *value as f32).collect::<Arc<[f32]>>() }
}
