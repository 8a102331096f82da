//! What the norms of a checkpoint become under a lesion, so that rates can be measured without writing copies of it.

use super::measure::{self, line};
use super::site::{Kind, Site};
use super::{Layer, Statistics};
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::neuron::{Neuron, Side};

impl Statistics {
    /// Natural logarithms of the norms of a module's rows (out) or columns (in); none where they were not measured.
    pub fn log_norms(&self, layer: usize, module: &str, side: Side) -> Option<&[f32]> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.module() == module)?;
        self.layers.get(layer)?.of(Site { kind, side }).map(Vec::as_slice)
    }

    /// The statistics with the neuron's row or column multiplied by `beta`, as a patch of the weights would make them
    /// but for its rounding.
    ///
    /// # Errors
    /// It is not a channel of a module that was measured, or a tensor cannot be read.
    pub fn with_lesion(&self, tensors: &Tensors, neuron: &Neuron, beta: f64) -> Result<Statistics> {
        let unknown = || Error::Name {
            what: "neuron",
            text: neuron.to_string(),
            problem: "expected a channel of a linear module of the decoder layers that holds finite floats".into(),
        };
        let module = &neuron.site.module;
        let layer = module.layer().filter(|layer| *layer < self.layers.len()).ok_or_else(unknown)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.module() == module.in_layer()).ok_or_else(unknown)?;
        let (side, channel) = (neuron.site.side, neuron.channel);
        self.shapes[layer][kind as usize].ok_or_else(unknown)?;
        let mut lesioned = self.clone();
        let of_layer = &mut lesioned.layers[layer];
        let norms = of_layer.log_norms[Site { kind, side }.index()].as_mut().ok_or_else(unknown)?;
        let norm = norms.get_mut(channel).ok_or_else(unknown)?;
        *norm += beta.abs().ln() as f32;
        let values = line(tensors, &measure::tensor_name(layer, kind), side, channel)?;
        let across = Site { kind, side: if side == Side::Out { Side::In } else { Side::Out } };
        if let Some(crossing) = of_layer.log_norms[across.index()].as_mut() {
            for (norm, value) in crossing.iter_mut().zip(&values) {
                let square = (2.0 * f64::from(*norm)).exp() + (beta * beta - 1.0) * value * value;
                *norm = (square.max(0.0).ln() / 2.0) as f32;
            }
        }
        match (kind, side) {
            (Kind::Down, Side::Out) | (Kind::Up, Side::In) => {
                if let Some(cosine) = of_layer.cosines.as_mut().and_then(|of| of.get_mut(channel)) {
                    *cosine *= if beta == 0.0 { 0.0 } else { beta.signum() as f32 };
                }
            }
            (Kind::Down, Side::In) | (Kind::Up, Side::Out) => {
                self.cross_cosines(tensors, layer, kind, (channel, beta), (&values, of_layer))?;
            }
            _ => {}
        }
        Ok(lesioned)
    }

    /// The cosines of a layer after intermediate neuron `channel` is scaled in `down_proj` or `up_proj`, whose `values`
    /// are given; the norms of `lesioned` are those after.
    fn cross_cosines(
        &self,
        tensors: &Tensors,
        layer: usize,
        kind: Kind,
        (channel, beta): (usize, f64),
        (values, lesioned): (&[f64], &mut Layer),
    ) -> Result<()> {
        let (other, side) = if kind == Kind::Down { (Kind::Up, Side::Out) } else { (Kind::Down, Side::In) };
        let sites = [Site { kind: Kind::Down, side: Side::Out }, Site { kind: Kind::Up, side: Side::In }];
        if self.shapes[layer][other as usize].is_none() {
            return Ok(());
        }
        let partner = line(tensors, &measure::tensor_name(layer, other), side, channel)?;
        let of = |layer: &Layer, at: usize| -> Option<f64> {
            sites.iter().map(|site| layer.of(*site)?.get(at).map(|norm| f64::from(*norm))).sum()
        };
        let Some(mut cosines) = lesioned.cosines.take() else { return Ok(()) };
        for (at, (cosine, (a, b))) in cosines.iter_mut().zip(values.iter().zip(&partner)).enumerate() {
            let (Some(before), Some(after)) = (of(&self.layers[layer], at), of(lesioned, at)) else { continue };
            let dot = f64::from(*cosine) * before.exp() + (beta - 1.0) * a * b;
            *cosine = (dot / after.exp().max(f64::MIN_POSITIVE)) as f32;
        }
        lesioned.cosines = Some(cosines);
        Ok(())
    }
}
