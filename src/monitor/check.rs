//! Holding prompts against a baseline.

use super::baseline::Baseline;
use super::profile::{Extreme, Observed, Statistic, Tokens};
use super::score::{self, Deviation};
use crate::error::{Count, Error, Result};
use crate::neuron::Site;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Chance of an alarm on a check of prompts that are like the baseline's, unless asked otherwise.
pub const DEFAULT_FALSE_ALARM_RATE: f64 = 0.01;

/// What checking found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// The prompts are not what the baseline's model makes of prompts like its own: by chance this happens with
    /// probability `alpha` or less. Values that are not finite, where the baseline has none, alarm by themselves.
    pub alarm: bool,
    /// The probability of so many prompts outside, or more, by chance.
    pub p_value: f64,
    /// Probability of a false alarm that was asked for.
    pub alpha: f64,
    /// Beyond this score a prompt is outside.
    pub threshold: f64,
    /// Prompts that calibrated it.
    pub calibration_prompts: usize,
    /// How many prompts were held against the baseline.
    pub prompts: usize,
    /// How many of these have a score above the threshold.
    pub prompts_outside: usize,
    /// The score of each prompt, by the prompt's number.
    pub scores: BTreeMap<u64, f64>,
    /// Sites of the baseline, and how many of them were seen.
    pub sites: usize,
    /// How many sites were compared; see `sites`.
    pub sites_examined: usize,
    /// Sites with values that are not finite, where the baseline has none, in the order of computation.
    pub not_finite: Vec<NotFinite>,
    /// Sites outside their profile, in the order of computation: the cause is at the first, or before it.
    pub outside: Vec<Outside>,
}

/// A site with values that are not finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotFinite {
    /// The module, and which side of it.
    pub site: Site,
    /// How many of its values are NaN.
    pub nan: u64,
    /// Values that are infinite.
    pub inf: u64,
}

/// A site outside its profile: of its statistics the one that is outside furthest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// The module, and which side of it.
    pub site: Site,
    /// The positions whose norms lie outside.
    pub tokens: Tokens,
    /// The norm that lies outside.
    pub statistic: Statistic,
    /// Of which of a prompt's positions.
    pub extreme: Extreme,
    /// Prompts in which it is beyond the threshold.
    pub prompts: usize,
    /// The largest deviation: 1 is the end of the baseline's range.
    pub deviation: f64,
    /// The median over the checked prompts.
    pub median: f64,
    /// The median over the baseline's.
    pub baseline_median: f64,
    /// The smallest and largest of the baseline's.
    pub baseline_range: (f64, f64),
    /// The channel that usually holds the largest |x|, and in what share of positions.
    pub channel: Option<(usize, f64)>,
    /// The same in the baseline.
    pub baseline_channel: Option<(usize, f64)>,
}

