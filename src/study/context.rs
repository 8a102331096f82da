//! What a study has at hand: a model, a text, corpora, and the critical set, which is located once.

use super::{Study, StudyCorpora, StudySettings, Use};
use crate::checkpoint::Checkpoint;
use crate::compute::{ComputeSettings, Model, Row};
use crate::document::{Document, ModelIdentity};
use crate::error::{Error, Result};
use crate::evaluate::corpus::Corpus;
use crate::evaluate::corpus_nll::{CorpusHook, corpus_nlls};
use crate::evaluate::metrics;
use crate::evaluate::text::{Encoded, Tokenizer};
use crate::evaluate::windows::{EncodedCorpus, WindowSettings};
use crate::locate::{self, CriticalSetReport, Entry, Located, Ranking, SearchSettings, Subject};
use crate::neuron::{self, Intervention, Neuron};
use crate::progress::Progress;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

/// What the reference text is called among corpora.
pub(super) const TEXT: &str = "text";

/// What a study has at hand.
pub struct Context<'a> {
    /// The model and the reference text.
    pub subject: &'a Subject,
    /// The model's own tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How the model was loaded, and others are.
    pub compute: &'a ComputeSettings,
    /// How the critical set is located.
    pub search: &'a SearchSettings,
    /// What else there is to set.
    pub options: &'a StudyOptions,
    /// The corpora in the model's tokens.
    pub(super) corpora: Vec<EncodedCorpus>,
    /// Where it tells how far it is.
    pub progress: &'a dyn Progress,
    located: OnceCell<Document<CriticalSetReport>>,
    set: OnceCell<Vec<Neuron>>,
    ranked: RefCell<Vec<(SearchSettings, Rc<[Entry]>)>>,
}

/// What there is to set besides the search.
#[derive(Debug, Clone, PartialEq)]
pub struct StudyOptions {
    /// The reference text.
    pub text: String,
    /// The critical set, where it is not to be located.
    pub critical: Option<Vec<Neuron>>,
    /// Factors for the study `beta`.
    pub betas: Vec<f64>,
    /// Draws where chance decides.
    pub draws: usize,
    /// Models that the set is masked in as well, by the study `variants`.
    pub variants: Vec<String>,
    /// What perplexity is measured on besides the reference text.
    pub corpora: Vec<Corpus>,
    /// How they are cut.
    pub windows: WindowSettings,
}

/// The NLL of a corpus, in nats a token, under each of some sets of interventions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    /// Which corpus: `text` for the reference text.
    pub corpus: String,
    /// One for each set.
    pub nlls: Vec<f64>,
}

impl Measured {
    /// The damage of a set, held against the first; none where the first is not a number.
    pub fn damage(&self, set: usize) -> Option<f64> {
        self.nlls[0].is_finite().then(|| metrics::damage(self.nlls[set], self.nlls[0]))
    }

    /// The damage of each set but the first, which it is held against.
    pub fn damages(&self) -> impl Iterator<Item = f64> {
        self.nlls[1..].iter().map(|nll| metrics::damage(*nll, self.nlls[0]))
    }
}

impl StudyOptions {
    /// The corpora in a model's tokens.
    ///
    /// # Errors
    /// As [`EncodedCorpus::of`].
    pub fn encoded(&self, checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Vec<EncodedCorpus>> {
        let of = |corpus| EncodedCorpus::of(checkpoint, tokenizer, corpus, &self.windows);
        self.corpora.iter().map(of).collect()
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// A factor is not finite, the critical set is empty, or a neuron is given twice.
    pub fn check(&self) -> Result<()> {
        if let Some(beta) = self.betas.iter().find(|beta| !beta.is_finite()) {
            return Err(Error::input(format!("beta is {beta}, expected a finite number")));
        }
        if self.critical.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::input("the critical set is empty: there is nothing to mask"));
        }
        self.windows.check()?;
        let names: Vec<&str> = self.corpora.iter().map(|corpus| corpus.name.as_str()).chain([TEXT]).collect();
        if let Some(twice) = (1..names.len()).find(|at| names[..*at].contains(&names[*at])) {
            let name = names[twice];
            let advice = "give each corpus once, and another file name to one that is called as the reference text is";
            return Err(Error::input(format!("there are two corpora called {name:?}: {advice}")));
        }
        neuron::check_distinct(self.critical.iter().flatten())
    }
}

