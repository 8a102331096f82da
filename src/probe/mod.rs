//! Answers before and after neurons are masked, and what becomes of the answer's probability on the way (the paper's
//! Figure 1). Masks are hooked: nothing is baked.

mod chat;
mod prompts;

pub use crate::worker::Turn;
pub use chat::ChatTemplate;
pub use prompts::{Prompt, Prompts, QUESTIONS, Question};

use crate::compute::{Arithmetic, Model, NoHook, Row};
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::{Error, Result};
use crate::evaluate::metrics::{Prediction, REPEATED_N, most_probable, prediction, repeated_share};
use crate::evaluate::text::Tokenizer;
use crate::neuron::{Intervention, Neuron, check_distinct};
use crate::progress::Progress;
use candle_core::{DType, Tensor};
use serde::Serialize;
use std::sync::Arc;

/// New tokens of an answer at most, where nothing else is said.
pub const DEFAULT_MAX_NEW_TOKENS: usize = 40;

/// What became of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probed {
    /// The question as it was given.
    pub prompt: String,
    /// Tokens of the prompt, those of the chat template included.
    pub prompt_tokens: usize,
    /// The greedy answer of the model as it is.
    pub before: Answer,
    /// The greedy answer with all neurons masked.
    pub after: Answer,
    /// The token whose fate the curve tells: the first of the answer given with the prompt, else the one that the model
    /// as it is begins with.
    pub answer_token: AnswerToken,
    /// Probability and rank of that token, right after the prompt, with the first 0, 1, 2, … neurons masked.
    pub curve: Vec<Prediction>,
}

/// What the model answers when each token is the likeliest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// What its tokens spell.
    pub text: String,
    /// Its tokens, without the one that ends it.
    pub tokens: Vec<u32>,
    /// The model ended it; else it was cut.
    pub ended: bool,
    /// Share of its 4-grams that repeat an earlier one; none for an answer of fewer than 4 tokens.
    pub repeated_share: Option<f64>,
}

/// A token and how it reads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerToken {
    /// Its number in the vocabulary.
    pub id: u32,
    /// What it spells by itself.
    pub text: String,
}

/// What became of all prompts (`achilles-audit/probe/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// Each of them.
    pub prompts: Vec<Probed>,
}

/// How prompts were answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeSettings {
    /// The precision of the arithmetic.
    pub dtype: Arithmetic,
    /// The device that computed, such as cpu or cuda:0.
    pub device: String,
    /// The neurons, in the order in which they were masked.
    pub neurons: Vec<Neuron>,
    /// SHA-256 of the prompts.
    pub prompts_sha256: String,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// Numbers of the tokens that end an answer.
    pub stop_tokens: Vec<u32>,
    /// The length of the n-grams whose repetition is told.
    pub repeated_n: usize,
    /// The template that the prompts are in; none where they are as they are.
    pub chat_template: Option<TemplateIdentity>,
}

/// Which chat template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateIdentity {
    /// The file that holds it.
    pub file: String,
    /// SHA-256 of the template's text, lower-case hex.
    pub sha256: String,
}

impl Kind for Probe {
    const SCHEMA: &'static str = "achilles-audit/probe/v1";
    type Model = ModelIdentity;
    type Settings = ProbeSettings;
}

