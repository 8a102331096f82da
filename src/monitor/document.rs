//! What a check against a baseline found, as a document.

use super::{
    Baseline, BaselineSettings, Checked, Prompts, check, check_false_alarm_rate, check_model, read_activations,
};
use crate::checkpoint::sha256_hex;
use crate::compute::{Arithmetic, Model};
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::Result;
use crate::files;
use crate::progress::Progress;
use serde::Serialize;
use std::path::Path;

/// Activations beside a baseline (`achilles-audit/activation-check/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckDocument {
    /// What they were held against.
    pub baseline: BaselineIdentity,
    /// What came of it.
    pub result: Checked,
}

/// Which baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BaselineIdentity {
    /// Whose profile it is.
    pub model: ModelIdentity,
    /// How it was recorded.
    pub settings: BaselineSettings,
}

/// The model that was run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckedModel {
    /// The model that was recorded or checked.
    #[serde(flatten)]
    pub identity: ModelIdentity,
    /// The precision of the arithmetic.
    pub dtype: Arithmetic,
    /// The device that computed, such as cpu or cuda:0.
    pub device: String,
    /// SHA-256 of the prompts.
    pub text_sha256: String,
}

/// How activations were checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckSettings {
    /// The probability of a false alarm.
    pub alpha: f64,
    /// The file of activations, where a serving process dumped them.
    pub activations: Option<String>,
    /// The baseline's file, as it was named.
    pub baseline: String,
    /// SHA-256 of the baseline's bytes, lower-case hex.
    pub baseline_sha256: String,
}

impl Kind for CheckDocument {
    const SCHEMA: &'static str = "achilles-audit/activation-check/v1";
    /// None where activations were dumped.
    type Model = Option<CheckedModel>;
    type Settings = CheckSettings;
}

/// What is held against a baseline.
pub enum Watched<'a> {
    /// A model, run on prompts.
    Model(&'a Model, &'a Prompts),
    /// The activations in a file.
    Activations(&'a Path),
}

/// Holds activations against the baseline that was read from `file`.
///
/// # Errors
/// As [`check_model`] and [`read_activations`].
pub fn check_watched(
    watched: &Watched<'_>,
    (file, baseline): (&Path, &Baseline),
    alpha: f64,
    progress: &dyn Progress,
) -> Result<Document<CheckDocument>> {
    check_false_alarm_rate(alpha)?;
    let (model, activations, result) = match watched {
        Watched::Activations(dump) => {
            let observed = read_activations(dump, baseline)?;
            (None, Some(dump.to_string_lossy().into_owned()), check(baseline, &observed, alpha)?)
        }
        Watched::Model(model, prompts) => {
            let checked = check_model(model, baseline, prompts, alpha, progress)?;
            let model = CheckedModel {
                identity: model.identity(),
                dtype: model.arithmetic(),
                device: model.device_name(),
                text_sha256: prompts.sha256.clone(),
            };
            (Some(model), None, checked)
        }
    };
    let settings = CheckSettings {
        alpha,
        activations,
        baseline: file.to_string_lossy().into_owned(),
        baseline_sha256: sha256_hex(&files::read_regular(file)?),
    };
    let baseline = BaselineIdentity { model: baseline.model.clone(), settings: baseline.settings.clone() };
    Ok(Document::new(model, settings, CheckDocument { baseline, result }))
}
