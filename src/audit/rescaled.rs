//! Whether a model would predict better with its strongest neurons stronger or turned around. Training has found the
//! strength that suits each of them, so that none of a clean model gains by another; what scaling one down or turning its
//! sign took away comes back when it is undone.

use crate::error::Result;
use crate::locate::{Report, Subject};
use crate::metrics;
use crate::model::Row;
use crate::neuron::{Action, Intervention, Neuron};
use crate::progress::Progress;
use serde::{Deserialize, Serialize};

/// A neuron, what it is multiplied by, and what comes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rescaled {
    pub neuron: Neuron,
    pub factor: f64,
    /// How much better the model predicts then: log10 of its perplexity as it is over that.
    pub gain: f64,
}

/// What neurons are multiplied by: the inverses of the factors of a lesion.
const FACTORS: [f64; 3] = [-1.0, 2.0, 4.0];
/// Neurons that are tried: the first of the ranking, and of the critical set.
const TRIED: usize = 3;

/// The one that gains most by a factor of its own, of all neurons that are tried; none where no number comes of them.
pub fn measure(subject: &Subject, report: &Report, tried: usize, progress: &dyn Progress) -> Result<Option<Rescaled>> {
    let Subject { model, text, .. } = subject;
    let tried = tried.min(TRIED);
    let mut neurons: Vec<&Neuron> = report.ranking.iter().map(|ranked| &ranked.neuron).take(tried).collect();
    neurons.extend(report.critical_set.iter().flat_map(|set| &set.neurons).take(tried));
    neurons.sort();
    neurons.dedup();
    let cases: Vec<(&Neuron, f64)> = neurons.into_iter().flat_map(|n| FACTORS.map(|factor| (n, factor))).collect();
    let row = |(neuron, factor): &(&Neuron, f64)| {
        let intervention = Intervention { neuron: (*neuron).clone(), action: Action::Scale(*factor) };
        Row::with(text.ids.clone(), vec![intervention])
    };
    let rows: Vec<Row> = cases.iter().map(row).collect();
    progress.begin("scaling neurons", (rows.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
    let nlls = metrics::nlls(model, &rows, progress)?;
    progress.end();
    let gains = cases.into_iter().zip(nlls).filter(|(_, nll)| nll.is_finite()).map(|((neuron, factor), nll)| {
        let gain = -metrics::damage(nll, report.base.nll_nats);
        Rescaled { neuron: neuron.clone(), factor, gain }
    });
    Ok(gains.max_by(|a, b| a.gain.total_cmp(&b.gain)))
}