/// Judges what was observed; its profiles are of the baseline's sites, in their order.
///
/// # Errors
/// There is no prompt, α is none, or the calibration prompts are too few for it.
pub fn check(baseline: &Baseline, observed: &Observed, alpha: f64) -> Result<Checked> {
    let (n, m) = (baseline.calibration_scores.len(), observed.prompts.len());
    check_false_alarm_rate(alpha)?;
    if m == 0 {
        return Err(Error::input("there is no prompt to check"));
    }
    let rank = score::threshold_rank(n, alpha);
    let smallest = score::p_value(n, m, rank, m);
    if smallest > alpha {
        let (n, m) = (Count(n, "calibration prompt", "calibration prompts"), Count(m, "prompt", "prompts"));
        return Err(Error::input(format!(
            "{m} against {n} cannot be told from chance below {smallest:.2e}, and the false-alarm rate is {alpha}: check \
             more prompts, record more, or use a larger --false-alarm-rate"
        )));
    }
    let threshold = baseline.calibration_scores[rank - 1];
    let mut scores = BTreeMap::new();
    let mut worst: BTreeMap<usize, Worst> = BTreeMap::new();
    for (prompt, extremes) in &observed.prompts {
        let score = scores.entry(*prompt).or_insert(0f64);
        for deviation in score::deviations(&baseline.sites, extremes) {
            *score = score.max(deviation.size);
            if deviation.size > threshold {
                let new = || Worst { largest: deviation, prompts: BTreeMap::new() };
                worst.entry(deviation.site).or_insert_with(new).add(deviation);
            }
        }
    }
    let prompts_outside = scores.values().filter(|s| **s > threshold).count();
    let p_value = score::p_value(n, m, rank, prompts_outside);
    let outside = worst.values().map(|worst| describe(baseline, observed, worst)).collect();
    let not_finite = not_finite(baseline, observed);
    let seen = |site: &super::SiteProfile| Tokens::ALL.iter().any(|t| !site.at(*t).is_empty());
    Ok(Checked {
        alarm: p_value <= alpha || !not_finite.is_empty(),
        p_value,
        alpha,
        threshold,
        calibration_prompts: n,
        prompts: m,
        prompts_outside,
        scores,
        sites: baseline.sites.len(),
        sites_examined: observed.profiles.iter().filter(|s| seen(s)).count(),
        not_finite,
        outside,
    })
}

/// Refuses a false-alarm rate that is no probability.
///
/// # Errors
/// It is not between 0 and 1.
pub fn check_false_alarm_rate(alpha: f64) -> Result<()> {
    match alpha > 0.0 && alpha < 1.0 {
        true => Ok(()),
        false => Err(Error::input(format!(
            "the false-alarm rate is {alpha}, expected a probability between 0 and 1, such as 0.01"
        ))),
    }
}

/// The largest deviation at a site, and in how many prompts each kind of deviation there is beyond the threshold.
struct Worst {
    largest: Deviation,
    prompts: BTreeMap<(Tokens, Statistic, Extreme), usize>,
}

impl Worst {
    fn add(&mut self, deviation: Deviation) {
        *self.prompts.entry((deviation.tokens, deviation.statistic, deviation.extreme)).or_default() += 1;
        if deviation.size > self.largest.size {
            self.largest = deviation;
        }
    }
}

fn describe(baseline: &Baseline, observed: &Observed, worst: &Worst) -> Outside {
    let Deviation { site, tokens, statistic, extreme, size } = worst.largest;
    let (before, now) = (baseline.sites[site].at(tokens), observed.profiles[site].at(tokens));
    let (before_sketch, now_sketch) = (before.of(statistic), now.of(statistic));
    let median = |d: &super::profile::Distribution| d.over_prompts(extreme).quantile(0.5).unwrap_or(0.0);
    Outside {
        site: baseline.sites[site].site.clone(),
        tokens,
        statistic,
        extreme,
        prompts: worst.prompts.get(&(tokens, statistic, extreme)).copied().unwrap_or_default(),
        deviation: size,
        median: median(now_sketch),
        baseline_median: median(before_sketch),
        baseline_range: before_sketch.over_prompts(extreme).range().unwrap_or((0.0, 0.0)),
        channel: now.usual_channel(),
        baseline_channel: before.usual_channel(),
    }
}

fn not_finite(baseline: &Baseline, observed: &Observed) -> Vec<NotFinite> {
    let count = |site: &super::SiteProfile| {
        let sum = |f: fn(&super::Profile) -> u64| f(&site.first).saturating_add(f(&site.rest));
        (sum(|p| p.nan), sum(|p| p.inf))
    };
    let pairs = baseline.sites.iter().zip(&observed.profiles);
    let new = pairs.filter(|(before, now)| count(before) == (0, 0) && count(now) != (0, 0));
    let told = new.map(|(_, now)| {
        let (nan, inf) = count(now);
        NotFinite { site: now.site.clone(), nan, inf }
    });
    told.collect()
}
