//! How texts are cut into the rows that a model computes, and which of their tokens count: the paper's protocol and that
//! of lm-evaluation-harness.

use super::corpus::{Corpus, Enough};
use super::prefix::prefix_token;
use super::text::Tokenizer;
use super::words;
use crate::checkpoint::Checkpoint;
use crate::compute::Scored;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Characters that a text has more of to be a sample of the paper's.
pub const PAPER_MIN_CHARACTERS: usize = 50;
/// Tokens that a sample of the paper's is cut at.
pub const PAPER_CONTEXT: usize = 512;

/// How texts are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// That of the paper's published code: each text of over 50 characters (white space at its ends taken off) is a
    /// sample, cut at 512 tokens; its mean loss, over the targets that it has, is weighted by all of its tokens.
    #[default]
    Paper,
    /// Rolling windows of lm-evaluation-harness 0.4.13 (`HFLM.loglikelihood_rolling`): every token of every text is
    /// predicted once, the first from BOS (or else EOS), those beyond the context from as much of what precedes as still
    /// fits.
    Rolling,
}

impl Protocol {
    /// As it is written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Paper => "paper",
            Protocol::Rolling => "rolling",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = [Protocol::Paper, Protocol::Rolling].into_iter().find(|protocol| protocol.as_str() == text);
        found.ok_or_else(|| Error::input(format!("protocol {text:?}: expected paper or rolling")))
    }
}

/// What of a corpus is measured, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSettings {
    /// How.
    pub protocol: Protocol,
    /// Tokens that a model reads at once at most: 512 in the paper's protocol and the config's
    /// `max_position_embeddings` in the other where nothing is said.
    pub context: Option<usize>,
    /// The first so many samples; all where nothing is said.
    pub max_samples: Option<usize>,
}

impl WindowSettings {
    /// How much of a corpus is needed; none where that is all of it.
    pub fn enough(&self) -> Option<Enough> {
        let longer_than = match self.protocol {
            Protocol::Paper => PAPER_MIN_CHARACTERS,
            Protocol::Rolling => 0,
        };
        self.max_samples.map(|texts| Enough { texts, longer_than })
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// There would be no sample, or none with a target.
    pub fn check(&self) -> Result<()> {
        if self.max_samples == Some(0) {
            return Err(Error::input("max-samples is 0, expected at least 1"));
        }
        match (self.context, self.protocol) {
            (Some(0), _) => Err(Error::input("context is 0 tokens, expected at least 1")),
            (Some(1), Protocol::Paper) => {
                Err(Error::input("context is 1 token: nothing of it is predicted; expected 2"))
            }
            _ => Ok(()),
        }
    }
}

/// A part of a text that the model reads at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// The text that it is of: its place among the samples.
    pub sample: usize,
    /// What the model reads.
    pub tokens: Arc<[u32]>,
    /// The predictions that count.
    pub scored: Scored,
    /// What each of them counts for in the corpus's sum.
    pub weight: f64,
}

/// Which corpus it was, and how much of it was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusRecord {
    /// What it was asked for as.
    pub name: String,
    /// SHA-256 of the bytes that it was read from, lower-case hex.
    pub sha256: String,
    /// Texts that are measured.
    pub samples: usize,
    /// Tokens that the sum of losses is divided by: in the paper's protocol all of the samples' (as its code has it), in
    /// the other those that are predicted, which are all too.
    pub tokens: usize,
    /// Words of the texts, as lm-evaluation-harness counts them: `re.split(r"\s+", text)`.
    pub words: usize,
    /// Bytes of the texts in UTF-8.
    pub bytes: usize,
    /// Tokens that the model reads at once at most.
    pub context: usize,
    /// The token that the first of each text is predicted from; none in the paper's protocol.
    pub prefix_token: Option<u32>,
}

/// A corpus in a model's tokens, cut by a protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedCorpus {
    /// Which it is.
    pub record: CorpusRecord,
    /// How it was cut.
    pub protocol: Protocol,
    /// In the order of the texts.
    pub windows: Vec<Window>,
}

impl EncodedCorpus {
    /// Encodes the texts of a corpus with a checkpoint's tokenizer, and cuts them.
    ///
    /// # Errors
    /// As [`WindowSettings::check`]; the tokenizer fails; no text is long enough; or, for rolling windows, the model's
    /// files do not say how many tokens it reads or what a text begins with.
    pub fn of(
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        corpus: &Corpus,
        settings: &WindowSettings,
    ) -> Result<EncodedCorpus> {
        settings.check()?;
        match settings.protocol {
            Protocol::Paper => paper(tokenizer, corpus, settings),
            Protocol::Rolling => {
                let context = settings.context.map_or_else(|| longest_context(checkpoint), Ok)?;
                rolling(tokenizer, corpus, settings, context, prefix_token(checkpoint, tokenizer)?)
            }
        }
    }

