//! From norms to indicators.

use super::expect::{Deviations, Series};
use super::measure::{self, Layer, Norms};
use super::search::{Suspect, Tests};
use super::site::{Heads, Kind, SITES, Site, Space};
use super::zeros::place;
use super::{Indicator, IndicatorKind, LesionReport, NotExamined, Statistics, Tails, fit};
use crate::architecture::module::{MixerKind, Role};
use crate::architecture::place::{Axis, NeuronPlace};
use crate::architecture::{names, stacks};
use crate::checkpoint::packing::{COMPANIONS, Weight, name_of};
use crate::checkpoint::quantization::is_of_activations;
use crate::checkpoint::{Checkpoint, Tensors};
use crate::error::Result;
use crate::neuron::{self, Neuron, Side};
use crate::progress::Progress;

/// Fewer layers or channels than these are not judged by norm: no clean model had fewer.
const FEWEST_LAYERS: usize = 8;
const FEWEST_CHANNELS: usize = 128;
/// How often the search is repeated without what it found.
const ROUNDS: usize = 8;

impl Statistics {
    /// Reads the norms.
    ///
    /// # Errors
    /// A tensor cannot be read, or the user asked to stop.
    pub fn measure(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Statistics> {
        let tensors = checkpoint.tensors();
        // Hostile names must not decide what is allocated: layers count as far as they follow one another.
        let is_there = |layer: usize| Kind::ALL.iter().any(|k| tensors.holds(&measure::tensor_name(layer, *k)));
        let count = (0..).take_while(|layer| is_there(*layer)).count();
        let mut statistics = Statistics {
            layers: vec![Layer::default(); count],
            shapes: vec![[None; Kind::ALL.len()]; count],
            normalized_outputs: (0..count).map(|layer| has_normalized_outputs(tensors, layer)).collect(),
            heads: None,
            other_zeros: Vec::new(),
            not_examined: Vec::new(),
        };
        // Scales of what could not be unpacked are no weights; the codes beside them are told of.
        let is_beside = |name: &str| {
            let is_companion = COMPANIONS.iter().any(|end| name.ends_with(end)) && name_of(name) == name;
            is_companion || is_of_activations(name)
        };
        let in_layers = |weight: &Weight| {
            weight.name().starts_with("model.layers.") && (weight.is_packed() || !is_beside(weight.name()))
        };
        let shapes: Vec<(String, Vec<usize>)> = tensors
            .weights()
            .into_iter()
            .filter(in_layers)
            .map(|weight| (weight.name().to_owned(), weight.shape().to_vec()))
            .collect();
        progress.begin("lesion signs", shapes.len() as u64, "tensors");
        for (name, shape) in shapes {
            progress.advance(1)?;
            match shape[..] {
                [] | [_] => {}
                [rows, columns] if rows > 0 && (1..=measure::MOST_COLUMNS).contains(&columns) => {
                    statistics.add(tensors, &name, [rows, columns])?
                }
                [_, rows, columns]
                    if names::matrices(&name, &shape) > 0
                        && rows > 0
                        && (1..=measure::MOST_COLUMNS).contains(&columns) =>
                {
                    statistics.add_others(tensors, &name, &shape)?
                }
                _ => {
                    let why =
                        format!("its shape is {shape:?}, expected rows of 1 to {} columns", measure::MOST_COLUMNS);
                    statistics.not_examined.push(NotExamined { what: name, why });
                }
            }
        }
        for layer in 0..count {
            let shape = |kind: Kind| statistics.shapes[layer][kind as usize];
            let (Some(down @ [hidden, inner]), Some(up)) = (shape(Kind::Down), shape(Kind::Up)) else { continue };
            if up == [inner, hidden] {
                let [down_name, up_name] = [Kind::Down, Kind::Up].map(|kind| measure::tensor_name(layer, kind));
                let cosines = measure::cosines(tensors, &down_name, &up_name, down)?;
                statistics.layers[layer].cosines = cosines.filter(|of| of.iter().all(|c| c.is_finite()));
            }
        }
        statistics.heads = statistics.heads_of(checkpoint);
        progress.end();
        Ok(statistics)
    }

    fn add(&mut self, tensors: &Tensors, name: &str, shape: [usize; 2]) -> Result<()> {
        let known = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split_once('.')?.0.parse().ok())
            .filter(|layer| *layer < self.layers.len())
            .and_then(|layer| {
                let kind = Kind::ALL.into_iter().find(|kind| name == measure::tensor_name(layer, *kind))?;
                Some((layer, kind))
            });
        let Some((layer, kind)) = known else { return self.add_others(tensors, name, &shape) };
        let Some(norms) = self.norms(tensors, name)? else { return Ok(()) };
        self.shapes[layer][kind as usize] = Some(shape);
        self.layers[layer].log_norms[Site { kind, side: Side::Out }.index()] = Some(norms.rows);
        self.layers[layer].log_norms[Site { kind, side: Side::In }.index()] = Some(norms.columns);
        Ok(())
    }

