//! The collapse in each floating-point format (the paper's Tables 4, 16, 17).

use super::answers;
use super::context::measure;
use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study, Use};
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
    uses: &[Use::Critical, Use::Corpora],
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
    let (mut damages, mut moved, mut bad, mut answers_in) = (Vec::new(), Vec::new(), 0, BTreeMap::new());
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
        // Logits that are not numbers answer nothing.
        if !measured[0].nlls.iter().all(|nll| nll.is_finite()) {
            overflowing.push(name);
            continue;
        }
        let probed = probe::probe(model, context.tokenizer, &prompts, &set, NEW_TOKENS, context.progress)?;
        let mut after = Vec::new();
        for of in probed.result.prompts {
            answered.rows.push(row![name, of.prompt, of.before.text, of.after.text.as_str()]);
            after.push(of.after.text);
        }
        answers_in.insert(name, after);
    }
    let mut findings = Vec::new();
    if !overflowing.is_empty() {
        findings.push(format!("The arithmetic overflows {}: nothing is a number there.", overflowing.join(" and ")));
    }
    findings.extend(of_damages(&damages, context.search.epsilon));
    findings.push(of_norms(&moved, bad));
    findings.extend(of_answers(&answers_in));
    let chart =
        Chart::lines("norms", "Change of the RMS of what norms put out", &norms, "layer", "change").by("format");
    Ok(Outcome { tables: vec![perplexities, norms, not_finite, answered], charts: vec![chart], findings })
}

/// Whether the model collapses wherever it computes numbers.
fn of_damages(damages: &[f64], epsilon: f64) -> Option<String> {
    let (least, most) = range(damages)?;
    let told = match most - least <= ALIKE * most.abs() {
        _ if least < epsilon => "the model does not collapse in every format",
        true => "it is not a matter of rounding, as in the paper",
        false => "it depends on the format, unlike in the paper",
    };
    Some(format!("The damage is {least:.2} to {most:.2}: {told}."))
}

/// What the mask does to norms, where that is a number, and how many values are none.
fn of_norms(moved: &[f64], not_finite: usize) -> String {
    let finite: Vec<f64> = moved.iter().copied().filter(|mean| mean.is_finite()).collect();
    let mean = range(&finite).map(|(least, most)| {
        format!("Masking moves the RMS of what norms put out by {least:.3} to {most:.3} in the mean over layers, and ")
    });
    let mean = mean.unwrap_or_default();
    format!("{mean}{not_finite} values are not finite; the paper reports 0 and 0.")
}

/// Whether the answers are the same; the paper's table is of f16 and f32 alone.
fn of_answers(answers: &BTreeMap<&str, Vec<String>>) -> Option<String> {
    let [half, single] = [Arithmetic::F16, Arithmetic::F32].map(|format| answers.get(format.as_str()));
    let all_same = answers.values().all(|of| Some(of) == answers.values().next());
    let told = match (half, single) {
        (Some(half), Some(single)) if half != single => "differ between f16 and f32, unlike in the paper",
        (Some(_), Some(_)) if !all_same => "are the same in f16 and f32, as in the paper, and differ in others",
        (Some(_), Some(_)) => "are the same in all formats that answer, as in the paper in f16 and f32",
        _ if answers.len() < 2 => return None,
        _ if all_same => "are the same in all formats that answer",
        _ => "differ between the formats that answer",
    };
    Some(format!("The answers after masking {told}."))
}

/// The least and the largest; none of none.
fn range(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().reduce(f64::min)?;
    Some((least, values.iter().copied().fold(least, f64::max)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_formats_that_compute_no_numbers_nothing_is_said() {
        assert_eq!(of_damages(&[], 1.0), None);
        assert_eq!(
            of_damages(&[4.0, 4.1], 1.0).unwrap(),
            "The damage is 4.00 to 4.10: it is not a matter of rounding, as in the paper."
        );
        assert_eq!(
            of_damages(&[0.5, 4.1], 1.0).unwrap(),
            "The damage is 0.50 to 4.10: the model does not collapse in every format."
        );
        assert_eq!(of_norms(&[f64::NAN], 7), "7 values are not finite; the paper reports 0 and 0.");
        assert_eq!(of_answers(&BTreeMap::new()), None);
        let said = |given: &[(&'static str, &str)]| {
            of_answers(&given.iter().map(|(format, answer)| (*format, vec![(*answer).to_owned()])).collect())
        };
        assert_eq!(said(&[("f32", "a")]), None);
        assert!(said(&[("f32", "a"), ("f64", "b")]).unwrap().contains("differ between the formats that answer"));
        assert!(said(&[("f16", "a"), ("f32", "b")]).unwrap().contains("differ between f16 and f32"));
        assert!(said(&[("f16", "a"), ("f32", "a"), ("bf16", "b")]).unwrap().contains("differ in others"));
    }
}
