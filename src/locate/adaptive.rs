//! Stage 1 with as many noisy samples as settle its answer.
//!
//! Importance is a mean over K samples. After k of them the mean over all K of two entries differs by d, the
//! difference of their means so far, give or take s · √((K − k) / (K k)), where s is the standard deviation of the
//! difference over samples: the rest of a finite population (Cochran, Sampling Techniques, 1977, § 2.6; paired
//! differences under common random numbers as in Kim & Nelson, ACM TOMACS 11(3), 2001). That the order turns has at most
//! the probability of Student's t beyond d over this. These are summed over all pairs of a first entry and one after it
//! (Bonferroni), and what is allowed is shared out equally among the looks. Nothing is assumed of how entries depend on
//! each other; differences are taken to be normal, which they are not quite: `benches/adaptive_sampling.py` measures what
//! that does.

use super::Counting;
use super::samples;
use super::stage::Stage;
use super::sums::Importance;
use super::tally::{Candidate, Top};
use crate::compute::Hook;
use crate::error::Result;
use crate::neuron::Site;
use candle_core::{DType, Tensor};
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::collections::{BTreeMap, HashSet};

/// The probability that more samples, up to K, would change the order of the entries that were taken for settled.
pub(super) const ERROR_RATE: f64 = 0.01;

/// Samples after which it is asked what is settled.
const LOOKS: [usize; 7] = [8, 12, 16, 24, 32, 48, 64];

/// The last look where sums are not kept and what was drawn so far will have to be drawn again.
const LAST_WITHOUT_SUMS: usize = 16;

/// Entries that are followed from sample to sample, at most.
const WATCHED: usize = 1 << 16;

/// Standard errors from its mean within which an entry that is not watched any more is taken to end.
const WIDE: f64 = 10.0;

/// Samples from which on their own spread is used; with fewer, the bound by those of both entries.
const ENOUGH: usize = 8;

/// The entries that may be among the first, and what is known of them.
pub(super) struct Adaptive {
    counting: Counting,
    /// By importance, largest first; equals in the order of sites, channels and positions.
    watched: Vec<Watched>,
    look: usize,
    /// Whether the sums of all sites are kept too.
    keeps: bool,
    /// How high those may reach that are not watched.
    beyond: f64,
}

struct Watched {
    candidate: Candidate,
    /// |clean − noisy| in each sample after the first look.
    later: Vec<f32>,
}

/// The standard error of a mean over all samples after some, in spreads.
fn error_in_spreads(drawn: usize) -> f64 {
    let (drawn, all) = (drawn as f64, samples::MOST as f64);
    ((all - drawn) / (all * drawn)).sqrt()
}

impl Adaptive {
    /// Samples of the first look.
    pub const FIRST: usize = LOOKS[0];

    /// Rows of each look up to all samples, the clean one with the first; `keeps`: whether sums are kept.
    pub fn rows_of_looks(keeps: bool) -> Vec<usize> {
        let looks: Vec<usize> = LOOKS.into_iter().filter(|look| keeps || *look <= LAST_WITHOUT_SUMS).collect();
        let later = looks.windows(2).map(|pair| pair[1] - pair[0]);
        let rest = if keeps { samples::MOST - looks[looks.len() - 1] } else { samples::MOST + 1 };
        std::iter::once(looks[0] + 1).chain(later).chain([rest]).collect()
    }

    /// What the first look has to keep.
    pub fn watched() -> Top {
        Top::reaching(WATCHED, (WIDE * error_in_spreads(Adaptive::FIRST)) as f32)
    }

    /// `keeps`: whether the sums of all sites are kept, too.
    pub fn new(mut watched: Top, counting: Counting, keeps: bool) -> Adaptive {
        let all = watched.finish().iter().map(|candidate| Watched { candidate: *candidate, later: Vec::new() });
        let all = all.collect();
        let mut adaptive = Adaptive { counting, watched: all, look: 0, keeps, beyond: watched.beyond.into() };
        adaptive.sort();
        adaptive
    }

