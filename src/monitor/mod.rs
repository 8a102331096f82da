//! Activation monitoring: the norms at every site over many prompts, and whether those of other prompts, of another
//! checkpoint or of a serving process are like them.

mod activations;
mod baseline;
mod check;
mod document;
mod profile;
mod prompts;
mod reading;
mod score;
mod sketch;

pub use activations::read as read_activations;
pub use baseline::{Baseline, BaselineSettings, DEFAULT_MAX_TOKENS, check_max_tokens, record};
pub use check::{Checked, DEFAULT_FALSE_ALARM_RATE, NotFinite, Outside, check, check_false_alarm_rate};
pub use document::{BaselineIdentity, CheckDocument, CheckSettings, CheckedModel, Watched, check_watched};
pub use profile::{Distribution, Extreme, Extremes, Observed, Profile, SiteProfile, Statistic, Tokens};
pub use prompts::Prompts;
pub use reading::Reading;
pub use score::p_value;
pub use sketch::{RELATIVE_ERROR, Sketch};

use crate::compute::{Model, Row};
use crate::error::Result;
use crate::neuron::Site;
use crate::progress::Progress;
use std::collections::HashMap;
use std::sync::Arc;

/// Prompts of one length that are computed together at most.
const BATCH: usize = 32;

/// Runs `prompts` through the model and checks them against the baseline.
///
/// # Errors
/// The model is of another shape, cannot compute, or as [`check`].
pub fn check_model(
    model: &Model,
    baseline: &Baseline,
    prompts: &Prompts,
    alpha: f64,
    progress: &dyn Progress,
) -> Result<Checked> {
    baseline.check_model(model)?;
    let (theirs, ours) = (baseline.settings.dtype.as_str(), model.arithmetic().as_str());
    if theirs != ours {
        tracing::warn!("the baseline was recorded in {theirs}, this computes in {ours}: rounding alone may differ");
    }
    let sites: Vec<(Site, usize)> = baseline.sites.iter().map(|s| (s.site.clone(), s.channels)).collect();
    let observed = observe(model, &sites, &prompts.ids, "checking", progress)?;
    check(baseline, &observed, alpha)
}

/// What the sites show of prompts, which are numbered from 0.
///
/// # Errors
/// The model cannot compute.
pub fn observe(
    model: &Model,
    sites: &[(Site, usize)],
    prompts: &[Arc<[u32]>],
    stage: &str,
    progress: &dyn Progress,
) -> Result<Observed> {
    let places: HashMap<Site, usize> = sites.iter().enumerate().map(|(at, (site, _))| (site.clone(), at)).collect();
    let mut observed = Observed::new(sites.iter().cloned());
    // A pass takes rows of one length.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|at| prompts[*at].len());
    progress.begin(stage, (prompts.len() * model.recipe().layers.len()) as u64, "prompts × layers");
    for same in order.chunk_by(|a, b| prompts[*a].len() == prompts[*b].len()) {
        for batch in same.chunks(BATCH) {
            let rows: Vec<Row> = batch.iter().map(|at| Row::clean(prompts[*at].clone())).collect();
            let mut tell =
                |row: usize, site, position, reading: &_| observed.add(batch[row] as u64, site, position, reading);
            model.trace(&rows, &mut reading::Reader { sites: &places, tell: &mut tell }, progress)?;
        }
    }
    progress.end();
    Ok(observed.finish())
}
