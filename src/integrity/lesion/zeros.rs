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
        let mut add = |zeros: &[(NeuronPlace, Neuron)], expected: f64| {
            let listed = zeros.len().min(LISTED_ZEROS);
            if let Some((first, _)) = zeros.get(listed) {
                let side = if first.axis == Axis::Row { Side::Out } else { Side::In };
                report.more_zeros.push(MoreZeros { tensor: first.tensor.clone(), side, count: zeros.len() - listed });
            }
            report.indicators.extend(zeros[..listed].iter().map(|(place, neuron)| Indicator {
                kind: IndicatorKind::Zero,
                neuron: neuron.clone(),
                or: None,
                place: place.clone(),
                statistic: 0.0,
                expected,
                strength: None,
                beta_estimate: 0.0,
                p_value,
            }));
        };
        for (layer, of_layer) in self.layers.iter().enumerate() {
            for site in SITES {
                let (Some(norms), Some(shape)) = (of_layer.of(site), self.shapes[layer][site.kind as usize]) else {
                    continue;
                };
                let typical = f64::from(fit::median(&mut norms.clone())).exp();
                let tensor = measure::tensor_name(layer, site.kind);
                let Some(module) = names::module(&tensor) else { continue };
                let zeros: Vec<(NeuronPlace, Neuron)> = (0..norms.len())
                    .filter(|at| norms[*at] == f32::NEG_INFINITY && !self.is_dead(of_layer, site, *at))
                    .map(|channel| {
                        let site = neuron::Site { module: module.clone(), side: site.side };
                        (place(&tensor, shape, site.side, channel), Neuron { site, channel })
                    })
                    .collect();
                add(&zeros, typical);
            }
        }
        let same =
            |(a, _): &(NeuronPlace, Neuron), (b, _): &(NeuronPlace, Neuron)| (&a.tensor, a.axis) == (&b.tensor, b.axis);
        self.other_zeros.chunk_by(same).for_each(|zeros| add(zeros, 0.0));
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
