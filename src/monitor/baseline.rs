//! The baseline: a model's profile, and how far its own prompts are from it.

use super::profile::SiteProfile;
use super::prompts::Prompts;
use super::sketch::RELATIVE_ERROR;
use super::{observe, score};
use crate::architecture::module::{ModuleKind, SiteInfo};
use crate::compute::{Arithmetic, Model};
use crate::document::ModelIdentity;
use crate::error::{Error, Result};
use crate::files;
use crate::locate::SiteSelection;
use crate::neuron::Side;
use crate::progress::Progress;
use crate::tool::Tool;
use serde::{Deserialize, Serialize};
use std::path::Path;

const SCHEMA: &str = "achilles-audit/baseline/v1";
/// The largest baseline that is read, in bytes: 20 times that of a 135M model.
const LARGEST: u64 = 256 << 20;
/// Below this a baseline says nothing.
const FEWEST_PROMPTS: usize = 4;
/// Prompts are cut after so many tokens unless asked otherwise.
pub const DEFAULT_MAX_TOKENS: usize = 128;
/// A longer prompt than any model takes.
const LARGEST_MAX_TOKENS: usize = 1 << 20;

/// What `monitor record` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// `achilles-audit/baseline/v1`.
    pub schema: String,
    /// What wrote it.
    pub tool: Tool,
    /// Whose profile it is.
    pub model: ModelIdentity,
    /// How it was recorded.
    pub settings: BaselineSettings,
    /// The scores of the calibration prompts, largest first: of each its largest deviation over all sites.
    pub calibration_scores: Vec<f64>,
    /// In the order in which they are computed, over the other prompts.
    pub sites: Vec<SiteProfile>,
}

/// How a baseline was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineSettings {
    /// The precision that it was recorded in.
    pub dtype: Arithmetic,
    /// The device that computed, such as cpu or cuda:0.
    pub device: String,
    /// Which modules, beside the RMSNorms.
    pub sites: SiteSelection,
    /// Prompts are cut after so many tokens.
    pub max_tokens: usize,
    /// SHA-256 of the prompts' text, lower-case hex.
    pub text_sha256: String,
    /// Prompts that the profiles are made of: every other one, from the first.
    pub profile_prompts: usize,
    /// Prompts that the scores are of: the others.
    pub calibration_prompts: usize,
    /// How near a quantile of a profile is, relative.
    pub quantile_relative_error: f64,
}

/// Records a baseline. Of the prompts, the first, third, … make the profiles; the second, fourth, … calibrate.
///
/// # Errors
/// There are too few prompts, no module matches, or the model cannot compute.
pub fn record(
    model: &Model,
    prompts: &Prompts,
    selection: &SiteSelection,
    max_tokens: usize,
    progress: &dyn Progress,
) -> Result<Baseline> {
    if prompts.ids.len() < FEWEST_PROMPTS {
        let problem =
            format!("a baseline needs {FEWEST_PROMPTS} prompts at least, better 200; found {}", prompts.ids.len());
        return Err(Error::input(problem));
    }
    let sites: Vec<(_, usize)> = sites(model, selection)?.iter().map(|s| (s.site.clone(), s.channels)).collect();
    let (mut profiling, mut calibrating) = (Vec::new(), Vec::new());
    for (at, prompt) in prompts.ids.iter().enumerate() {
        if at % 2 == 0 { &mut profiling } else { &mut calibrating }.push(prompt.clone());
    }
    let profiles = observe(model, &sites, &profiling, "profile", progress)?.profiles;
    let calibration = observe(model, &sites, &calibrating, "calibration", progress)?;
    let mut scores: Vec<f64> = calibration.prompts.values().map(|prompt| score::score(&profiles, prompt)).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    Ok(Baseline {
        schema: SCHEMA.into(),
        tool: Tool::this(),
        model: model.identity().or_no_hub(),
        settings: BaselineSettings {
            dtype: model.arithmetic(),
            device: model.device_name(),
            sites: selection.clone(),
            max_tokens,
            text_sha256: prompts.sha256.clone(),
            profile_prompts: profiling.len(),
            calibration_prompts: scores.len(),
            quantile_relative_error: RELATIVE_ERROR,
        },
        calibration_scores: scores,
        sites: profiles,
    })
}

