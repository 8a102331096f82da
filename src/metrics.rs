//! What is measured of a text under a model: NLL, perplexity, damage.

use crate::error::{Error, Result};
use crate::model::{Hook, Model, NoHook, Row};
use crate::neuron::{Neuron, Site};
use crate::progress::Progress;
use candle_core::{D, DType, Tensor};
use std::sync::Arc;

/// Mean over targets of −ln P(x_t | x_<t), in nats.
pub fn nll_nats(log_probs: &[f64]) -> f64 {
    -log_probs.iter().sum::<f64>() / log_probs.len() as f64
}

/// exp(NLL).
pub fn perplexity(nll_nats: f64) -> f64 {
    nll_nats.exp()
}

/// Δ = log10(perplexity / base perplexity) = (NLL − base NLL) / ln 10. An NLL that is not a number or infinite (the
/// arithmetic overflowed under the intervention) is infinite damage.
pub fn damage(nll_nats: f64, base_nll_nats: f64) -> f64 {
    if nll_nats.is_finite() { (nll_nats - base_nll_nats) / std::f64::consts::LN_10 } else { f64::INFINITY }
}

/// The NLL of every row in nats.
///
/// # Errors
/// As [`Model::target_log_probs`].
pub fn nlls(model: &Model, rows: &[Row], progress: &dyn Progress) -> Result<Vec<f64>> {
    let log_probs = model.target_log_probs(rows, &mut NoHook, progress)?;
    Ok(log_probs.iter().map(|row| nll_nats(row)).collect())
}

/// The NLL of the text with nothing done to it.
///
/// # Errors
/// As [`nlls`]; also where it is not a number: then nothing can be compared with it.
pub fn base(nll: f64, dtype: &str) -> Result<f64> {
    if nll.is_finite() {
        return Ok(nll);
    }
    Err(Error::input(format!(
        "the model's own perplexity is not a number in {dtype}; use --dtype f32, or look for NaN in the weights"
    )))
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
    model.trace(&[Row::clean(tokens.clone())], &mut hook, progress)?;
    Ok(hook.means)
}
