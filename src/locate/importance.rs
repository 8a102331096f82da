//! Stage 1: which channels move most when the embeddings are drowned in noise.

use super::SearchSettings;
use crate::architecture::module::SiteInfo;
use crate::compute::{Hook, Model, Noise, Row};
use crate::error::{Error, Result};
use crate::neuron::{Neuron, Site};
use crate::progress::Progress;
use candle_core::{CpuStorage, DType, Storage, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use strum::IntoStaticStr;

/// What candidates are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[non_exhaustive]
pub enum Ranking {
    /// Imp = mean over K of |A_clean − A_noisy| (the paper, stage 1).
    Noise,
    /// |A_clean|: nearly the same order at 1/K of the cost, but blind to what is large under any input.
    Magnitude,
}

impl Ranking {
    /// `noise` or `magnitude`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl FromStr for Ranking {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "noise" => Ok(Ranking::Noise),
            "magnitude" => Ok(Ranking::Magnitude),
            _ => Err(Error::input(format!("ranking {text:?}: expected noise or magnitude"))),
        }
    }
}

/// What an entry of the ranking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Counting {
    /// A channel, ranked by its largest value over positions.
    Channels,
    /// A channel at a position, as the published code counts: one channel can be listed several times.
    Published,
}

impl Counting {
    /// `channels` or `published`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl FromStr for Counting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "channels" => Ok(Counting::Channels),
            "published" => Ok(Counting::Published),
            _ => Err(Error::input(format!("counting {text:?}: expected channels or published"))),
        }
    }
}

/// An entry of the ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The channel that was ranked.
    pub neuron: Neuron,
    /// What it is ranked by.
    pub importance: f64,
    /// The token position at which it has this importance.
    pub position: usize,
}

/// What stage 1 gives.
pub(super) struct Ranked {
    /// The first entries of the ranking, most important first; equals in the order of sites and channels.
    pub entries: Vec<Entry>,
    /// Every channel's importance.
    pub channels: Channels,
}

/// The importance of every channel of some sites: its largest over positions, in f32.
pub(super) struct Channels {
    order: HashMap<Site, usize>,
    values: Vec<Vec<f32>>,
}

impl Channels {
    pub fn covers(&self, site: &Site) -> bool {
        self.order.contains_key(site)
    }

    /// The channel's rank among all of them, from 1, and its importance; none where that is not finite or it is not one
    /// of them.
    pub fn rank(&self, neuron: &Neuron) -> Option<(usize, f64)> {
        let at = *self.order.get(&neuron.site)?;
        let own = *self.values[at].get(neuron.channel).filter(|v| v.is_finite())?;
        let before = |(site, values): (usize, &Vec<f32>)| {
            let is_before = |(channel, v): &(usize, &f32)| {
                v.is_finite() && (**v > own || (**v == own && (site, *channel) < (at, neuron.channel)))
            };
            values.iter().enumerate().filter(is_before).count()
        };
        Some((1 + self.values.iter().enumerate().map(before).sum::<usize>(), own.into()))
    }
}

/// Ranks all channels of `sites` and lists the first `keep` entries.
pub(super) fn rank(
    model: &Model,
    tokens: &Arc<[u32]>,
    sites: &[&SiteInfo],
    settings: &SearchSettings,
    keep: usize,
    progress: &dyn Progress,
) -> Result<Ranked> {
    let mut rows = vec![Row::clean(tokens.clone())];
    if settings.ranking == Ranking::Noise {
        let noise = |sample| Noise { alpha: settings.alpha, seed: settings.seed, sample };
        rows.extend((0..settings.samples as u64).map(|s| Row { noise: Some(noise(s)), ..Row::clean(tokens.clone()) }));
    }
    let mut hook = Importance {
        order: sites.iter().enumerate().map(|(at, s)| (s.site.clone(), at)).collect(),
        sums: HashMap::new(),
        channels: vec![Vec::new(); sites.len()],
        ranking: settings.ranking,
        counting: settings.counting,
        samples: settings.samples,
        top: Top { keep, entries: Vec::new() },
        overflowed: 0,
    };
    let widest =
        |layer| sites.iter().filter(|s| s.site.module.layer() == layer).map(|s| s.channels as u64).sum::<u64>();
    let layers = (0..model.recipe().layers.len()).map(Some).chain([None]);
    let channels = layers.map(widest).max().unwrap_or(0);
    model.check_memory("the importance of these sites", 2 * 4 * channels * tokens.len() as u64)?;
    progress.begin("importance", (rows.len() * model.recipe().layers.len()) as u64, "rows × layers");
    model.trace(&rows, &mut hook, progress)?;
    hook.reduce()?;
    progress.end();
    // With NaN in the weights there is no perplexity either, and an error that says so.
    if hook.overflowed > 0 && model.not_finite().is_none() {
        tracing::warn!(
            "{} entries have values that are not finite and are left out of the ranking; use a smaller --alpha or --dtype f32",
            hook.overflowed
        );
    }
    let mut top = hook.top;
    top.shrink();
    let neuron = |site: usize, channel: usize| Neuron { site: sites[site].site.clone(), channel };
    let entry = |c: &Candidate| Entry {
        neuron: neuron(c.site, c.channel),
        importance: c.importance.into(),
        position: c.position,
    };
    let entries = top.entries.iter().map(entry).collect();
    Ok(Ranked { entries, channels: Channels { order: hook.order, values: hook.channels } })
}

