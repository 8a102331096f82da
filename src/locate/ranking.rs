//! What a ranking is: by what, of what, and its entries.

use super::SiteSelection;
use crate::architecture::module::{MlpRole, Role, SiteInfo};
use crate::error::{Error, Result};
use crate::neuron::Neuron;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use strum::IntoStaticStr;

/// What candidates are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum Ranking {
    /// Imp = mean over K of |A_clean − A_noisy| (the paper, stage 1).
    Noise,
    /// |A_clean − its median over positions|: nearly the same order from one pass. What is large at every position, such
    /// as a bias of a query, moves little under noise either; but what noise alone makes large is not seen.
    Magnitude,
    /// A_clean itself, the largest first and negative values last: the activation magnitude that the paper's published
    /// code ranks by beside noise.
    MagnitudeSigned,
    /// |a · ∂NLL/∂a|, the first-order effect of zeroing, from one pass forwards and one back.
    Gradient,
    /// |a| of what goes into or comes out of `down_proj` alone, from one pass: by the column and the row of a spike Yu et
    /// al. (2024) tell a super weight.
    SuperWeight,
    /// By lot, each order of the channels as likely as any other: what another ranking has to be better than.
    Random,
    /// The norm of a channel of `down_proj` weighed by the norms of the gate's and up's rows that feed it: of the file
    /// alone, without a pass.
    Weights,
}

impl Ranking {
    const ALL: [Ranking; 7] = [
        Ranking::Noise,
        Ranking::Magnitude,
        Ranking::MagnitudeSigned,
        Ranking::Gradient,
        Ranking::SuperWeight,
        Ranking::Random,
        Ranking::Weights,
    ];

    /// `noise`, `magnitude`, `magnitude-signed`, `gradient`, `super-weight`, `random` or `weights`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Where it looks unless told otherwise: where the paper's published code does, or at what it ranks alone.
    pub fn usual_sites(self) -> SiteSelection {
        if self.is_of_down_proj() { SiteSelection::DownProj } else { SiteSelection::Reference }
    }

    /// Whether it ranks channels of `down_proj` alone.
    pub(crate) fn is_of_down_proj(self) -> bool {
        matches!(self, Ranking::SuperWeight | Ranking::Weights)
    }

    /// Whether it ranks by what the text makes the model compute. Otherwise it takes no pass, and an entry has no
    /// position.
    pub(crate) fn reads_text(self) -> bool {
        !matches!(self, Ranking::Random | Ranking::Weights)
    }

    /// Those of the sites whose channels it ranks.
    ///
    /// # Errors
    /// It ranks none of them.
    pub fn ranked(self, mut sites: Vec<&SiteInfo>) -> Result<Vec<&SiteInfo>> {
        if self.is_of_down_proj() {
            sites.retain(|info| matches!(info.module.role, Role::Mlp { part: MlpRole::Down, .. }));
        }
        match sites.is_empty() {
            true => Err(Error::input(format!(
                "--ranking {} ranks down_proj alone, which --sites leaves out: use --sites down_proj",
                self.as_str()
            ))),
            false => Ok(sites),
        }
    }

    /// What keeps values finite.
    pub(super) fn against_overflow(self) -> &'static str {
        match self {
            Ranking::Noise => "a smaller --alpha or --dtype f32",
            Ranking::Magnitude | Ranking::MagnitudeSigned | Ranking::Gradient | Ranking::SuperWeight => "--dtype f32",
            Ranking::Random | Ranking::Weights => "another --ranking",
        }
    }
}

impl FromStr for Ranking {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Ranking::ALL.into_iter().find(|ranking| ranking.as_str() == text);
        known.ok_or_else(|| {
            let expected = "noise, magnitude, magnitude-signed, gradient, super-weight, random or weights";
            Error::input(format!("ranking {text:?}: expected {expected}"))
        })
    }
}

/// What an entry of the ranking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Counting {
    /// A channel, ranked by its largest value over positions.
    Channels,
    /// A channel at a position, as the published code counts: one channel can be listed several times.
    Published,
}

impl Counting {
    /// `channels` or `published`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl FromStr for Counting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "channels" => Ok(Counting::Channels),
            "published" => Ok(Counting::Published),
            _ => Err(Error::input(format!("counting {text:?}: expected channels or published"))),
        }
    }
}

/// An entry of the ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The channel that was ranked.
    pub neuron: Neuron,
    /// What it is ranked by.
    pub importance: f64,
    /// The token position at which it has this importance; none where the text has no part in it.
    pub position: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rankings_are_read_as_they_are_written() {
        for ranking in Ranking::ALL {
            assert_eq!(ranking.as_str().parse::<Ranking>().unwrap(), ranking);
            assert_eq!(serde_json::to_string(&ranking).unwrap(), format!("\"{}\"", ranking.as_str()));
        }
        let error = "weight".parse::<Ranking>().unwrap_err().to_string();
        for ranking in Ranking::ALL {
            assert!(error.contains(ranking.as_str()), "{error}");
        }
    }
}
