//! Perplexity with the first of a ranking masked; of a random one over several draws.

use super::{Context, Measured};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::locate::{Ranking, SearchSettings};
use crate::neuron::Neuron;

/// A corpus, and its perplexity with so many of a ranking masked, for each number.
pub(super) type Spreads = (String, Vec<Spread>);

/// Masks the first so many of a ranking, of which the first number is 0, and numbers beyond its length are left out; the
/// random one is drawn as often as the options say, from one seed after the other.
pub(super) fn masked_first(context: &Context, search: &SearchSettings, counts: &[usize]) -> Result<Vec<Spreads>> {
    let draws = if search.ranking == Ranking::Random { context.options.draws } else { 1 };
    let most = counts.iter().copied().max().unwrap_or(0);
    let mut spreads: Vec<Spreads> = Vec::new();
    for draw in 0..draws {
        let search = SearchSettings { seed: search.seed.wrapping_add(draw as u64), ..search.clone() };
        let entries = context.ranked(&search, most)?;
        let counts: Vec<usize> = counts.iter().copied().filter(|n| *n <= entries.len()).collect();
        let first = |n: &usize| {
            let mut set: Vec<Neuron> = entries.iter().take(*n).map(|entry| entry.neuron.clone()).collect();
            set.sort();
            set.dedup();
            set
        };
        let measured = context.masked(&counts.iter().map(first).collect::<Vec<_>>())?;
        for (at, Measured { corpus, nlls }) in measured.into_iter().enumerate() {
            if draw == 0 {
                spreads.push((corpus, vec![Spread::default(); counts.len()]));
            }
            spreads[at].1.iter_mut().zip(&nlls).for_each(|(spread, nll)| spread.add(*nll));
        }
    }
    Ok(spreads)
}

/// Perplexities of one thing, drawn several times.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Spread(Vec<f64>);

impl Spread {
    fn add(&mut self, nll_nats: f64) {
        self.0.push(nll_nats);
    }

    /// The mean NLL: that of a text under a typical draw, which one large perplexity does not drown.
    pub fn mean_nll(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// The mean perplexity, as the paper has it.
    pub fn mean(&self) -> f64 {
        self.0.iter().map(|nll| metrics::perplexity(*nll)).sum::<f64>() / self.0.len() as f64
    }

    /// The standard deviation of the perplexities (of a sample: n − 1); none of one draw.
    pub fn deviation(&self) -> Option<f64> {
        let others = self.0.len().checked_sub(1).filter(|others| *others > 0)?;
        let mean = self.mean();
        let squares: f64 = self.0.iter().map(|nll| (metrics::perplexity(*nll) - mean).powi(2)).sum();
        Some((squares / others as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_of_perplexities() {
        let mut spread = Spread::default();
        [2f64, 4.0, 9.0].into_iter().for_each(|perplexity| spread.add(perplexity.ln()));
        assert!((spread.mean() - 5.0).abs() < 1e-12 && (spread.deviation().unwrap() - 13f64.sqrt()).abs() < 1e-12);
        assert!((spread.mean_nll() - 72f64.ln() / 3.0).abs() < 1e-12);
        assert_eq!(Spread(vec![1.0]).deviation(), None);
    }
}
