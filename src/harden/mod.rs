//! Hardens a checkpoint: spare neurons that are silent in the healthy model and stand in for a critical row of down_proj
//! once that is lost. Nothing is trained, and no shape changes. docs/hardening.md has the method and its figures.

mod fit;
mod measure;
mod place;
mod states;
mod sums;
mod texts;

pub use measure::{Kind, Lesion};
pub use texts::{Calibration, KEPT_OUT};

use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::compute::{ComputeSettings, Model};
use crate::document::{self, Document, ModelIdentity};
use crate::error::{Error, Result};
use crate::neuron::{self, Neuron};
use crate::patch::{Line, Plan, Spare};
use crate::progress::Progress;
use measure::Nlls;
use place::Place;
use serde::Serialize;
use std::collections::BTreeMap;
use texts::Tokens;

/// What to spare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HardenSettings {
    /// Spares of each critical row.
    pub spares: usize,
    /// The damage of losing all critical rows at once that is little enough to stop: rows are spared in the order of the
    /// damage that each does alone.
    pub enough: f64,
}

impl Default for HardenSettings {
    fn default() -> HardenSettings {
        HardenSettings { spares: 1, enough: 0.5 }
    }
}

/// What hardening did, measured with the weights as they are written (`achilles-audit/harden/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hardened {
    /// The critical rows, in the order of the damage that each does alone.
    pub critical: Vec<Neuron>,
    /// The spares, in the order in which they were fitted.
    pub spares: Vec<Fitted>,
    /// Perplexity of texts kept out of the fit, of each kind.
    pub kinds: Vec<Kind>,
    /// The change of the perplexity of all of them, as a share of what it was.
    pub change: f64,
    /// What losing rows costs: each critical one, each row of a spare, all but the last spare's, and all.
    pub lesions: Vec<Lesion>,
}

/// A spare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fitted {
    /// What it is: one neuron or two, the sink before the correction.
    #[serde(flatten)]
    pub spare: Spare,
    /// How much the texts used the neurons that were overwritten: the root mean square of the activation times the length
    /// of the column of down_proj.
    pub used: Vec<f64>,
    /// The share of what lacks at other positions than the first that the spare does not restore.
    pub left: f64,
}

/// What a model is hardened by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Used {
    /// What to spare.
    #[serde(flatten)]
    pub settings: HardenSettings,
    /// The corpus.
    pub corpus: String,
    /// Its SHA-256.
    pub corpus_sha256: String,
    /// How many texts were fitted to.
    pub fitted_to: usize,
    /// How many were judged by.
    pub judged_by: usize,
    /// What was computed in.
    pub dtype: String,
}

impl document::Kind for Hardened {
    const SCHEMA: &'static str = "achilles-audit/harden/v1";
    type Model = ModelIdentity;
    type Settings = Used;
}