/// Sums |clean − noisy| per site while the rows pass; the first row of the batch is the clean one.
struct Importance {
    order: HashMap<Site, usize>,
    sums: HashMap<Site, Sums>,
    /// Of the sites that have passed, each channel's largest importance.
    channels: Vec<Vec<f32>>,
    ranking: Ranking,
    counting: Counting,
    samples: usize,
    top: Top,
    overflowed: usize,
}

/// (positions, channels) of the clean row and of the sum so far.
struct Sums {
    clean: Tensor,
    sum: Sum,
}

enum Sum {
    Host(Vec<f32>),
    Device(Tensor),
}

impl Hook for Importance {
    fn wants(&self, site: &Site) -> bool {
        self.order.contains_key(site)
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        let sums = match self.sums.entry(site.clone()) {
            std::collections::hash_map::Entry::Occupied(sums) => sums.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let Some(first) = rows.iter().position(|rows| rows.contains(&0)) else {
                    return Err(Error::Compute(format!("{site} was not shown the clean row first")));
                };
                let clean = x.get(first)?.copy()?;
                let sum = match x.device().is_cpu() {
                    true => Sum::Host(vec![0.0; clean.elem_count()]),
                    false => Sum::Device(clean.zeros_like()?),
                };
                new.insert(Sums { clean, sum })
            }
        };
        for group in (0..rows.len()).filter(|g| !rows[*g].contains(&0)) {
            sums.add(&x.get(group)?)?;
        }
        Ok(None)
    }

    fn layer_done(&mut self, _: usize) -> Result<()> {
        self.reduce()
    }
}

impl Sums {
    fn add(&mut self, x: &Tensor) -> Result<()> {
        match &mut self.sum {
            Sum::Device(sum) => *sum = (&*sum + (x - &self.clean)?.abs()?)?,
            Sum::Host(sum) => {
                let (x, clean) = (x.storage_and_layout(), self.clean.storage_and_layout());
                let (x, clean) = (f32_slice(&x.0, x.1)?, f32_slice(&clean.0, clean.1)?);
                sum.par_iter_mut().with_min_len(1 << 14).zip(x.par_iter().zip(clean)).for_each(|(sum, (x, clean))| {
                    *sum += (x - clean).abs();
                });
            }
        }
        Ok(())
    }
}

fn f32_slice<'a>(storage: &'a Storage, layout: &candle_core::Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((from, to))) => Ok(&values[from..to]),
        _ => Err(Error::Compute("expected contiguous f32 on the CPU".into())),
    }
}

impl Importance {
    /// Turns the sums of the sites seen since the last call into candidates.
    fn reduce(&mut self) -> Result<()> {
        for (site, sums) in std::mem::take(&mut self.sums) {
            let site = self.order[&site];
            let channels = sums.clean.dim(1)?;
            let values: Vec<f32> = match (self.ranking, sums.sum) {
                (Ranking::Magnitude, _) => sums.clean.abs()?.flatten_all()?.to_vec1()?,
                (Ranking::Noise, Sum::Host(sum)) => sum.iter().map(|s| s / self.samples as f32).collect(),
                (Ranking::Noise, Sum::Device(sum)) => (sum / self.samples as f64)?.flatten_all()?.to_vec1()?,
            };
            let candidate = |at: usize| {
                let (position, channel) = (at / channels, at % channels);
                Candidate { importance: values[at], site, position, channel }
            };
            let mut best: Vec<usize> = (0..channels).collect();
            for at in channels..values.len() {
                let best = &mut best[at % channels];
                // A value that is not finite stays, so that the channel is seen to overflow.
                if values[at] > values[*best] || !values[at].is_finite() {
                    *best = at;
                }
            }
            self.channels[site] = best.iter().map(|at| values[*at]).collect();
            match self.counting {
                Counting::Published => self.top.extend((0..values.len()).map(candidate), &mut self.overflowed),
                Counting::Channels => self.top.extend(best.into_iter().map(candidate), &mut self.overflowed),
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    importance: f32,
    site: usize,
    position: usize,
    channel: usize,
}

/// The `keep` most important candidates so far, and some more.
struct Top {
    keep: usize,
    entries: Vec<Candidate>,
}

impl Top {
    fn extend(&mut self, candidates: impl Iterator<Item = Candidate>, overflowed: &mut usize) {
        for candidate in candidates {
            if !candidate.importance.is_finite() {
                *overflowed += 1;
                continue;
            }
            self.entries.push(candidate);
            if self.entries.len() >= self.keep.saturating_mul(4).saturating_add(4096) {
                self.shrink();
            }
        }
    }

    fn shrink(&mut self) {
        self.entries.sort_unstable_by(|a, b| {
            let key = |c: &Candidate| (c.site, c.channel, c.position);
            b.importance.total_cmp(&a.importance).then_with(|| key(a).cmp(&key(b)))
        });
        self.entries.truncate(self.keep);
    }
}
