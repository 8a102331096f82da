//! How far a prompt is from the baseline, and how often that happens by chance.

use super::profile::{Extreme, Extremes, SiteProfile, Statistic, Tokens};
use super::sketch::Sketch;

/// What a deviation is at least measured in: differences of 5% are nothing where a baseline is narrower than that.
const NARROWEST: f64 = 0.05;

/// How far one extreme of one prompt is from the baseline's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// The site, by its place in the baseline.
    pub site: usize,
    /// The positions that it is about.
    pub tokens: Tokens,
    /// The norm that it is about.
    pub statistic: Statistic,
    /// Of which of the prompt's positions.
    pub extreme: Extreme,
    /// 0 at the baseline's median, 1 at the end of its range on that side, on a logarithmic scale.
    pub size: f64,
}

/// Every deviation of a prompt.
pub fn deviations<'a>(baseline: &'a [SiteProfile], prompt: &'a Extremes) -> impl Iterator<Item = Deviation> + 'a {
    prompt.iter().flat_map(move |(&(site, tokens, statistic), &(smallest, largest))| {
        let distribution = baseline[site].at(tokens).of(statistic);
        [(Extreme::Smallest, smallest), (Extreme::Largest, largest)].into_iter().map(move |(extreme, value)| {
            let size = deviation(distribution.over_prompts(extreme), value);
            Deviation { site, tokens, statistic, extreme, size }
        })
    })
}

/// A prompt's score: its largest deviation over all sites, positions and statistics. As the calibration prompts are
/// scored in the same way, the number of sites needs no correction.
pub fn score(baseline: &[SiteProfile], prompt: &Extremes) -> f64 {
    deviations(baseline, prompt).map(|d| d.size).fold(0.0, f64::max)
}

/// |ln (value / median)| over that of the end of the range on the same side.
fn deviation(baseline: &Sketch, value: f64) -> f64 {
    let (Some(median), Some((min, max))) = (baseline.quantile(0.5), baseline.range()) else { return 0.0 };
    let ln = |v: f64| v.max(f64::MIN_POSITIVE).ln();
    // Experts that most positions are not routed to show zeros there: how rarely is not judged.
    if median == 0.0 && value <= max {
        return 0.0;
    }
    let end = if value > median { max } else { min };
    (ln(value) - ln(median)).abs() / (ln(end) - ln(median)).abs().max(NARROWEST)
}

/// The rank r, from the top, of the calibration score beyond which a prompt is outside: the conformal (1 − α) quantile,
/// or the largest score where there are too few for that.
pub fn threshold_rank(calibration: usize, alpha: f64) -> usize {
    ((alpha * (calibration + 1) as f64).floor() as usize).clamp(1, calibration.max(1))
}

/// P(K ≥ k), where K of m new prompts score above the r-th largest of n calibration scores and all n + m are
/// exchangeable: that among the k + r − 1 largest of all, k or more are new. Exact without any assumption on the
/// scores' distribution; with ties it is at most this. (Conformal prediction: Vovk, Gammerman, Shafer 2005; the law of
/// K is the negative hypergeometric one.)
pub fn p_value(n: usize, m: usize, r: usize, k: usize) -> f64 {
    if k == 0 {
        return 1.0;
    }
    let drawn = k + r - 1;
    let mut ln_factorial = vec![0.0; n + m + 1];
    for i in 1..=n + m {
        ln_factorial[i] = ln_factorial[i - 1] + (i as f64).ln();
    }
    let ln_choose = |n: usize, k: usize| ln_factorial[n] - ln_factorial[k] - ln_factorial[n - k];
    let terms =
        (k.max(drawn.saturating_sub(n))..=m.min(drawn)).map(|new| ln_choose(m, new) + ln_choose(n, drawn - new));
    terms.map(|ln| (ln - ln_choose(n + m, drawn.min(n + m))).exp()).sum::<f64>().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_those_of_drawing() {
        assert!((p_value(19, 1, 1, 1) - 1.0 / 20.0).abs() < 1e-12);
        assert!((p_value(99, 1, 5, 1) - 5.0 / 100.0).abs() < 1e-12);
        // Both of 2 new ones above all of 3: one of the 10 ways to place them.
        assert!((p_value(3, 2, 1, 2) - 0.1).abs() < 1e-12);
        // Against every way to place 4 new ones among 9.
        for (r, k) in (1..=5).flat_map(|r| (0..=4).map(move |k| (r, k))) {
            let (mut hits, mut ways) = (0, 0);
            for placed in (0u32..1 << 9).filter(|p| p.count_ones() == 4) {
                // Bit 0 is the largest score; a set bit is a new prompt.
                let (mut calibration, mut above) = (0, 0);
                for at in 0..9 {
                    match placed >> at & 1 {
                        1 if calibration < r => above += 1,
                        1 => {}
                        _ => calibration += 1,
                    }
                }
                ways += 1;
                hits += u32::from(above >= k);
            }
            let exact = f64::from(hits) / f64::from(ways);
            assert!((p_value(5, 4, r, k) - exact).abs() < 1e-12, "r {r}, k {k}");
        }
    }

    #[test]
    fn the_threshold_is_the_conformal_quantile() {
        assert_eq!([threshold_rank(19, 0.05), threshold_rank(99, 0.05), threshold_rank(5, 0.05)], [1, 5, 1]);
        assert_eq!(threshold_rank(3, 0.999), 3);
    }

    #[test]
    fn a_deviation_is_one_at_the_end_of_the_range() {
        let mut sketch = Sketch::default();
        [10.0, 20.0, 20.0, 20.0, 80.0].into_iter().for_each(|v| sketch.add(v));
        for (value, size) in [(80.0, 1.0), (10.0, 1.0), (320.0, 2.0), (20.0, 0.0), (2.5, 3.0)] {
            let found = deviation(&sketch, value);
            assert!((found - size).abs() < 0.03, "{value}: {found}");
        }
        assert!(deviation(&sketch, 0.0).is_finite() && deviation(&sketch, 0.0) > 100.0);
        assert_eq!(deviation(&Sketch::default(), 5.0), 0.0);
    }

    #[test]
    fn an_expert_that_rests_is_not_judged() {
        let mut sketch = Sketch::default();
        [0.0, 0.0, 0.0, 5.0].into_iter().for_each(|v| sketch.add(v));
        assert_eq!([deviation(&sketch, 0.0), deviation(&sketch, 5.0)], [0.0, 0.0]);
        assert!(deviation(&sketch, 50.0) > 1.0);
    }
}
