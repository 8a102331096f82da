//! Perplexity with the first of a ranking masked; of a random one over several draws.

use super::{Context, Measured};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::locate::{Ranking, SearchSettings};
use crate::neuron::Neuron;

/// A corpus with the first `n` of a ranking masked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct First {
    pub corpus: String,
    pub n: usize,
    /// The mean over draws.
    pub perplexity: f64,
    /// The standard deviation of the perplexities (of a sample of draws: over n − 1); none of one draw.
    pub deviation: Option<f64>,
    /// Of the mean NLL: of a typical draw, which one large perplexity does not drown.
    pub damage: f64,
}

/// Masks the first so many of a ranking, of which the first number is 0, and numbers beyond its length are left out; the
/// random one is drawn as often as the options say, from one seed after the other.
pub(super) fn masked_first(context: &Context, search: &SearchSettings, counts: &[usize]) -> Result<Vec<First>> {
    let draws = if search.ranking == Ranking::Random { context.options.draws } else { 1 };
    let most = counts.iter().copied().max().unwrap_or(0);
    let mut spreads: Vec<(String, usize, Spread)> = Vec::new();
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
        let figures = measured.into_iter().flat_map(|Measured { corpus, nlls }| {
            counts.iter().zip(nlls).map(move |(n, nll)| (corpus.clone(), *n, nll))
        });
        for (at, (corpus, n, nll)) in figures.enumerate() {
            if draw == 0 {
                spreads.push((corpus, n, Spread::default()));
            }
            spreads[at].2.0.push(nll);
        }
    }
    let base = |corpus: &str| {
        let of_nothing = spreads.iter().find(|(of, n, _)| of == corpus && *n == 0);
        of_nothing.map_or(f64::NAN, |(_, _, spread)| spread.mean_nll())
    };
    let figures = spreads.iter().map(|(corpus, n, spread)| First {
        corpus: corpus.clone(),
        n: *n,
        perplexity: spread.mean(),
        deviation: spread.deviation(),
        damage: metrics::damage(spread.mean_nll(), base(corpus)),
    });
    Ok(figures.collect())
}

/// The NLL of one thing in nats, drawn several times.
#[derive(Debug, Clone, Default, PartialEq)]
struct Spread(Vec<f64>);

impl Spread {
    fn mean_nll(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn mean(&self) -> f64 {
        self.0.iter().map(|nll| metrics::perplexity(*nll)).sum::<f64>() / self.0.len() as f64
    }

    fn deviation(&self) -> Option<f64> {
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
        let spread = Spread([2f64, 4.0, 9.0].map(f64::ln).to_vec());
        assert!((spread.mean() - 5.0).abs() < 1e-12 && (spread.deviation().unwrap() - 13f64.sqrt()).abs() < 1e-12);
        assert!((spread.mean_nll() - 72f64.ln() / 3.0).abs() < 1e-12);
        assert_eq!(Spread(vec![1.0]).deviation(), None);
    }
}
