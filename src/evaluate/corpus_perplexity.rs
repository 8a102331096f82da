//! The perplexity of corpora, with and without some neurons.

use super::corpus::{Reading, TextFormat};
use super::corpus_nll::{CorpusNll, corpus_nlls};
use super::metrics;
use super::perplexity::{Scaled, not_a_number};
use super::windows::{CorpusRecord, EncodedCorpus, Protocol, WindowSettings};
use crate::architecture::Recipe;
use crate::compute::{Arithmetic, Footprint, Model};
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::{Error, Result};
use crate::neuron::Neuron;
use crate::progress::Progress;
use serde::Serialize;

/// The perplexity of corpora (`achilles-audit/corpus-perplexity/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CorpusPerplexity {
    /// Each of them.
    pub corpora: Vec<MeasuredCorpus>,
}

/// A corpus, and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasuredCorpus {
    /// Which it was.
    #[serde(flatten)]
    pub corpus: CorpusRecord,
    /// Rows that it was cut into.
    pub windows: usize,
    /// Of the model as it is.
    pub base: CorpusFigures,
    /// Of the model with the neurons changed; none where there were none to change.
    pub changed: Option<ChangedCorpus>,
}

/// What a corpus costs a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CorpusFigures {
    /// Mean a token of −ln P, as the protocol weighs it.
    pub nll_nats: f64,
    /// exp of that.
    pub perplexity: f64,
    /// exp of the mean a word; none in the paper's protocol, which does not predict every token.
    pub word_perplexity: Option<f64>,
    /// exp of the mean a byte; likewise.
    pub byte_perplexity: Option<f64>,
    /// The mean a byte, in bits; likewise.
    pub bits_per_byte: Option<f64>,
}

/// The same, beside what it costs the model as it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ChangedCorpus {
    /// What it costs.
    #[serde(flatten)]
    pub figures: CorpusFigures,
    /// log10 of the ratio of the perplexities.
    pub damage: f64,
}

/// How perplexities were computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CorpusPerplexitySettings {
    /// The precision of the arithmetic.
    pub dtype: Arithmetic,
    /// The device that computed, such as cpu or cuda:0.
    pub device: String,
    /// How the corpora's files hold texts; none where their names told.
    pub format_text: Option<TextFormat>,
    /// The column of Parquet, or the key of JSON lines, that holds the texts.
    pub column: String,
    /// How texts were measured.
    pub protocol: Protocol,
    /// Tokens that the model was to read at once at most; none where the protocol told.
    pub context: Option<usize>,
    /// The first so many samples of each; none where all were taken.
    pub max_samples: Option<usize>,
    /// The neurons that were changed.
    pub neurons: Vec<Neuron>,
    /// What they were multiplied by.
    pub beta: f64,
}

impl Kind for CorpusPerplexity {
    const SCHEMA: &'static str = "achilles-audit/corpus-perplexity/v1";
    type Model = ModelIdentity;
    type Settings = CorpusPerplexitySettings;
}

/// Computes it of corpora in the model's tokens, which were read and cut in these ways.
///
/// # Errors
/// As [`Scaled::check`] and [`corpus_nlls`]; or the model computes no number.
pub fn corpus_perplexity(
    model: &Model,
    corpora: &[EncodedCorpus],
    (reading, settings): (&Reading, &WindowSettings),
    scaled: &Scaled,
    progress: &dyn Progress,
) -> Result<Document<CorpusPerplexity>> {
    scaled.check()?;
    let mut sets = vec![Vec::new()];
    sets.extend(Some(scaled.interventions()).filter(|set| !set.is_empty()));
    let corpora: Vec<MeasuredCorpus> = corpora
        .iter()
        .map(|corpus| {
            let nlls = corpus_nlls(model, corpus, &sets, None, "perplexity", progress)?;
            measured(model, corpus, &nlls, scaled)
        })
        .collect::<Result<_>>()?;
    let settings = CorpusPerplexitySettings {
        dtype: model.arithmetic(),
        device: model.device_name(),
        format_text: reading.format,
        column: reading.column().to_owned(),
        protocol: settings.protocol,
        context: settings.context,
        max_samples: settings.max_samples,
        neurons: scaled.neurons.clone(),
        beta: scaled.beta,
    };
    Ok(Document::new(model.identity(), settings, CorpusPerplexity { corpora }))
}

/// The figures of a corpus by what it costs the model as it is and, where that was asked for, with neurons changed.
fn measured(model: &Model, corpus: &EncodedCorpus, nlls: &[CorpusNll], scaled: &Scaled) -> Result<MeasuredCorpus> {
    let base = metrics::base(nlls[0].nll_nats(), || metrics::not_finite(model))?;
    let changed = nlls.get(1).map(|nll| match nll.nll_nats().is_finite() {
        true => {
            let damage = metrics::damage(nll.nll_nats(), base);
            Ok(ChangedCorpus { figures: CorpusFigures::of(nll, corpus.protocol), damage })
        }
        false => Err(not_a_number(model, scaled)),
    });
    Ok(MeasuredCorpus {
        corpus: corpus.record.clone(),
        windows: corpus.windows.len(),
        base: CorpusFigures::of(&nlls[0], corpus.protocol),
        changed: changed.transpose()?,
    })
}

impl CorpusFigures {
    fn of(nll: &CorpusNll, protocol: Protocol) -> CorpusFigures {
        let whole = protocol == Protocol::Rolling;
        CorpusFigures {
            nll_nats: nll.nll_nats(),
            perplexity: nll.perplexity(),
            word_perplexity: whole.then(|| nll.word_perplexity()),
            byte_perplexity: whole.then(|| nll.byte_perplexity()),
            bits_per_byte: whole.then(|| nll.bits_per_byte()),
        }
    }
}

/// Refuses corpora of which not even one row fits into memory beside the weights, before these are loaded.
///
/// # Errors
/// As said.
pub fn check_memory(footprint: &Footprint, recipe: &Recipe, corpora: &[EncodedCorpus]) -> Result<()> {
    let windows = corpora.iter().flat_map(|corpus| &corpus.windows);
    let longest = windows.map(|window| window.tokens.len()).max().unwrap_or_default();
    footprint.check()?;
    footprint.check_rows(recipe, 1, longest).map_err(|error| match error {
        Error::Memory { what, needed, available, .. } => {
            let advice = "give a smaller --context, stream the weights (--weights stream), or give more by --memory";
            Error::Memory { what, needed, available, advice }
        }
        other => other,
    })
}
