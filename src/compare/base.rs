//! What a variant is compared with: a model, or only what is known of one.

use super::published::Published;
use crate::architecture::Recipe;
use crate::checkpoint::hub::Origin;
use crate::checkpoint::{Checkpoint, Source};
use crate::compute;
use crate::document::{Document, critical_set};
use crate::error::{Error, Result};
use crate::escape::printable;
use crate::locate::{
    self, CriticalSetReport, CriticalSetSettings, OpenedSubject, Ranking, SearchSettings, Sharpness, SiteSelection,
    Subject,
};
use crate::neuron::{Neuron, Side, Site};
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::PathBuf;

/// BASE as it is named on a command line.
#[derive(Debug, Clone, PartialEq)]
pub enum BaseName {
    /// A folder, a .gguf file or a hub id.
    Model(String),
    /// What `locate --format json` wrote.
    CriticalSet(PathBuf),
    /// One of those the tool ships.
    Published(String),
}

impl BaseName {
    /// `published:NAME`, a file that ends in .json, or else a model.
    pub fn of(text: &str) -> BaseName {
        match text.strip_prefix("published:") {
            Some(name) => BaseName::Published(name.into()),
            None if text.ends_with(".json") => BaseName::CriticalSet(text.into()),
            None => BaseName::Model(text.into()),
        }
    }

    /// Whether there is such a base, before anything is computed; of a hub id its form alone.
    ///
    /// # Errors
    /// Nothing is there, or it is not what its name says.
    pub fn check(&self) -> Result<()> {
        match self {
            BaseName::Published(name) => Published::find(name).map(drop),
            BaseName::CriticalSet(path) => critical_set::read::<Document<CriticalSetReport>>(path).map(drop),
            BaseName::Model(name) => Source::find(name).map(drop),
        }
    }
}

/// Which base it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseIdentity {
    /// The base as it was named: a model, a critical set's file, or published:NAME.
    pub source: String,
    /// `model`, `critical-set` or `published`.
    pub kind: String,
    /// As its config names it; none of a published one.
    pub architecture: Option<String>,
    /// SHA-256 of its config.json; none of a published one.
    pub config_sha256: Option<String>,
    /// Which commit of a hub repository it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<Origin>,
    /// How its packed weights are read, as of a [`ModelIdentity`](crate::document::ModelIdentity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// What the tool says of where its figures come from; none where it measured them itself.
    pub published: Option<String>,
    /// How much of its critical set is known, where that is not all: that it does not transfer then means little.
    pub partial: Option<String>,
    /// How sharp its collapse is, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharpness: Option<Sharpness>,
}

impl BaseIdentity {
    /// Whether its collapse is known to be gradual.
    pub fn is_gradual(&self) -> bool {
        self.sharpness.is_some_and(|sharpness| sharpness.gradual)
    }
}

/// What a variant is compared with.
pub struct Base {
    /// Where the critical set is from: a model, a document or the paper.
    pub identity: BaseIdentity,
    /// Its critical set, in order of its ranking; of a published one as much of the collapse prefix as is known.
    pub neurons: Vec<Neuron>,
    /// Its ranking's first channels, all of the critical set's among them, and their importance.
    pub(super) ranking: Vec<(Neuron, f64)>,
    /// How its ranking was made; none of a published one.
    pub(super) settings: Option<CriticalSetSettings>,
    /// NLL of the text under it, where it is known.
    pub(super) nll_nats: Option<f64>,
    /// Shapes of the tensors that hold its ranking's first neurons, where they are known.
    shapes: Vec<(Neuron, Vec<usize>)>,
    /// The model itself, where there is one.
    pub(super) model: Option<Subject>,
}

/// A base before anything is computed: its critical set is known, or yet to be searched for.
pub enum Unsearched {
    /// A model.
    Model(String, Box<OpenedSubject>),
    /// What is known of one.
    Known(Box<Base>),
}

impl Unsearched {
    /// Opens a base.
    ///
    /// # Errors
    /// There is no such base, it cannot be read or computed on this text, or it is known to have no critical set.
    pub fn open(name: &BaseName, text: &str, progress: &dyn Progress) -> Result<Unsearched> {
        let known = |base| Unsearched::Known(Box::new(base));
        match name {
            BaseName::Published(name) => Ok(known(Base::of_published(&Published::find(name)?))),
            BaseName::CriticalSet(path) => {
                let report = critical_set::read(path)?;
                Base::of_report(report, &path.display().to_string(), "critical-set", None).map(known)
            }
            BaseName::Model(name) => Unsearched::model(Checkpoint::open(name, progress)?, text),
        }
    }

    /// A model that was opened.
    ///
    /// # Errors
    /// It cannot be computed on this text.
    pub fn model(checkpoint: Checkpoint, text: &str) -> Result<Unsearched> {
        let name = checkpoint.name().to_owned();
        Ok(Unsearched::Model(name, Box::new(OpenedSubject::new(checkpoint, text)?)))
    }

