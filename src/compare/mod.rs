//! Does a variant still hang on its base's critical set? Two answers, apart: where its important neurons are, and what
//! masking the base's does to it. Fine-tunes keep the place more surely than the effect.

mod base;
mod predictions;
pub mod published;
mod random;
#[cfg(test)]
mod tests;

pub use base::{Base, BaseIdentity, BaseName, Unsearched};

use crate::checkpoint::Checkpoint;
use crate::compute::ComputeSettings;
use crate::document::{Document, Kind};
use crate::error::Result;
use crate::evaluate::divergence::Divergence;
use crate::evaluate::metrics;
use crate::locate::{
    self, CriticalSetReport, CriticalSetSettings, Evaluator, Located, OpenedSubject, SearchSettings, Subject,
};
use crate::neuron::Neuron;
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Random sets that a critical set is held against.
pub const CONTROLS: usize = 10;

/// First channels of the base's ranking whose ranks are compared.
const COMPARED: usize = 100;

/// From where on a verdict holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Damage of the base's set on the variant from which it transfers.
    pub damage: f64,
    /// A neuron is where it was if it is among so many first of the variant's ranking.
    pub rank: f64,
    /// A set is where it was if at least this share of it is.
    pub set_share: f64,
    /// Rankings are related if at least this share of the base's first neurons is among as many first of the variant's.
    pub ranking_share: f64,
}

/// Whether the variant shares its base's critical set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum SetVerdict {
    /// Masking the base's set makes the variant collapse too, and no random set of its size does as much.
    Shared,
    /// The base's neurons are still among the most important, but the variant does without them.
    SharedLocationOnly,
    /// The rankings are related, but the base's set is neither important nor fatal any more.
    Moved,
    /// The rankings have little in common.
    Unrelated,
}

impl SetVerdict {
    /// In kebab case.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What came of comparing variants with a base (`achilles-audit/compare/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What the variants are compared with.
    pub base: BaseIdentity,
    /// The critical set of the base, whose masking is tried on the variants.
    pub critical_set: Vec<Neuron>,
    /// How it was searched; none of a published one.
    pub base_settings: Option<CriticalSetSettings>,
    /// From where on a verdict holds.
    pub limits: Limits,
    /// The variants, as they were named.
    pub variants: Vec<Variant>,
}

/// A variant beside the base.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Variant {
    /// Its own critical set.
    pub located: Document<CriticalSetReport>,
    /// What it shares with the base.
    pub compared: Compared,
}

impl Kind for Comparison {
    const SCHEMA: &'static str = "achilles-audit/compare/v1";
    type Model = ();
    type Settings = ();
}

/// Searches a base, unless it is known, and variants, and compares each with the base.
///
/// # Errors
/// A model cannot be opened or computed, the base is none or has no critical set, or a variant cannot be compared with
/// it: whatever can be known before the first search is found then.
pub fn compare_models(
    base: &BaseName,
    variants: &[String],
    text: &str,
    (compute, settings, limits): (&ComputeSettings, &SearchSettings, Limits),
    progress: &dyn Progress,
) -> Result<Document<Comparison>> {
    let base = Unsearched::open(base, text, progress)?;
    let open = |name: &String| OpenedSubject::new(Checkpoint::open(name, progress)?, text);
    let opened = variants.iter().map(open).collect::<Result<Vec<_>>>()?;
    opened.iter().try_for_each(|variant| base.check(variant, settings))?;
    let base = base.search(compute, settings, progress)?;
    let search = |variant: OpenedSubject| {
        let subject = variant.load_to_locate((compute, settings), progress)?;
        let located = locate::locate(&subject, settings, progress)?;
        let compared = compare(&base, &subject, &located, &limits, progress)?;
        Ok(Variant { located: located.report, compared })
    };
    let result = Comparison {
        variants: opened.into_iter().map(search).collect::<Result<_>>()?,
        base: base.identity,
        critical_set: base.neurons,
        base_settings: base.settings,
        limits,
    };
    Ok(Document::new((), (), result))
}

