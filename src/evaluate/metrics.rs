//! What is measured of a text under a model: NLL, perplexity, damage.

use crate::compute::{Hook, Model, NoHook, Row, Trunk};
use crate::error::{Error, Result};
use crate::neuron::{Neuron, Site};
use crate::progress::Progress;
use candle_core::{D, DType, Tensor};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;

/// Mean over targets of −ln P(x_t | x_<t), in nats.
pub fn nll_nats(log_probs: &[f64]) -> f64 {
    -log_probs.iter().sum::<f64>() / log_probs.len() as f64
}

/// exp of the mean negative log likelihood of a token, in nats.
pub fn perplexity(nll_nats: f64) -> f64 {
    nll_nats.exp()
}

/// Δ = log10(perplexity / base perplexity) = (NLL − base NLL) / ln 10. An NLL that is not a number or infinite (the
/// arithmetic overflowed under the intervention) is infinite damage.
pub fn damage(nll_nats: f64, base_nll_nats: f64) -> f64 {
    if nll_nats.is_finite() { (nll_nats - base_nll_nats) / std::f64::consts::LN_10 } else { f64::INFINITY }
}

/// The length of the n-grams whose repetition is told.
pub const REPEATED_N: usize = 4;

/// The share of a text's 4-grams that repeat an earlier one: 1 − |distinct 4-grams| / |4-grams|, over overlapping
/// 4-grams of tokens (seq-rep-4 of Welleck et al. 2020, arXiv 1908.04319). None where the text is shorter than one
/// 4-gram.
pub fn repeated_share(tokens: &[u32]) -> Option<f64> {
    let ngrams = tokens.windows(REPEATED_N);
    let (all, distinct) = (ngrams.len(), ngrams.collect::<HashSet<_>>().len());
    (all > 0).then(|| 1.0 - distinct as f64 / all as f64)
}

/// What a model makes of one token as the next.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    /// The model's probability of this token, 0 to 1.
    pub probability: f64,
    /// 1 for the most probable token; of equal ones the first in the vocabulary comes first.
    pub rank: usize,
}

/// The probability (softmax over all) and rank of `token` by logits, one for each token of the vocabulary; none where
/// it is beyond that.
pub fn prediction(logits: &[f64], token: u32) -> Option<Prediction> {
    let token = token as usize;
    let own = *logits.get(token)?;
    let before = |(at, logit): (usize, &f64)| *logit > own || (*logit == own && at < token);
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    let rank = 1 + logits.iter().enumerate().filter(|entry| before(*entry)).count();
    Some(Prediction { probability: (own - max).exp() / sum, rank })
}

/// The most probable token by logits, the first of equal ones; the token 0 where there are none.
pub fn most_probable(logits: &[f64]) -> u32 {
    let better = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).fold(0, better) as u32
}

/// The NLL of every row in nats, in as few passes as memory permits.
///
/// # Errors
/// As [`Model::target_log_probs`].
pub fn nlls(model: &Model, rows: &[Row], progress: &dyn Progress) -> Result<Vec<f64>> {
    nlls_under(model, rows, &mut NoHook, progress)
}

/// As [`nlls`], with a hook that may change what flows.
///
/// # Errors
/// As [`nlls`].
pub fn nlls_under(model: &Model, rows: &[Row], hook: &mut dyn Hook, progress: &dyn Progress) -> Result<Vec<f64>> {
    in_passes(model, rows, |rows| model.target_log_probs(rows, hook, progress))
}

/// As [`nlls`], with rows that begin where they branch off `trunk`.
///
/// # Errors
/// As [`nlls`].
pub fn nlls_along(model: &Model, trunk: &mut Trunk, rows: &[Row], progress: &dyn Progress) -> Result<Vec<f64>> {
    in_passes(model, rows, |rows| model.target_log_probs_along(trunk, rows, progress))
}

fn in_passes(
    model: &Model,
    rows: &[Row],
    mut log_probs: impl FnMut(&[Row]) -> Result<Vec<Vec<f64>>>,
) -> Result<Vec<f64>> {
    let positions = rows.first().map_or(0, |row| row.tokens.len());
    let mut nlls = Vec::with_capacity(rows.len());
    for rows in rows.chunks(model.rows_at_once(positions)) {
        nlls.extend(log_probs(rows)?.iter().map(|row| nll_nats(row)));
    }
    Ok(nlls)
}

/// The NLL of the text with nothing done to it.
///
/// # Errors
/// It is not a number, as `why` explains (see [`not_finite`]): then nothing can be compared with it.
pub fn base(nll: f64, why: impl FnOnce() -> String) -> Result<f64> {
    if nll.is_finite() { Ok(nll) } else { Err(Error::input(why())) }
}

/// Why a model's perplexity is not a number.
pub fn not_finite(model: &Model) -> String {
    let dtype = model.arithmetic().as_str();
    match model.not_finite() {
        Some(weight) => format!("the model's own perplexity is not a number, as {weight}"),
        None => {
            format!("the model's own perplexity is not a number: the arithmetic overflows {dtype}; use a wider --dtype")
        }
    }
}

/// The mean of each neuron over the positions of a text.
///
/// # Errors
/// As [`Model::trace`].
pub fn means(model: &Model, tokens: &Arc<[u32]>, neurons: &[Neuron], progress: &dyn Progress) -> Result<Vec<f64>> {
    struct Means<'a> {
        neurons: &'a [Neuron],
        means: Vec<f64>,
    }
    impl Hook for Means<'_> {
        fn wants(&self, site: &Site) -> bool {
            self.neurons.iter().any(|n| n.site == *site)
        }

        fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
            for (neuron, mean) in self.neurons.iter().zip(&mut self.means).filter(|(n, _)| n.site == *site) {
                let values = x.narrow(D::Minus1, neuron.channel, 1)?.flatten_all()?.to_dtype(DType::F64)?;
                *mean = values.mean_all()?.to_scalar()?;
            }
            Ok(None)
        }
    }
    neurons.iter().try_for_each(|neuron| model.check(neuron))?;
    let mut hook = Means { neurons, means: vec![0.0; neurons.len()] };
    progress.begin("means", model.recipe().layers.len() as u64, "layers");
    model.trace(&[Row::clean(tokens.clone())], &mut hook, progress)?;
    progress.end();
    Ok(hook.means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_the_share_of_ngrams_seen_before() {
        assert_eq!(repeated_share(&[1, 2, 3]), None);
        assert_eq!(repeated_share(&[1, 2, 3, 4]), Some(0.0));
        assert_eq!(repeated_share(&[7; 8]), Some(0.8));
        // 1231 2312 3123 1231 2312: two of five.
        assert_eq!(repeated_share(&[1, 2, 3, 1, 2, 3, 1, 2]), Some(1.0 - 3.0 / 5.0));
    }

    #[test]
    fn predictions_are_a_softmax_and_its_order() {
        let logits = [0.0, 3f64.ln(), f64::NEG_INFINITY, 0.0];
        let all: Vec<(f64, usize)> =
            (0..4).filter_map(|t| prediction(&logits, t)).map(|p| (p.probability, p.rank)).collect();
        assert_eq!(all.len(), 4);
        for ((probability, rank), expected) in all.into_iter().zip([(0.2, 2), (0.6, 1), (0.0, 4), (0.2, 3)]) {
            assert!((probability - expected.0).abs() < 1e-15 && rank == expected.1, "{probability} {rank}");
        }
        assert_eq!((prediction(&logits, 4), most_probable(&logits)), (None, 1));
        assert_eq!(most_probable(&[2.0, 2.0]), 0);
    }
}
