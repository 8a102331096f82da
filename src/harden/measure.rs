//! What lesions cost a model, on texts that spares were not fitted to.

use super::texts::Tokens;
use crate::compute::{Model, Row};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::{Intervention, Neuron};
use crate::progress::Progress;
use serde::Serialize;
use std::collections::BTreeMap;

/// Mean NLL in nats over all targets of the texts of one kind, and of all.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Nlls {
    kinds: BTreeMap<String, (f64, usize)>,
}

impl Nlls {
    fn all(&self) -> f64 {
        let (sum, count) = self.kinds.values().fold((0.0, 0), |(sum, all), (nll, count)| (sum + nll, all + count));
        sum / count as f64
    }

    fn of(&self, kind: &str) -> f64 {
        self.kinds.get(kind).map_or(f64::NAN, |(sum, count)| sum / *count as f64)
    }
}

/// The NLL of texts to judge by under each of some lesions; the one without any first.
pub(super) fn nlls(
    model: &Model,
    tokens: &Tokens,
    lesions: &[Vec<Neuron>],
    progress: &dyn Progress,
) -> Result<Vec<Nlls>> {
    let mut found = vec![Nlls { kinds: BTreeMap::new() }; lesions.len() + 1];
    for (kind, text) in &tokens.judge {
        let masked = |lesion: &Vec<Neuron>| lesion.iter().cloned().map(Intervention::zero).collect();
        let lesioned = lesions.iter().map(|lesion| Row::with(text.clone(), masked(lesion)));
        let rows: Vec<Row> = [Row::clean(text.clone())].into_iter().chain(lesioned).collect();
        for (found, nll) in found.iter_mut().zip(metrics::nlls(model, &rows, progress)?) {
            let (sum, count) = found.kinds.entry(kind.clone()).or_default();
            *sum += nll * (text.len() - 1) as f64;
            *count += text.len() - 1;
        }
    }
    Ok(found)
}

/// Perplexity of one kind of text before and after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kind {
    /// What the texts are like.
    pub kind: String,
    /// The perplexity of the model as it was.
    pub perplexity_before: f64,
    /// The hardened model's.
    pub perplexity_after: f64,
}

/// What a lesion costs: Δ, log10 of the perplexity over that of the model as it was, on all texts kept out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lesion {
    /// The rows that are lost.
    pub neurons: Vec<Neuron>,
    /// Of the model as it was; none of rows that nothing depended on then.
    pub damage_before: Option<f64>,
    /// Of the hardened model.
    pub damage_after: f64,
    /// The largest of one kind of text.
    pub worst_kind: f64,
}

/// Each kind of text, healthy.
pub(super) fn kinds(before: &Nlls, after: &Nlls) -> Vec<Kind> {
    let kind = |kind: &String| Kind {
        kind: kind.clone(),
        perplexity_before: metrics::perplexity(before.of(kind)),
        perplexity_after: metrics::perplexity(after.of(kind)),
    };
    before.kinds.keys().map(kind).collect()
}

/// The change of perplexity over all texts, as a share of what it was.
pub(super) fn change(before: &Nlls, after: &Nlls) -> f64 {
    (after.all() - before.all()).exp() - 1.0
}

/// The damage of a lesion on all texts, and the largest of a kind.
pub(super) fn damage(base: &Nlls, lesioned: &Nlls) -> (f64, f64) {
    let of_kind = |kind: &String| metrics::damage(lesioned.of(kind), base.of(kind));
    let worst = base.kinds.keys().map(of_kind).fold(f64::NEG_INFINITY, f64::max);
    (metrics::damage(lesioned.all(), base.all()), worst)
}