/// Answers all prompts with nothing masked and with all neurons masked, and measures the answer's first token with the
/// first 0, 1, 2, … neurons masked.
///
/// # Errors
/// There is no neuron, or one is given twice or is not in the model; answers may have no token; memory would not
/// suffice; logits are not numbers; or the user asked to stop.
pub fn probe(
    model: &Model,
    tokenizer: &Tokenizer,
    prompts: &Prompts,
    neurons: &[Neuron],
    max_new_tokens: usize,
    progress: &dyn Progress,
) -> Result<Document<Probe>> {
    check_max_new_tokens(max_new_tokens)?;
    if neurons.is_empty() {
        return Err(Error::input("there is no neuron to mask"));
    }
    check_distinct(neurons)?;
    neurons.iter().try_for_each(|neuron| model.check(neuron))?;
    let masks: Vec<Intervention> = neurons.iter().cloned().map(Intervention::zero).collect();
    let steps = prompts.all.len() * (masks.len() + 1) * model.recipe().layers.len();
    progress.begin("masking", steps as u64, "rows × layers");
    let curves: Vec<(u32, Vec<Prediction>)> =
        prompts.all.iter().map(|prompt| curve(model, prompt, &masks, progress)).collect::<Result<_>>()?;
    progress.end();
    progress.begin("answering", (2 * prompts.all.len()).saturating_mul(max_new_tokens) as u64, "tokens");
    let mut probed = Vec::with_capacity(prompts.all.len());
    for (prompt, (id, curve)) in prompts.all.iter().zip(curves) {
        let answer = |masks| answer(model, tokenizer, prompt, masks, &prompts.stop_tokens, max_new_tokens, progress);
        probed.push(Probed {
            prompt: prompt.question.prompt.clone(),
            prompt_tokens: prompt.tokens.len(),
            before: answer(Vec::new())?,
            after: answer(masks.clone())?,
            answer_token: AnswerToken { id, text: tokenizer.decode_token(id)? },
            curve,
        });
    }
    progress.end();
    let settings = ProbeSettings {
        dtype: model.arithmetic(),
        device: model.device_name(),
        neurons: neurons.to_vec(),
        prompts_sha256: prompts.sha256.clone(),
        max_new_tokens,
        stop_tokens: prompts.stop_tokens.clone(),
        repeated_n: REPEATED_N,
        chat_template: prompts.template.clone(),
    };
    let identity = model.identity();
    Ok(Document::new(identity, settings, Probe { prompts: probed }))
}

/// Checks how long answers may be.
///
/// # Errors
/// An answer could have no token.
pub fn check_max_new_tokens(max_new_tokens: usize) -> Result<()> {
    match max_new_tokens {
        0 => Err(Error::input("max-new-tokens is 0, expected at least 1: an answer has a token")),
        _ => Ok(()),
    }
}

/// The token whose fate is told, and its predictions with the first 0, 1, 2, … masks.
fn curve(
    model: &Model,
    prompt: &Prompt,
    masks: &[Intervention],
    progress: &dyn Progress,
) -> Result<(u32, Vec<Prediction>)> {
    let tokens: Arc<[u32]> = prompt.tokens.clone().into();
    let rows: Vec<Row> = (0..=masks.len()).map(|n| Row::with(tokens.clone(), masks[..n].to_vec())).collect();
    let logits = model.last_logits(&rows, &mut NoHook, progress)?;
    let id = match prompt.answer_token {
        Some(id) => id,
        None => most_probable(&numbers(model, &logits[0], 0)?),
    };
    let beyond = || {
        let question = &prompt.question.prompt;
        Error::input(format!("prompt {question:?}: token {id} of its answer is beyond the model's vocabulary"))
    };
    let point = |(masked, logits)| prediction(&numbers(model, logits, masked)?, id).ok_or_else(beyond);
    Ok((id, logits.iter().enumerate().map(point).collect::<Result<_>>()?))
}

/// The greedy answer to a prompt under masks.
fn answer(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    masks: Vec<Intervention>,
    stop_tokens: &[u32],
    max_new_tokens: usize,
    progress: &dyn Progress,
) -> Result<Answer> {
    let masked = masks.len();
    let mut decoder = model.decoder(masks, prompt.tokens.len().saturating_add(max_new_tokens))?;
    let (mut tokens, mut ended) = (Vec::new(), false);
    let mut next = prompt.tokens.clone();
    while tokens.len() < max_new_tokens && !ended {
        let token = most_probable(&numbers(model, &decoder.extend(&next)?, masked)?);
        progress.advance(1)?;
        ended = stop_tokens.contains(&token);
        if !ended {
            tokens.push(token);
        }
        next = vec![token];
    }
    Ok(Answer { text: tokenizer.decode(&tokens)?, repeated_share: repeated_share(&tokens), tokens, ended })
}

/// The logits on the host.
fn numbers(model: &Model, logits: &Tensor, masked: usize) -> Result<Vec<f64>> {
    let logits: Vec<f64> = logits.to_dtype(DType::F64)?.to_vec1()?;
    if logits.iter().all(|logit| logit.is_finite()) {
        return Ok(logits);
    }
    let dtype = model.arithmetic().as_str();
    let whose = match masked {
        0 => "the model's logits are".to_owned(),
        n => format!("with {n} masked the logits are"),
    };
    Err(Error::input(match model.not_finite() {
        Some(weight) => format!("{whose} not all numbers, as {weight}"),
        None => format!("{whose} not all numbers: the arithmetic overflows {dtype}; use a wider --dtype"),
    }))
}
