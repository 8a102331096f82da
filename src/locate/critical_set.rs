//! What locating gives: the value that reports render and that other commands read back.

use super::infinite::{finite_or_infinite, one_finite_or_infinite};
use super::smallest::Smallest;
use super::{Entry, SearchSettings, Sharpness};
use crate::architecture::Recipe;
use crate::checkpoint::Tensors;
use crate::compute::Arithmetic;
use crate::document::{self, Kind, ModelIdentity};
use crate::neuron::Neuron;
use serde::{Deserialize, Serialize};

/// A located critical set and how it was found (`achilles-audit/critical-set/v1`). Values that are not finite are
/// `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CriticalSetReport {
    /// The text with nothing masked.
    pub base: Base,
    /// The first entries of the ranking.
    pub ranking: Vec<RankedNeuron>,
    /// Why no more noisy samples were drawn; none where their number was set, or there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// The paper's answer: the shortest prefix of the ranking that collapses, or the longest that was tried.
    pub prefix: Prefix,
    /// The inclusion-minimal subset of the prefix that still collapses; none where nothing collapsed.
    pub critical_set: Option<CriticalSet>,
    /// How sharp the collapse is; none where nothing collapsed, and in documents of versions that did not say.
    #[serde(default)]
    pub sharpness: Option<Sharpness>,
    /// What each stage took, in seconds.
    pub timing_s: Timing,
}

impl CriticalSetReport {
    /// Whether the collapse is known to be gradual.
    pub fn is_gradual(&self) -> bool {
        self.sharpness.is_some_and(|sharpness| sharpness.gradual)
    }
}

impl Kind for CriticalSetReport {
    const SCHEMA: &'static str = document::critical_set::SCHEMA;
    type Model = ModelIdentity;
    type Settings = CriticalSetSettings;
}

/// All that a search depends on besides model and text, and what it met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CriticalSetSettings {
    /// How it searched.
    #[serde(flatten)]
    pub search: SearchSettings,
    /// Noisy samples that were computed.
    pub samples_used: usize,
    /// The precision that it was computed in.
    pub dtype: Arithmetic,
    /// The device that computed, such as cpu or cuda:0.
    pub device: String,
    /// SHA-256 of the text in UTF-8, lower-case hex.
    pub text_sha256: String,
    /// How many tokens the text has.
    pub tokens: usize,
}

/// The text under the model as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Mean negative log-likelihood.
    pub nll_nats: f64,
    /// exp of that, of the model as it is.
    #[serde(deserialize_with = "one_finite_or_infinite")]
    pub perplexity: f64,
}

/// An entry of the ranking, and what it is in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedNeuron {
    /// The channel.
    pub neuron: Neuron,
    /// Its decoder layer, if it is in one.
    pub layer: Option<usize>,
    /// What it is ranked by.
    pub importance: f64,
    /// The token position at which it has this importance; none where the ranking does not read the text.
    pub position: Option<usize>,
    /// The tensor that holds it alone, if one does.
    pub tensor: Option<String>,
    /// That tensor's shape, outermost dimension first.
    pub shape: Option<Vec<usize>>,
    /// `row`, `column` or `element`.
    pub axis: Option<String>,
    /// Its index along the axis, from 0; none where no single part holds it.
    pub index: Option<usize>,
    /// The tensor of the bias whose element `index` belongs to the neuron too, where the module has one.
    #[serde(default)]
    pub bias: Option<String>,
}

impl RankedNeuron {
    pub(super) fn new(entry: &Entry, recipe: &Recipe, tensors: &Tensors) -> RankedNeuron {
        let mut parts = recipe.parts(&entry.neuron, tensors).into_iter();
        let (place, bias) = (parts.next(), parts.next());
        RankedNeuron {
            layer: entry.neuron.site.module.layer(),
            neuron: entry.neuron.clone(),
            importance: entry.importance,
            position: entry.position,
            axis: place.as_ref().map(|p| p.axis.as_str().into()),
            index: place.as_ref().map(|p| p.index),
            shape: place.as_ref().map(|p| p.shape.clone()),
            tensor: place.map(|p| tensors.stored_name(&p.tensor).to_owned()),
            bias: bias.map(|b| tensors.stored_name(&b.tensor).to_owned()),
        }
    }
}

/// Where samples were drawn until the answer was settled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Why it ended.
    pub stopped: Stopped,
    /// The most samples that there could have been.
    pub most: usize,
    /// The probability, at most, that these would have given another prefix.
    pub error_rate: f64,
}

/// Why no more samples were drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stopped {
    /// The order of the entries that were searched would not change any more.
    Settled,
    /// All were drawn.
    All,
}

/// The collapse prefix S_n*, or that there was none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prefix {
    /// The last prefix tried reached damage ε.
    pub collapsed: bool,
    /// How many channels it has.
    pub n: usize,
    /// NLL with the first 1, 2, … n entries masked.
    #[serde(deserialize_with = "finite_or_infinite")]
    pub curve_nll_nats: Vec<f64>,
}

/// The inclusion-minimal critical set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CriticalSet {
    /// Its members in order of the ranking.
    pub neurons: Vec<Neuron>,
    /// NLL with all of them masked.
    #[serde(deserialize_with = "one_finite_or_infinite")]
    pub nll_nats: f64,
    /// Damage when it is masked: log10 of the perplexity ratio.
    #[serde(deserialize_with = "one_finite_or_infinite")]
    pub damage: f64,
    /// Every subset, smaller ones first; empty where there are more than 6 members.
    pub subsets: Vec<Subset>,
    /// What looking for a smaller one came to; none where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest: Option<Smallest>,
}

/// Some members of a critical set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subset {
    /// The members that are masked.
    pub neurons: Vec<Neuron>,
    /// NLL with these masked.
    #[serde(deserialize_with = "one_finite_or_infinite")]
    pub nll_nats: f64,
    /// Damage when it is masked: log10 of the perplexity ratio.
    #[serde(deserialize_with = "one_finite_or_infinite")]
    pub damage: f64,
}

/// Seconds that each stage took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Opening the model and loading its weights.
    pub load: f64,
    /// Stage 1, the ranking.
    pub importance: f64,
    /// Stage 2, the search for the shortest prefix that collapses.
    pub search: f64,
    /// Minimization and subsets.
    pub minimize: f64,
}