/// What comparing a variant with its base found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// What the variants are compared with.
    pub base: BaseIdentity,
    /// Whether the critical set is shared.
    pub verdict: SetVerdict,
    /// Where the important neurons are.
    pub location: Location,
    /// What masking either's set does to the other.
    pub transfer: Transfer,
    /// log10 of the variant's perplexity over the base's; none where the base's is not known for this text.
    pub damage: Option<f64>,
    /// Why importances were not compared; none where they were.
    pub importance_not_compared: Option<String>,
    /// How far its predictions of the text are from the base's; none where they were not compared.
    #[serde(default)]
    pub divergence: Option<Divergence>,
    /// Why predictions were not compared; none where they were.
    #[serde(default)]
    pub divergence_not_compared: Option<String>,
}

/// Where the base's important neurons are in the variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Each neuron of the base's critical set.
    pub neurons: Vec<Placed>,
    /// How much of the first of one ranking is among the first of the other.
    pub overlap: Vec<Overlap>,
    /// Spearman's ρ between the base's ranks and the variant's, over the base's first neurons (at most 100); none of
    /// fewer than 3.
    pub spearman: Option<f64>,
}

/// A neuron of the base's critical set in the two rankings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Which of the set's neurons it is.
    pub neuron: Neuron,
    /// Its rank in the base, from 1.
    pub base_rank: usize,
    /// Its rank among all channels of the variant, from 1; none where its importance there is not finite.
    pub rank: Option<usize>,
    /// Its importance in the variant over that in the base; none where these cannot be compared.
    pub importance_ratio: Option<f64>,
}

/// The first `k` of both rankings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// How many of each.
    pub k: usize,
    /// How many of them are the same neurons.
    pub shared: usize,
}

/// What masking a critical set does to the other model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// The base's set, masked in the variant.
    pub base_on_variant: Masked,
    /// The variant's set, masked in the base; none where the base's weights or a set of the variant are lacking.
    pub variant_on_base: Option<Masked>,
}

/// A set that was masked, beside random ones of its size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Masked {
    /// The neurons that were masked.
    pub neurons: Vec<Neuron>,
    /// Its damage: log10 of the perplexity ratio, infinite where the arithmetic overflowed (null in JSON).
    #[serde(deserialize_with = "crate::locate::one_finite_or_infinite")]
    pub damage: f64,
    /// The damage of each random set.
    #[serde(deserialize_with = "crate::locate::finite_or_infinite")]
    pub controls: Vec<f64>,
}