    fn empty(corpus: &Corpus, protocol: Protocol, context: usize) -> EncodedCorpus {
        let record = CorpusRecord {
            name: corpus.name.clone(),
            sha256: corpus.sha256.clone(),
            samples: 0,
            tokens: 0,
            words: 0,
            bytes: 0,
            context,
            prefix_token: None,
        };
        EncodedCorpus { record, protocol, windows: Vec::new() }
    }

    /// Counts a text and says which sample it is.
    fn count(&mut self, text: &str) -> usize {
        self.record.samples += 1;
        self.record.words += words::count(text);
        self.record.bytes += text.len();
        self.record.samples - 1
    }

    fn needing_windows(self, what: &str) -> Result<EncodedCorpus> {
        match self.windows.is_empty() {
            true => {
                Err(Error::file(&self.record.name, format!("holds no text of {what}: there is nothing to measure")))
            }
            false => Ok(self),
        }
    }
}

/// `compute_perplexity_on_dataset` of the published code.
fn paper(tokenizer: &Tokenizer, corpus: &Corpus, settings: &WindowSettings) -> Result<EncodedCorpus> {
    let context = settings.context.unwrap_or(PAPER_CONTEXT);
    let mut encoded = EncodedCorpus::empty(corpus, Protocol::Paper, context);
    let texts = corpus.texts.iter().map(|text| words::strip(text));
    let samples = texts.filter(|text| text.chars().count() > PAPER_MIN_CHARACTERS);
    for text in samples.take(settings.max_samples.unwrap_or(usize::MAX)) {
        let tokens = truncated(tokenizer, text, context)?;
        if tokens.len() < 2 {
            continue;
        }
        let sample = encoded.count(text);
        encoded.record.tokens += tokens.len();
        let scored = Scored { from: 0, targets: tokens[1..].into() };
        let weight = tokens.len() as f64 / scored.targets.len() as f64;
        encoded.windows.push(Window { sample, tokens: tokens.into(), scored, weight });
    }
    encoded.needing_windows(&format!("over {PAPER_MIN_CHARACTERS} characters"))
}

/// As transformers' `tokenizer(text, truncation=True, max_length=…)`: special tokens at the end stay.
fn truncated(tokenizer: &Tokenizer, text: &str, most: usize) -> Result<Vec<u32>> {
    let mut ids = tokenizer.ids(text)?;
    if ids.len() > most {
        let plain = tokenizer.ids_as_spelled(text)?;
        let special = ids.len() - plain.len();
        let before = (0..=special).find(|from| ids[*from..].starts_with(&plain)).unwrap_or(special);
        let after = special - before;
        ids.drain(most.saturating_sub(after)..ids.len() - after);
        ids.truncate(most);
    }
    Ok(ids)
}

fn rolling(
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    settings: &WindowSettings,
    context: usize,
    prefix_token: u32,
) -> Result<EncodedCorpus> {
    let mut encoded = EncodedCorpus::empty(corpus, Protocol::Rolling, context);
    encoded.record.prefix_token = Some(prefix_token);
    let prefix = tokenizer.decode_token(prefix_token)?;
    for text in corpus.texts.iter().take(settings.max_samples.unwrap_or(usize::MAX)) {
        let sample = encoded.count(text);
        // As HFLM.tok_encode: a text that begins with the token is taken to spell its special tokens.
        let ids = if text.starts_with(&prefix) { tokenizer.ids_as_spelled(text) } else { tokenizer.ids(text) }?;
        encoded.record.tokens += ids.len();
        encoded.windows.extend(rolling_windows(&ids, prefix_token, context).map(|(tokens, scored)| Window {
            sample,
            tokens,
            scored,
            weight: 1.0,
        }));
    }
    encoded.needing_windows("a token")
}

/// `get_rolling_token_windows` with a context of one token, and `make_disjoint_window`: what the model reads, up to the
/// token before the last that it predicts, and what it predicts.
fn rolling_windows(ids: &[u32], prefix: u32, most: usize) -> impl Iterator<Item = (Arc<[u32]>, Scored)> {
    (0..ids.len()).step_by(most).map(move |predicted| {
        let end = (predicted + most).min(ids.len());
        let targets = &ids[predicted..end];
        let tokens: Arc<[u32]> = match end.checked_sub(most + 1) {
            Some(from) if predicted > 0 => ids[from..end - 1].into(),
            _ => [&[prefix], &ids[..end - 1]].concat().into(),
        };
        let from = tokens.len() - targets.len();
        (tokens, Scored { from, targets: targets.into() })
    })
}

