//! Rows and columns of zeros.

use super::measure::{self, Layer};
use super::site::{self, Kind, SITES, Site, Space};
use super::{Indicator, IndicatorKind, LesionReport, MoreZeros, Statistics, fit, p_value};
use crate::architecture::names;
use crate::architecture::place::{Axis, NeuronPlace};
use crate::neuron::{self, Neuron, Side};

/// Rows or columns of zeros that are listed one by one of a tensor.
const LISTED_ZEROS: usize = 16;
impl Statistics {
    /// Adds what is zero while its partners are not.
    pub(super) fn add_zeros(&self, report: &mut LesionReport) {
        let sides = self.layers.iter().flat_map(|layer| &layer.log_norms).flatten().count();
        // The rule of succession (Laplace): none in so many.
        let p_value = p_value::in_any(1.0 / (p_value::CLEAN_SIDES as f64 + 2.0), sides.max(1));
        let mut add = |tensor: &str, shape: [usize; 2], side: Side, zeros: &[(usize, f64)]| {
            let listed = zeros.len().min(LISTED_ZEROS);
            if zeros.len() > listed {
                let count = zeros.len() - listed;
                report.more_zeros.push(MoreZeros { tensor: tensor.into(), side, count });
            }
            for &(index, expected) in &zeros[..listed] {
                // A stack of experts is a tensor without such an end.
                let Some(module) = names::module(tensor).or_else(|| tensor.parse().ok()) else { continue };
                report.indicators.push(Indicator {
                    kind: IndicatorKind::Zero,
                    neuron: Neuron { site: neuron::Site { module, side }, channel: index },
                    or: None,
                    place: place(tensor, shape, side, index),
                    statistic: 0.0,
                    expected,
                    strength: None,
                    beta_estimate: 0.0,
                    p_value,
                });
            }
        };
        for (layer, of_layer) in self.layers.iter().enumerate() {
            for site in SITES {
                let (Some(norms), Some(shape)) = (of_layer.of(site), self.shapes[layer][site.kind as usize]) else {
                    continue;
                };
                let typical = f64::from(fit::median(&mut norms.clone())).exp();
                let zeros: Vec<(usize, f64)> = (0..norms.len())
                    .filter(|at| norms[*at] == f32::NEG_INFINITY && !self.is_dead(of_layer, site, *at))
                    .map(|at| (at, typical))
                    .collect();
                add(&measure::tensor_name(layer, site.kind), shape, site.side, &zeros);
            }
        }
        let same =
            |a: &(String, [usize; 2], Side, usize), b: &(String, [usize; 2], Side, usize)| a.0 == b.0 && a.2 == b.2;
        for zeros in self.other_zeros.chunk_by(same) {
            let indices: Vec<(usize, f64)> = zeros.iter().map(|zero| (zero.3, 0.0)).collect();
            add(&zeros[0].0, zeros[0].1, zeros[0].2, &indices);
        }
    }

    /// Whether a channel's partners are zero too: pruned, or padding.
    fn is_dead(&self, layer: &Layer, site: Site, channel: usize) -> bool {
        let partners: Vec<Site> = match (site.space(), site.kind) {
            (Space::Residual, _) => site::RESIDUAL.to_vec(),
            (Space::Intermediate, _) => site::INTERMEDIATE.to_vec(),
            (Space::Heads, Kind::Q | Kind::K) => [Kind::Q, Kind::K].map(|kind| Site { kind, side: Side::Out }).to_vec(),
            (Space::Heads, _) => {
                vec![Site { kind: Kind::V, side: Side::Out }, Site { kind: Kind::O, side: Side::In }]
            }
        };
        let mut others = partners.into_iter().filter(|other| *other != site).filter_map(|other| {
            let norms = layer.of(other)?;
            let at = match self.heads {
                Some(heads) if site.space() == Space::Heads => heads.partner(site.kind, other.kind, channel),
                _ => channel,
            };
            norms.get(at).copied()
        });
        let first = others.next();
        first.is_some_and(|first| first == f32::NEG_INFINITY && others.all(|norm| norm == f32::NEG_INFINITY))
    }
}

/// A row or column of a matrix.
pub(super) fn place(tensor: &str, shape: [usize; 2], side: Side, index: usize) -> NeuronPlace {
    let axis = if side == Side::Out { Axis::Row } else { Axis::Column };
    NeuronPlace { tensor: tensor.into(), shape: shape.to_vec(), axis, index }
}
