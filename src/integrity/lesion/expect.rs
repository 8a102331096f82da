//! What a row's or column's norm should be, from its partners, and how far off it is.

use super::fit::{Fit, deviation, fit, median};
use super::site::{Heads, Kind, RESIDUAL, SITES, Site, Space};
use crate::neuron::Side;
use rayon::prelude::*;

/// How many layers to either side a channel is compared over.
const NEAR: usize = 1;
const FAR: usize = 3;
const WINDOW: usize = 4;
/// Weights of what widens the scale of a channel: how far its expected value is from the tensor's median, how much
/// the same tensor of nearby layers varies there, and how badly all modules of nearby layers are predicted there.
/// Chosen on the clean checkpoints that the tails in `chance` come from.
const LEVEL: f64 = 0.6;
const SPREAD: f64 = 0.7;
const ODDNESS: f64 = 1.0;
/// The smallest scale of a log norm and of a cosine.
const LEAST_LOG: f64 = 0.05;
const LEAST_COSINE: f64 = 0.01;
/// Strength is counted in units of the deviation that is the eighth largest of the tensor, or of this one.
const RANK: usize = 8;
const LEAST_DEVIATION: f64 = 2.0;
/// Of the residuals of a channel, this many largest are left out: a lesion must not hide itself.
const LEFT_OUT: usize = 3;

/// The log norms of all layers, each less its tensor's median.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub norms: Vec<[Option<Vec<f32>>; SITES.len()]>,
    /// Cosines, as they are.
    pub cosines: Vec<Option<Vec<f32>>>,
    pub heads: Option<Heads>,
}

/// One tensor's rows or columns against what is expected.
#[derive(Debug, Clone)]
pub(super) struct Deviations {
    /// Expected values.
    pub predicted: Vec<f32>,
    /// Values less expected ones over their scales; for cosines those towards the other sign count positive.
    pub deviation: Vec<f32>,
    /// Units of strength: of large values and of small ones.
    pub unit: [f64; 2],
    /// For cosines: how far from the expected value the opposite of the value would be, over its scale.
    pub opposite: Option<Vec<f32>>,
}

impl Deviations {
    /// How strongly channel `at` stands out: `large` towards large values, else towards small ones.
    pub fn strength(&self, at: usize, large: bool) -> f64 {
        let (sign, unit) = if large { (1.0, self.unit[0]) } else { (-1.0, self.unit[1]) };
        let unit = self.opposite.as_ref().map_or(unit, |opposite| unit.max(opposite[at].into()));
        sign * f64::from(self.deviation[at]) / unit
    }
}

impl Series {
    /// The deviations of each layer's sites.
    pub fn norm_deviations(&self) -> Vec<[Option<Deviations>; SITES.len()]> {
        let fits: Vec<[Option<Fit>; SITES.len()]> = self.for_each_site(|layer, site, y| {
            let features = self.features(layer, site)?;
            Some(fit(y, &features))
        });
        self.for_each_site(|layer, site, y| {
            let fit = fits[layer][site.index()].as_ref()?;
            let mut variance = vec![(fit.scale.max(LEAST_LOG)).powi(2); y.len()];
            let level = median(&mut fit.predicted.clone());
            add(&mut variance, LEVEL, fit.predicted.iter().map(|p| p - level));
            if site.space() == Space::Residual {
                let near = self.window(layer, WINDOW).filter_map(|at| self.norms[at][site.index()].as_deref());
                add(&mut variance, SPREAD, spread(&near.collect::<Vec<_>>(), y.len()));
                add(&mut variance, ODDNESS, self.oddness(&fits, layer, site, y.len()));
            }
            let off = y.iter().zip(&fit.predicted).zip(&variance);
            let deviation: Vec<f32> = off.map(|((y, p), v)| ((y - p) as f64 / v.sqrt()) as f32).collect();
            Some(Deviations { unit: units(&deviation), predicted: fit.predicted.clone(), deviation, opposite: None })
        })
    }

