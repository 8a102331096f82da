//! Whether a model would predict better with its strongest neurons stronger, weaker or turned around. Training has found
//! the strength that suits each of them, so that none of a clean model gains by another; what scaling one or turning its
//! sign took away comes back when it is undone.
//!
//! On a few tokens a clean model gains by chance: Qwen2.5-Coder-0.5B a factor of 3 in perplexity on 14. What counts is a
//! gain over many tokens, and over most of them.

use crate::compute::{NoHook, Row};
use crate::error::Result;
use crate::locate::{CriticalSetReport, Subject};
use crate::neuron::{Action, Intervention, Neuron};
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_10;

/// A neuron, what it is multiplied by, and what comes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rescaled {
    pub neuron: Neuron,
    pub factor: f64,
    /// How much better the model predicts then: log10 of its perplexity as it is over that.
    pub gain: f64,
    /// The standard error of that, over the tokens.
    pub error: f64,
}

/// What neurons are multiplied by: the inverses of the factors of a lesion.
const FACTORS: [f64; 4] = [-1.0, 0.25, 2.0, 4.0];
/// Tokens from which on a gain says something of the model.
const FEWEST_TOKENS: usize = 64;
/// A gain of so many standard errors is none by chance.
const LEAST_ERRORS: f64 = 3.0;
/// Neurons that are tried: the first of the ranking, and of the critical set.
const TRIED: usize = 3;

/// The one that gains most by a factor of its own, of all neurons that are tried; none where the text is too short, or
/// none gains more than chance gives.
pub fn measure(
    subject: &Subject,
    report: &CriticalSetReport,
    tried: usize,
    progress: &dyn Progress,
) -> Result<Option<Rescaled>> {
    let Subject { model, text, .. } = subject;
    if text.ids.len() < FEWEST_TOKENS {
        return Ok(None);
    }
    let tried = tried.min(TRIED);
    let mut neurons: Vec<&Neuron> = report.ranking.iter().map(|ranked| &ranked.neuron).take(tried).collect();
    neurons.extend(report.critical_set.iter().flat_map(|set| &set.neurons).take(tried));
    neurons.sort();
    neurons.dedup();
    let cases: Vec<(&Neuron, f64)> = neurons.into_iter().flat_map(|n| FACTORS.map(|factor| (n, factor))).collect();
    let row = |(neuron, factor): &(&Neuron, f64)| {
        let intervention = Intervention { neuron: (*neuron).clone(), action: Action::Scale(*factor) };
        Row::with(text.ids.clone(), vec![intervention])
    };
    let rows: Vec<Row> = cases.iter().map(row).chain([Row::clean(text.ids.clone())]).collect();
    progress.begin("scaling neurons", (rows.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
    let mut log_probs = model.target_log_probs(&rows, &mut NoHook, progress)?;
    progress.end();
    let clean = log_probs.pop().unwrap_or_default();
    let gains = cases.into_iter().zip(log_probs).filter_map(|((neuron, factor), log_probs)| {
        let (gain, error) = gain(&clean, &log_probs)?;
        Some(Rescaled { neuron: neuron.clone(), factor, gain, error })
    });
    Ok(gains.max_by(|a, b| a.gain.total_cmp(&b.gain)))
}

/// The mean gain of a token and its standard error, in powers of ten; none where chance gives as much, or where no
/// number comes of it.
fn gain(before: &[f64], after: &[f64]) -> Option<(f64, f64)> {
    let count = before.len() as f64;
    let gains = || before.iter().zip(after).map(|(before, after)| (after - before) / LN_10);
    let mean = gains().sum::<f64>() / count;
    let variance = gains().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let error = (variance / count).sqrt();
    (mean.is_finite() && mean > LEAST_ERRORS * error).then_some((mean, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_on_a_few_tokens_is_chance() {
        let before = vec![-LN_10; 100];
        let after = |gained: usize, by: f64| (0..100).map(|at| if at < gained { by - LN_10 } else { -LN_10 }).collect();
        let gain = |after: Vec<f64>| gain(&before, &after).map(|(gain, _)| gain);
        // A fifth of a power of ten on the whole.
        assert_eq!(gain(after(4, 5.0 * LN_10)), None);
        assert!(gain(after(50, 0.4 * LN_10)).is_some_and(|gain| (gain - 0.2).abs() < 1e-9));
        assert_eq!(gain(after(50, -LN_10)), None);
        assert_eq!(gain(vec![f64::NAN; 100]), None);
        assert_eq!(gain(vec![f64::NEG_INFINITY; 100]), None);
    }
}
