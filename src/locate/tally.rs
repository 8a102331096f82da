//! What is kept of the importance of all sites: each channel's largest, and the first entries of the ranking.

use super::Counting;
use crate::architecture::module::SiteInfo;
use crate::error::Result;
use crate::neuron::Site;
use candle_core::{DType, Tensor};
use std::collections::HashMap;

/// A channel at a position.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Candidate {
    /// What it is ranked by.
    pub importance: f32,
    /// The standard deviation of |clean − noisy| over samples, where it was asked for.
    pub spread: f32,
    /// The clean value, where samples are drawn.
    pub clean: f32,
    /// The sum of |clean − noisy| over samples.
    pub sum: f32,
    /// Which of the sites.
    pub site: usize,
    pub position: usize,
    pub channel: usize,
}

/// The importance of what has passed.
pub(super) struct Tally {
    pub order: HashMap<Site, usize>,
    /// Of the sites that have passed, each channel's largest importance.
    pub channels: Vec<Vec<f32>>,
    pub top: Top,
    /// Entries whose importance is not finite.
    pub overflowed: usize,
    counting: Counting,
}

impl Tally {
    /// Of these sites; `keep` first entries are kept.
    pub fn new(sites: &[&SiteInfo], counting: Counting, keep: usize) -> Tally {
        Tally {
            order: sites.iter().enumerate().map(|(at, s)| (s.site.clone(), at)).collect(),
            channels: vec![Vec::new(); sites.len()],
            top: Top::of(keep),
            overflowed: 0,
            counting,
        }
    }

    /// Forgets what has passed.
    pub fn restart(&mut self) {
        self.top = Top::of(self.top.keep);
        self.overflowed = 0;
    }

    /// Takes the importance of a whole site, (positions, channels).
    pub fn take(&mut self, site: &Site, importance: &Tensor) -> Result<()> {
        let values: Vec<f32> = importance.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let (channels, site) = (importance.dim(1)?, self.order[site]);
        self.take_candidates(site, channels, values.len(), |at| Candidate {
            importance: values[at],
            site,
            position: at / channels,
            channel: at % channels,
            ..Candidate::default()
        });
        Ok(())
    }

    /// Takes the candidates of a site, `count` of them, position by position; gives which of each channel's is its
    /// largest.
    pub fn take_candidates(
        &mut self,
        site: usize,
        channels: usize,
        count: usize,
        candidate: impl Fn(usize) -> Candidate,
    ) -> Vec<usize> {
        let importance = |at: usize| candidate(at).importance;
        let mut best: Vec<usize> = (0..channels).collect();
        let mut largest: Vec<f32> = (0..channels).map(importance).collect();
        for first in (channels..count).step_by(channels.max(1)) {
            for ((best, largest), at) in best.iter_mut().zip(&mut largest).zip(first..count) {
                let value = importance(at);
                // A value that is not finite stays, so that the channel is seen to overflow.
                if value > *largest || !value.is_finite() {
                    (*best, *largest) = (at, value);
                }
            }
        }
        self.channels[site] = largest;
        match self.counting {
            Counting::Published => self.top.extend((0..count).map(candidate), &mut self.overflowed),
            Counting::Channels => self.top.extend(best.iter().copied().map(candidate), &mut self.overflowed),
        }
        best
    }
}

/// The `keep` candidates so far that reach highest, and some more.
#[derive(Debug)]
pub(super) struct Top {
    keep: usize,
    /// How many of its spreads a candidate may be above its importance.
    pub reach: f32,
    entries: Vec<Candidate>,
    /// What a candidate has to reach to be one of them, as far as is known.
    floor: f32,
    /// How high the highest of those reached that were left out.
    pub beyond: f32,
}

impl Top {
    /// Of those with the largest importance.
    pub fn of(keep: usize) -> Top {
        Top::reaching(keep, 0.0)
    }

    /// Of those with the largest importance + `reach` × spread.
    pub fn reaching(keep: usize, reach: f32) -> Top {
        Top { keep, reach, entries: Vec::new(), floor: f32::NEG_INFINITY, beyond: 0.0 }
    }

    pub fn extend(&mut self, candidates: impl Iterator<Item = Candidate>, overflowed: &mut usize) {
        for candidate in candidates {
            if !candidate.importance.is_finite() {
                *overflowed += 1;
                continue;
            }
            let reach = self.reach_of(&candidate);
            if reach < self.floor {
                self.beyond = self.beyond.max(reach);
                continue;
            }
            self.entries.push(candidate);
            if self.entries.len() >= self.keep.saturating_mul(4).saturating_add(4096) {
                self.shrink();
            }
        }
    }

    fn reach_of(&self, candidate: &Candidate) -> f32 {
        candidate.importance + self.reach * candidate.spread
    }

    fn shrink(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by(|a, b| {
            let key = |c: &Candidate| (c.site, c.channel, c.position);
            self.reach_of(b).total_cmp(&self.reach_of(a)).then_with(|| key(a).cmp(&key(b)))
        });
        if let Some(first_out) = entries.get(self.keep) {
            self.beyond = self.beyond.max(self.reach_of(first_out));
            self.floor = self.reach_of(&entries[self.keep.saturating_sub(1)]);
        }
        entries.truncate(self.keep);
        self.entries = entries;
    }

    /// The candidates, those first that reach highest.
    pub fn finish(&mut self) -> &[Candidate] {
        self.shrink();
        &self.entries
    }
}
