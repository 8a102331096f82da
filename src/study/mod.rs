//! The paper's experiments, on any model: each measures, and says what it found beside what the paper reports.
//!
//! A study is a file here and its line in [`STUDIES`].

mod answers;
mod beta;
mod components;
mod context;
mod critical;
mod folder;
mod minimal;
mod norm_removal;
mod outcome;
mod paper;
mod precision;
mod rankings;
mod sampling;
mod sides;
mod spread;
mod subsets;
mod text_length;
mod texts;
mod threshold;
mod variants;

pub use beta::BETAS;
pub use context::{Context, StudyOptions};
pub use folder::Folder;
pub use outcome::{Cell, Chart, Mark, Outcome, Table};

use crate::compute::Arithmetic;
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::{Error, Result};
use crate::evaluate::windows::{CorpusRecord, Protocol};
use crate::locate::SearchSettings;
use crate::neuron::Neuron;
use context::Measured;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// One of the experiments.
#[derive(Debug, Clone, Copy)]
pub struct Study {
    /// What the command line calls it.
    pub name: &'static str,
    /// Which of the paper's tables and figures it repeats, or `ours`.
    pub paper: &'static str,
    /// What it measures, in words.
    pub about: &'static str,
    /// What of the options it depends on.
    uses: &'static [Use],
    run: fn(&Context) -> Result<Outcome>,
}

/// What a study may depend on besides the model, the reference text and how critical sets are located.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The critical set that was given in place of a located one.
    Critical,
    /// What perplexity is measured on besides the reference text.
    Corpora,
    /// Factors.
    Betas,
    /// How often is drawn where chance decides.
    Draws,
    /// Kin of the model; without any there is nothing to measure.
    Variants,
}

/// Every study, in the order in which `study all` runs them.
pub const STUDIES: &[Study] = &[
    critical::STUDY,
    rankings::STUDY,
    components::STUDY,
    sampling::STUDY,
    precision::STUDY,
    subsets::STUDY,
    threshold::STUDY,
    answers::STUDY,
    text_length::STUDY,
    texts::STUDY,
    variants::STUDY,
    beta::STUDY,
    norm_removal::STUDY,
    sides::STUDY,
    minimal::STUDY,
];

impl Study {
    /// The study of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str) -> Result<&'static Study> {
        STUDIES.iter().find(|study| study.name == name).ok_or_else(|| {
            let known: Vec<&str> = STUDIES.iter().map(|study| study.name).collect();
            Error::input(format!("study {name:?}: expected all, or one of {}", known.join(", ")))
        })
    }

    /// Whether its result depends on something.
    pub fn uses(&self, what: Use) -> bool {
        self.uses.contains(&what)
    }

    /// Measures.
    ///
    /// # Errors
    /// The model cannot compute, or there is nothing that the study is about.
    pub fn run(&self, context: &Context) -> Result<Document<StudyReport>> {
        if let Some(why) = context.lacks(self) {
            return Err(Error::input(format!("study {}: {why}", self.name)));
        }
        let (paper, paper_source) = paper::tables(self.name)?;
        let started = Instant::now();
        let outcome = (self.run)(context)?;
        let report = StudyReport {
            study: self.name.into(),
            repeats: self.paper.into(),
            about: self.about.into(),
            outcome,
            paper,
            paper_source,
            seconds: started.elapsed().as_secs_f64(),
        };
        Ok(Document::new(context.identity(), context.settings(self), report))
    }
}

/// What a study came to (`achilles-audit/study/v1`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyReport {
    /// The study's name.
    pub study: String,
    /// Which of the paper's tables and figures it repeats, or `ours`.
    pub repeats: String,
    /// What it measures.
    pub about: String,
    /// What was measured.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the paper reports of its models.
    pub paper: Vec<Table>,
    /// Where that is from.
    pub paper_source: String,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What a study depends on besides the model. What it does not use is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudySettings {
    /// The precision of the arithmetic.
    pub dtype: Arithmetic,
    /// The device that computed, such as cpu or cuda:0.
    pub device: String,
    /// How the critical set is located.
    pub search: SearchSettings,
    /// SHA-256 of the reference text in UTF-8, lower-case hex.
    pub text_sha256: String,
    /// Tokens of the reference text.
    pub tokens: usize,
    /// The critical set where it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<Vec<Neuron>>,
    /// What perplexity is measured on besides the reference text, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpora: Option<StudyCorpora>,
    /// Factors on the critical set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub betas: Option<Vec<f64>>,
    /// How often is drawn where chance decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draws: Option<usize>,
    /// Models that the set is masked in as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<String>,
}

/// Corpora, and how they are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyCorpora {
    /// How texts are measured.
    pub protocol: Protocol,
    /// Each of them.
    pub corpora: Vec<CorpusRecord>,
}

impl Kind for StudyReport {
    const SCHEMA: &'static str = "achilles-audit/study/v1";
    type Model = ModelIdentity;
    type Settings = StudySettings;
}