impl<'a> Context<'a> {
    /// A study's context; the corpora are those of the options, in the model's tokens.
    ///
    /// # Errors
    /// A neuron of the given critical set is not in the model.
    pub fn new(
        (subject, tokenizer): (&'a Subject, &'a Tokenizer),
        (compute, search, options): (&'a ComputeSettings, &'a SearchSettings, &'a StudyOptions),
        corpora: Vec<EncodedCorpus>,
        progress: &'a dyn Progress,
    ) -> Result<Context<'a>> {
        options.critical.iter().flatten().try_for_each(|neuron| subject.model.check(neuron))?;
        Ok(Context {
            subject,
            tokenizer,
            compute,
            search,
            options,
            corpora,
            progress,
            located: OnceCell::new(),
            set: OnceCell::new(),
            ranked: RefCell::default(),
        })
    }

    /// What a study's result depends on besides the model.
    pub fn settings(&self, study: &Study) -> StudySettings {
        let StudyOptions { critical, betas, draws, variants, windows, .. } = self.options;
        let corpora = || StudyCorpora {
            protocol: windows.protocol,
            corpora: self.corpora.iter().map(|corpus| corpus.record.clone()).collect(),
        };
        StudySettings {
            dtype: self.model().arithmetic(),
            device: self.model().device_name(),
            search: self.search.clone(),
            text_sha256: self.subject.text.sha256.clone(),
            tokens: self.subject.text.ids.len(),
            critical: critical.clone().filter(|_| study.uses(Use::Critical)),
            corpora: study.uses(Use::Corpora).then(corpora),
            betas: study.uses(Use::Betas).then(|| betas.clone()),
            draws: study.uses(Use::Draws).then_some(*draws),
            variants: if study.uses(Use::Variants) { variants.clone() } else { Vec::new() },
        }
    }

    /// Which model it is.
    pub fn identity(&self) -> ModelIdentity {
        self.model().identity().or_no_hub()
    }

