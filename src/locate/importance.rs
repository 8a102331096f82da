//! Stage 1: the ranking of channels, by whichever ranker was chosen; by noise, as far as samples have been drawn.

use super::adaptive::{self, Adaptive};
use super::samples::Samples;
use super::stage::{self, Stage};
use super::sums::Importance;
use super::tally::Tally;
use super::{
    Entry, Ranking, Sampling, SearchSettings, Stopped, gradient, magnitude, magnitude_signed, random, super_weight,
    weights,
};
use crate::error::Result;
use crate::neuron::{Neuron, Site};
use candle_core::Tensor;
use std::collections::HashMap;

/// The ranking as far as it is known.
pub(super) struct Ranked {
    /// Its first entries, most important first; equals in the order of sites and channels.
    pub entries: Vec<Entry>,
    /// Every channel's importance.
    pub channels: Channels,
    /// Noisy samples that were computed.
    pub samples: usize,
    /// What more samples may change, and the sums that they are added to; none where all were computed.
    open: Option<(Adaptive, Importance)>,
}

/// The importance of every channel of some sites.
pub(super) struct Channels {
    order: HashMap<Site, usize>,
    importance: Importances,
}

enum Importances {
    /// Each channel's largest over positions. Where samples were drawn until the first entries were settled, that of
    /// channels far below them is of the first samples alone.
    Measured(Vec<Vec<f32>>),
    /// By lot.
    Drawn(random::Keys),
}

impl Channels {
    pub fn covers(&self, site: &Site) -> bool {
        self.order.contains_key(site)
    }

    /// The channel's rank among all of them, from 1, and its importance; none where that is not finite or it is not one
    /// of them.
    pub fn rank(&self, neuron: &Neuron) -> Option<(usize, f64)> {
        let at = *self.order.get(&neuron.site)?;
        let values = match &self.importance {
            Importances::Measured(values) => values,
            Importances::Drawn(keys) => return keys.rank(at, neuron.channel),
        };
        let own = *values[at].get(neuron.channel).filter(|v| v.is_finite())?;
        let before = |(site, values): (usize, &Vec<f32>)| {
            let is_before = |(channel, v): &(usize, &f32)| {
                v.is_finite() && (**v > own || (**v == own && (site, *channel) < (at, neuron.channel)))
            };
            values.iter().enumerate().filter(is_before).count()
        };
        Some((1 + values.iter().enumerate().map(before).sum::<usize>(), own.into()))
    }
}

/// What a ranking makes of the activations of the text's clean row, both (positions, channels), where it ranks by these
/// alone.
pub(super) fn of_clean(ranking: Ranking) -> Option<fn(&Tensor) -> Result<Tensor>> {
    match ranking {
        Ranking::Magnitude => Some(magnitude::importance),
        Ranking::MagnitudeSigned => Some(magnitude_signed::importance),
        Ranking::SuperWeight => Some(super_weight::importance),
        Ranking::Noise | Ranking::Gradient | Ranking::Random | Ranking::Weights => None,
    }
}

impl Ranked {
    /// Ranks all channels of the sites by the first samples.
    pub fn new(stage: Stage) -> Result<Ranked> {
        if let Some(importance) = of_clean(stage.settings.ranking) {
            let mut hook = stage.by_clean(importance);
            stage.trace_first(0..0, &mut hook)?;
            return Ok(Ranked::of(stage, 0, &mut hook.tally));
        }
        match (stage.settings.ranking, stage.settings.samples) {
            (Ranking::Gradient, _) => Ok(Ranked::of(stage, 0, &mut gradient::rank(stage)?)),
            (Ranking::Weights, _) => Ok(Ranked::of(stage, 0, &mut weights::rank(stage)?)),
            (Ranking::Random, _) => Ok(Ranked::by_lot(stage)),
            (_, Samples::Exactly(samples)) => Ranked::by(stage, samples),
            (_, Samples::Auto) => Ranked::by_few(
                stage,
                stage::sums_bytes(stage.sites, stage.tokens.len()) <= stage.model.memory_for_sums(),
            ),
        }
    }

    /// Ranks by nothing.
    fn by_lot(stage: Stage) -> Ranked {
        let (entries, keys) = random::rank(stage);
        let channels = Channels { order: stage.tally().order, importance: Importances::Drawn(keys) };
        Ranked { entries, channels, samples: 0, open: None }
    }

    /// Ranks by the samples of the first look; `keeps`: whether the sums of all sites stay.
    fn by_few(stage: Stage, keeps: bool) -> Result<Ranked> {
        let samples = Adaptive::FIRST;
        let hook = Importance::new(stage, samples);
        let (mut ranked, mut hook) = Ranked::first(stage, samples, hook.watching(Adaptive::watched(), keeps))?;
        let adaptive = hook.watched().map(|watched| Adaptive::new(watched, stage.settings.counting, keeps));
        ranked.open = adaptive.map(|adaptive| (adaptive, hook));
        Ok(ranked)
    }

    /// Ranks by so many samples, in as few passes as memory permits.
    fn by(stage: Stage, samples: usize) -> Result<Ranked> {
        Ranked::in_passes(stage, samples, stage.model.rows_at_once(stage.tokens.len()))
    }