    /// Keeps the rows and columns of zeros of a matrix, or of the stack of all experts.
    fn add_others(&mut self, tensors: &Tensors, name: &str, shape: &[usize]) -> Result<()> {
        let Some(norms) = self.norms(tensors, name)? else { return Ok(()) };
        let why = "no clean model with such a module was measured; rows and columns of zeros were looked for";
        self.not_examined.push(NotExamined { what: name.into(), why: why.into() });
        for (axis, side, norms) in [(Axis::Row, Side::Out, &norms.rows), (Axis::Column, Side::In, &norms.columns)] {
            let zeros = norms.iter().enumerate().filter(|(_, norm)| **norm == f32::NEG_INFINITY);
            self.other_zeros.extend(zeros.filter_map(|(index, _)| {
                let neuron = names::neuron(name, shape.len(), axis, index)
                    .or_else(|| stacks::neuron(name, axis, index, &|name| tensors.shape_of(name)));
                // What is no module's weight is called what the tensor is.
                let own = || Some(Neuron { site: neuron::Site { module: name.parse().ok()?, side }, channel: index });
                let place = NeuronPlace { tensor: name.to_owned(), shape: shape.to_vec(), axis, index };
                Some((place, neuron.or_else(own)?))
            }));
        }
        Ok(())
    }

    /// The norms of a tensor; none where it has none, which is told.
    fn norms(&mut self, tensors: &Tensors, name: &str) -> Result<Option<Norms>> {
        let norms = Norms::of(tensors, name)?;
        let why = match &norms {
            None => format!("its dtype is {}, expected F32, F16, BF16 or F64", tensors.weight(name)?.dtypes()),
            Some(Norms { rows, columns })
                if rows.iter().chain(columns).any(|n| !(n.is_finite() || *n == f32::NEG_INFINITY)) =>
            {
                "it holds NaN, infinity or values whose squares overflow".to_owned()
            }
            Some(_) => return Ok(norms),
        };
        self.not_examined.push(NotExamined { what: name.into(), why });
        Ok(None)
    }

    /// How heads are laid out, where config and shapes agree on it.
    fn heads_of(&self, checkpoint: &Checkpoint) -> Option<Heads> {
        let map = checkpoint.config().map();
        let map = map.get("text_config").and_then(|inner| inner.as_object()).unwrap_or(map);
        let number = |key: &str| map.get(key).and_then(|v| v.as_u64()).and_then(|v| usize::try_from(v).ok());
        let queries = number("num_attention_heads").filter(|n| *n > 0)?;
        let keys = number("num_key_value_heads").unwrap_or(queries);
        let [rows, _] = self.shapes.first()?[Kind::Q as usize]?;
        let channels = rows / queries;
        let [key_rows, _] = self.shapes.first()?[Kind::K as usize]?;
        let fits = keys > 0
            && queries.is_multiple_of(keys)
            && channels > 0
            && channels.is_multiple_of(2)
            && queries.checked_mul(channels) == Some(rows)
            && keys.checked_mul(channels) == Some(key_rows);
        fits.then_some(Heads { queries, keys, channels })
    }

