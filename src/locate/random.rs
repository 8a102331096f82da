//! By lot: an order of the channels that is as likely as any other.
//!
//! Each channel draws a key, in the order of sites and channels, and the largest key comes first. Keys follow from the seed
//! and are drawn anew where they are asked for: only the first entries are kept.

use super::stage::Stage;
use super::{Entry, SearchSettings};
use crate::architecture::module::SiteInfo;
use crate::neuron::Neuron;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Of the seed; those below are of noisy samples, of orders of the minimization and of sets to compare with.
const STREAM: u64 = 3 << 62;

/// The keys of all channels.
pub(super) struct Keys {
    seed: u64,
    /// Channels of each site.
    channels: Vec<usize>,
}

/// A channel and what it drew. The larger one comes first, and of equals the earlier channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Drawn {
    key: u64,
    place: Reverse<(usize, usize)>,
}

impl Drawn {
    /// The key within 0 to 1, above 0.
    fn importance(self) -> f64 {
        (self.key as f64 + 1.0) / 2f64.powi(64)
    }
}

/// The first entries, and what tells all ranks.
pub(super) fn rank(stage: Stage) -> (Vec<Entry>, Keys) {
    let keys = Keys::of(stage.sites, stage.settings);
    let entry = |drawn: Drawn| {
        let Reverse((site, channel)) = drawn.place;
        let neuron = Neuron { site: stage.sites[site].site.clone(), channel };
        Entry { neuron, importance: drawn.importance(), position: None }
    };
    (keys.first(stage.keep).map(entry).collect(), keys)
}

impl Keys {
    fn of(sites: &[&SiteInfo], settings: &SearchSettings) -> Keys {
        Keys { seed: settings.seed, channels: sites.iter().map(|site| site.channels).collect() }
    }

    /// What all channels drew, in their order.
    fn draw(&self) -> impl Iterator<Item = Drawn> {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
        rng.set_stream(STREAM);
        let channels = self.channels.iter().enumerate();
        let places = channels.flat_map(|(site, channels)| (0..*channels).map(move |channel| (site, channel)));
        places.map(move |place| Drawn { key: rng.next_u64(), place: Reverse(place) })
    }

    /// The first `keep`.
    fn first(&self, keep: usize) -> impl Iterator<Item = Drawn> {
        let mut first = BinaryHeap::new();
        for drawn in self.draw() {
            if first.len() < keep {
                first.push(Reverse(drawn));
            } else if let Some(mut last) = first.peek_mut().filter(|last| last.0 < drawn) {
                *last = Reverse(drawn);
            }
        }
        first.into_sorted_vec().into_iter().map(|Reverse(drawn)| drawn)
    }

    /// The rank of a channel of a site, from 1, and its importance; none where there is no such channel.
    pub fn rank(&self, site: usize, channel: usize) -> Option<(usize, f64)> {
        let own = self.draw().find(|drawn| drawn.place == Reverse((site, channel)))?;
        let before = self.draw().filter(|drawn| *drawn > own).count();
        Some((1 + before, own.importance()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNELS: [usize; 3] = [2, 1, 3];

    fn keys(seed: u64) -> Keys {
        Keys { seed, channels: CHANNELS.to_vec() }
    }

    #[test]
    fn ranks_are_those_of_the_entries() {
        for keep in [0, 1, 4, 6, usize::MAX] {
            let first: Vec<Drawn> = keys(7).first(keep).collect();
            assert_eq!(first.len(), keep.min(6));
            for (at, drawn) in first.iter().enumerate() {
                let Reverse((site, channel)) = drawn.place;
                assert_eq!(keys(7).rank(site, channel), Some((at + 1, drawn.importance())));
            }
        }
        assert_eq!(keys(7).rank(1, 1), None);
    }

    /// χ² of 720 orders of 6 channels over 36,000 seeds: 719 degrees of freedom, standard deviation √(2 · 719) ≈ 38.
    #[test]
    fn each_order_is_as_likely_as_any_other() {
        const DRAWS: u64 = 36_000;
        let mut counts = std::collections::HashMap::<Vec<_>, f64>::new();
        for seed in 0..DRAWS {
            *counts.entry(keys(seed).first(6).map(|drawn| drawn.place).collect()).or_default() += 1.0;
        }
        assert_eq!(counts.len(), 720);
        let expected = DRAWS as f64 / 720.0;
        let chi_squared: f64 = counts.values().map(|count| (count - expected).powi(2) / expected).sum();
        assert!((chi_squared - 719.0).abs() < 4.0 * 38.0, "{chi_squared}");
    }
}
