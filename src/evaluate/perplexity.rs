//! The perplexity of a text, with and without some neurons.

use super::metrics;
use super::text::Encoded;
use crate::compute::{Arithmetic, Model, Row};
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::{Error, Result};
use crate::neuron::{self, Action, Intervention, Neuron};
use crate::progress::Progress;
use serde::Serialize;

/// What neurons are multiplied by, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaled {
    /// None: nothing is compared.
    pub neurons: Vec<Neuron>,
    /// The factor on the neurons; 0 masks them.
    pub beta: f64,
}

impl Scaled {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// The factor is not finite, or a neuron is given twice.
    pub fn check(&self) -> Result<()> {
        match self.beta.is_finite() {
            true => neuron::check_distinct(&self.neurons),
            false => Err(Error::input(format!("beta is {}, expected a finite number", self.beta))),
        }
    }

    /// What is done to each of the neurons.
    pub fn interventions(&self) -> Vec<Intervention> {
        let action = if self.beta == 0.0 { Action::Zero } else { Action::Scale(self.beta) };
        self.neurons.iter().map(|neuron| Intervention { neuron: neuron.clone(), action }).collect()
    }
}

/// The perplexity of a text (`achilles-audit/perplexity/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// Of the model as it is.
    pub base: Measured,
    /// Of the model with the neurons changed; none where there were none to change.
    pub changed: Option<Changed>,
}

/// A perplexity and its logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Mean over the targets of −ln P.
    pub nll_nats: f64,
    /// exp of that.
    pub perplexity: f64,
}

/// A perplexity beside that of the model as it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Changed {
    /// Mean over the targets of −ln P.
    pub nll_nats: f64,
    /// exp of that.
    pub perplexity: f64,
    /// log10 of the ratio of the perplexities.
    pub damage: f64,
}

/// How a perplexity was computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerplexitySettings {
    /// The precision of the arithmetic.
    pub dtype: Arithmetic,
    /// The device that computed, such as cpu or cuda:0.
    pub device: String,
    /// Tokens of the text; each but the first is predicted.
    pub tokens: usize,
    /// SHA-256 of the text in UTF-8, lower-case hex.
    pub text_sha256: String,
    /// The neurons that were changed.
    pub neurons: Vec<Neuron>,
    /// What they were multiplied by.
    pub beta: f64,
}

impl Kind for Perplexity {
    const SCHEMA: &'static str = "achilles-audit/perplexity/v1";
    type Model = ModelIdentity;
    type Settings = PerplexitySettings;
}

/// Computes it.
///
/// # Errors
/// As [`Scaled::check`]; a neuron is not in the model; or the model computes no number.
pub fn perplexity(
    model: &Model,
    text: &Encoded,
    scaled: &Scaled,
    progress: &dyn Progress,
) -> Result<Document<Perplexity>> {
    scaled.check()?;
    let Scaled { neurons, beta } = scaled;
    let mut rows = vec![Row::clean(text.ids.clone())];
    if !neurons.is_empty() {
        rows.push(Row::with(text.ids.clone(), scaled.interventions()));
    }
    progress.begin("perplexity", (rows.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
    let nlls = metrics::nlls(model, &rows, progress)?;
    progress.end();
    let base = metrics::base(nlls[0], || metrics::not_finite(model))?;
    if nlls.get(1).is_some_and(|nll| !nll.is_finite()) {
        return Err(not_a_number(model, scaled));
    }
    let changed = nlls.get(1).map(|nll| Changed {
        nll_nats: *nll,
        perplexity: metrics::perplexity(*nll),
        damage: metrics::damage(*nll, base),
    });
    let settings = PerplexitySettings {
        dtype: model.arithmetic(),
        device: model.device_name(),
        tokens: text.ids.len(),
        text_sha256: text.sha256.clone(),
        neurons: neurons.clone(),
        beta: *beta,
    };
    let base = Measured { nll_nats: base, perplexity: metrics::perplexity(base) };
    let identity = model.identity();
    Ok(Document::new(identity, settings, Perplexity { base, changed }))
}

/// Why there is no perplexity with the neurons changed.
pub(super) fn not_a_number(model: &Model, scaled: &Scaled) -> Error {
    let (beta, dtype) = (scaled.beta, model.arithmetic().as_str());
    let problem = format!("with the neurons × {beta} the perplexity is not a number: the arithmetic overflows {dtype}");
    Error::input(format!("{problem}; use another factor or a wider --dtype"))
}