    /// Ranks by so many samples, with so many rows at most in a pass.
    fn in_passes(stage: Stage, samples: usize, rows: usize) -> Result<Ranked> {
        let hook = Importance::new(stage, samples);
        let first = rows.saturating_sub(1).max(1);
        if first >= samples {
            return Ok(Ranked::first(stage, samples, hook)?.0);
        }
        let bytes = stage::sums_bytes(stage.sites, stage.tokens.len());
        stage.model.check_memory(&stage::sums_of(samples + 1), bytes)?;
        let (_, mut hook) = Ranked::first(stage, first, hook.keeping())?;
        hook.watched();
        for from in (first..samples).step_by(rows) {
            stage.trace(from..(from + rows).min(samples), &mut hook)?;
        }
        hook.finish(samples)?;
        Ok(Ranked::of(stage, samples, &mut hook.tally))
    }

    /// Ranks by the clean row and the first samples.
    fn first(stage: Stage, samples: usize, mut hook: Importance) -> Result<(Ranked, Importance)> {
        stage.trace_first(0..samples, &mut hook)?;
        hook.reduce()?;
        Ok((Ranked::of(stage, samples, &mut hook.tally), hook))
    }

    /// What all sites come to.
    fn of(stage: Stage, samples: usize, tally: &mut Tally) -> Ranked {
        // With NaN in the weights there is no perplexity either, and an error that says so.
        if tally.overflowed > 0 && stage.model.not_finite().is_none() {
            tracing::warn!(
                "{} entries have values that are not finite and are left out of the ranking; use {}",
                tally.overflowed,
                stage.settings.ranking.against_overflow()
            );
        }
        let entries = stage.entries(tally.top.finish().iter());
        let importance = Importances::Measured(tally.channels.clone());
        let channels = Channels { order: tally.order.clone(), importance };
        Ranked { entries, channels, samples, open: None }
    }

    /// How many entries from the first on would be the same, in the same order, with all samples.
    pub fn settled(&self) -> usize {
        let longest = self.entries.len();
        self.open.as_ref().map_or(longest, |(adaptive, _)| adaptive.settled(longest))
    }

    /// Whether there are samples that were not drawn.
    pub fn has_more(&self) -> bool {
        self.open.is_some()
    }

    /// Why no more samples were drawn, where that was not set.
    pub fn sampling(&self, settings: &SearchSettings) -> Option<Sampling> {
        let adapts = settings.ranking == Ranking::Noise && settings.samples == Samples::Auto;
        let stopped = if self.has_more() { Stopped::Settled } else { Stopped::All };
        adapts.then(|| Sampling { stopped, most: settings.samples.most(), error_rate: adaptive::ERROR_RATE })
    }

    /// Draws more samples.
    pub fn more(&mut self, stage: Stage) -> Result<()> {
        let Some((adaptive, sums)) = &mut self.open else { return Ok(()) };
        if adaptive.is_last_look() {
            let rest = adaptive.samples()..stage.settings.samples.most();
            *self = match adaptive.keeps() {
                true => {
                    stage.trace(rest, sums)?;
                    sums.finish(stage.settings.samples.most())?;
                    Ranked::of(stage, stage.settings.samples.most(), &mut sums.tally)
                }
                false => Ranked::by(stage, stage.settings.samples.most())?,
            };
            return Ok(());
        }
        adaptive.more(stage, sums)?;
        self.samples = adaptive.samples();
        self.entries = stage.entries(adaptive.first(stage.keep));
        if let Importances::Measured(values) = &mut self.channels.importance {
            for candidate in adaptive.best() {
                values[candidate.site][candidate.channel] = candidate.importance;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Arithmetic, Trunk, fixture};
    use crate::locate::{Counting, SearchSettings};
    use crate::progress::Silent;
    use std::cell::RefCell;
    use std::sync::Arc;

    fn values(ranked: &Ranked) -> &[Vec<f32>] {
        match &ranked.channels.importance {
            Importances::Measured(values) => values,
            Importances::Drawn(_) => panic!("drawn"),
        }
    }

    /// Whether sums are kept or samples drawn anew: all samples give what they give at once.
    #[test]
    fn all_samples_give_what_they_give_at_once() {
        let model = fixture::model("llama", Arithmetic::F32, None);
        let tokens: Arc<[u32]> = (0..12).map(|at| at * 7 % 90).collect();
        for counting in [Counting::Channels, Counting::Published] {
            let settings = SearchSettings { counting, ..SearchSettings::default() };
            let sites = settings.sites.select(&model, settings.side).unwrap();
            let trunk = RefCell::new(Trunk::of(tokens.clone()));
            let stage = Stage {
                model: &model,
                tokens: &tokens,
                sites: &sites,
                settings: &settings,
                keep: 200,
                trunk: &trunk,
                progress: &Silent,
            };
            let expected = Ranked::by(stage, 100).unwrap();
            for rows in [1, 7, 100] {
                let ranked = Ranked::in_passes(stage, 100, rows).unwrap();
                let pairs = || values(&ranked).iter().flatten().zip(values(&expected).iter().flatten());
                // Products of tiny matrices round otherwise.
                assert!(pairs().all(|(a, b)| (a - b).abs() <= 1e-5 * b), "{counting:?} {rows}");
                let first = |ranked: &Ranked| ranked.entries[..10].iter().map(|e| e.neuron.clone()).collect::<Vec<_>>();
                assert_eq!(first(&ranked), first(&expected), "{counting:?} {rows}");
                assert_eq!((ranked.samples, ranked.entries.len()), (100, expected.entries.len()));
            }
            for keeps in [true, false] {
                let mut ranked = Ranked::by_few(stage, keeps).unwrap();
                while ranked.has_more() {
                    ranked.more(stage).unwrap();
                }
                assert_eq!(ranked.samples, 100);
                assert_eq!(ranked.entries, expected.entries, "{counting:?} {keeps}");
                assert_eq!(values(&ranked), values(&expected), "{counting:?} {keeps}");
            }
        }
    }
}