    /// The deviations of each layer's cosines.
    pub fn cosine_deviations(&self) -> Vec<Option<Deviations>> {
        let of_layer = |layer: usize| {
            let y = self.cosines[layer].as_ref()?;
            let near = |reach| {
                let near: Vec<&[f32]> =
                    self.window(layer, reach).filter_map(|at| self.cosines[at].as_deref()).collect();
                medians(&near, y.len())
            };
            let fit = fit(y, &[near(NEAR)?, near(FAR)?]);
            let centred: Vec<Vec<f32>> = self
                .window(layer, WINDOW)
                .filter_map(|at| self.cosines[at].as_ref())
                .map(|of| {
                    let middle = median(&mut of.clone());
                    of.iter().map(|v| v - middle).collect()
                })
                .collect();
            let mut variance = vec![fit.scale.max(LEAST_COSINE).powi(2); y.len()];
            add(&mut variance, 1.0, spread(&centred.iter().map(Vec::as_slice).collect::<Vec<_>>(), y.len()));
            let over = |at: usize, value: f32| (f64::from(value) / variance[at].sqrt()) as f32;
            let p = &fit.predicted;
            let deviation: Vec<f32> = (0..y.len()).map(|at| over(at, (p[at] - y[at]) * p[at].signum())).collect();
            let opposite = (0..y.len()).map(|at| over(at, (y[at] + p[at]).abs())).collect();
            let unit = units(&deviation);
            Some(Deviations { predicted: fit.predicted, deviation, unit, opposite: Some(opposite) })
        };
        (0..self.cosines.len()).into_par_iter().map(of_layer).collect()
    }

    fn for_each_site<T: Send>(
        &self,
        job: impl Fn(usize, Site, &[f32]) -> Option<T> + Sync,
    ) -> Vec<[Option<T>; SITES.len()]> {
        let of_layer = |layer: usize| SITES.map(|site| job(layer, site, self.norms[layer][site.index()].as_deref()?));
        (0..self.norms.len()).into_par_iter().map(of_layer).collect()
    }

    /// Layers at most `reach` away, without this one.
    fn window(&self, layer: usize, reach: usize) -> impl Iterator<Item = usize> + use<> {
        (layer.saturating_sub(reach)..(layer + reach + 1).min(self.norms.len())).filter(move |at| *at != layer)
    }

    /// What predicts a site's log norms; none where a partner is missing.
    fn features(&self, layer: usize, site: Site) -> Option<Vec<Vec<f32>>> {
        let get = |kind: Kind, side: Side, layer: usize| {
            self.norms.get(layer).and_then(|of| of[Site { kind, side }.index()].as_deref())
        };
        let length = get(site.kind, site.side, layer)?.len();
        let own = |kind, side| get(kind, side, layer).filter(|of| of.len() == length).map(<[f32]>::to_vec);
        match site.space() {
            Space::Residual => {
                let near = |reach| {
                    let near = self.window(layer, reach).filter_map(|at| get(site.kind, site.side, at));
                    medians(&near.collect::<Vec<_>>(), length)
                };
                // The attention block and the MLP that write into the stream just before and just after.
                let writers = |kind, layers: [Option<usize>; 2]| {
                    let of = layers.into_iter().flatten().filter_map(|at| get(kind, Side::Out, at));
                    medians(&of.collect::<Vec<_>>(), length)
                };
                let mut features = vec![near(NEAR)?, near(FAR)?];
                features.extend(match site.kind {
                    Kind::Down => vec![writers(Kind::O, [Some(layer), Some(layer + 1)])?],
                    Kind::O => vec![writers(Kind::Down, [Some(layer), layer.checked_sub(1)])?],
                    Kind::Q => vec![own(Kind::K, Side::In)?, own(Kind::V, Side::In)?],
                    Kind::K => vec![own(Kind::Q, Side::In)?, own(Kind::V, Side::In)?],
                    Kind::V => vec![own(Kind::Q, Side::In)?, own(Kind::K, Side::In)?],
                    Kind::Gate => vec![own(Kind::Up, Side::In)?],
                    Kind::Up => vec![own(Kind::Gate, Side::In)?],
                });
                Some(features)
            }
            Space::Intermediate => {
                let others = super::site::INTERMEDIATE.into_iter().filter(|other| *other != site);
                others.map(|other| own(other.kind, other.side)).collect()
            }
            Space::Heads => {
                let heads = self.heads?;
                let of = |kind: Kind, side: Side, count: usize| {
                    get(kind, side, layer).filter(|of| of.len() == count * heads.channels)
                };
                let q = of(Kind::Q, Side::Out, heads.queries)?;
                let k = of(Kind::K, Side::Out, heads.keys)?;
                let v = of(Kind::V, Side::Out, heads.keys)?;
                let o = of(Kind::O, Side::In, heads.queries)?;
                Some(match site.kind {
                    Kind::Q => vec![heads.rotated_with(q), heads.repeated(k)],
                    Kind::K => vec![heads.rotated_with(k), heads.averaged(q)],
                    Kind::V => vec![heads.averaged(o), heads.levels(v)],
                    _ => vec![heads.repeated(v), heads.levels(o)],
                })
            }
        }
    }