    /// Judges the norms by the given tails: [`super::MEASURED`], or others where those are to be measured.
    pub fn report(&self, tails: &Tails) -> LesionReport {
        let mut report = LesionReport { not_examined: self.not_examined.clone(), ..LesionReport::default() };
        self.add_zeros(&mut report);
        let mut series = self.series();
        for round in 0..ROUNDS {
            let tests = self.tests(&series);
            if round == 0 {
                report.examined_sides = tests.sides().count();
                self.add_not_examined(&tests, &mut report.not_examined);
            }
            let found = tests.strongest(tails);
            if found.is_empty() {
                break;
            }
            for suspect in found {
                report.indicators.extend(self.indicator(&suspect, &tests));
                series.forget(&suspect, &tests);
            }
        }
        let is_zero = |indicator: &Indicator| indicator.kind == IndicatorKind::Zero;
        report.indicators.sort_by(|a, b| is_zero(b).cmp(&is_zero(a)).then(a.p_value.total_cmp(&b.p_value)));
        report
    }

    /// The largest strength of each tensor that is judged, by site (as in [`Tails::norms`]) and direction (large norms,
    /// then small), and of each layer's cosines: what [`super::Tail::of`] takes.
    pub fn largest_strengths(&self) -> (Vec<[Vec<f64>; 2]>, Vec<f64>) {
        let tests = self.tests(&self.series());
        let largest = |of: &Deviations, large: bool| {
            (0..of.deviation.len()).map(|at| of.strength(at, large)).fold(f64::NEG_INFINITY, f64::max)
        };
        let mut norms = vec![[Vec::new(), Vec::new()]; SITES.len()];
        for (layer, site) in tests.sides() {
            let Some(of) = tests.norms[layer][site.index()].as_ref() else { continue };
            norms[site.index()][0].push(largest(of, true));
            norms[site.index()][1].push(largest(of, false));
        }
        (norms, tests.cosines.iter().flatten().map(|of| largest(of, true)).collect())
    }

    fn tests(&self, series: &Series) -> Tests {
        let few = self.layers.len() < FEWEST_LAYERS;
        let mut norms = if few { Vec::new() } else { series.norm_deviations() };
        let mut cosines = if few { Vec::new() } else { series.cosine_deviations() };
        for (layer, of_layer) in norms.iter_mut().enumerate() {
            for site in SITES {
                let normalized = self.normalized_outputs[layer]
                    && site.side == Side::Out
                    && matches!(site.kind, Kind::O | Kind::Down);
                let deviations = &mut of_layer[site.index()];
                if normalized || deviations.as_ref().is_some_and(|d| d.deviation.len() < FEWEST_CHANNELS) {
                    *deviations = None;
                }
            }
        }
        for of_layer in &mut cosines {
            of_layer.take_if(|d| d.deviation.len() < FEWEST_CHANNELS);
        }
        Tests { norms, cosines }
    }

    fn add_not_examined(&self, tests: &Tests, to: &mut Vec<NotExamined>) {
        if tests.norms.is_empty() {
            let (layers, what) = (self.layers.len(), "the norms of all tensors".to_owned());
            let why = format!("{layers} layers hold known modules, fewer than {FEWEST_LAYERS} are not judged");
            to.push(NotExamined { what, why: format!("{why}; rows and columns of zeros were looked for") });
            return;
        }
        for (layer, of_layer) in tests.norms.iter().enumerate() {
            for site in SITES {
                let Some(norms) = self.layers[layer].of(site).filter(|_| of_layer[site.index()].is_none()) else {
                    continue;
                };
                let why = if norms.len() < FEWEST_CHANNELS {
                    format!("{} channels, fewer than {FEWEST_CHANNELS} are not judged", norms.len())
                } else if self.normalized_outputs[layer] && site.space() == Space::Residual && site.side == Side::Out {
                    "its outputs are normalized, and too few such clean models were measured".into()
                } else {
                    "the modules that its norms are compared with are not there".into()
                };
                let lines = if site.side == Side::Out { "rows" } else { "columns" };
                to.push(NotExamined {
                    what: format!("{lines} of {}", measure::tensor_name(layer, site.kind)),
                    why: format!("{why}; zeros were looked for"),
                });
            }
        }
    }

