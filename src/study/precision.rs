//! The collapse in each floating-point format (the paper's Tables 4, 16, 17).

use super::answers;
use super::context::measure;
use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study};
use crate::architecture::module::{ModuleKind, Role};
use crate::checkpoint::Checkpoint;
use crate::compute::{Arithmetic, ComputeSettings, Hook, Model, Row};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::{Intervention, Side, Site};
use crate::probe;
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

pub(super) const STUDY: Study = Study {
    name: "precision",
    paper: "Tables 4, 16, 17",
    about: "Perplexity, RMS of what norms put out, values that are not finite, and answers in f16, bf16, f32 and f64",
    run,
};

const FORMATS: [Arithmetic; 4] = [Arithmetic::F16, Arithmetic::Bf16, Arithmetic::F32, Arithmetic::F64];

/// The share of the largest damage within which damages are the same but for rounding.
const ALIKE: f64 = 0.05;

/// Tokens of an answer.
const NEW_TOKENS: usize = 16;

fn run(context: &Context) -> Result<Outcome> {
    let set = context.set()?.to_vec();
    let masks: Vec<Intervention> = set.iter().cloned().map(Intervention::zero).collect();
    let sets = [Vec::new(), masks];
    let prompts = answers::prompts(context)?;
    let mut perplexities = Table::new(
        "perplexity",
        "Before and after the critical set is masked",
        &["format", "corpus", "perplexity", "perplexity, masked", "damage"],
    );
    let mut norms = Table::new(
        "norms",
        "RMS of what a layer's norms put out for the reference text, and by how much the mask moves it",
        &["format", "layer", "rms", "rms, masked", "change"],
    );
    let mut not_finite = Table::new(
        "not-finite",
        "Values of all modules that are NaN or infinite for the reference text",
        &["format", "values", "not finite", "not finite, masked", "mean change of rms"],
    );
    let mut answered = Table::new("answers", "Greedy answers", &["format", "question", "before", "after"]);
    let mut overflowing = Vec::new();
    let (mut damages, mut moved, mut bad, mut same_answers) = (Vec::new(), Vec::new(), 0, Vec::new());
    for format in FORMATS {
        let name = format.as_str();
        let reopened;
        let model = match format == context.model().arithmetic() {
            true => context.model(),
            false => {
                reopened = in_format(context, format)?;
                &reopened
            }
        };
        let measured = measure(model, (&context.subject.text, &context.corpora), &sets, None, context.progress)?;
        for of in &measured {
            let [clean, masked] = [of.nlls[0], of.nlls[1]].map(metrics::perplexity);
            perplexities.rows.push(row![name, of.corpus.as_str(), clean, masked, of.damage(1)]);
        }
        damages.extend(measured[0].damage(1));
        let seen = Seen::of(context, model, &sets)?;
        for (layer, [before, after]) in &seen.rms {
            norms.rows.push(row![name, *layer, *before, *after, after - before]);
        }
        let changes: Vec<f64> = seen.rms.values().map(|[before, after]| after - before).collect();
        let mean = changes.iter().sum::<f64>() / changes.len().max(1) as f64;
        let [clean, masked] = seen.not_finite;
        not_finite.rows.push(row![name, seen.values, clean, masked, mean]);
        moved.push(mean);
        bad += clean + masked;
        let mut after = Vec::new();
        // Logits that are not numbers answer nothing.
        if !measured[0].nlls.iter().all(|nll| nll.is_finite()) {
            overflowing.push(name);
            same_answers.push(after);
            continue;
        }
        let probed = probe::probe(model, context.tokenizer, &prompts, &set, NEW_TOKENS, context.progress)?;
        for of in probed.result.prompts {
            answered.rows.push(row![name, of.prompt, of.before.text, of.after.text.as_str()]);
            after.push(of.after.text);
        }
        same_answers.push(after);
    }
    let (least, most) = range(&damages);
    let (still, far) = range(&moved);
    // The paper's table is of f16 and f32 alone.
    let same = same_answers.windows(2).all(|pair| pair[0] == pair[1]);
    let told = match (same, same_answers[0] == same_answers[2]) {
        (true, _) => "are the same in all four, as in the paper in f16 and f32",
        (false, true) => "are the same in f16 and f32, as in the paper, and differ in others",
        (false, false) => "differ between f16 and f32, unlike in the paper",
    };
    let mut findings = Vec::new();
    if !overflowing.is_empty() {
        findings.push(format!("The arithmetic overflows {}: nothing is a number there.", overflowing.join(" and ")));
    }
    findings.extend([
        match most - least <= ALIKE * most.abs() {
            _ if least < context.search.epsilon => {
                format!("The damage is {least:.2} to {most:.2}: the model does not collapse in every format.")
            }
            true => format!("The damage is {least:.2} to {most:.2}: it is not a matter of rounding, as in the paper."),
            false => format!("The damage is {least:.2} to {most:.2}: it depends on the format, unlike in the paper."),
        },
        format!(
            "Masking moves the RMS of what norms put out by {still:.3} to {far:.3} in the mean over layers, and {bad} values \
             are not finite; the paper reports 0 and 0."
        ),
        format!("The answers after masking {told}."),
    ]);
    let chart =
        Chart::lines("norms", "Change of the RMS of what norms put out", &norms, "layer", "change").by("format");
    Ok(Outcome { tables: vec![perplexities, norms, not_finite, answered], charts: vec![chart], findings })
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

/// The context's model, computed in another format.
fn in_format(context: &Context, arithmetic: Arithmetic) -> Result<Model> {
    let mut checkpoint = Checkpoint::open(context.model().checkpoint().name(), context.progress)?;
    let recipe = context.model().recipe().clone();
    Model::check_tensors(&mut checkpoint, &recipe)?;
    let settings = ComputeSettings { arithmetic, ..context.compute.clone() };
    Model::new(checkpoint, recipe, &settings, context.progress)
}

/// What two rows, the second of them masked, leave at the modules of a model.
#[derive(Default)]
struct Seen {
    norms: Vec<Site>,
    /// The sum of squares and the number of values, by layer and row.
    squares: BTreeMap<usize, [(f64, usize); 2]>,
    /// By layer, without the mask and with it.
    rms: BTreeMap<usize, [f64; 2]>,
    values: usize,
    not_finite: [usize; 2],
}

impl Seen {
    fn of(context: &Context, model: &Model, sets: &[Vec<Intervention>; 2]) -> Result<Seen> {
        let is_norm = |kind: ModuleKind, role: Role| {
            matches!(kind, ModuleKind::Norm { .. }) && matches!(role, Role::NormBefore(_) | Role::NormAfter(_))
        };
        let norms = model.sites().iter().filter(|info| is_norm(info.module.kind, info.module.role));
        let outs = norms.filter(|info| info.site.side == Side::Out).map(|info| info.site.clone());
        let mut seen = Seen { norms: outs.collect(), ..Seen::default() };
        let tokens = &context.subject.text.ids;
        let rows: Vec<Row> = sets.iter().map(|set| Row::with(tokens.clone(), set.clone())).collect();
        let layers = model.recipe().layers.len();
        context.progress.begin("values", (rows.len() * layers) as u64, "rows × layers");
        model.trace(&rows, &mut seen, context.progress)?;
        context.progress.end();
        let rms = |(sum, n): (f64, usize)| (sum / n.max(1) as f64).sqrt();
        seen.rms = seen.squares.iter().map(|(layer, of)| (*layer, of.map(rms))).collect();
        Ok(seen)
    }
}

impl Hook for Seen {
    fn wants(&self, site: &Site) -> bool {
        site.side == Side::Out
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        for (group, rows) in rows.iter().enumerate() {
            let x = x.get(group)?.to_dtype(DType::F64)?;
            // 0 × x is 0 unless x is not finite.
            let zeroed = (&x * 0.0)?;
            let bad = zeroed.ne(&zeroed)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()? as usize;
            let layer = site.module.layer().filter(|_| self.norms.contains(site));
            let squares = match layer {
                Some(_) => x.sqr()?.sum_all()?.to_scalar::<f64>()?,
                None => 0.0,
            };
            for &row in rows {
                self.not_finite[row] += bad;
                self.values += if row == 0 { x.elem_count() } else { 0 };
                if let Some(layer) = layer {
                    let (sum, n) = &mut self.squares.entry(layer).or_default()[row];
                    *sum += squares;
                    *n += x.elem_count();
                }
            }
        }
        Ok(None)
    }
}