    /// Refuses a variant that cannot be compared with the base once both were searched with these settings.
    ///
    /// # Errors
    /// As [`Base::check_comparable`]; also where the settings leave out what is known of the base, or rank by lot.
    pub fn check(&self, variant: &OpenedSubject, settings: &SearchSettings) -> Result<()> {
        let OpenedSubject { checkpoint, recipe, .. } = variant;
        says_something(settings.ranking)?;
        match self {
            Unsearched::Model(source, base) => same_sites(source, &base.recipe, recipe, checkpoint),
            Unsearched::Known(base) => {
                base.check_comparable(recipe, checkpoint)?;
                base.check_options(settings.side, settings.ranking, &settings.sites)?;
                let sites = recipe.sites()?;
                let chosen = settings.ranking.ranked(settings.sites.of(recipe, &sites, settings.side)?)?;
                base.check_covered(&settings.sites, settings.ranking, |site| chosen.iter().any(|s| s.site == *site))
            }
        }
    }

    /// The base with its critical set, which a model is searched for.
    ///
    /// # Errors
    /// The model cannot be computed, or it has no critical set.
    pub fn search(
        self,
        compute: &compute::ComputeSettings,
        settings: &SearchSettings,
        progress: &dyn Progress,
    ) -> Result<Base> {
        match self {
            Unsearched::Known(base) => Ok(*base),
            Unsearched::Model(name, opened) => {
                let subject = opened.load_to_locate((compute, settings), progress)?;
                let report = locate::locate(&subject, settings, progress)?.report;
                Base::of_report(report, &name, "model", Some(subject))
            }
        }
    }
}

/// Refuses a variant that does not have the base's modules in the base's widths.
fn same_sites(source: &str, base: &Recipe, variant: &Recipe, checkpoint: &Checkpoint) -> Result<()> {
    if base.sites()? == variant.sites()? {
        return Ok(());
    }
    let shape = |r: &Recipe| format!("{} layers of width {} ({})", r.layers.len(), r.hidden_size, r.architecture);
    let (ours, theirs) = (shape(base), shape(variant));
    Err(not_comparable(
        source,
        checkpoint,
        &match ours == theirs {
            true => format!("both have {ours}, but not the same modules or widths"),
            false => format!("it has {theirs}, the base {ours}"),
        },
    ))
}

/// Refuses what ranks all models of one shape alike.
fn says_something(ranking: Ranking) -> Result<()> {
    match ranking {
        Ranking::Random => Err(Error::input(
            "--ranking random ranks a base and any variant of it alike, whatever their weights: use another --ranking",
        )),
        _ => Ok(()),
    }
}

fn not_comparable(source: &str, variant: &Checkpoint, why: &str) -> Error {
    Error::input(format!("{} cannot be compared with the base {source}: {why}", variant.name()))
}

impl Base {
    fn of_published(set: &Published) -> Base {
        Base {
            identity: BaseIdentity {
                source: set.model.clone(),
                kind: "published".into(),
                architecture: None,
                config_sha256: None,
                hub: None,
                weights: None,
                published: Some(set.source.clone()),
                partial: (set.prefix > set.ranking.len())
                    .then(|| format!("the first {} of its {} entries are published", set.ranking.len(), set.prefix)),
                sharpness: Some(set.sharpness()),
            },
            neurons: set.collapse_prefix(),
            ranking: set.channels().iter().map(|e| (e.neuron.clone(), e.importance)).collect(),
            settings: None,
            nll_nats: None,
            shapes: Vec::new(),
            model: None,
        }
    }