    /// How badly the channels of the residual stream are predicted in all modules of nearby layers: large for the
    /// channels of massive activations, whose norms change from layer to layer in every model.
    fn oddness(&self, fits: &[[Option<Fit>; SITES.len()]], layer: usize, site: Site, length: usize) -> Vec<f32> {
        let mut largest = vec![[0.0f32; LEFT_OUT + 1]; length];
        let here = std::iter::once(layer);
        for at in self.window(layer, WINDOW).chain(here) {
            for other in RESIDUAL.into_iter().filter(|other| (at, *other) != (layer, site)) {
                let (Some(y), Some(fit)) = (&self.norms[at][other.index()], &fits[at][other.index()]) else { continue };
                for (largest, (y, p)) in largest.iter_mut().zip(y.iter().zip(&fit.predicted)) {
                    let mut value = (y - p).abs();
                    for kept in largest {
                        if value > *kept {
                            std::mem::swap(kept, &mut value);
                        }
                    }
                }
            }
        }
        let odd: Vec<f32> = largest.iter().map(|largest| largest[LEFT_OUT]).collect();
        above_median(odd)
    }
}

impl Heads {
    /// Of each channel its partner in the rotation: half a head away.
    fn rotated_with(self, of: &[f32]) -> Vec<f32> {
        let half = self.channels / 2;
        of.chunks(self.channels).flat_map(|head| head[half..].iter().chain(&head[..half])).copied().collect()
    }

    /// Of each channel of a query head that of the key or value head it reads.
    fn repeated(self, of: &[f32]) -> Vec<f32> {
        let share = self.queries / self.keys;
        of.chunks(self.channels).flat_map(|head| std::iter::repeat_n(head, share)).flatten().copied().collect()
    }

    /// Of each channel of a key or value head the mean over the query heads that read it.
    fn averaged(self, of: &[f32]) -> Vec<f32> {
        let share = self.queries / self.keys;
        let of_group = |group: &[f32]| -> Vec<f32> {
            let sum = |at| group.chunks(self.channels).map(|head| head[at]).sum::<f32>();
            (0..self.channels).map(|at| sum(at) / share as f32).collect()
        };
        of.chunks(self.channels * share).flat_map(of_group).collect()
    }

    /// Of each channel the median of its head.
    fn levels(self, of: &[f32]) -> Vec<f32> {
        of.chunks(self.channels).flat_map(|head| vec![median(&mut head.to_vec()); head.len()]).collect()
    }
}

/// Channel by channel the median of some vectors; none of none, or where their lengths differ.
pub(super) fn medians(of: &[&[f32]], length: usize) -> Option<Vec<f32>> {
    if of.is_empty() || of.iter().any(|one| one.len() != length) {
        return None;
    }
    let mut values = vec![0.0; of.len()];
    Some(
        (0..length)
            .map(|at| {
                values.iter_mut().zip(of).for_each(|(to, one)| *to = one[at]);
                median(&mut values)
            })
            .collect(),
    )
}

/// Channel by channel the robust deviation over some vectors, less its median and not below 0.
fn spread(of: &[&[f32]], length: usize) -> Vec<f32> {
    let mut values = vec![0.0; of.len()];
    let of_channel = |at: usize| {
        values.iter_mut().zip(of).for_each(|(to, one)| *to = one.get(at).copied().unwrap_or(0.0));
        deviation(&mut values) as f32
    };
    above_median((0..length).map(of_channel).collect())
}

fn above_median(mut of: Vec<f32>) -> Vec<f32> {
    let middle = median(&mut of.clone());
    of.iter_mut().for_each(|v| *v = (*v - middle).max(0.0));
    of
}

/// Adds (weight · value)² to each.
fn add(variance: &mut [f64], weight: f64, values: impl IntoIterator<Item = f32>) {
    variance.iter_mut().zip(values).for_each(|(to, value)| *to += (weight * f64::from(value)).powi(2));
}

/// The eighth largest deviation upwards and downwards, [`LEAST_DEVIATION`] at least.
fn units(deviation: &[f32]) -> [f64; 2] {
    let rank = RANK.min(deviation.len().max(1)) - 1;
    let mut ordered = deviation.to_vec();
    ordered.sort_unstable_by(f32::total_cmp);
    let small = ordered.get(rank).map_or(0.0, |v| -f64::from(*v));
    let large = ordered.iter().rev().nth(rank).map_or(0.0, |v| f64::from(*v));
    [large.max(LEAST_DEVIATION), small.max(LEAST_DEVIATION)]
}