    /// Log norms less their medians. Lines of zeros become what the same channel is in nearby layers, or the median.
    fn series(&self) -> Series {
        let mut norms: Vec<[Option<Vec<f32>>; SITES.len()]> = self
            .layers
            .iter()
            .map(|layer| {
                SITES.map(|site| {
                    let norms = layer.of(site)?;
                    let mut alive: Vec<f32> = norms.iter().copied().filter(|n| n.is_finite()).collect();
                    if alive.len() * 2 < norms.len() {
                        return None;
                    }
                    let middle = fit::median(&mut alive);
                    Some(norms.iter().map(|norm| norm - middle).collect())
                })
            })
            .collect();
        for site in SITES {
            for layer in 0..norms.len() {
                let Some(own) = norms[layer][site.index()].as_ref() else { continue };
                let holes: Vec<usize> = (0..own.len()).filter(|at| !own[*at].is_finite()).collect();
                let filled = holes.into_iter().map(|at| {
                    let reach = (layer.saturating_sub(2)..(layer + 3).min(norms.len())).filter(|l| *l != layer);
                    let of_layer = |l: usize| norms[l][site.index()].as_ref()?.get(at).copied();
                    let mut near: Vec<f32> = reach.filter_map(of_layer).filter(|v| v.is_finite()).collect();
                    (at, if site.space() == Space::Residual { fit::median(&mut near) } else { 0.0 })
                });
                let filled: Vec<(usize, f32)> = filled.collect();
                if let Some(own) = norms[layer][site.index()].as_mut() {
                    filled.into_iter().for_each(|(at, value)| own[at] = value);
                }
            }
        }
        Series { norms, cosines: self.layers.iter().map(|layer| layer.cosines.clone()).collect(), heads: self.heads }
    }

    fn indicator(&self, suspect: &Suspect, tests: &Tests) -> Option<Indicator> {
        let Suspect { layer, channel, .. } = *suspect;
        let site = suspect.site();
        let neuron_of = |site: Site| {
            let module = format!("model.layers.{layer}.{}", site.kind.module()).parse().ok()?;
            Some(Neuron { site: neuron::Site { module, side: site.side }, channel })
        };
        let deviations = tests.of(suspect);
        let predicted = deviations.map_or(0.0, |d| f64::from(d.predicted[channel]));
        let (kind, statistic, expected, or, beta) = match suspect.norm {
            Some(_) => {
                let norms = self.layers[layer].of(site).map(Vec::as_slice).unwrap_or_default();
                let mut alive: Vec<f32> = norms.iter().copied().filter(|n| n.is_finite()).collect();
                let norm = norms.get(channel).map_or(0.0, |norm| f64::from(*norm).exp());
                let expected = (predicted + f64::from(fit::median(&mut alive))).exp();
                (IndicatorKind::Scaled, norm, expected, None, norm / expected)
            }
            None => {
                let cosine = self.layers[layer].cosines.as_ref().map_or(0.0, |of| f64::from(of[channel]));
                (IndicatorKind::Opposite, cosine, predicted, neuron_of(Site { kind: Kind::Up, side: Side::In }), -1.0)
            }
        };
        let tensor = measure::tensor_name(layer, site.kind);
        let shape = self.shapes[layer][site.kind as usize].unwrap_or_default();
        Some(Indicator {
            kind,
            neuron: neuron_of(site)?,
            or,
            place: place(&tensor, shape, site.side, channel),
            statistic,
            expected,
            strength: Some(suspect.strength),
            beta_estimate: beta,
            p_value: suspect.p_value,
        })
    }
}

/// Whether what the layer's MLP adds to the residual is normed first.
fn has_normalized_outputs(tensors: &Tensors, layer: usize) -> bool {
    let norm = names::usual(Role::NormAfter(MixerKind::Channel));
    norm.is_some_and(|norm| tensors.get(&format!("model.layers.{layer}.{norm}.weight")).is_some())
}