impl Masked {
    /// The largest damage of a random set.
    pub fn worst_control(&self) -> f64 {
        self.controls.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// Compares a variant, which was searched, with its base.
///
/// # Errors
/// The variant's layers or widths are not the base's, its ranking is of other sites, or a model cannot compute.
pub fn compare(
    base: &Base,
    variant: &Subject,
    located: &Located,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Compared> {
    let Document { settings: ours, result: report, .. } = &located.report;
    base.check_comparable(variant.model.recipe(), variant.model.checkpoint())?;
    base.check_options(ours.search.side, ours.search.ranking, &ours.search.sites)?;
    base.check_covered(&ours.search.sites, ours.search.ranking, |site| located.covers(site))?;
    let importance_not_compared = base.settings_differ(ours);
    let location = locate_in(base, located, importance_not_compared.is_none());
    let base_on_variant = mask(variant, &base.neurons, &ours.search, "masking the base's set", progress)?;
    let variant_on_base = match (&base.model, &report.critical_set) {
        (Some(of_base), Some(set)) => {
            Some(mask(of_base, &set.neurons, &ours.search, "masking the variant's set in the base", progress)?)
        }
        _ => None,
    };
    let (divergence, divergence_not_compared) = match predictions::compare(base.model.as_ref(), variant, progress)? {
        Ok(divergence) => (Some(divergence), None),
        Err(why) => (None, Some(why)),
    };
    let of_text = |s: &CriticalSetSettings| (s.text_sha256.clone(), s.tokens);
    let same_text = base.settings.as_ref().is_some_and(|s| of_text(s) == of_text(ours));
    let nll_nats = base.nll_nats.filter(|_| same_text);
    Ok(Compared {
        base: base.identity.clone(),
        verdict: verdict(&base_on_variant, &location, limits),
        location,
        transfer: Transfer { base_on_variant, variant_on_base },
        damage: nll_nats.map(|base| metrics::damage(report.base.nll_nats, base)),
        importance_not_compared,
        divergence,
        divergence_not_compared,
    })
}

fn verdict(base_on_variant: &Masked, location: &Location, limits: &Limits) -> SetVerdict {
    let damage = base_on_variant.damage;
    if damage >= limits.damage && damage > base_on_variant.worst_control() {
        return SetVerdict::Shared;
    }
    let in_place = location.neurons.iter().filter(|n| n.rank.is_some_and(|rank| rank as f64 <= limits.rank)).count();
    if in_place > 0 && in_place as f64 >= limits.set_share * location.neurons.len() as f64 {
        return SetVerdict::SharedLocationOnly;
    }
    let related = |o: &Overlap| o.shared as f64 >= limits.ranking_share * o.k as f64;
    match location.overlap.last().is_some_and(related) {
        true => SetVerdict::Moved,
        false => SetVerdict::Unrelated,
    }
}

fn locate_in(base: &Base, located: &Located, with_importance: bool) -> Location {
    let placed = |(at, (neuron, importance)): (usize, &(Neuron, f64))| {
        let in_variant = located.rank(neuron);
        let ratio = in_variant.filter(|_| with_importance).map(|(_, ours)| ours / importance);
        Placed {
            neuron: neuron.clone(),
            base_rank: at + 1,
            rank: in_variant.map(|(rank, _)| rank),
            importance_ratio: ratio.filter(|r| r.is_finite()),
        }
    };
    // A base's set is within its ranking, in that order.
    let of_set = base.ranking.iter().enumerate().filter(|(_, (neuron, _))| base.neurons.contains(neuron));
    let first = base.ranking.iter().take(COMPARED);
    let ranks: Vec<Option<usize>> = first.map(|(n, _)| located.rank(n).map(|(rank, _)| rank)).collect();
    let first = |k: usize| Overlap { k, shared: ranks[..k].iter().flatten().filter(|rank| **rank <= k).count() };
    let mut sizes: Vec<usize> = [1, 10, 100].into_iter().filter(|k| *k < ranks.len()).collect();
    sizes.push(ranks.len());
    Location {
        neurons: of_set.map(placed).collect(),
        overlap: sizes.into_iter().map(first).collect(),
        spearman: spearman(&ranks),
    }
}

/// Spearman's ρ (Pearson's of the ranks) between 1, 2, … and `ranks`, none of which are equal; those that are lacking
/// come last together.
fn spearman(ranks: &[Option<usize>]) -> Option<f64> {
    let n = ranks.len();
    if n < 3 {
        return None;
    }
    let lacking = ranks.iter().filter(|rank| rank.is_none()).count();
    let of = |rank: &Option<usize>| match rank {
        Some(rank) => 1.0 + ranks.iter().flatten().filter(|other| *other < rank).count() as f64,
        None => (n - lacking) as f64 + (lacking as f64 + 1.0) / 2.0,
    };
    let mean = (n as f64 + 1.0) / 2.0;
    let (mut both, mut one, mut other) = (0.0, 0.0, 0.0);
    for (at, rank) in ranks.iter().enumerate() {
        let (a, b) = (at as f64 + 1.0 - mean, of(rank) - mean);
        (both, one, other) = (both + a * b, one + a * a, other + b * b);
    }
    (other > 0.0).then(|| both / (one * other).sqrt())
}

/// Masks a set, and random sets of its size among the channels that were ranked.
fn mask(
    subject: &Subject,
    neurons: &[Neuron],
    settings: &SearchSettings,
    stage: &str,
    progress: &dyn Progress,
) -> Result<Masked> {
    let mut sets = vec![Vec::new(), neurons.to_vec()];
    sets.extend(random::sets(&subject.model, settings, neurons, CONTROLS)?);
    let mut evaluator = Evaluator::new(&subject.model, subject.text.ids.clone(), progress);
    let nlls = evaluator.nlls(stage, &sets)?;
    let base = metrics::base(nlls[0], || metrics::not_finite(&subject.model))?;
    let damages: Vec<f64> = nlls[1..].iter().map(|nll| metrics::damage(*nll, base)).collect();
    Ok(Masked { neurons: neurons.to_vec(), damage: damages[0], controls: damages[1..].to_vec() })
}
