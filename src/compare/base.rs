//! What a variant is compared with: a model, or only what is known of one.

use super::published::Published;
use crate::checkpoint::hub::Origin;
use crate::checkpoint::{Checkpoint, place};
use crate::error::{Error, Result, printable};
use crate::locate::{self, Report, ReportSettings, Settings, Subject};
use crate::model::{self, Model, Recipe};
use crate::neuron::Neuron;
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
}

/// Which base it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseIdentity {
    /// As it was named.
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
    /// What the tool says of where its figures come from; none where it measured them itself.
    pub published: Option<String>,
    /// How much of its critical set is known, where that is not all: that it does not transfer then means little.
    pub partial: Option<String>,
}

/// What a variant is compared with.
pub struct Base {
    /// Which one.
    pub identity: BaseIdentity,
    /// Its critical set, in order of its ranking; of a published one as much of the collapse prefix as is known.
    pub neurons: Vec<Neuron>,
    /// Its ranking's first channels, all of the critical set's among them, and their importance.
    pub(super) ranking: Vec<(Neuron, f64)>,
    /// How its ranking was made; none of a published one.
    pub(super) settings: Option<ReportSettings>,
    /// NLL of the text under it, where it is known.
    pub(super) nll_nats: Option<f64>,
    /// Shapes of the tensors that hold its ranking's first neurons, where they are known.
    shapes: Vec<(Neuron, Vec<usize>)>,
    /// The model itself, where there is one.
    pub(super) model: Option<Subject>,
}

impl Base {
    /// Opens a base; a model is searched for its critical set on `text`.
    ///
    /// # Errors
    /// There is no such base, it cannot be read or computed, or it has no critical set.
    pub fn open(
        name: &BaseName,
        text: &str,
        compute: &model::Settings,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Base> {
        match name {
            BaseName::Published(name) => Ok(Base::of_published(&Published::find(name)?)),
            BaseName::CriticalSet(path) => {
                let report = Report::read(path)?;
                Base::of_report(report, &path.display().to_string(), "critical-set", None)
            }
            BaseName::Model(name) => {
                let subject = Subject::load(Checkpoint::open(name, progress)?, text, compute, progress)?;
                let report = locate::locate(&subject, settings, progress)?.report;
                Base::of_report(report, name, "model", Some(subject))
            }
        }
    }

    fn of_published(set: &Published) -> Base {
        Base {
            identity: BaseIdentity {
                source: set.model.clone(),
                kind: "published".into(),
                architecture: None,
                config_sha256: None,
                hub: None,
                published: Some(set.source.clone()),
                partial: (set.prefix > set.ranking.len())
                    .then(|| format!("the first {} of its {} entries are published", set.ranking.len(), set.prefix)),
            },
            neurons: set.collapse_prefix(),
            ranking: set.channels().iter().map(|e| (e.neuron.clone(), e.importance)).collect(),
            settings: None,
            nll_nats: None,
            shapes: Vec::new(),
            model: None,
        }
    }

    fn of_report(report: Report, source: &str, kind: &str, model: Option<Subject>) -> Result<Base> {
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
            return unsound("has no neurons; locate it anew");
        }
        if set.neurons.iter().any(|neuron| !seen.contains(neuron)) {
            return unsound("is not within its ranking; locate it anew");
        }
        if ranking.iter().any(|(_, importance)| !importance.is_finite() || *importance <= 0.0) {
            return unsound("comes with a ranking by importances that are not above 0; locate it anew");
        }
        if !(report.base.nll_nats.is_finite() && report.base.nll_nats >= 0.0) {
            return unsound("comes with a perplexity that is not a number of 1 or more; locate it anew");
        }
        Ok(Base {
            identity: BaseIdentity {
                source: source.into(),
                kind: kind.into(),
                architecture: Some(report.model.architecture),
                config_sha256: Some(report.model.config_sha256),
                hub: report.model.hub,
                published: None,
                partial: None,
            },
            neurons: set.neurons,
            ranking,
            settings: Some(report.settings),
            nll_nats: Some(report.base.nll_nats),
            shapes,
            model,
        })
    }

    /// Refuses a variant whose neurons are not the base's: names would mean something else in it.
    ///
    /// # Errors
    /// The variant is of another architecture, or has other layers or other widths.
    pub fn check_comparable(&self, variant: &Model) -> Result<()> {
        let source = &self.identity.source;
        let cannot = |why: String| {
            let name = variant.checkpoint().name();
            Error::input(format!("{name} cannot be compared with the base {source}: {why}"))
        };
        if let Some(Subject { model: base, .. }) = &self.model {
            let (ours, theirs) = (base.recipe(), variant.recipe());
            let shape =
                |r: &Recipe| format!("{} layers of width {} ({})", r.layers.len(), r.hidden_size, r.architecture);
            if base.sites() != variant.sites() {
                let (ours, theirs) = (shape(ours), shape(theirs));
                let both = match ours == theirs {
                    true => format!("both have {ours}, but not the same modules or widths"),
                    false => format!("it has {theirs}, the base {ours}"),
                };
                return Err(cannot(both));
            }
        }
        let ours = variant.recipe().architecture;
        if let Some(base) = self.identity.architecture.as_ref().filter(|base| *base != ours) {
            return Err(cannot(format!("it is a {ours}, the base a {}", printable(base))));
        }
        for (neuron, _) in &self.ranking {
            variant.check(neuron).map_err(|e| cannot(e.to_string()))?;
        }
        for (neuron, shape) in &self.shapes {
            let parts = place::parts(neuron, variant.checkpoint().tensors());
            if let Some(part) = parts.first().filter(|part| part.shape != *shape) {
                return Err(cannot(format!("its {} is {:?}, the base's {shape:?}", part.tensor, part.shape)));
            }
        }
        Ok(())
    }

    /// What would have to be the same for importances to be compared and is not: none where all is.
    ///
    /// # Errors
    /// The ranking is on other sites: then not even ranks can be compared.
    pub(super) fn check_settings(&self, ours: &ReportSettings) -> Result<Option<String>> {
        let source = &self.identity.source;
        let Some(base) = &self.settings else {
            return match ours.side.as_str() {
                "out" => Ok(Some("published figures are of another text".into())),
                side => Err(Error::input(format!("{source} was published of outputs, this is of --side {side}"))),
            };
        };
        let same = [
            ("side", &base.side, &ours.side),
            ("ranking", &base.ranking, &ours.ranking),
            ("sites", &base.sites, &ours.sites),
        ];
        for (flag, base, ours) in same {
            if base != ours {
                return Err(Error::input(format!(
                    "the base {source} was searched with --{flag} {base}, this with {ours}: use --{flag} {base}"
                )));
            }
        }
        let differs = [
            ("--alpha", base.alpha != ours.alpha),
            ("--samples", base.samples_used != ours.samples_used),
            ("--seed", base.seed != ours.seed),
            ("--dtype", base.dtype != ours.dtype),
            ("the text", base.text_sha256 != ours.text_sha256),
            ("the tokens", base.tokens != ours.tokens),
        ];
        let differs: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        let not_same = || format!("the base {source} was searched with other settings: {}", differs.join(", "));
        Ok((!differs.is_empty()).then(not_same))
    }
}
