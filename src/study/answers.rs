//! Answers before and after the critical set is masked, and the fate of the answer's token (the paper's Figure 1, Tables
//! 7 to 9).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study, Use};
use crate::error::Result;
use crate::probe::{self, ChatTemplate, Prompts, Question};

pub(super) const STUDY: Study = Study {
    name: "answers",
    paper: "Figure 1, Tables 7 to 9",
    about: "Five questions before and after the critical set is masked, and the answer's token after each mask",
    uses: &[Use::Critical],
    run,
};

/// The paper's five.
pub(super) const QUESTIONS: [&str; 5] = [
    "What is the capital of France?",
    "Who wrote Romeo and Juliet?",
    "What is 2 + 2?",
    "What language is spoken in Brazil?",
    "What is the largest planet in our solar system?",
];

/// Tokens of an answer.
const NEW_TOKENS: usize = 24;

/// From this share of repeated 4-grams on an answer is a loop.
const LOOP: f64 = 0.5;

/// The questions as a model is asked them.
pub(super) fn prompts(context: &Context) -> Result<Prompts> {
    let checkpoint = context.model().checkpoint();
    let template = ChatTemplate::of(checkpoint.opened())?;
    let question = |prompt: &str| Question { prompt: prompt.into(), answer: None };
    Prompts::new(QUESTIONS.map(question).to_vec(), checkpoint, context.tokenizer, template.as_ref())
}

fn run(context: &Context) -> Result<Outcome> {
    let set = context.set()?;
    let prompts = prompts(context)?;
    let probed =
        probe::probe(context.model(), context.tokenizer, &prompts, set, NEW_TOKENS, context.progress)?.result.prompts;
    let mut answers = Table::new(
        "answers",
        "Greedy answers, and the share of their 4-grams that repeat an earlier one",
        &["question", "before", "after", "repeated, before", "repeated, after"],
    );
    let mut tokens = Table::new(
        "tokens",
        "The first token of the answer, with the first n of the critical set masked",
        &["question", "token", "n", "probability", "rank"],
    );
    let (mut changed, mut looping, mut lost) = (0, 0, 0);
    for of in &probed {
        let (before, after) = (&of.before, &of.after);
        answers.rows.push(row![
            of.prompt.as_str(),
            before.text.as_str(),
            after.text.as_str(),
            before.repeated_share,
            after.repeated_share
        ]);
        for (n, prediction) in of.curve.iter().enumerate() {
            let token = of.answer_token.text.as_str();
            tokens.rows.push(row![of.prompt.as_str(), token, n, prediction.probability, prediction.rank]);
        }
        changed += usize::from(before.tokens != after.tokens);
        looping += usize::from(after.repeated_share.is_some_and(|share| share >= LOOP));
        lost += usize::from(of.curve.last().is_some_and(|prediction| prediction.rank > 1));
    }
    let findings = vec![
        format!(
            "{changed} of {} answers change; {looping} become loops (half of their 4-grams or more repeat). In the paper all \
             turn into one repeated token or mixed characters.",
            probed.len()
        ),
        format!(
            "The first token of the model's own answer is no longer its first choice for {lost} of {} questions; in the paper \"Paris\" falls \
             from probability 0.74 (one masked) to 5e-6 (three), rank 30698.",
            probed.len()
        ),
    ];
    let chart = Chart::lines("tokens", "The probability of the answer's first token", &tokens, "n", "probability");
    Ok(Outcome { tables: vec![answers, tokens], charts: vec![chart.by("question").log_y()], findings })
}
