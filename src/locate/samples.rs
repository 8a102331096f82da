//! How many noisy samples stage 1 draws.

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// K of the paper, and the most that [`Samples::Auto`] draws.
pub(super) const MOST: usize = 100;

/// Noisy samples at most: rows of one batch.
const MAX_SAMPLES: usize = 1_000_000;

/// How many noisy samples importance is averaged over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Samples {
    /// As many as settle what 100 would give, and never more than these.
    Auto,
    /// K, whatever they show.
    Exactly(usize),
}

impl Samples {
    /// How many there are at most.
    pub fn most(self) -> usize {
        match self {
            Samples::Auto => MOST,
            Samples::Exactly(samples) => samples,
        }
    }

    pub(super) fn check(self) -> Result<()> {
        match self.most() {
            0 => Err(Error::input("samples is 0, expected at least 1, or auto")),
            1..=MAX_SAMPLES => Ok(()),
            samples => {
                Err(Error::input(format!("samples is {samples}, expected at most {MAX_SAMPLES}; the paper uses 100")))
            }
        }
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Samples::Auto => f.write_str("auto"),
            Samples::Exactly(samples) => samples.fmt(f),
        }
    }
}

impl FromStr for Samples {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Samples::Auto),
            number => number
                .parse()
                .map(Samples::Exactly)
                .map_err(|_| Error::input(format!("samples {text:?}: expected auto or a number such as 100"))),
        }
    }
}

/// A number, or `"auto"`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Number(usize),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Auto,
}

impl Serialize for Samples {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Samples::Auto => Stored::Word(Word::Auto),
            Samples::Exactly(samples) => Stored::Number(*samples),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Samples {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Word(Word::Auto) => Samples::Auto,
            Stored::Number(samples) => Samples::Exactly(samples),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_as_they_are_written() {
        for (text, json) in [("auto", "\"auto\""), ("100", "100"), ("1", "1")] {
            let samples: Samples = text.parse().unwrap();
            assert_eq!((samples.to_string().as_str(), serde_json::to_string(&samples).unwrap().as_str()), (text, json));
            assert_eq!(serde_json::from_str::<Samples>(json).unwrap(), samples);
        }
        assert!("some".parse::<Samples>().is_err() && serde_json::from_str::<Samples>("\"some\"").is_err());
        assert!("0".parse::<Samples>().unwrap().check().is_err());
    }
}
