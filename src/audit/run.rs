//! The model is run, loaded once for all that needs it.

use super::cache::Cache;
use super::measured::{BaseModel, BaselineCheck, LocatedSummary, Observations, Run, RunResult, Wanted};
use super::rescaled;
use super::{base, baseline, beside, critical_set};
use crate::checkpoint::{self, Checkpoint};
use crate::compare::{self, BaseName, Compared, Unsearched};
use crate::compute::Row;
use crate::error::{Error, Result};
use crate::evaluate::metrics;
use crate::evaluate::text::Tokenizer;
use crate::locate::{self, OpenedSubject, Subject};
use crate::monitor::{self, Prompts};
use crate::progress::Progress;
use crate::rules::{Measurement, Rules};
use std::sync::Arc;

/// Runs the model, unless that was done before, and tells what the rules may judge.
///
/// # Errors
/// The checkpoint cannot be loaded or the user asked to stop. What else fails is told of its measurement.
pub fn run(
    opened: &Arc<checkpoint::Opened>,
    run: &Run,
    wanted: Wanted,
    rules: &Rules,
    progress: &dyn Progress,
) -> Result<(RunResult, Observations)> {
    let checkpoint = Checkpoint::of(opened)?;
    let base = BaseModel::open(run, wanted, progress)?;
    let cached = |checkpoint: &Checkpoint| match Cache::of(checkpoint, base.as_ref(), run, wanted, rules) {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            tracing::warn!("the cache is not used: {error}");
            Ok(None)
        }
        Ok(cache) => Ok(Some(cache)),
    };
    let cache = if run.cache { cached(&checkpoint)? } else { None };
    let (mut ran, checkpoint) = match cache.as_ref().and_then(Cache::get) {
        Some(ran) => (ran, checkpoint),
        None => {
            let (ran, checkpoint) = measure((checkpoint, base.as_ref()), run, wanted, rules, progress)?;
            if let Some(before) = cache.filter(|_| ran.failed.is_empty())
                && let Some(cache) = cached(&checkpoint)?
            {
                match cache.is_still(&before) {
                    true => cache.put(&ran),
                    false => {
                        tracing::warn!("the result is not kept: files were written to a moment ago, or lie in memory")
                    }
                }
            }
            (ran, checkpoint)
        }
    };
    let mut seen = observe(&ran, &checkpoint, rules);
    if let (Some(base), true) = (base, ran.compared.is_some()) {
        let differs = base.checkpoint().and_then(|base| beside::observe(&checkpoint, &base, &run.text));
        seen.extend(ran.tell(&[Measurement::Base], differs)?.map(|seen| (Measurement::Base, seen)));
    }
    Ok((ran, seen))
}

fn observe(ran: &RunResult, checkpoint: &Checkpoint, rules: &Rules) -> Observations {
    let mut seen = Vec::new();
    if let Some(located) = &ran.located {
        seen.push((Measurement::CriticalSet, critical_set::observe(located, checkpoint, rules)));
    }
    if let Some(compared) = &ran.compared {
        seen.push((Measurement::Base, base::observe(compared, checkpoint, rules)));
    }
    if let Some(checked) = &ran.checked {
        seen.push((Measurement::Baseline, baseline::observe(checked, checkpoint)));
    }
    seen
}

