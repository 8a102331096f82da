//! The NLL of a corpus under several sets of interventions: windows of about the same length, each under every set, pass
//! together.

use super::windows::{EncodedCorpus, Window};
use crate::compute::{Hook, Model, NoHook, Row, Scored};
use crate::error::Result;
use crate::neuron::Intervention;
use crate::progress::Progress;
use serde::Serialize;
use std::sync::Arc;

/// Positions, of all rows together, that are computed at once where weights stay: more would take memory and gain
/// nothing.
const POSITIONS_AT_ONCE: usize = 1 << 14;

/// The share of a pass that may be padding where weights stay, as 1 of so many.
const PADDING: usize = 16;

/// What a row of a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassRow {
    /// The window, among those of the corpus.
    pub window: usize,
    /// The set of interventions, among those that were given.
    pub set: usize,
    /// Positions that are the window's; those after them are padding.
    pub positions: usize,
}

/// A hook that is told which windows and sets pass.
pub trait CorpusHook: Hook {
    /// Rows with these places in the batch pass next.
    ///
    /// # Errors
    /// Whatever the hook cannot do.
    fn pass(&mut self, rows: &[PassRow]) -> Result<()>;
}

/// What a corpus costs a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CorpusNll {
    /// The sum of the losses as the protocol weighs them, in nats.
    pub total_nats: f64,
    /// Tokens that it is of: see [`EncodedCorpus::tokens`].
    pub tokens: usize,
    /// Words of the texts.
    pub words: usize,
    /// Their bytes in UTF-8.
    pub bytes: usize,
}

impl CorpusNll {
    /// The mean a token, in nats.
    pub fn nll_nats(&self) -> f64 {
        self.total_nats / self.tokens as f64
    }

    /// exp of the mean a token.
    pub fn perplexity(&self) -> f64 {
        self.nll_nats().exp()
    }

    /// exp of the mean a word.
    pub fn word_perplexity(&self) -> f64 {
        (self.total_nats / self.words as f64).exp()
    }

    /// exp of the mean a byte.
    pub fn byte_perplexity(&self) -> f64 {
        (self.total_nats / self.bytes as f64).exp()
    }

    /// The mean a byte, in bits.
    pub fn bits_per_byte(&self) -> f64 {
        self.total_nats / self.bytes as f64 / std::f64::consts::LN_2
    }
}

impl EncodedCorpus {
    /// What all windows cost, of what each of them does.
    pub fn total(&self, window_nlls: &[f64]) -> CorpusNll {
        let weighed = self.windows.iter().zip(window_nlls).map(|(window, nll)| window.weight * nll);
        CorpusNll { total_nats: weighed.sum(), tokens: self.tokens, words: self.words, bytes: self.bytes }
    }
}

/// The NLL of a corpus under each of some sets of interventions, of which an empty one is the model as it is; not a
/// number or infinite where the arithmetic overflows. Rows that no intervention has told apart yet are computed once.
/// Progress tells of `stage`.
///
/// # Errors
/// A neuron is not in the model, a token is beyond its vocabulary, memory would not suffice for one row, the hook
/// failed, or the user asked to stop.
pub fn corpus_nlls(
    model: &Model,
    corpus: &EncodedCorpus,
    sets: &[Vec<Intervention>],
    hook: Option<&mut dyn CorpusHook>,
    stage: &str,
    progress: &dyn Progress,
) -> Result<Vec<CorpusNll>> {
    let nlls = window_nlls(model, corpus, sets, hook, stage, progress)?;
    Ok(nlls.iter().map(|of_set| corpus.total(of_set)).collect())
}

