//! Finding the neurons a model cannot do without: importance (stage 1), search (stage 2), minimization.

mod adaptive;
mod critical_set;
mod estimate;
mod evaluator;
mod gradient;
mod ignore_list;
mod importance;
mod infinite;
mod magnitude;
mod magnitude_signed;
mod minimize;
mod random;
mod ranking;
mod reduction;
mod samples;
mod search;
mod sharpness;
mod sites;
mod smallest;
mod stage;
mod subject;
mod sums;
mod super_weight;
mod tally;
mod weights;

pub use critical_set::{
    Base, CriticalSet, CriticalSetReport, CriticalSetSettings, Prefix, RankedNeuron, Sampling, Stopped, Subset,
};
pub use estimate::{Estimate, EstimateSettings, Machine, MemoryNeeds, Pass, Span, StageNeeds};
pub use evaluator::Evaluator;
pub use ignore_list::{IgnoreList, IgnoredModule};
pub(crate) use infinite::{finite_or_infinite, one_finite_or_infinite};
pub use ranking::{Counting, Entry, Ranking};
pub use samples::Samples;
pub use sharpness::Sharpness;
pub use sites::SiteSelection;
pub use smallest::Smallest;
pub use subject::{OpenedSubject, Subject};

use crate::architecture::module::SiteInfo;
use crate::compute::{Model, Trunk};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::evaluate::metrics;
use crate::evaluate::text::{Encoded, MIN_STABLE_TOKENS};
use crate::neuron::{Neuron, Side, Site};
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use smallest::Further;
use std::cell::RefCell;
use std::time::Instant;

/// Entries of the ranking that a report holds at least.
const REPORTED: usize = 100;

/// How to search; the defaults are the paper's settings, with as few of its samples as settle its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchSettings {
    /// What candidates are ranked by.
    pub ranking: Ranking,
    /// Which side of modules the candidates are on.
    pub side: Side,
    /// Which modules they are in.
    pub sites: SiteSelection,
    /// What the prefixes of the ranking count.
    pub counting: Counting,
    /// α: the standard deviation of the noise on embeddings.
    pub alpha: f64,
    /// K: noisy samples that importance is averaged over.
    pub samples: Samples,
    /// What the noise, or a random ranking, is drawn from: equal seeds give equal rankings.
    pub seed: u64,
    /// ε: damage from which a model has collapsed.
    pub epsilon: f64,
    /// The longest prefix tried.
    pub max_neurons: usize,
    /// Rows at most to look with for a smaller set by other orders; none: the first proven one is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest: Option<usize>,
}

impl Default for SearchSettings {
    fn default() -> Self {
        SearchSettings {
            ranking: Ranking::Noise,
            side: Side::Out,
            sites: SiteSelection::Reference,
            counting: Counting::Channels,
            alpha: 5.0,
            samples: Samples::Auto,
            seed: 42,
            epsilon: 1.0,
            max_neurons: 200,
            smallest: None,
        }
    }
}

impl SearchSettings {
    /// The model's sites whose channels are ranked.
    ///
    /// # Errors
    /// No module matches, or the ranking ranks none of them.
    pub fn ranked_sites<'m>(&self, model: &'m Model) -> Result<Vec<&'m SiteInfo>> {
        self.ranking.ranked(self.sites.select(model, self.side)?)
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// A setting makes no sense.
    pub fn check(&self) -> Result<()> {
        let finite_positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::input(format!("{name} is {value}, expected a finite number above 0"))),
        };
        finite_positive("epsilon", self.epsilon)?;
        if self.ranking == Ranking::Noise {
            finite_positive("alpha", self.alpha)?;
            self.samples.check()?;
        }
        if self.counting == Counting::Published && !self.ranking.reads_text() {
            return Err(Error::input(format!(
                "--counting published counts a channel once a position, of which --ranking {} has none: use --counting \
                 channels",
                self.ranking.as_str()
            )));
        }
        match self.max_neurons {
            0 => Err(Error::input("max-neurons is 0, expected at least 1")),
            _ => Ok(()),
        }
    }
}

/// A critical set, and the whole ranking that it was looked for in.
pub struct Located {
    /// The critical set's document.
    pub report: Document<CriticalSetReport>,
    channels: importance::Channels,
}

impl Located {
    /// Whether the site's channels were ranked.
    pub fn covers(&self, site: &Site) -> bool {
        self.channels.covers(site)
    }

    /// The neuron's rank among all channels, from 1, and its importance; none where that is not finite or the neuron is
    /// on none of the sites that were ranked.
    pub fn rank(&self, neuron: &Neuron) -> Option<(usize, f64)> {
        self.channels.rank(neuron)
    }
}

/// The first `n` entries of a ranking, with all noisy samples that there may be, and no search.
///
/// # Errors
/// A setting makes no sense, no site matches, or the model cannot compute.
pub fn rank(subject: &Subject, settings: &SearchSettings, n: usize, progress: &dyn Progress) -> Result<Vec<Entry>> {
    let Subject { model, text, .. } = subject;
    let settings = &SearchSettings { samples: Samples::Exactly(settings.samples.most()), ..settings.clone() };
    settings.check()?;
    let sites = settings.ranked_sites(model)?;
    let trunk = RefCell::new(Trunk::of(text.ids.clone()));
    let stage = stage::Stage { model, tokens: &text.ids, sites: &sites, settings, keep: n, trunk: &trunk, progress };
    let mut entries = importance::Ranked::new(stage)?.entries;
    entries.truncate(n);
    Ok(entries)
}