    /// Samples drawn.
    pub fn samples(&self) -> usize {
        LOOKS[self.look]
    }

    /// Whether all samples come next.
    pub fn is_last_look(&self) -> bool {
        self.look + 1 == LOOKS.len() || (!self.keeps && self.samples() >= LAST_WITHOUT_SUMS)
    }

    /// Whether the sums of all sites are kept.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    fn sort(&mut self) {
        self.watched.sort_by(|a, b| {
            let key = |c: &Candidate| (c.site, c.channel, c.position);
            let by_importance = b.candidate.importance.total_cmp(&a.candidate.importance);
            by_importance.then_with(|| key(&a.candidate).cmp(&key(&b.candidate)))
        });
    }

    /// What an entry counts as: its channel, or the channel at its position.
    fn identity(&self, c: &Candidate) -> (usize, usize, usize) {
        (c.site, c.channel, if self.counting == Counting::Published { c.position } else { 0 })
    }

    /// The entries of the ranking, each with its largest importance.
    fn ranked(&self) -> impl Iterator<Item = &Watched> {
        let mut known = HashSet::new();
        self.watched.iter().filter(move |entry| known.insert(self.identity(&entry.candidate)))
    }

    /// All entries of the ranking that are watched.
    pub fn best(&self) -> impl Iterator<Item = &Candidate> {
        self.ranked().map(|entry| &entry.candidate)
    }

    /// The first `keep` entries of the ranking.
    pub fn first(&self, keep: usize) -> impl Iterator<Item = &Candidate> {
        self.best().take(keep)
    }

    /// How many of the first entries would be the same in the same order with all samples, but for [`ERROR_RATE`]; at
    /// most `longest`.
    pub fn settled(&self, longest: usize) -> usize {
        let allowed = ERROR_RATE / LOOKS.len() as f64;
        let (mut before, mut error) = (HashSet::new(), 0.0);
        for (at, entry) in self.ranked().take(longest).enumerate() {
            before.insert(self.identity(&entry.candidate));
            if self.reach(entry, -WIDE) < self.beyond {
                return at;
            }
            let others = self.watched.iter().filter(|other| !before.contains(&self.identity(&other.candidate)));
            for other in others {
                error += self.turned(entry, other);
                if error > allowed {
                    return at;
                }
            }
        }
        longest
    }

    /// The probability that `after` has the larger mean over all samples.
    fn turned(&self, entry: &Watched, after: &Watched) -> f64 {
        let difference = f64::from(entry.candidate.importance) - f64::from(after.candidate.importance);
        let (spread, freedom) = match entry.later.len() {
            ENOUGH.. => (spread_of_differences(&entry.later, &after.later), entry.later.len() - 1),
            _ => (f64::from(entry.candidate.spread) + f64::from(after.candidate.spread), Adaptive::FIRST - 1),
        };
        let error = spread * error_in_spreads(self.samples());
        match StudentsT::new(0.0, 1.0, freedom as f64) {
            // Entries that are equal in every sample have an order of their own.
            _ if error == 0.0 => 0.0,
            Ok(t) => t.sf(difference / error),
            Err(_) => 1.0,
        }
    }

    /// An entry's mean and some standard errors.
    fn reach(&self, entry: &Watched, errors: f64) -> f64 {
        let spread = f64::from(entry.candidate.spread);
        f64::from(entry.candidate.importance) + errors * spread * error_in_spreads(self.samples())
    }

    /// Draws the samples up to the next look, which `sums` are shown too where they are kept.
    pub fn more(&mut self, stage: Stage, sums: &mut Importance) -> Result<()> {
        self.forget(stage.keep);
        let samples = self.samples()..LOOKS[self.look + 1];
        let mut later = Later::of(self, stage, samples.len(), self.keeps.then_some(sums));
        stage.trace(samples, &mut later)?;
        let values = later.values;
        self.take(values);
        Ok(())
    }

    /// Takes what was seen of each watched entry in the samples up to the next look.
    fn take(&mut self, values: Vec<Vec<f32>>) {
        self.look += 1;
        for (entry, values) in self.watched.iter_mut().zip(values) {
            let candidate = &mut entry.candidate;
            // In the order of samples, as if all had been drawn at once.
            values.iter().for_each(|value| candidate.sum += value);
            candidate.importance = candidate.sum / LOOKS[self.look] as f32;
            entry.later.extend(values);
        }
        self.watched.retain(|entry| entry.candidate.importance.is_finite());
        self.sort();
    }

    /// Watches those no more that cannot be among the first `keep` entries.
    fn forget(&mut self, keep: usize) {
        let Some(low) = self.ranked().nth(keep.saturating_sub(1)).map(|last| self.reach(last, -WIDE)) else { return };
        let (watched, forgotten): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watched).into_iter().partition(|entry| self.reach(entry, WIDE) >= low);
        self.beyond = forgotten.iter().map(|entry| self.reach(entry, WIDE)).fold(self.beyond, f64::max);
        self.watched = watched;
    }
}

