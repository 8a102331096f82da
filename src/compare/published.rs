//! The critical sets that the paper's authors published (`rules/published/`).

use crate::document::{Document, Kind};
use crate::error::{Error, Result};
use crate::evaluate::metrics;
use crate::locate::Sharpness;
use crate::neuron::Neuron;
use serde::{Deserialize, Serialize};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../rules/published/", $name, ".yaml")))),*]
    };
}

const FILES: [(&str, &str); 21] = files![
    "deepseek-r1-distill-llama-70b",
    "deepseek-r1-distill-llama-8b",
    "deepseek-r1-distill-qwen-1.5b",
    "deepseek-r1-distill-qwen-14b",
    "deepseek-r1-distill-qwen-32b",
    "deepseek-r1-distill-qwen-7b",
    "gemma-2b",
    "gemma-7b",
    "llama-3.2-1b-instruct",
    "llama-3.2-3b-instruct",
    "llama-3.3-70b-instruct",
    "meta-llama-3-8b-instruct",
    "phi-3-mini-4k-instruct",
    "phi-3.5-mini-instruct",
    "qwen2.5-0.5b-instruct",
    "qwen2.5-1.5b-instruct",
    "qwen2.5-14b-instruct",
    "qwen2.5-32b-instruct",
    "qwen2.5-3b-instruct",
    "qwen2.5-72b-instruct",
    "qwen2.5-7b-instruct",
];

/// What was published of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// `achilles-audit/published-set/v1`.
    pub schema: String,
    /// The model, as the authors' logs name it.
    pub model: String,
    /// Who published it, and how it was measured.
    pub source: String,
    /// Tokens of the authors' text.
    pub tokens: usize,
    /// Its perplexity with nothing masked.
    pub base_perplexity: f64,
    /// Entries of the ranking until perplexity had risen tenfold; there can be more than `ranking` lists.
    pub prefix: usize,
    /// The first entries of the ranking, most important first: channels at token positions.
    pub ranking: Vec<PublishedEntry>,
    /// Perplexity with the first 1, 2, … entries masked.
    pub curve: Vec<f64>,
}

/// An entry of a published ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedEntry {
    /// The ranked channel.
    pub neuron: Neuron,
    /// The token position, from 0, at which it has this importance.
    pub position: usize,
    /// Mean of |A_clean − A_noisy|.
    pub importance: f64,
}

/// All sets that were published (`achilles-audit/published/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedSets {
    /// A set for each model of the paper that is told of.
    pub sets: Vec<Published>,
}

impl Kind for PublishedSets {
    const SCHEMA: &'static str = "achilles-audit/published/v1";
    type Model = ();
    type Settings = ();
}

impl PublishedSets {
    /// The list.
    ///
    /// # Errors
    /// None, as a test shows.
    pub fn document() -> Result<Document<PublishedSets>> {
        Ok(Document::new((), (), PublishedSets { sets: Published::all()? }))
    }
}

impl Published {
    /// All of them, by name of the file.
    ///
    /// # Errors
    /// None, as a test shows.
    pub fn all() -> Result<Vec<Published>> {
        FILES.iter().map(|(name, text)| read(name, text)).collect()
    }

    /// That of the model of this name, with or without the organization, in any case.
    ///
    /// # Errors
    /// Nothing was published of such a model.
    pub fn find(name: &str) -> Result<Published> {
        let short = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        let file = FILES.iter().find(|(file, _)| *file == short(name));
        let set = file.map(|(file, text)| read(file, text)).transpose()?;
        let same = |set: &Published| !name.contains('/') || name.eq_ignore_ascii_case(&set.model);
        set.filter(same).ok_or_else(|| Error::Name {
            what: "published critical set",
            text: name.into(),
            problem: "there is none of that name; `achilles-audit published` lists them".into(),
        })
    }

    /// The distinct channels of the ranking, in its order.
    pub fn channels(&self) -> Vec<&PublishedEntry> {
        distinct(&self.ranking)
    }

    /// How sharp the collapse of the prefix is, by ε = 1.
    pub fn sharpness(&self) -> Sharpness {
        let base = self.base_perplexity.ln();
        let curve: Vec<f64> = self.curve.iter().take(self.prefix).map(|perplexity| perplexity.ln()).collect();
        let damage = curve.last().map_or(0.0, |nll| metrics::damage(*nll, base));
        Sharpness::of(base, &curve, damage, 1.0)
    }

    /// The distinct channels of the collapse prefix, as far as `ranking` lists it.
    pub fn collapse_prefix(&self) -> Vec<Neuron> {
        let listed = &self.ranking[..self.prefix.min(self.ranking.len())];
        distinct(listed).into_iter().map(|entry| entry.neuron.clone()).collect()
    }
}

fn distinct(entries: &[PublishedEntry]) -> Vec<&PublishedEntry> {
    let first = |(at, entry): (usize, &PublishedEntry)| entries[..at].iter().all(|e| e.neuron != entry.neuron);
    entries.iter().enumerate().filter(|pair| first(*pair)).map(|(_, entry)| entry).collect()
}

fn read(name: &str, text: &str) -> Result<Published> {
    serde_yaml::from_str(text).map_err(|e| Error::file(format!("rules/published/{name}.yaml"), e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_and_sound() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/rules/published");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), FILES.len());
        for (set, (name, _)) in Published::all().unwrap().iter().zip(FILES) {
            assert_eq!(set.schema, "achilles-audit/published-set/v1");
            assert_eq!(Published::find(&set.model).unwrap().prefix, set.prefix);
            assert_eq!(set.model.rsplit('/').next().unwrap().to_ascii_lowercase(), name);
            assert!(set.ranking.is_sorted_by(|a, b| a.importance >= b.importance), "{name}");
            // The first prefix of the curve at which perplexity is ten times the base's.
            let tenfold = set.curve.iter().position(|p| *p >= 10.0 * set.base_perplexity).unwrap() + 1;
            assert_eq!(tenfold, set.prefix, "{name}");
        }
    }

    /// No largest step is between 0.67 and 1.08.
    #[test]
    fn four_of_the_published_collapses_are_gradual() {
        let all = Published::all().unwrap();
        let (gradual, sharp): (Vec<_>, Vec<_>) = all.iter().map(Published::sharpness).partition(|it| it.gradual);
        assert!(gradual.iter().all(|it| it.largest_step < 0.67) && sharp.iter().all(|it| it.largest_step > 1.08));
        assert_eq!(all.len() - sharp.len(), gradual.len());
        let names: Vec<_> = all.iter().filter(|set| set.sharpness().gradual).map(|set| &*set.model).collect();
        let short: Vec<_> = names.iter().filter_map(|name| name.rsplit('/').next()).collect();
        let expected =
            ["DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-32B", "gemma-2b", "Qwen2.5-32B-Instruct"];
        assert_eq!(short, expected);
    }

    #[test]
    fn a_channel_that_is_there_twice_counts_once() {
        let set = Published::find("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B").unwrap();
        assert_eq!((set.prefix, set.collapse_prefix().len()), (3, 2));
        assert!(Published::find("gpt-2").is_err() && Published::find("other/gemma-2b").is_err());
    }
}