/// As [`corpus_nlls`], of each window: for each set −Σ ln P over the scored targets of each window, in nats, in the order
/// of the corpus.
///
/// # Errors
/// As [`corpus_nlls`].
pub fn window_nlls(
    model: &Model,
    corpus: &EncodedCorpus,
    sets: &[Vec<Intervention>],
    mut hook: Option<&mut dyn CorpusHook>,
    stage: &str,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f64>>> {
    let windows = &corpus.windows;
    let mut nlls = vec![vec![0.0; windows.len()]; sets.len()];
    // The longest first: where memory does not suffice that shows at once.
    let mut order: Vec<usize> = (0..windows.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(windows[*at].tokens.len()));
    progress.begin(stage, (windows.len() * sets.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
    let mut left = &order[..];
    while let Some(first) = left.first() {
        let longest = windows[*first].tokens.len();
        let plan = Plan::of(model, longest, sets.len());
        let lengths = left.iter().map(|at| windows[*at].tokens.len());
        let (now, later) = left.split_at(plan.windows(lengths, |length| alike(model, length, longest)));
        for some in plan.sets(sets.len()) {
            let of: Vec<PassRow> = now
                .iter()
                .flat_map(|&window| {
                    let positions = windows[window].tokens.len();
                    some.clone().map(move |set| PassRow { window, set, positions })
                })
                .collect();
            let tokens: Vec<Arc<[u32]>> = now.iter().map(|at| padded(&windows[*at], longest)).collect();
            let rows: Vec<Row> = of
                .iter()
                .enumerate()
                .map(|(at, row)| Row::with(tokens[at / some.len()].clone(), sets[row.set].clone()))
                .collect();
            let scored: Vec<Scored> = of.iter().map(|row| windows[row.window].scored.clone()).collect();
            let log_probs = match &mut hook {
                Some(hook) => {
                    hook.pass(&of)?;
                    model.scored_log_probs(&rows, &scored, *hook, progress)?
                }
                None => model.scored_log_probs(&rows, &scored, &mut NoHook, progress)?,
            };
            for (row, log_probs) in of.iter().zip(log_probs) {
                nlls[row.set][row.window] = -log_probs.iter().sum::<f64>();
            }
        }
        left = later;
    }
    progress.end();
    Ok(nlls)
}

/// The window's tokens, and its last again and again up to `length`: what follows does not change what precedes.
fn padded(window: &Window, length: usize) -> Arc<[u32]> {
    let last = window.tokens.last().copied().unwrap_or_default();
    if window.tokens.len() == length {
        return window.tokens.clone();
    }
    window.tokens.iter().copied().chain(std::iter::repeat(last)).take(length).collect()
}

/// Whether a text computes the same within a longer one: rotary embeddings may depend on the length.
fn alike(model: &Model, length: usize, longer: usize) -> bool {
    !model.recipe().ropes.iter().any(|rope| rope.changes_between(length, longer))
}

/// How much the next pass takes.
struct Plan {
    sets: usize,
    /// Rows at most.
    rows: usize,
    /// Positions of padding that are worth a pass less.
    padding: Padding,
}

enum Padding {
    /// So many, of all rows together: computing them takes as long as reading the weights again.
    Positions(usize),
    /// A share of all positions: a pass more costs next to nothing.
    Share,
}

impl Plan {
    fn of(model: &Model, longest: usize, sets: usize) -> Plan {
        let rows = model.rows_at_once(longest);
        match model.is_streamed() {
            true => Plan { sets, rows, padding: Padding::Positions(model.rows_paid_for(longest) * longest) },
            false => Plan { sets, rows: rows.min((POSITIONS_AT_ONCE / longest).max(1)), padding: Padding::Share },
        }
    }

    /// How many of the windows of these lengths, longest first, pass together.
    fn windows(&self, lengths: impl Iterator<Item = usize>, alike: impl Fn(usize) -> bool) -> usize {
        let most = (self.rows / self.sets.max(1)).max(1);
        let (mut longest, mut padding, mut taken) = (0, 0, 0);
        for length in lengths.take(most) {
            longest = longest.max(length);
            padding += longest - length;
            let fits = match self.padding {
                Padding::Positions(worth) => padding * self.sets <= worth,
                Padding::Share => padding * PADDING <= longest * (taken + 1),
            };
            if !fits || (length < longest && !alike(length)) {
                break;
            }
            taken += 1;
        }
        taken
    }

    /// The sets that pass together: all, where there are not more of them than rows.
    fn sets(&self, sets: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let rows = self.rows;
        (0..sets).step_by(rows).map(move |from| from..(from + rows).min(sets))
    }
}