/// A minimal set of a prefix that collapses by each of so many random orders: `(epsilon, orders, seed)`.
///
/// # Errors
/// The model cannot compute.
pub fn minimal_sets(
    subject: &Subject,
    prefix: &[Neuron],
    orders: (f64, usize, u64),
    progress: &dyn Progress,
) -> Result<Vec<Vec<Neuron>>> {
    let mut evaluator = Evaluator::new(&subject.model, subject.text.ids.clone(), progress);
    minimize::by_orders(&mut evaluator, prefix, orders)
}

/// Runs both stages and the minimization.
///
/// # Errors
/// A setting makes no sense, no site matches, or the model cannot compute.
pub fn locate(subject: &Subject, settings: &SearchSettings, progress: &dyn Progress) -> Result<Located> {
    let mut located = locate_on(&subject.model, &subject.text, settings, progress)?;
    located.report.result.timing_s.load = subject.load_s;
    Ok(located)
}

/// As [`locate`], of a model that is at hand, on any text.
///
/// # Errors
/// As [`locate`].
pub fn locate_on(model: &Model, text: &Encoded, settings: &SearchSettings, progress: &dyn Progress) -> Result<Located> {
    settings.check()?;
    let sites = settings.ranked_sites(model)?;
    let tokens = &text.ids;
    if tokens.len() < MIN_STABLE_TOKENS {
        tracing::warn!(
            "the text has {} tokens; below {MIN_STABLE_TOKENS} the critical set changes from text to text",
            tokens.len()
        );
    }

    let keep = settings.max_neurons.max(REPORTED);
    let trunk = RefCell::new(Trunk::of(tokens.clone()));
    let stage = stage::Stage { model, tokens, sites: &sites, settings, keep, trunk: &trunk, progress };
    let started = Instant::now();
    let mut ranked = importance::Ranked::new(stage)?;
    if ranked.entries.is_empty() {
        let why = match model.not_finite() {
            Some(weight) => format!("as {weight}"),
            None => format!("so there is nothing to search; use {}", settings.ranking.against_overflow()),
        };
        return Err(Error::input(format!("no channel has an importance that is finite, {why}")));
    }
    let mut importance_s = started.elapsed().as_secs_f64();

    let passed = trunk.replace(Trunk::of(tokens.clone()));
    let mut evaluator = Evaluator::along(model, passed, tokens.clone(), progress);
    let mut search_s = 0.0;
    let prefix = loop {
        let started = Instant::now();
        let settled = &ranked.entries[..ranked.settled()];
        let prefix = search::search(&mut evaluator, settled, settings, &|| metrics::not_finite(model))?;
        search_s += started.elapsed().as_secs_f64();
        let searched = prefix.collapsed || prefix.n == settings.max_neurons.min(ranked.entries.len());
        if searched || !ranked.has_more() {
            break prefix;
        }
        let started = Instant::now();
        ranked.more(stage)?;
        importance_s += started.elapsed().as_secs_f64();
    };
    let started = Instant::now();
    let base_nll_nats = evaluator.nlls("masking prefixes", &[vec![]])?[0];
    search_s += started.elapsed().as_secs_f64();

    let started = Instant::now();
    let critical_set = match prefix.collapsed {
        false => None,
        true => {
            let members = search::members(&ranked.entries, prefix.n);
            let further = settings.smallest.map(|rows| Further { rows, seed: settings.seed });
            Some(minimize::minimize(&mut evaluator, members, settings.epsilon, further)?)
        }
    };
    let minimize_s = started.elapsed().as_secs_f64();

    let sharpness = critical_set
        .as_ref()
        .map(|set| Sharpness::of(base_nll_nats, &prefix.curve_nll_nats, set.damage, settings.epsilon));
    let checkpoint = model.checkpoint();
    let of_entry = |entry: &Entry| RankedNeuron::new(entry, model.recipe(), checkpoint.tensors());
    let identity = model.identity().or_no_hub();
    let result = CriticalSetReport {
        base: critical_set::Base { nll_nats: base_nll_nats, perplexity: metrics::perplexity(base_nll_nats) },
        ranking: ranked.entries.iter().take(REPORTED.max(prefix.n)).map(of_entry).collect(),
        sampling: ranked.sampling(settings),
        prefix,
        critical_set,
        sharpness,
        timing_s: critical_set::Timing { load: 0.0, importance: importance_s, search: search_s, minimize: minimize_s },
    };
    let settings = CriticalSetSettings {
        search: settings.clone(),
        samples_used: ranked.samples,
        dtype: model.arithmetic(),
        device: model.device_name(),
        text_sha256: text.sha256.clone(),
        tokens: text.ids.len(),
    };
    Ok(Located { report: Document::new(identity, settings, result), channels: ranked.channels })
}