/// The outputs of the chosen modules and of every RMSNorm.
fn sites<'m>(model: &'m Model, selection: &SiteSelection) -> Result<Vec<&'m SiteInfo>> {
    let chosen = selection.select(model, Side::Out)?;
    let norm = |s: &SiteInfo| matches!(s.module.kind, ModuleKind::Norm { .. });
    let out = model.sites().iter().filter(|s| s.site.side == Side::Out);
    Ok(out.filter(|s| norm(s) || chosen.contains(s)).collect())
}

impl Baseline {
    /// Reads a baseline.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Baseline> {
        let bytes = files::read_at_most(path, LARGEST)?;
        let not_one = |problem: String| {
            let advice = "expected what `achilles-audit monitor record` wrote";
            Error::file(path, format!("is not a baseline: {problem}; {advice}"))
        };
        // What it is comes before what it lacks.
        #[derive(Deserialize)]
        struct Kind {
            schema: String,
        }
        let Kind { schema } = serde_json::from_slice(&bytes).map_err(|e| not_one(e.to_string()))?;
        if schema != SCHEMA {
            return Err(not_one(format!("its schema is {schema:?}, not {SCHEMA}")));
        }
        let baseline: Baseline = serde_json::from_slice(&bytes).map_err(|e| not_one(e.to_string()))?;
        baseline.checked().map_err(|problem| not_one(problem.to_string()))
    }

    fn checked(self) -> Result<Baseline> {
        let bad = |problem: String| Err(Error::input(problem));
        if self.sites.is_empty() || self.calibration_scores.is_empty() {
            return bad("it has no sites or no calibration scores".into());
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = self.sites.iter().find(|s| !seen.insert(&s.site)) {
            return bad(format!("{} is there twice", twice.site));
        }
        check_max_tokens(self.settings.max_tokens)?;
        let scores = &self.calibration_scores;
        if scores.iter().any(|s| !s.is_finite() || *s < 0.0) || !scores.is_sorted_by(|a, b| a >= b) {
            return bad("its calibration scores are not numbers from 0 on, largest first".into());
        }
        self.sites.iter().try_for_each(SiteProfile::check)?;
        Ok(self)
    }

    /// The JSON document, on one line: most of it is histograms.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string(self).map_err(|e| Error::input(format!("cannot write JSON: {e}")))?;
        Ok(text + "\n")
    }

    /// Checks that `model` has the sites of this baseline.
    ///
    /// # Errors
    /// It does not.
    pub fn check_model(&self, model: &Model) -> Result<()> {
        let other = |problem: String| {
            let (of, name) = (self.model.architecture().unwrap_or_default(), &self.model.source);
            let advice = "record a baseline of this model, or of the one it was made from";
            Err(Error::input(format!("the baseline is of another model ({name}, {of}): {problem}; {advice}")))
        };
        for profile in &self.sites {
            match model.site(&profile.site) {
                Err(_) => return other(format!("this one has no {}", profile.site)),
                Ok((_, info)) if info.channels != profile.channels => {
                    let (site, theirs, ours) = (&profile.site, profile.channels, info.channels);
                    return other(format!("{site} has {ours} channels, there {theirs}"));
                }
                Ok(_) => {}
            }
        }
        let layers = self.sites.iter().filter_map(|s| s.site.module.layer()).max().map_or(0, |last| last + 1);
        match model.recipe().layers.len() {
            ours if ours == layers => Ok(()),
            ours => other(format!("this one has {ours} layers, there {layers}")),
        }
    }
}

/// Refuses lengths that make no sense.
///
/// # Errors
/// It is below 2 or absurdly large.
pub fn check_max_tokens(max_tokens: usize) -> Result<()> {
    match max_tokens {
        2..=LARGEST_MAX_TOKENS => Ok(()),
        _ => Err(Error::input(format!("max-tokens is {max_tokens}, expected 2 to {LARGEST_MAX_TOKENS}"))),
    }
}
