//! What a ranking is: by what, of what, and its entries.

use crate::error::{Error, Result};
use crate::neuron::Neuron;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use strum::IntoStaticStr;

/// What candidates are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[non_exhaustive]
pub enum Ranking {
    /// Imp = mean over K of |A_clean − A_noisy| (the paper, stage 1).
    Noise,
    /// |A_clean − its median over positions|: nearly the same order from one pass. What is large at every position, such
    /// as a bias of a query, moves little under noise either; but what noise alone makes large is not seen.
    Magnitude,
}

impl Ranking {
    /// `noise` or `magnitude`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl FromStr for Ranking {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "noise" => Ok(Ranking::Noise),
            "magnitude" => Ok(Ranking::Magnitude),
            _ => Err(Error::input(format!("ranking {text:?}: expected noise or magnitude"))),
        }
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
    /// The token position at which it has this importance.
    pub position: usize,
}
