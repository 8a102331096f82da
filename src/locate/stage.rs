//! What stage 1 is about: a text under noise, and the sites that are watched.

use super::tally::{Candidate, Tally};
use super::{Entry, SearchSettings};
use crate::architecture::module::SiteInfo;
use crate::compute::{Hook, Model, Noise, Row, Trunk};
use crate::error::Result;
use crate::neuron::{Neuron, Site};
use crate::progress::Progress;
use candle_core::Tensor;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// What stage 1 is about.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub model: &'a Model,
    pub tokens: &'a Arc<[u32]>,
    pub sites: &'a [&'a SiteInfo],
    pub settings: &'a SearchSettings,
    /// How many entries are wanted.
    pub keep: usize,
    /// What the text's clean row leaves for the search.
    pub trunk: &'a RefCell<Trunk>,
    pub progress: &'a dyn Progress,
}

impl Stage<'_> {
    /// The text under some of the noisy samples.
    pub fn noisy(&self, samples: Range<usize>) -> Vec<Row> {
        let noise = |sample| Noise { alpha: self.settings.alpha, seed: self.settings.seed, sample: sample as u64 };
        samples.map(|sample| Row { noise: Some(noise(sample)), ..Row::clean(self.tokens.clone()) }).collect()
    }

    /// Pushes some of the noisy samples through the model.
    pub fn trace(&self, samples: Range<usize>, hook: &mut dyn Hook) -> Result<()> {
        let what = format!("importance, samples {} to {}", samples.start + 1, samples.end);
        let rows = self.noisy(samples);
        self.progress.begin(&what, (rows.len() * self.model.recipe().layers.len()) as u64, "rows × layers");
        self.model.trace(&rows, hook, self.progress)?;
        self.progress.end();
        Ok(())
    }

    /// Pushes the text's clean row and others through the model, and keeps what it leaves for the search.
    pub fn trace_first(&self, others: Range<usize>, hook: &mut dyn Hook) -> Result<()> {
        let rows = [vec![Row::clean(self.tokens.clone())], self.noisy(others)].concat();
        let layers = self.model.recipe().layers.len();
        self.model.check_memory(WIDEST, widest_bytes(self.sites, layers, self.tokens.len()))?;
        self.progress.begin("importance", (rows.len() * layers) as u64, "rows × layers");
        self.model.trace_keeping(&mut self.trunk.borrow_mut(), &rows, hook, self.progress)?;
        self.progress.end();
        Ok(())
    }

    /// What takes what `importance` makes of the activations of the text's clean row, both (positions, channels).
    pub fn by_clean(&self, importance: fn(&Tensor) -> Result<Tensor>) -> OfClean {
        OfClean { tally: self.tally(), importance }
    }

    /// A tally of these sites in which nothing has passed yet.
    pub fn tally(&self) -> Tally {
        Tally::new(self.sites, self.settings.counting, self.keep)
    }

    /// Candidates as entries.
    pub fn entries<'c>(&self, candidates: impl Iterator<Item = &'c Candidate>) -> Vec<Entry> {
        let neuron = |c: &Candidate| Neuron { site: self.sites[c.site].site.clone(), channel: c.channel };
        let position = |c: &Candidate| self.settings.ranking.reads_text().then_some(c.position);
        let entry = |c: &Candidate| Entry { neuron: neuron(c), importance: c.importance.into(), position: position(c) };
        candidates.map(entry).collect()
    }
}

/// Takes what is made of a clean row's activations.
pub(super) struct OfClean {
    pub tally: Tally,
    importance: fn(&Tensor) -> Result<Tensor>,
}

impl Hook for OfClean {
    fn wants(&self, site: &Site) -> bool {
        self.tally.order.contains_key(site)
    }

    fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        let importance = (self.importance)(&x.get(0)?)?;
        self.tally.take(site, &importance)?;
        Ok(None)
    }
}

/// What has to stay where as many rows take several passes.
pub(super) fn sums_of(rows: usize) -> String {
    format!("the sums of these sites (as {rows} rows take several passes)")
}

/// Bytes that the sums of all sites take from pass to pass: the clean row and the sum, in f32.
pub(super) fn sums_bytes(sites: &[&SiteInfo], positions: usize) -> u64 {
    2 * 4 * sites.iter().map(|site| site.channels as u64 * positions as u64).sum::<u64>()
}

/// What [`widest_bytes`] is for.
pub(super) const WIDEST: &str = "the importance of these sites";

/// Bytes that importance takes within a pass: clean rows, sums and copies of the widest layer's sites.
pub(super) fn widest_bytes(sites: &[&SiteInfo], layers: usize, positions: usize) -> u64 {
    let in_layer =
        |layer| sites.iter().filter(|s| s.site.module.layer() == layer).map(|s| s.channels as u64).sum::<u64>();
    3 * 4 * (0..layers).map(Some).chain([None]).map(in_layer).max().unwrap_or(0) * positions as u64
}
