//! How a model is run for an audit, and what running it gave.

use super::rescaled::Rescaled;
use crate::checkpoint::{self, Checkpoint};
use crate::compare::{BaseName, Compared};
use crate::compute::ComputeSettings;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::locate::{CriticalSetReport, SearchSettings};
use crate::monitor::{Baseline, Checked};
use crate::progress::Progress;
use crate::rules::Measurement;
use crate::rules::finding::RuleObservation;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// How the model is run, and what it is then held against.
#[derive(Debug)]
pub struct Run {
    /// The text that perplexity and the critical set are measured on.
    pub text: String,
    /// Arithmetic, device and residency of the weights.
    pub model: ComputeSettings,
    /// How the critical set is searched for.
    pub locate: SearchSettings,
    /// The model that it is a variant of.
    pub base: Option<BaseName>,
    /// What its activations usually are.
    pub baseline: Option<BaselineCheck>,
    /// Take what running gave before where nothing that it depends on has changed, and keep it for the next time.
    pub cache: bool,
}

/// A baseline and prompts to hold against it.
#[derive(Debug)]
pub struct BaselineCheck {
    /// Where the baseline was read from, for reports.
    pub file: PathBuf,
    /// What the activations were like when it was recorded.
    pub baseline: Baseline,
    /// Files of prompts that are held against it: other ones than were recorded.
    pub prompts: Vec<PathBuf>,
}

/// What of a run is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub critical_set: bool,
    pub base: bool,
    pub baseline: bool,
}

impl Wanted {
    pub fn any(self) -> bool {
        self.measurements().next().is_some()
    }

    pub fn measurements(self) -> impl Iterator<Item = Measurement> {
        let all = [
            (self.critical_set, Measurement::CriticalSet),
            (self.base, Measurement::Base),
            (self.baseline, Measurement::Baseline),
        ];
        all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, measurement)| measurement)
    }
}

/// What running gave: all that a cache has to keep.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RunResult {
    pub architecture: String,
    pub config_sha256: String,
    #[serde(default)]
    pub weights: Option<String>,
    pub located: Option<LocatedSummary>,
    pub compared: Option<Compared>,
    pub checked: Option<Checked>,
    /// What could not be measured, and why: what is in here is not kept.
    #[serde(skip)]
    pub failed: Vec<(Measurement, String)>,
}

/// A critical set, if the model computes numbers at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocatedSummary {
    pub tokens: usize,
    pub dtype: String,
    /// None where its perplexity is not a number: nothing can be compared with that.
    pub report: Option<Document<CriticalSetReport>>,
    /// The strong neuron that the model would gain most by rescaling.
    pub rescaled: Option<Rescaled>,
}

/// What the rules may judge of each measurement.
pub type Observations = Vec<(Measurement, Vec<RuleObservation>)>;

impl RunResult {
    /// Whether all that is wanted is there.
    pub fn holds(&self, wanted: Wanted) -> bool {
        let located = self.located.as_ref().is_some_and(|located| located.report.is_some());
        (located || !wanted.critical_set)
            && (self.compared.is_some() || !wanted.base)
            && (self.checked.is_some() || !wanted.baseline)
    }

    /// Takes what was found, or notes why these measurements could not be made.
    pub fn tell<T>(&mut self, measurements: &[Measurement], found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                self.fail(measurements, &error.to_string());
                Ok(None)
            }
        }
    }

    pub fn fail(&mut self, measurements: &[Measurement], why: &str) {
        for measurement in measurements {
            if self.failed.iter().all(|(failed, _)| failed != measurement) {
                self.failed.push((*measurement, why.into()));
            }
        }
    }
}

/// A base that is a model, or why it cannot be opened: what is looked at it for is done without it then.
pub struct BaseModel(Result<Arc<checkpoint::Opened>>);

impl BaseModel {
    /// Opens it for all that look at it; none where none is wanted, or it is no model.
    pub fn open(run: &Run, wanted: Wanted, progress: &dyn Progress) -> Result<Option<BaseModel>> {
        let Some(BaseName::Model(name)) = run.base.as_ref().filter(|_| wanted.base) else { return Ok(None) };
        match checkpoint::Opened::open(name, progress) {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            opened => Ok(Some(BaseModel(opened.map(Arc::new)))),
        }
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::of(self.0.as_ref().map_err(Error::clone)?)
    }
}
