//! The corpora that come with the program, so that it works without a network. data/corpora/README.md tells where they
//! are from.

use super::{Corpus, TextFormat};
use crate::error::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The name of the sample: public-domain English prose, of which each paragraph is a text.
pub const SAMPLE: &str = "sample";
/// The name of the texts of several kinds and languages, written for this project.
pub const KINDS: &str = "kinds";

const SAMPLE_TEXT: &str = include_str!("../../../data/corpora/sample.txt");
const KINDS_TEXT: &str = include_str!("../../../data/corpora/kinds.jsonl");

/// A text of [`KINDS`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KindText {
    /// What it is like: encyclopedia, news, dialogue or code.
    pub kind: String,
    /// Its language, or that of its comments, as ISO 639-1 has it.
    pub language: String,
    /// The text.
    pub text: String,
}

/// The shipped corpus of that name.
pub(super) fn of(name: &str) -> Option<Result<Corpus>> {
    match name {
        SAMPLE => Some(sample()),
        KINDS => Some(corpus(KINDS, KINDS_TEXT, TextFormat::Jsonl)),
        _ => None,
    }
}

pub(super) fn sample() -> Result<Corpus> {
    corpus(SAMPLE, SAMPLE_TEXT, TextFormat::Plain)
}

fn corpus(name: &str, text: &str, format: TextFormat) -> Result<Corpus> {
    let texts = format.texts(text, "text").map_err(|problem| Error::file(name, problem))?;
    Corpus::new(name, &Sha256::digest(text), texts, format)
}

/// The texts of [`KINDS`] with what they are.
///
/// # Errors
/// The shipped file is malformed: never, as a test holds.
pub fn kinds() -> Result<Vec<KindText>> {
    let read = |line| serde_json::from_str(line).map_err(|e| Error::file(KINDS, format!("is malformed: {e}")));
    KINDS_TEXT.lines().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::windows::PAPER_MIN_CHARACTERS;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn the_sample_is_paragraphs() {
        let sample = sample().unwrap();
        assert_eq!((sample.name.as_str(), sample.texts.len()), ("sample", 54));
        assert!(sample.texts.iter().all(|text| (50..=150).contains(&text.split(' ').count()) && !text.contains('\n')));
    }

    #[test]
    fn there_are_several_texts_of_each_kind_and_language() {
        let texts = kinds().unwrap();
        let (mut kinds, mut languages) = (BTreeMap::new(), BTreeMap::new());
        for KindText { kind, language, text } in &texts {
            assert!(text.chars().count() > PAPER_MIN_CHARACTERS, "{text}");
            *kinds.entry(kind.as_str()).or_insert(0) += 1;
            *languages.entry(language.as_str()).or_insert(0) += 1;
        }
        assert_eq!(kinds, BTreeMap::from([("code", 5), ("dialogue", 9), ("encyclopedia", 9), ("news", 9)]));
        assert_eq!(languages, BTreeMap::from([("de", 3), ("en", 20), ("es", 3), ("fr", 3), ("zh", 3)]));
        assert_eq!(texts.iter().map(|text| &text.text).collect::<BTreeSet<_>>().len(), texts.len());
        let corpus = of(KINDS).unwrap().unwrap();
        assert!(corpus.texts.iter().eq(texts.iter().map(|text| &text.text)));
    }
}
