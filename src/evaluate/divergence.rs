//! How far one model's predictions of a text are from another's.

use super::metrics::most_probable;
use crate::compute::{Model, Row};
use crate::error::Result;
use crate::progress::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The predictions of two models at each token of a text but the last, beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Predictions: one fewer than the text has tokens.
    pub positions: usize,
    /// Mean of KL(base ‖ variant) over them, over the whole vocabulary. NaN where a logit of either is not a number.
    pub kl_mean_nats: f64,
    /// Their 99th percentile, between two values in proportion (numpy's `linear`, as llama-perplexity has it).
    pub kl_p99_nats: f64,
    /// The share of them in which both hold the same token for the most probable.
    pub top1_agreement: f64,
}

/// Runs both on a text, whose tokens are the same to both. Progress advances by layers of either.
///
/// # Errors
/// A token is beyond a vocabulary, memory would not suffice, or the user asked to stop.
pub fn divergence(base: &Model, variant: &Model, tokens: &Arc<[u32]>, progress: &dyn Progress) -> Result<Divergence> {
    let row = Row::clean(tokens.clone());
    progress.begin("predictions", (base.recipe().layers.len() + variant.recipe().layers.len()) as u64, "layers");
    let (base_logits, variant_logits) = (base.row_logits(&row, progress)?, variant.row_logits(&row, progress)?);
    progress.end();
    let positions = tokens.len().saturating_sub(1);
    let step = base_logits.at_once().min(variant_logits.at_once());
    let mut compared: Vec<(f64, bool)> = Vec::with_capacity(positions);
    for from in (0..positions).step_by(step) {
        let some = from..(from + step).min(positions);
        let (ours, theirs) = (base_logits.at(some.clone())?, variant_logits.at(some)?);
        let pairs = ours.par_iter().zip(&theirs);
        compared.par_extend(pairs.map(|(p, q)| (kl_nats(p, q), most_probable(p) == most_probable(q))));
    }
    let (mut kl, same): (Vec<f64>, Vec<bool>) = compared.into_iter().unzip();
    let mean = |sum: f64| sum / positions as f64;
    let (kl_mean_nats, same) = (mean(kl.iter().sum()), same.into_iter().filter(|same| *same).count());
    kl.sort_by(f64::total_cmp);
    Ok(Divergence { positions, kl_mean_nats, kl_p99_nats: quantile(&kl, 0.99), top1_agreement: mean(same as f64) })
}

/// KL(P ‖ Q) of the softmaxes of two rows of logits.
fn kl_nats(p: &[f64], q: &[f64]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(p, q): (&f64, &f64)| {
        let ln_p = p - p_norm;
        let probability = ln_p.exp();
        if probability == 0.0 { 0.0 } else { probability * (ln_p - (q - q_norm)) }
    };
    let sum: f64 = p.iter().zip(q).map(term).sum();
    // Rounding alone brings it below 0.
    if sum < 0.0 { 0.0 } else { sum }
}

fn log_sum_exp(logits: &[f64]) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln()
}

/// The quantile of sorted values; NaN of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, part) = (place as usize, place.fract());
    sorted[below] + part * (sorted[(below + 1).min(last)] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_and_quantiles_are_numpys() {
        // (p * numpy.log(p / q)).sum() of the softmaxes; numpy.quantile([0, 1, 4, 9], 0.99).
        let (p, q) = ([0.5, -1.25, 3.0, 0.0], [0.25, -1.0, 2.5, f64::NEG_INFINITY]);
        assert_eq!(kl_nats(&p, &q), f64::INFINITY);
        assert!((kl_nats(&q, &p) - 0.052_385_614_994_414_92).abs() < 1e-15, "{}", kl_nats(&q, &p));
        assert_eq!(kl_nats(&p, &p), 0.0);
        assert!(kl_nats(&[f64::INFINITY, 0.0], &[0.0, 0.0]).is_nan());
        assert!((quantile(&[0.0, 1.0, 4.0, 9.0], 0.99) - 8.85).abs() < 1e-14);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }
}
