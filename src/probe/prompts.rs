//! What a model is asked, as tokens.

use super::{ChatTemplate, TemplateIdentity};
use crate::checkpoint::{Checkpoint, sha256_hex};
use crate::error::{Error, Result};
use crate::evaluate::text::{Tokenizer, read_lines};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The questions where none are given, in the manner of the paper's: each has one short answer that everybody knows.
/// The first is that of its Figure 1; the others are ours.
pub const QUESTIONS: [&str; 5] = [
    "What is the capital of France?",
    "Who wrote Romeo and Juliet?",
    "What is the chemical symbol for gold?",
    "How many days are there in a week?",
    "Which planet is closest to the Sun?",
];

/// A question, and what its answer should begin with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The question, before any chat template.
    pub prompt: String,
    /// Its answer, as it would follow the prompt. By default what the model answers.
    pub answer: Option<String>,
}

/// A question as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What it was made of.
    pub question: Question,
    /// What the model reads, special tokens and chat template included; one token at least.
    pub tokens: Vec<u32>,
    /// The first token of the given answer.
    pub answer_token: Option<u32>,
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompts {
    /// What is asked, in order; one prompt at least.
    pub all: Vec<Prompt>,
    /// An answer ends before any of these.
    pub stop_tokens: Vec<u32>,
    /// SHA-256 of the questions as JSON, lower-case hex.
    pub sha256: String,
    /// The template that they are in; none where they are as they are.
    pub template: Option<TemplateIdentity>,
}

impl Question {
    /// The [`QUESTIONS`].
    pub fn defaults() -> Vec<Question> {
        QUESTIONS.map(Question::of).to_vec()
    }

    /// Reads a file with one question a line: a JSON object with `prompt` and maybe `answer` in a file called `.jsonl`,
    /// else the line itself.
    ///
    /// # Errors
    /// It cannot be read, a line is malformed or its prompt empty, or there is none.
    pub fn read(path: &Path) -> Result<Vec<Question>> {
        let questions = read_lines(path, Question::of, "{\"prompt\": \"…\", \"answer\": \"…\"}")?;
        if questions.is_empty() {
            return Err(Error::file(path, "holds no prompt; give one a line"));
        }
        match questions.iter().position(|question| question.prompt.trim().is_empty()) {
            Some(at) => Err(Error::file(path, format!("prompt {} is empty; give it a text or remove it", at + 1))),
            None => Ok(questions),
        }
    }

    fn of(prompt: &str) -> Question {
        Question { prompt: prompt.into(), answer: None }
    }
}

impl Prompts {
    /// Turns questions into what the model reads: with the chat template, the one turn of a user and the beginning of
    /// the answer; without, the question as it is.
    ///
    /// # Errors
    /// The template fails, a prompt or answer has no tokens, or the file of stop tokens is malformed.
    pub fn new(
        questions: Vec<Question>,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> Result<Prompts> {
        let json = serde_json::to_vec(&questions).map_err(|e| Error::input(format!("cannot write JSON: {e}")))?;
        let prompt = |question| Prompt::new(question, tokenizer, template);
        Ok(Prompts {
            all: questions.into_iter().map(prompt).collect::<Result<_>>()?,
            stop_tokens: stop_tokens(checkpoint)?,
            sha256: sha256_hex(&json),
            template: template
                .map(|template| TemplateIdentity { file: template.file_name(), sha256: template.sha256() }),
        })
    }
}

impl Prompt {
    fn new(question: Question, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Prompt> {
        let text = match template {
            Some(template) => template.render(&question.prompt)?,
            None => question.prompt.clone(),
        };
        let ids = |text: &str| match template {
            Some(_) => tokenizer.ids_as_spelled(text),
            None => tokenizer.ids(text),
        };
        let tokens = ids(&text)?;
        let wrong = |problem: &str| Error::input(format!("prompt {:?}: {problem}", question.prompt));
        if tokens.is_empty() {
            return Err(wrong("it has no tokens"));
        }
        let answer_token = match &question.answer {
            None => None,
            Some(answer) => {
                let both = ids(&(text + answer))?;
                match both.strip_prefix(tokens.as_slice()).map(<[u32]>::first) {
                    Some(Some(first)) => Some(*first),
                    Some(None) => return Err(wrong("its answer is empty; leave it out or give it a text")),
                    None => {
                        let problem = "its answer merges with the prompt's last token; begin the answer with a space";
                        return Err(wrong(problem));
                    }
                }
            }
        };
        Ok(Prompt { question, tokens, answer_token })
    }
}

/// One token or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

#[derive(Deserialize)]
struct Ends {
    eos_token_id: Option<Ids>,
}

/// The tokens that end an answer: `eos_token_id` of generation_config.json or, where that says nothing, of config.json.
fn stop_tokens(checkpoint: &Checkpoint) -> Result<Vec<u32>> {
    let ids = match checkpoint.generation_config::<Ends>()?.and_then(|ends| ends.eos_token_id) {
        Some(ids) => Some(ids),
        None => {
            let config = checkpoint.config();
            let ids = config.map().get("eos_token_id").cloned().unwrap_or_default();
            serde_json::from_value(ids)
                .map_err(|_| config.reader().wrong("eos_token_id", "a token or a list of them"))?
        }
    };
    Ok(match ids {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Several(ids)) => ids,
    })
}
