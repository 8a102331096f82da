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
    run: fn(&Context) -> Result<Outcome>,
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

    /// Why there is nothing to measure.
    pub fn left_out(&self, context: &Context) -> Option<&'static str> {
        let lacks_variants = self.name == variants::STUDY.name && context.options.variants.is_empty();
        lacks_variants.then_some(variants::LACKING)
    }

    /// Measures.
    ///
    /// # Errors
    /// The model cannot compute, or has nothing that the study is about.
    pub fn run(&self, context: &Context) -> Result<Document<StudyReport>> {
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
        Ok(Document::new(context.model().identity().or_no_hub(), context.settings(), report))
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

/// What studies depend on besides the model.
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
    pub critical: Option<Vec<Neuron>>,
    /// Factors of the study `beta`.
    pub betas: Vec<f64>,
    /// Draws where chance decides.
    pub draws: usize,
    /// Models that the study `variants` masks the set in as well.
    pub variants: Vec<String>,
    /// What perplexity is measured on besides the reference text, by the paper's protocol.
    pub corpora: Vec<CorpusRecord>,
    /// Tokens of a sample at most; the paper's where none is set.
    pub context: Option<usize>,
}

/// Which corpus, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusRecord {
    /// What it was asked for as.
    pub name: String,
    /// SHA-256 of the bytes that it was read from, lower-case hex.
    pub sha256: String,
    /// Texts that are measured.
    pub samples: usize,
    /// Their tokens.
    pub tokens: usize,
}

impl Kind for StudyReport {
    const SCHEMA: &'static str = "achilles-audit/study/v1";
    type Model = ModelIdentity;
    type Settings = StudySettings;
}