fn measure(
    (checkpoint, base): (Checkpoint, Option<&BaseModel>),
    run: &Run,
    wanted: Wanted,
    rules: &Rules,
    progress: &dyn Progress,
) -> Result<(RunResult, Checkpoint)> {
    let opened = OpenedSubject::new(checkpoint, &run.text)?;
    let mut ran = RunResult {
        architecture: opened.recipe.architecture.into(),
        config_sha256: opened.checkpoint.config().sha256().into(),
        ..RunResult::default()
    };
    // A mistake in what the model is held against should not have to wait for the search.
    let base = match run.base.as_ref().filter(|_| wanted.base) {
        Some(name) => ran.tell(&[Measurement::Base], open_base((name, base), &opened, run, progress))?,
        None => None,
    };
    let watch = run.baseline.as_ref().filter(|_| wanted.baseline);
    let watched = match watch {
        Some(watch) => ran.tell(&[Measurement::Baseline], prompts(watch, &opened.checkpoint))?,
        None => None,
    };
    let subject = match opened.check_memory(&run.locate, &run.model) {
        Err(error @ Error::Memory { .. }) if wanted.critical_set || wanted.base => return Err(error),
        // What else is wrong with the search concerns what hangs on it alone.
        _ => opened.load(&run.model, progress)?,
    };
    ran.weights = subject.model.identity().weights;
    if wanted.critical_set || wanted.base {
        let base = match base {
            Some(base) => ran.tell(&[Measurement::Base], base.search(&run.model, &run.locate, progress))?,
            None => None,
        };
        let on_it: Vec<Measurement> = wanted.measurements().filter(|m| *m != Measurement::Baseline).collect();
        if let Some((located, whole)) = ran.tell(&on_it, locate(&subject, run, progress))? {
            ran.located = wanted.critical_set.then_some(located);
            match (whole, base) {
                (None, _) => ran.fail(&on_it, &metrics::not_finite(&subject.model)),
                (Some(whole), Some(base)) => {
                    let compared = compare::compare(&base, &subject, &whole, &base::limits(rules), progress);
                    ran.compared = ran.tell(&[Measurement::Base], compared)?;
                    ran.failed.extend(uncompared(ran.compared.as_ref()));
                }
                (Some(_), None) => {}
            }
        }
    }
    if let (Some(watch), Some(prompts)) = (watch, watched) {
        let alpha = baseline::alpha(rules);
        let checked = monitor::check_model(&subject.model, &watch.baseline, &prompts, alpha, progress);
        ran.checked = ran.tell(&[Measurement::Baseline], checked)?;
    }
    Ok((ran, subject.model.into_checkpoint()))
}

fn locate(subject: &Subject, run: &Run, progress: &dyn Progress) -> Result<(LocatedSummary, Option<locate::Located>)> {
    let Subject { model, text, .. } = subject;
    progress.begin("perplexity", (model.recipe().layers.len() + 1) as u64, "rows × layers");
    let nll_nats = metrics::nlls(model, &[Row::clean(text.ids.clone())], progress)?[0];
    progress.end();
    let whole = match nll_nats.is_finite() {
        true => Some(locate::locate(subject, &run.locate, progress)?),
        false => None,
    };
    let report = whole.as_ref().map(|located| located.report.clone());
    let rescaled = match &report {
        Some(report) => rescaled::measure(subject, &report.result, run.locate.max_neurons, progress)?,
        None => None,
    };
    let located =
        LocatedSummary { tokens: text.ids.len(), dtype: model.arithmetic().as_str().into(), report, rescaled };
    Ok((located, whole))
}

fn open_base(
    (name, model): (&BaseName, Option<&BaseModel>),
    variant: &OpenedSubject,
    run: &Run,
    progress: &dyn Progress,
) -> Result<Unsearched> {
    let base = match model {
        Some(model) => Unsearched::model(model.checkpoint()?, &run.text)?,
        None => Unsearched::open(name, &run.text, progress)?,
    };
    base.check(variant, &run.locate)?;
    Ok(base)
}

fn prompts(watch: &BaselineCheck, checkpoint: &Checkpoint) -> Result<Prompts> {
    Prompts::read(&watch.prompts, &Tokenizer::of(checkpoint)?, watch.baseline.settings.max_tokens)
}

/// A base that was searched with other settings says nothing of importances; a published one never does.
fn uncompared(compared: Option<&Compared>) -> Option<(Measurement, String)> {
    let compared = compared.filter(|c| c.base.published.is_none())?;
    Some((Measurement::Base, compared.importance_not_compared.clone()?))
}
