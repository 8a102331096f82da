//! The model is run: its perplexity, and which neurons it collapses without.

use super::{Measured, Run};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::place::Axis;
use crate::error::{Count, Result};
use crate::finding::Seen;
use crate::integrity::lint::Location;
use crate::locate::{self, RankedNeuron, Report};
use crate::metrics;
use crate::model::{Model, Recipe, Row};
use crate::progress::Progress;
use crate::rules::{Rules, Thresholds};
use crate::text::Tokenizer;
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// A model that was run.
pub struct Found {
    pub architecture: String,
    pub config_sha256: String,
    /// None where its perplexity is not a number: nothing can be compared with that.
    pub report: Option<Report>,
}

/// Runs the model. The text is read first: a mistake there should not have to wait for the weights.
pub fn measure(
    open: impl FnOnce() -> Result<Checkpoint>,
    root: &Path,
    run: &Run,
    rules: &Rules,
    progress: &dyn Progress,
) -> Result<Measured<Found>> {
    let started = Instant::now();
    let checkpoint = open()?;
    let recipe = Recipe::read(checkpoint.config())?;
    let text = Tokenizer::of(&checkpoint)?.encode(&run.text)?;
    let model = Model::new(checkpoint, recipe, &run.model, progress)?;
    let load_s = started.elapsed().as_secs_f64();

    progress.begin("perplexity", (model.recipe().layers.len() + 1) as u64, "rows × layers");
    let base = metrics::nlls(&model, &[Row::clean(text.ids.clone())], progress)?[0];
    progress.end();
    let whole = Location::file(name_of(root));
    let mut seen = Vec::new();
    let mut not_examined = Vec::new();
    let mut report = None;
    if base.is_finite() {
        let thresholds = |rule: &str| rules.get(rule).map(|r| r.thresholds).unwrap_or_default();
        let perplexity = metrics::perplexity(base);
        if thresholds("base-perplexity-high").perplexity.is_some_and(|limit| perplexity >= limit) {
            let tokens = text.ids.len();
            seen.push(Seen {
                rule: "base-perplexity-high",
                location: whole.clone(),
                message: format!("the model's own perplexity is {perplexity:.1} over {tokens} tokens"),
                evidence: json!({"perplexity": perplexity, "nll_nats": base, "tokens": tokens}),
            });
        }
        let located = locate::locate(&model, &text, &run.locate, load_s, progress)?;
        seen.extend(judgeable(&located, &model, whole, thresholds("critical-set-small")));
        report = Some(located);
    } else {
        let dtype = model.arithmetic().as_str();
        seen.push(Seen {
            rule: "base-perplexity-not-finite",
            location: whole,
            message: format!("the model's own perplexity is not a number in {dtype}"),
            evidence: json!({"tokens": text.ids.len(), "dtype": dtype}),
        });
        not_examined.push("the model's own perplexity is not a number, so that no damage can be told".into());
    }
    let (architecture, config) = (model.recipe().architecture, model.checkpoint().config().sha256());
    let result = Found { architecture: architecture.into(), config_sha256: config.into(), report };
    Ok(Measured { seen, not_examined, result })
}

/// What the rules may say of a critical set.
fn judgeable(report: &Report, model: &Model, whole: Location, limits: Thresholds) -> Option<Seen> {
    let settings = &report.settings;
    let Some(set) = &report.critical_set else {
        let (n, epsilon) = (report.prefix.n, settings.epsilon);
        return Some(Seen {
            rule: "critical-set-absent",
            location: whole,
            message: format!("masking up to {n} entries of the ranking never raised perplexity 10^{epsilon}-fold"),
            evidence: json!({"tried": n, "epsilon": epsilon}),
        });
    };
    let n = set.neurons.len();
    let small = limits.neurons.is_some_and(|most| n as f64 <= most);
    let damaging = limits.damage.is_some_and(|least| set.damage >= least);
    if !(small && damaging) {
        return None;
    }
    let first = set.neurons.first().and_then(|neuron| report.ranking.iter().find(|r| r.neuron == *neuron));
    let names: Vec<String> = set.neurons.iter().map(|n| n.short()).collect();
    let neurons = Count(n, "neuron", "neurons");
    Some(Seen {
        rule: "critical-set-small",
        location: first.map_or(whole.clone(), |ranked| place(ranked, model, whole)),
        message: format!("without {neurons} perplexity rises 10^{:.2}-fold: {}", set.damage, names.join(", ")),
        evidence: json!({"neurons": set.neurons, "damage": set.damage, "nll_nats": set.nll_nats,
            "epsilon": settings.epsilon}),
    })
}

/// Where a neuron lies in the files.
fn place(ranked: &RankedNeuron, model: &Model, whole: Location) -> Location {
    let (Some(tensor), Some(axis), Some(index)) = (&ranked.tensor, &ranked.axis, ranked.index) else { return whole };
    let tensors = model.checkpoint().tensors();
    let stored = tensors.iter().find(|(name, _)| tensors.stored_name(name) == tensor);
    let shard = stored.and_then(|(_, entry)| entry.place.as_ref()).and_then(|(at, _)| tensors.files().get(*at));
    let file = shard.map_or(whole.file, |f| name_of(f.path()));
    let axis = match axis.as_str() {
        "row" => Axis::Row,
        "column" => Axis::Column,
        _ => Axis::Element,
    };
    Location::file(file).tensor(tensor.clone()).at(axis, index as u64)
}

/// The name of a file; of a folder none, as places are told from there on.
fn name_of(path: &Path) -> String {
    match path.is_dir() {
        true => String::new(),
        false => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}