/// The tokens that a model reads at once, by its config.
fn longest_context(checkpoint: &Checkpoint) -> Result<usize> {
    const KEY: &str = "max_position_embeddings";
    let config = checkpoint.config();
    let text = config.map().get("text_config").and_then(serde_json::Value::as_object).unwrap_or(config.map());
    let said = text.get(KEY).and_then(serde_json::Value::as_u64).filter(|tokens| *tokens > 0);
    said.map(|tokens| tokens as usize).ok_or_else(|| {
        Error::file(config.path(), format!("does not say how many tokens the model reads ({KEY}); give --context"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tokenizer() -> Tokenizer {
        Tokenizer::parse(Path::new("tokenizer.json"), include_str!("../../fixtures/tokenizer.json")).unwrap()
    }

    /// list(map(make_disjoint_window, get_rolling_token_windows(list(range(n)), 99, most, 1))) of lm_eval 0.4.13, with
    /// context + continuation[:-1] as the model reads them.
    #[test]
    fn windows_roll_as_those_of_lm_eval() {
        let of = |n: u32, most: usize| -> Vec<(Vec<u32>, Vec<u32>)> {
            let ids: Vec<u32> = (0..n).collect();
            let check = |(tokens, scored): (Arc<[u32]>, Scored)| {
                assert_eq!(scored.from + scored.targets.len(), tokens.len());
                (tokens.to_vec(), scored.targets.to_vec())
            };
            rolling_windows(&ids, 99, most).map(check).collect()
        };
        let pair = |tokens: &[u32], targets: &[u32]| (tokens.to_vec(), targets.to_vec());
        assert_eq!(of(0, 4), []);
        assert_eq!(of(1, 4), [pair(&[99], &[0])]);
        assert_eq!(of(3, 4), [pair(&[99, 0, 1], &[0, 1, 2])]);
        assert_eq!(of(4, 4), [pair(&[99, 0, 1, 2], &[0, 1, 2, 3])]);
        assert_eq!(of(5, 4), [pair(&[99, 0, 1, 2], &[0, 1, 2, 3]), pair(&[0, 1, 2, 3], &[4])]);
        let ten =
            [pair(&[99, 0, 1, 2], &[0, 1, 2, 3]), pair(&[3, 4, 5, 6], &[4, 5, 6, 7]), pair(&[5, 6, 7, 8], &[8, 9])];
        assert_eq!(of(10, 4), ten);
        assert_eq!(of(2, 1), [pair(&[99], &[0]), pair(&[0], &[1])]);
    }

    fn corpus(texts: &[&str]) -> Corpus {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Corpus { name: "corpus".into(), sha256: String::new(), texts }
    }

    #[test]
    fn samples_of_the_paper_are_long_enough_and_cut() {
        let tokenizer = tokenizer();
        let text = "The quick brown fox jumps over the lazy dog and on.";
        assert_eq!(text.len(), 51);
        let short = &text[1..];
        let (padded, twice) = (format!(" {text}\n"), format!("{text} {text}"));
        let corpus = corpus(&[short, &padded, &twice, text]);
        let ids = tokenizer.ids(text).unwrap();
        let settings = WindowSettings { context: Some(ids.len()), max_samples: Some(2), ..WindowSettings::default() };
        let encoded = paper(&tokenizer, &corpus, &settings).unwrap();
        assert_eq!((encoded.record.samples, encoded.record.tokens, encoded.record.bytes), (2, 2 * ids.len(), 51 + 103));
        assert!(
            encoded.windows.iter().all(|window| window.tokens[..] == ids[..] && window.scored.targets[..] == ids[1..])
        );
        let sums = encoded.windows.iter().map(|window| window.weight * window.scored.targets.len() as f64);
        assert!((sums.sum::<f64>() - encoded.record.tokens as f64).abs() < 1e-9);
        let problem = paper(&tokenizer, &self::corpus(&[short]), &settings).unwrap_err().to_string();
        assert_eq!(problem, "corpus: holds no text of over 50 characters: there is nothing to measure");
    }

    /// What transformers' tokenizers make of truncation where a post-processor adds tokens at both ends.
    #[test]
    fn special_tokens_at_the_end_are_not_cut() {
        let mut json: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/tokenizer.json")).unwrap();
        json["post_processor"] = serde_json::json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "!", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "\"", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"!": {"id": "!", "ids": [2], "tokens": ["!"]},
                "\"": {"id": "\"", "ids": [3], "tokens": ["\""]}}});
        let tokenizer = Tokenizer::parse(Path::new("tokenizer.json"), &json.to_string()).unwrap();
        let text = "The lazy dog";
        let plain = tokenizer.ids_as_spelled(text).unwrap();
        let expected = [&[2], &plain[..3], &[3]].concat();
        assert_eq!(truncated(&tokenizer, text, 5).unwrap(), expected);
        assert_eq!(truncated(&tokenizer, text, plain.len() + 2).unwrap().len(), plain.len() + 2);
        assert_eq!(truncated(&tokenizer, text, 1).unwrap().len(), 1);
    }

    #[test]
    fn settings_that_leave_nothing_are_refused() {
        let check = |protocol, context, max_samples| WindowSettings { protocol, context, max_samples }.check();
        assert!(check(Protocol::Paper, None, Some(0)).is_err());
        assert!(check(Protocol::Paper, Some(1), None).is_err() && check(Protocol::Rolling, Some(1), None).is_ok());
        assert!(check(Protocol::Rolling, Some(0), None).is_err());
        assert!("Paper".parse::<Protocol>().is_err());
        assert_eq!("rolling".parse::<Protocol>().unwrap().to_string(), "rolling");
    }
}