/// Works out the edits that harden a checkpoint, and measures what they make of it; nothing is written.
///
/// # Errors
/// A neuron is no output of down_proj, no later layer can hold a spare, weights are packed, or the model cannot be
/// computed with.
pub fn harden(
    checkpoint: Checkpoint,
    critical: &[Neuron],
    calibration: &Calibration,
    settings: &HardenSettings,
    compute: &ComputeSettings,
    progress: &dyn Progress,
) -> Result<(Checkpoint, Plan, Document<Hardened>)> {
    if checkpoint.opened().is_gguf() {
        let problem = "is a GGUF, whose blocks cannot hold a spare's values; harden the model it was made from, or what \
                       `achilles-audit import` makes of it";
        return Err(Error::file(checkpoint.root(), problem));
    }
    if critical.is_empty() || settings.spares == 0 {
        return Err(Error::input("there is nothing to spare: name a critical neuron, and at least one spare"));
    }
    neuron::check_distinct(critical)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let places = |neuron: &Neuron| places_of(&recipe, neuron, settings.spares);
    let mut critical: Vec<(Vec<Place>, Neuron)> =
        critical.iter().map(|neuron| Ok((places(neuron)?, neuron.clone()))).collect::<Result<_>>()?;
    for place in critical.iter().flat_map(|(places, _)| places) {
        place.check_is_plain(checkpoint.tensors())?;
    }
    let tokens = Tokens::of(calibration, &checkpoint, recipe.vocab_size)?;

    let original = checkpoint;
    let load = |lines: &[Line], spares: &[Spare]| -> Result<(Plan, Model)> {
        let plan = Plan::of_lines(&original, &recipe, lines, spares)?;
        let model = Model::new(plan.applied(&original)?, recipe.clone(), compute, progress)?;
        Ok((plan, model))
    };
    let mut model = Model::new(Checkpoint::of(original.opened())?, recipe.clone(), compute, progress)?;
    let identity = model.identity();
    let dtype = model.arithmetic().as_str().to_owned();
    let all: Vec<Neuron> = critical.iter().map(|(_, neuron)| neuron.clone()).collect();
    let alone: Vec<Vec<Neuron>> = all.iter().map(|neuron| vec![neuron.clone()]).collect();
    let before = measure::nlls(&model, &tokens, &[alone, vec![all.clone()]].concat(), progress)?;
    let base = before[0].clone();
    let known: BTreeMap<Vec<Neuron>, f64> = (all.iter().map(|neuron| vec![neuron.clone()]))
        .chain([all.clone()])
        .zip(&before[1..])
        .map(|(lesion, lesioned)| (lesion, measure::damage(&base, lesioned).0))
        .collect();
    let alone = |neuron: &Neuron| known.get(std::slice::from_ref(neuron)).copied().unwrap_or_default();
    critical.sort_by(|a, b| alone(&b.1).total_cmp(&alone(&a.1)));

    let (mut lines, mut fitted): (Vec<Line>, Vec<Fitted>) = (Vec::new(), Vec::new());
    let mut plan = None;
    for (places, neuron) in &critical {
        let mut lesion = vec![neuron.clone()];
        for place in places {
            let states = states::states(&model, place, &lesion, &tokens, progress)?;
            let taken: Vec<usize> = fitted
                .iter()
                .flat_map(|fitted| &fitted.spare.neurons)
                .filter(|n| n.site == place.inner)
                .map(|n| n.channel)
                .collect();
            let chosen = fit::least_used(&states, place, model.checkpoint().tensors(), &taken)?;
            let neurons = chosen.map(|(neuron, _)| neuron);
            let from = lines.len();
            lines.extend(fit::silent(place, neurons, &fit::rows(&states)?));
            let firsts = states.firsts;
            model = load(&lines, &[])?.1;
            let lack = states::lack(&model, place, &lesion, (&firsts, &tokens.texts), neurons, progress)?;
            let columns = fit::columns(place, neurons, &lack)?;
            // Where a lesioned position cannot be told from a healthy one, that neuron stays what it was.
            let kept = if lack.leak() <= fit::MOST_LEAK { 2 } else { 1 };
            lines.truncate(from + 3 * kept);
            for line in columns {
                let place = lines[from..].iter_mut().find(|known| known.neuron == line.neuron);
                place.into_iter().for_each(|known| known.values = line.values.clone());
            }
            let row = Neuron { site: place.output.clone(), channel: neuron.channel };
            let columns = neurons[..kept].iter().map(|neuron| place.lines(*neuron)[2].clone());
            let spare = Spare { stands_for: neuron.clone(), row: row.clone(), neurons: columns.collect() };
            let restored = if kept == 2 { lack.rest.norm_squared() / lack.squares } else { 0.0 };
            let left = 1.0 - restored / lack.rest_squares;
            let used = chosen[..kept].iter().map(|(_, used)| *used);
            fitted.push(Fitted { spare, used: used.collect(), left });
            lesion.push(row);
            let spares: Vec<Spare> = fitted.iter().map(|fitted| fitted.spare.clone()).collect();
            let (planned, loaded) = load(&lines, &spares)?;
            (plan, model) = (Some(planned), loaded);
        }
        let now = measure::nlls(&model, &tokens, std::slice::from_ref(&all), progress)?;
        if measure::damage(&base, &now[1]).0 <= settings.enough {
            break;
        }
    }
    let plan = plan.ok_or_else(|| Error::input("there is nothing to spare"))?;
    let lesions = lesions_of(&all, &fitted);
    let after = measure::nlls(&model, &tokens, &lesions, progress)?;
    let result = Hardened {
        critical: critical.into_iter().map(|(_, neuron)| neuron).collect(),
        spares: fitted,
        kinds: measure::kinds(&base, &after[0]),
        change: measure::change(&base, &after[0]),
        lesions: lesions
            .into_iter()
            .zip(&after[1..])
            .map(|(neurons, nlls)| told(&base, &known, neurons, nlls))
            .collect(),
    };
    let used = Used {
        settings: settings.clone(),
        corpus: calibration.name.clone(),
        corpus_sha256: calibration.sha256.clone(),
        fitted_to: tokens.texts.len(),
        judged_by: tokens.judge.len(),
        dtype,
    };
    Ok((original, plan, Document::new(identity, used, result)))
}

fn told(base: &Nlls, before: &BTreeMap<Vec<Neuron>, f64>, neurons: Vec<Neuron>, lesioned: &Nlls) -> Lesion {
    let (damage_after, worst_kind) = measure::damage(base, lesioned);
    Lesion { damage_before: before.get(&neurons).copied(), neurons, damage_after, worst_kind }
}

/// The next layers after a critical row whose MLPs can hold a spare, so many.
fn places_of(recipe: &Recipe, neuron: &Neuron, spares: usize) -> Result<Vec<Place>> {
    let first = place::layer_of(recipe, neuron)? + 1;
    let places = (first..recipe.layers.len()).filter_map(|layer| Place::of(recipe, layer).transpose());
    let places: Vec<Place> = places.take(spares).collect::<Result<_>>()?;
    if places.len() == spares {
        return Ok(places);
    }
    let problem = format!(
        "{} of the later layers can hold a spare, asked for {spares}: that needs a gated MLP without biases, which every \
         position goes through, whose output enters the residual stream as it is (not normed, as Gemma's and OLMo 2's)",
        if places.is_empty() { "none".to_owned() } else { places.len().to_string() }
    );
    Err(Error::Name { what: "neuron", text: neuron.to_string(), problem })
}

/// What is measured: each critical row, each spare's, of each critical row all but the last spare's and all, and all
/// critical rows at once.
fn lesions_of(critical: &[Neuron], fitted: &[Fitted]) -> Vec<Vec<Neuron>> {
    let mut lesions: Vec<Vec<Neuron>> = critical.iter().map(|neuron| vec![neuron.clone()]).collect();
    lesions.extend(fitted.iter().map(|fitted| vec![fitted.spare.row.clone()]));
    for neuron in critical {
        let rows = fitted.iter().filter(|fitted| fitted.spare.stands_for == *neuron).map(|fitted| &fitted.spare.row);
        let chain: Vec<Neuron> = [neuron].into_iter().chain(rows).cloned().collect();
        lesions.extend((2..=chain.len()).map(|count| chain[..count].to_vec()));
    }
    lesions.push(critical.to_vec());
    let mut once = Vec::new();
    lesions.retain(|lesion| {
        !once.contains(lesion) && {
            once.push(lesion.clone());
            true
        }
    });
    lesions
}
