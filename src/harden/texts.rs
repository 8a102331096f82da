//! What spares are fitted to, and what they are judged by.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::evaluate::corpus::{Corpus, KINDS, kinds};
use crate::evaluate::text::{REFERENCE_TEXT, Tokenizer};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Of every so many texts the last is kept out of the fit and judged by.
pub const KEPT_OUT: usize = 4;
/// Tokens of a text that are read at most.
const LONGEST: usize = 512;
/// Tokens that are tried as the first, beside those of the texts' and the special ones.
const SPREAD: u32 = 256;

/// Texts to fit by and to judge by.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// What the texts are from.
    pub name: String,
    /// SHA-256 of that.
    pub sha256: String,
    /// Those to fit by.
    pub fit: Vec<String>,
    /// Those to judge by, each with what it is like.
    pub judge: Vec<(String, String)>,
}

impl Calibration {
    /// A corpus: every fourth text is kept out of the fit. Of the shipped one, [`KINDS`], what a text is like is its kind,
    /// or that it is in another language than English; of others it is the corpus's name. The reference text is judged by
    /// too.
    ///
    /// # Errors
    /// There are fewer than four texts.
    pub fn of(corpus: &Corpus) -> Result<Calibration> {
        let labels: Vec<String> = match corpus.name.as_str() {
            KINDS => {
                let label = |text: crate::evaluate::corpus::KindText| match text.language.as_str() {
                    "en" => text.kind,
                    _ => "other languages".to_owned(),
                };
                kinds()?.into_iter().map(label).collect()
            }
            name => vec![name.to_owned(); corpus.texts.len()],
        };
        let (mut fit, mut judge) = (Vec::new(), vec![("reference".to_owned(), REFERENCE_TEXT.to_owned())]);
        for (at, (text, label)) in corpus.texts.iter().zip(labels).enumerate() {
            match at % KEPT_OUT == KEPT_OUT - 1 {
                true => judge.push((label, text.clone())),
                false => fit.push(text.clone()),
            }
        }
        match judge.len() {
            0 | 1 => {
                let problem = format!(
                    "has {} texts; a spare is fitted to three of every {KEPT_OUT} and judged by the last: give more",
                    corpus.texts.len()
                );
                Err(Error::file(&corpus.name, problem))
            }
            _ => Ok(Calibration { name: corpus.name.clone(), sha256: corpus.sha256.clone(), fit, judge }),
        }
    }
}

/// A text's tokens.
pub(super) type Text = Arc<[u32]>;

/// A calibration in a model's tokens.
pub(super) struct Tokens {
    /// Texts to fit by, the shortest first.
    pub texts: Vec<Text>,
    /// Texts of one token each: what the first position depends on.
    pub firsts: Vec<Text>,
    /// Texts to judge by.
    pub judge: Vec<(String, Text)>,
}

impl Tokens {
    pub fn of(calibration: &Calibration, checkpoint: &Checkpoint, vocabulary: usize) -> Result<Tokens> {
        let tokenizer = Tokenizer::of(checkpoint)?;
        // A tokenizer may have no tokens for a language.
        let encode = |text: &str| -> Result<Option<Text>> {
            let mut ids = match tokenizer.ids(text) {
                Ok(ids) => ids,
                Err(Error::File { problem, .. }) => {
                    tracing::warn!("a text is left out: the tokenizer {problem}");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            ids.truncate(LONGEST);
            Ok((ids.len() > 1 && ids.iter().all(|id| (*id as usize) < vocabulary)).then(|| ids.into()))
        };
        let mut texts: Vec<Text> = Vec::new();
        for text in &calibration.fit {
            texts.extend(encode(text)?);
        }
        let mut judge = Vec::new();
        for (label, text) in &calibration.judge {
            judge.extend(encode(text)?.map(|ids| (label.clone(), ids)));
        }
        if texts.is_empty() || judge.is_empty() {
            let problem = "leaves no text that this model's tokenizer spells in two tokens or more; give another";
            return Err(Error::file(&calibration.name, problem));
        }
        texts.sort_by_key(|text| text.len());
        let mut firsts: BTreeSet<u32> = texts.iter().flat_map(|text| text.iter().copied()).collect();
        firsts.extend(special(checkpoint)?);
        let vocabulary = u32::try_from(vocabulary).unwrap_or(u32::MAX);
        firsts.extend((0..SPREAD).map(|at| (u64::from(at) * u64::from(vocabulary) / u64::from(SPREAD)) as u32));
        let firsts = firsts.into_iter().filter(|id| *id < vocabulary).map(|id| Text::from([id])).collect();
        Ok(Tokens { texts, firsts, judge })
    }
}

/// The tokens that its tokenizer adds to the vocabulary: chat templates begin with one.
fn special(checkpoint: &Checkpoint) -> Result<Vec<u32>> {
    #[derive(Deserialize)]
    struct Form {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
    }
    let form: Form = serde_json::from_str(checkpoint.tokenizer_json()?)
        .map_err(|e| Error::file(checkpoint.root(), format!("its tokenizer.json cannot be read: {e}")))?;
    Ok(form.added_tokens.into_iter().map(|added| added.id).collect())
}