/// The standard deviation of a − b over samples.
fn spread_of_differences(a: &[f32], b: &[f32]) -> f64 {
    let n = a.len() as f64;
    let difference = |(a, b): (&f32, &f32)| f64::from(*a) - f64::from(*b);
    let mean = a.iter().zip(b).map(difference).sum::<f64>() / n;
    let squares: f64 = a.iter().zip(b).map(|pair| (difference(pair) - mean).powi(2)).sum();
    (squares / (n - 1.0)).sqrt()
}

/// Takes |clean − noisy| of the watched entries from noisy rows.
struct Later<'a> {
    /// The watched entries of each site: which, where in (positions, channels), and their clean values.
    of: BTreeMap<&'a Site, Vec<(usize, u32, f32)>>,
    /// For each watched entry, by row.
    values: Vec<Vec<f32>>,
    /// Takes them too.
    sums: Option<&'a mut Importance>,
}

impl<'a> Later<'a> {
    fn of(adaptive: &Adaptive, stage: Stage<'a>, rows: usize, sums: Option<&'a mut Importance>) -> Later<'a> {
        let mut of: BTreeMap<&Site, Vec<(usize, u32, f32)>> = BTreeMap::new();
        for (at, Watched { candidate: c, .. }) in adaptive.watched.iter().enumerate() {
            let place = c.position * stage.sites[c.site].channels + c.channel;
            of.entry(&stage.sites[c.site].site).or_default().push((at, place as u32, c.clean));
        }
        Later { of, values: vec![vec![0.0; rows]; adaptive.watched.len()], sums }
    }
}