    fn of_report(
        report: Document<CriticalSetReport>,
        source: &str,
        kind: &str,
        model: Option<Subject>,
    ) -> Result<Base> {
        let Document { model: identity, settings, result: report, .. } = report;
        let none = "has no critical set: masking never made it collapse, so that there is nothing to compare with";
        let set = report.critical_set.ok_or_else(|| Error::input(format!("the base {source} {none}")))?;
        let (mut ranking, mut shapes, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for ranked in report.ranking {
            // By the published counting a channel can be there more than once.
            if seen.insert(ranked.neuron.clone()) {
                shapes.extend(ranked.shape.map(|shape| (ranked.neuron.clone(), shape)));
                ranking.push((ranked.neuron, ranked.importance));
            }
        }
        let unsound = |problem: &str| Err(Error::input(format!("the critical set of the base {source} {problem}")));
        if set.neurons.is_empty() {
            return unsound("has no neurons; locate it again");
        }
        if set.neurons.iter().any(|neuron| !seen.contains(neuron)) {
            return unsound("is not within its ranking; locate it again");
        }
        let is_signed = settings.search.ranking == Ranking::MagnitudeSigned;
        if ranking.iter().any(|(_, importance)| !importance.is_finite() || (*importance <= 0.0 && !is_signed)) {
            return unsound("comes with a ranking by importances that are not above 0; locate it again");
        }
        if !(report.base.nll_nats.is_finite() && report.base.nll_nats >= 0.0) {
            return unsound("comes with a perplexity that is not a number of 1 or more; locate it again");
        }
        Ok(Base {
            identity: BaseIdentity {
                source: source.into(),
                kind: kind.into(),
                architecture: identity.architecture.flatten(),
                config_sha256: identity.config_sha256.flatten(),
                hub: identity.hub.flatten(),
                weights: identity.weights,
                published: None,
                partial: None,
                sharpness: report.sharpness,
            },
            neurons: set.neurons,
            ranking,
            settings: Some(settings),
            nll_nats: Some(report.base.nll_nats),
            shapes,
            model,
        })
    }

    /// Refuses a variant whose neurons are not the base's: names would mean something else in it.
    ///
    /// # Errors
    /// The variant is of another architecture, or has other layers or other widths.
    pub fn check_comparable(&self, variant: &Recipe, checkpoint: &Checkpoint) -> Result<()> {
        let source = &self.identity.source;
        let cannot = |why: String| not_comparable(source, checkpoint, &why);
        if let Some(Subject { model: base, .. }) = &self.model {
            same_sites(source, base.recipe(), variant, checkpoint)?;
        }
        let ours = variant.architecture;
        if let Some(base) = self.identity.architecture.as_ref().filter(|base| *base != ours) {
            return Err(cannot(format!("it is a {ours}, the base a {}", printable(base))));
        }
        let sites = variant.sites()?;
        let has = |neuron: &Neuron| sites.iter().any(|s| s.site == neuron.site && neuron.channel < s.channels);
        if let Some((neuron, _)) = self.ranking.iter().find(|(neuron, _)| !has(neuron)) {
            return Err(cannot(format!("it has no neuron {neuron}")));
        }
        for (neuron, shape) in &self.shapes {
            let parts = variant.parts(neuron, checkpoint.tensors());
            if let Some(part) = parts.first().filter(|part| part.shape != *shape) {
                return Err(cannot(format!("its {} is {:?}, the base's {shape:?}", part.tensor, part.shape)));
            }
        }
        Ok(())
    }

    /// Refuses a search by lot, or on other sites than the base's: then not even ranks can be compared.
    ///
    /// # Errors
    /// It is one.
    pub(super) fn check_options(&self, side: Side, ranking: Ranking, sites: &SiteSelection) -> Result<()> {
        says_something(ranking)?;
        let source = &self.identity.source;
        let Some(base) = self.settings.as_ref().map(|settings| &settings.search) else {
            return match side {
                Side::Out => Ok(()),
                side @ Side::In => {
                    Err(Error::input(format!("{source} was published of outputs, this is of --side {side}")))
                }
            };
        };
        let same = [
            ("side", base.side.to_string(), side.to_string()),
            ("ranking", base.ranking.as_str().to_owned(), ranking.as_str().to_owned()),
            ("sites", base.sites.to_string(), sites.to_string()),
        ];
        for (flag, base, ours) in same {
            if base != ours {
                return Err(Error::input(format!(
                    "the base {source} was searched with --{flag} {base}, this with {ours}: use --{flag} {base}"
                )));
            }
        }
        Ok(())
    }

    /// Refuses a search that leaves out a site of the critical set.
    ///
    /// # Errors
    /// It does.
    pub(super) fn check_covered(
        &self,
        sites: &SiteSelection,
        ranking: Ranking,
        covers: impl Fn(&Site) -> bool,
    ) -> Result<()> {
        match self.neurons.iter().find(|neuron| !covers(&neuron.site)) {
            None => Ok(()),
            Some(neuron) => {
                let source = &self.identity.source;
                let options = match ranking.is_of_down_proj() {
                    true => format!("--ranking {} leaves out", ranking.as_str()),
                    false => format!("--sites {sites} leaves out"),
                };
                let problem = format!("{neuron} of the base {source} is on a site that {options}");
                Err(Error::input(problem))
            }
        }
    }

    /// What would have to be the same for importances to be compared and is not: none where all is.
    pub(super) fn settings_differ(&self, ours: &CriticalSetSettings) -> Option<String> {
        let source = &self.identity.source;
        let Some(base) = &self.settings else { return Some("published figures are of another text".into()) };
        let differs = [
            ("--alpha", base.search.alpha != ours.search.alpha),
            ("--samples", base.search.samples != ours.search.samples),
            ("--seed", base.search.seed != ours.search.seed),
            ("--dtype", base.dtype != ours.dtype),
            ("the text", base.text_sha256 != ours.text_sha256),
            ("the tokens", base.tokens != ours.tokens),
        ];
        let differs: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        let not_same = || format!("the base {source} was searched with other settings: {}", differs.join(", "));
        (!differs.is_empty()).then(not_same)
    }
}
