//! The profile of a site: how its norms are distributed over prompts and positions.

use super::reading::Reading;
use super::sketch::Sketch;
use crate::error::{Error, Result};
use crate::neuron::Site;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use strum::IntoStaticStr;

/// Which positions. The first token is where a decoder's massive activations are (the attention sink, arXiv
/// 2402.17762): its norms have a distribution of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "lowercase")]
pub enum Tokens {
    /// Position 0, where many models have their largest activations.
    First,
    /// Every position but 0.
    Rest,
}

impl Tokens {
    /// All there are, in the order of reports.
    pub const ALL: [Tokens; 2] = [Tokens::First, Tokens::Rest];

    /// Those that a position is of.
    pub fn of(position: usize) -> Tokens {
        if position == 0 { Tokens::First } else { Tokens::Rest }
    }

    /// `first` or `rest`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What is read off a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Statistic {
    /// The Euclidean norm over channels.
    L2,
    /// The largest |x| over channels.
    MaxAbs,
}

impl Statistic {
    /// All there are, in the order of reports.
    pub const ALL: [Statistic; 2] = [Statistic::L2, Statistic::MaxAbs];

    /// `l2` or `max_abs`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    fn of(self, reading: &Reading) -> f64 {
        match self {
            Statistic::L2 => reading.l2,
            Statistic::MaxAbs => reading.max_abs,
        }
    }
}

/// Which of a prompt's positions a distribution over prompts is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extreme {
    /// The one where the statistic is smallest.
    Smallest,
    /// The one where it is largest.
    Largest,
}

/// One statistic's distributions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Over prompts and positions.
    pub positions: Sketch,
    /// Of each prompt's smallest value, over prompts.
    pub smallest: Sketch,
    /// Of each prompt's largest value, over prompts.
    pub largest: Sketch,
}

impl Distribution {
    /// That of each prompt's extreme.
    pub fn over_prompts(&self, extreme: Extreme) -> &Sketch {
        match extreme {
            Extreme::Smallest => &self.smallest,
            Extreme::Largest => &self.largest,
        }
    }
}

/// A site at some positions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Values that were NaN. A position with such or infinite values counts nowhere else.
    pub nan: u64,
    /// Values that were infinite.
    pub inf: u64,
    /// Of the Euclidean norm over channels.
    pub l2: Distribution,
    /// Of the largest |x| over channels.
    pub max_abs: Distribution,
    /// How often each channel held the largest |x|.
    pub channels: BTreeMap<usize, u64>,
}

impl Profile {
    /// The statistic's distributions.
    pub fn of(&self, statistic: Statistic) -> &Distribution {
        match statistic {
            Statistic::L2 => &self.l2,
            Statistic::MaxAbs => &self.max_abs,
        }
    }

    fn of_mut(&mut self, statistic: Statistic) -> &mut Distribution {
        match statistic {
            Statistic::L2 => &mut self.l2,
            Statistic::MaxAbs => &mut self.max_abs,
        }
    }

    /// Whether it has seen nothing.
    pub fn is_empty(&self) -> bool {
        self.nan == 0 && self.inf == 0 && self.channels.is_empty()
    }

    /// The channel that held the largest |x| most often, and in what share of positions.
    pub fn usual_channel(&self) -> Option<(usize, f64)> {
        let total: f64 = self.channels.values().map(|n| *n as f64).sum();
        let (channel, count) =
            self.channels.iter().max_by_key(|(channel, count)| (**count, std::cmp::Reverse(**channel)))?;
        Some((*channel, *count as f64 / total))
    }
}

/// What the norms of a site's activations usually are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteProfile {
    /// The module, and which side of it.
    pub site: Site,
    /// How many channels the site has.
    pub channels: usize,
    /// At position 0.
    pub first: Profile,
    /// At all others.
    pub rest: Profile,
}

impl SiteProfile {
    /// One that has seen nothing.
    pub fn new(site: Site, channels: usize) -> SiteProfile {
        SiteProfile { site, channels, first: Profile::default(), rest: Profile::default() }
    }

    /// At these positions.
    pub fn at(&self, tokens: Tokens) -> &Profile {
        match tokens {
            Tokens::First => &self.first,
            Tokens::Rest => &self.rest,
        }
    }

    fn at_mut(&mut self, tokens: Tokens) -> &mut Profile {
        match tokens {
            Tokens::First => &mut self.first,
            Tokens::Rest => &mut self.rest,
        }
    }

    /// Checks a profile that was read from a file.
    pub(super) fn check(&self) -> Result<()> {
        for profile in Tokens::ALL.map(|t| self.at(t)) {
            if let Some(channel) = profile.channels.keys().find(|c| **c >= self.channels) {
                let problem = format!("{} has channel {channel} of {}", self.site, self.channels);
                return Err(Error::input(problem));
            }
            for d in [&profile.l2, &profile.max_abs] {
                [&d.positions, &d.smallest, &d.largest].into_iter().try_for_each(Sketch::check)?;
            }
        }
        Ok(())
    }
}

/// One prompt's extremes: by site, positions and statistic, the smallest and the largest value.
pub type Extremes = BTreeMap<(usize, Tokens, Statistic), (f64, f64)>;

/// Profiles of sites over the prompts that passed, and each prompt's extremes.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// A profile for each site.
    pub profiles: Vec<SiteProfile>,
    /// By prompt.
    pub prompts: BTreeMap<u64, Extremes>,
}

impl Observed {
    /// Nothing yet, of these sites and widths.
    pub fn new(sites: impl IntoIterator<Item = (Site, usize)>) -> Observed {
        let profiles = sites.into_iter().map(|(site, channels)| SiteProfile::new(site, channels)).collect();
        Observed { profiles, prompts: BTreeMap::new() }
    }

    /// Adds what was read of a prompt at a site (by its place in `profiles`) and position.
    pub fn add(&mut self, prompt: u64, site: usize, position: usize, reading: &Reading) {
        let tokens = Tokens::of(position);
        let extremes = self.prompts.entry(prompt).or_default();
        let Some(profile) = self.profiles.get_mut(site) else { return };
        let profile = profile.at_mut(tokens);
        if !reading.is_finite() {
            profile.nan = profile.nan.saturating_add(reading.nan);
            profile.inf = profile.inf.saturating_add(reading.inf);
            return;
        }
        *profile.channels.entry(reading.channel).or_default() += 1;
        for statistic in Statistic::ALL {
            let value = statistic.of(reading);
            profile.of_mut(statistic).positions.add(value);
            let (min, max) = extremes.entry((site, tokens, statistic)).or_insert((value, value));
            (*min, *max) = (min.min(value), max.max(value));
        }
    }

    /// Every prompt has passed: their extremes become part of the profiles.
    pub fn finish(mut self) -> Observed {
        for (&(site, tokens, statistic), &(smallest, largest)) in self.prompts.values().flatten() {
            let distribution = self.profiles[site].at_mut(tokens).of_mut(statistic);
            distribution.smallest.add(smallest);
            distribution.largest.add(largest);
        }
        self
    }
}