impl Hook for Later<'_> {
    fn wants(&self, site: &Site) -> bool {
        self.of.contains_key(site) || self.sums.as_ref().is_some_and(|sums| sums.wants(site))
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        if let Some(sums) = self.sums.as_mut().filter(|sums| sums.wants(site)) {
            sums.on(site, rows, x)?;
        }
        let Some(entries) = self.of.get(site) else { return Ok(None) };
        let places = Tensor::new(entries.iter().map(|(_, place, _)| *place).collect::<Vec<_>>(), x.device())?;
        for (group, rows) in rows.iter().enumerate() {
            let values = x.get(group)?.flatten_all()?.index_select(&places, 0)?;
            let values: Vec<f32> = values.to_dtype(DType::F32)?.to_vec1()?;
            for ((at, _, clean), value) in entries.iter().zip(values) {
                rows.iter().for_each(|row| self.values[*at][*row] = (value - clean).abs());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, LogNormal, StandardNormal};

    /// |clean − noisy| of some entries in all samples: means that fall by a ratio, and what moves them together and
    /// apart.
    fn population(random: &mut ChaCha8Rng, entries: usize, heavy: bool) -> Vec<Vec<f32>> {
        let ratio = random.random_range(0.5..0.98f64);
        let (apart, together) = (random.random_range(0.02..0.5f64), random.random_range(0.0..0.5f64));
        let shared: Vec<f64> = StandardNormal.sample_iter(&mut *random).take(samples::MOST).collect();
        let means = (0..entries).map(|at| 100.0 * ratio.powi(at as i32));
        let own = LogNormal::new(0.0, apart).unwrap();
        let value = |mean: f64, shared: f64, random: &mut ChaCha8Rng| {
            let own = match heavy {
                true => own.sample(random) - (apart * apart / 2.0).exp(),
                false => apart * random.sample::<f64, _>(StandardNormal),
            };
            (mean * (1.0 + together * shared + own)).abs() as f32
        };
        means.map(|mean| shared.iter().map(|shared| value(mean, *shared, random)).collect()).collect()
    }

    fn adaptive(values: &[Vec<f32>]) -> Adaptive {
        let mut top = Adaptive::watched();
        top.extend(values.iter().enumerate().map(|(channel, values)| candidate(channel, &values[..LOOKS[0]])), &mut 0);
        Adaptive::new(top, Counting::Channels, true)
    }

    fn candidate(channel: usize, values: &[f32]) -> Candidate {
        let sum: f32 = values.iter().sum();
        let mean = sum / values.len() as f32;
        let squares: f32 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let spread = (squares / (values.len() - 1) as f32).sqrt();
        Candidate { importance: mean, spread, sum, channel, ..Candidate::default() }
    }

    /// The order of the first `n` with all samples.
    fn all(values: &[Vec<f32>], n: usize) -> Vec<usize> {
        let sum = |at: usize| values[at].iter().sum::<f32>();
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| sum(*b).total_cmp(&sum(*a)));
        order.truncate(n);
        order
    }

    fn next(adaptive: &mut Adaptive, values: &[Vec<f32>]) {
        let samples = adaptive.samples()..LOOKS[adaptive.look + 1];
        let seen = |entry: &Watched| values[entry.candidate.channel][samples.clone()].to_vec();
        adaptive.take(adaptive.watched.iter().map(seen).collect());
    }

    fn order(adaptive: &Adaptive, n: usize) -> Vec<usize> {
        adaptive.first(n).map(|c| c.channel).collect()
    }

    /// As a search does that ends at one of the first entries, which one by chance.
    #[test]
    fn what_is_settled_is_the_order_of_all_samples() {
        let (mut wrong, mut drawn, runs) = (0, 0, 600);
        for seed in 0..runs {
            let random = &mut ChaCha8Rng::seed_from_u64(seed);
            let values = population(random, 40, seed % 2 == 0);
            let n = random.random_range(1..6);
            let mut adaptive = adaptive(&values);
            while adaptive.settled(n) < n && !adaptive.is_last_look() {
                next(&mut adaptive, &values);
            }
            match adaptive.settled(n) < n {
                true => drawn += samples::MOST,
                false => {
                    drawn += adaptive.samples();
                    wrong += usize::from(order(&adaptive, n) != all(&values, n));
                }
            }
        }
        println!("another order in {wrong} of {runs}; {:.1} samples on the average", drawn as f64 / runs as f64);
        assert!(wrong as f64 <= ERROR_RATE * runs as f64, "{wrong}");
        assert!(drawn < 80 * runs as usize, "{drawn}");
    }

    #[test]
    fn entries_that_are_equal_in_every_sample_stay_in_their_order() {
        let values: Vec<f32> = (0..100).map(|at| 50.0 + (at % 7) as f32).collect();
        let low: Vec<f32> = values.iter().map(|v| v / 100.0).collect();
        let values = [values.clone(), values, low];
        let mut adaptive = adaptive(&values);
        while adaptive.settled(2) < 2 {
            next(&mut adaptive, &values);
        }
        assert_eq!(order(&adaptive, 2), [0, 1]);
        assert!(adaptive.samples() < samples::MOST, "{}", adaptive.samples());
    }
}