    /// Why a study has nothing to measure here.
    pub fn lacks(&self, study: &Study) -> Option<&'static str> {
        let lacking = study.uses(Use::Variants) && self.options.variants.is_empty();
        lacking.then_some("it needs kin of the model: name them after MODEL")
    }

    /// Channels that are ranked.
    pub(super) fn channels(&self) -> Result<usize> {
        let sites = self.search.ranked_sites(self.model())?;
        Ok(sites.iter().map(|site| site.channels).sum())
    }

    pub(super) fn model(&self) -> &Model {
        &self.subject.model
    }

    /// What locating gives, with other settings than the context's.
    pub(super) fn locate(&self, search: &SearchSettings) -> Result<Located> {
        locate::locate(self.subject, search, self.progress)
    }

    /// What locating gives.
    pub(super) fn located(&self) -> Result<&Document<CriticalSetReport>> {
        if self.located.get().is_none() {
            let _ = self.located.set(self.locate(self.search)?.report);
        }
        self.located.get().ok_or_else(|| Error::input("the critical set was not located"))
    }

    /// The critical set, given or located.
    ///
    /// # Errors
    /// Nothing collapses.
    pub(super) fn set(&self) -> Result<&[Neuron]> {
        if let Some(given) = &self.options.critical {
            return Ok(given);
        }
        if self.set.get().is_none() {
            let set = self.located()?.result.critical_set.as_ref().map(|set| set.neurons.clone());
            let none = || {
                let (most, epsilon) = (self.search.max_neurons, self.search.epsilon);
                let advice = "give a set with --critical, a smaller --epsilon or a larger --max-neurons";
                Error::input(format!(
                    "nothing of the first {most} neurons collapses the model (Δ ≥ {epsilon}); {advice}"
                ))
            };
            let _ = self.set.set(set.ok_or_else(none)?);
        }
        Ok(self.set.get().map_or(&[], Vec::as_slice))
    }

    /// The first `n` of a ranking of the model's channels; noise with all its samples.
    pub(super) fn ranked(&self, search: &SearchSettings, n: usize) -> Result<Rc<[Entry]>> {
        let known = self.ranked.borrow().iter().find(|(s, e)| s == search && e.len() >= n).map(|(_, e)| e.clone());
        if let Some(entries) = known {
            return Ok(entries);
        }
        let entries: Rc<[Entry]> = locate::rank(self.subject, search, n, self.progress)?.into();
        self.ranked.borrow_mut().push((search.clone(), entries.clone()));
        Ok(entries)
    }

    /// The context's search by another ranking, where that ranks.
    pub(super) fn search_by(&self, ranking: Ranking) -> SearchSettings {
        SearchSettings { ranking, sites: ranking.usual_sites(), ..self.search.clone() }
    }

    /// The reference text and each corpus under each set of interventions, of which the first is none.
    pub(super) fn perplexities(&self, sets: &[Vec<Intervention>]) -> Result<Vec<Measured>> {
        let measured = self.perplexities_under(sets, None)?;
        for of in &measured {
            metrics::base(of.nlls[0], || metrics::not_finite(self.model()))?;
        }
        Ok(measured)
    }

    /// The same, with a hook that may change what flows.
    pub(super) fn perplexities_under(
        &self,
        sets: &[Vec<Intervention>],
        hook: Option<&mut dyn CorpusHook>,
    ) -> Result<Vec<Measured>> {
        measure(self.model(), (&self.subject.text, &self.corpora), sets, hook, self.progress)
    }

    /// As [`Context::masked`], of the reference text alone.
    pub(super) fn masked_on_text(&self, sets: &[Vec<Neuron>]) -> Result<Vec<Measured>> {
        measure(self.model(), (&self.subject.text, &[]), &masks(sets), None, self.progress)
    }

    /// As [`Context::perplexities`], of sets of masked neurons.
    pub(super) fn masked(&self, sets: &[Vec<Neuron>]) -> Result<Vec<Measured>> {
        self.perplexities(&masks(sets))
    }
}

fn masks(sets: &[Vec<Neuron>]) -> Vec<Vec<Intervention>> {
    sets.iter().map(|set| set.iter().cloned().map(Intervention::zero).collect()).collect()
}

/// A text and corpora, in the model's tokens, under each set of interventions, of which the first is none.
pub(super) fn measure(
    model: &Model,
    (text, corpora): (&Encoded, &[EncodedCorpus]),
    sets: &[Vec<Intervention>],
    mut hook: Option<&mut dyn CorpusHook>,
    progress: &dyn Progress,
) -> Result<Vec<Measured>> {
    let rows: Vec<Row> = sets.iter().map(|set| Row::with(text.ids.clone(), set.clone())).collect();
    progress.begin("perplexity", (rows.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
    let nlls = match &mut hook {
        Some(hook) => metrics::nlls_under(model, &rows, *hook, progress)?,
        None => metrics::nlls(model, &rows, progress)?,
    };
    progress.end();
    let mut measured = vec![Measured { corpus: TEXT.into(), nlls }];
    for corpus in corpora {
        let stage = format!("perplexity of {}", corpus.record.name);
        let hook: Option<&mut dyn CorpusHook> = match &mut hook {
            Some(hook) => Some(&mut **hook),
            None => None,
        };
        let nlls = corpus_nlls(model, corpus, sets, hook, &stage, progress)?;
        let nlls: Vec<f64> = nlls.iter().map(|nll| nll.nll_nats()).collect();
        measured.push(Measured { corpus: corpus.record.name.clone(), nlls });
    }
    Ok(measured)
}
