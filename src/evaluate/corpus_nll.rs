//! The NLL of a corpus under several sets of interventions: windows of about the same length, each under every set, pass
//! together.

use super::windows::{CorpusRecord, EncodedCorpus, Window};
use crate::compute::{Hook, Model, NoHook, Row, Scored};
use crate::error::Result;
use crate::neuron::Intervention;
use crate::progress::Progress;
use serde::Serialize;
use std::ops::Range;
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
    /// Tokens that it is of: see [`CorpusRecord::tokens`].
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
        let CorpusRecord { tokens, words, bytes, .. } = self.record;
        CorpusNll { total_nats: weighed.sum(), tokens, words, bytes }
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
            let Pass { of, rows, scored } = Pass::new(windows, now, sets, some);
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

/// Rows that pass together, what each of them is, and what of it counts.
struct Pass {
    of: Vec<PassRow>,
    rows: Vec<Row>,
    scored: Vec<Scored>,
}

impl Pass {
    /// Of the windows at these places, the longest first, each under some of the sets.
    fn new(windows: &[Window], at: &[usize], all: &[Vec<Intervention>], some: Range<usize>) -> Pass {
        let longest = at.first().map_or(0, |first| windows[*first].tokens.len());
        let mut pass = Pass { of: Vec::new(), rows: Vec::new(), scored: Vec::new() };
        for &window in at {
            let Window { tokens, scored, .. } = &windows[window];
            let padded = padded(tokens, longest);
            for set in some.clone() {
                pass.of.push(PassRow { window, set, positions: tokens.len() });
                pass.rows.push(Row::with(padded.clone(), all[set].clone()));
                pass.scored.push(scored.clone());
            }
        }
        pass
    }
}

/// The tokens, and the last again and again up to `length`: what follows does not change what precedes.
fn padded(tokens: &Arc<[u32]>, length: usize) -> Arc<[u32]> {
    if tokens.len() == length {
        return tokens.clone();
    }
    let padding = tokens.last().copied().unwrap_or_default();
    tokens.iter().copied().chain(std::iter::repeat(padding)).take(length).collect()
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
    fn sets(&self, sets: usize) -> impl Iterator<Item = Range<usize>> {
        let rows = self.rows;
        (0..sets).step_by(rows).map(move |from| from..(from + rows).min(sets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Arithmetic, Residency, fixture};
    use crate::evaluate::windows::Protocol;
    use crate::neuron::{Neuron, Site};
    use crate::progress::Silent;
    use candle_core::Tensor;

    /// Windows of these lengths, each scored from its second half on.
    fn corpus(lengths: &[usize]) -> EncodedCorpus {
        let window = |(sample, length): (usize, &usize)| {
            let tokens: Arc<[u32]> = (0..*length).map(|at| ((sample * 31 + at * 7) % 90) as u32).collect();
            let targets: Arc<[u32]> = (length / 2..*length).map(|at| ((sample + at * 5) % 90) as u32).collect();
            Window { sample, scored: Scored { from: length / 2, targets }, tokens, weight: 1.0 + sample as f64 / 8.0 }
        };
        let windows: Vec<Window> = lengths.iter().enumerate().map(window).collect();
        let record = CorpusRecord {
            name: "corpus".into(),
            sha256: String::new(),
            samples: lengths.len(),
            tokens: lengths.iter().sum(),
            words: 3,
            bytes: 9,
            context: 64,
            prefix_token: None,
        };
        EncodedCorpus { record, protocol: Protocol::Rolling, windows }
    }

    /// One neuron of the last layer, none, and that with one of the first layer.
    fn sets(model: &Model) -> Vec<Vec<Intervention>> {
        let last = model.recipe().layers.len() - 1;
        let masked = |layer| {
            let is_its_norm =
                |site: &&Site| site.module.layer() == Some(layer) && site.module.as_str().ends_with("norm");
            let site = model.sites().iter().map(|info| &info.site).find(is_its_norm).unwrap();
            Intervention::zero(Neuron { site: site.clone(), channel: 3 })
        };
        vec![vec![masked(last)], Vec::new(), vec![masked(0), masked(last)]]
    }

    /// Each window under each set by itself.
    fn one_by_one(model: &Model, corpus: &EncodedCorpus) -> Vec<Vec<f64>> {
        let nll = |window: &Window, set: &Vec<Intervention>| {
            let rows = [Row::with(window.tokens.clone(), set.clone())];
            let scored = std::slice::from_ref(&window.scored);
            -model.scored_log_probs(&rows, scored, &mut NoHook, &Silent).unwrap()[0].iter().sum::<f64>()
        };
        sets(model).iter().map(|set| corpus.windows.iter().map(|window| nll(window, set)).collect()).collect()
    }

    fn assert_close(what: &str, found: &[Vec<f64>], expected: &[Vec<f64>]) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.len(), expected.len(), "{what}");
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-10), "{what}: {found:?}, {expected:?}");
        }
    }

    /// `llama_dynamic` turns texts beyond 12 tokens by their length, `qwen3_next` and `lfm2` carry states along,
    /// `mixtral` has experts.
    #[test]
    fn windows_together_are_as_windows_alone() {
        let corpus = corpus(&[9, 1, 14, 14, 3, 13, 10, 30, 29, 2]);
        for family in ["llama", "llama_dynamic", "qwen3_next", "lfm2", "mixtral", "gemma4"] {
            for residency in [Residency::Resident, Residency::Streamed] {
                let model = fixture::model(family, Arithmetic::F64, Some(residency));
                let found = window_nlls(&model, &corpus, &sets(&model), None, "", &Silent).unwrap();
                let what = format!("{family} {residency:?}");
                assert_close(&what, &found, &one_by_one(&model, &corpus));
                let total = corpus_nlls(&model, &corpus, &sets(&model), None, "", &Silent).unwrap()[2];
                let weighed: f64 = found[2].iter().enumerate().map(|(at, nll)| (1.0 + at as f64 / 8.0) * nll).sum();
                assert!((total.total_nats - weighed).abs() < 1e-9 && total.tokens == 125, "{what}");
            }
        }
    }

    #[test]
    fn a_hook_is_told_what_passes() {
        #[derive(Default)]
        struct Seen {
            rows: Vec<PassRow>,
            all: Vec<(usize, usize)>,
            passes: usize,
        }
        impl Hook for Seen {
            fn wants(&self, site: &Site) -> bool {
                site.to_string() == "model.layers.1.mlp.down_proj:out"
            }

            fn on(&mut self, _: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
                let here: Vec<PassRow> = rows.iter().flatten().map(|row| self.rows[*row]).collect();
                assert!(here.iter().all(|row| row.positions <= x.dim(1).unwrap()));
                self.all.extend(here.iter().map(|row| (row.window, row.set)));
                Ok(None)
            }
        }
        impl CorpusHook for Seen {
            fn pass(&mut self, rows: &[PassRow]) -> Result<()> {
                self.rows = rows.to_vec();
                self.passes += 1;
                Ok(())
            }
        }
        let corpus = corpus(&[9, 30, 8, 9]);
        let model = fixture::model("llama", Arithmetic::F32, None);
        let mut seen = Seen::default();
        window_nlls(&model, &corpus, &sets(&model), Some(&mut seen), "", &Silent).unwrap();
        seen.all.sort();
        let every: Vec<(usize, usize)> = (0..4).flat_map(|window| (0..3).map(move |set| (window, set))).collect();
        assert_eq!((seen.all, seen.passes), (every, 2));
    }

    #[test]
    fn a_pass_is_as_large_as_it_pays() {
        let plan = |rows, sets, padding| Plan { sets, rows, padding };
        let windows = |plan: Plan, lengths: &[usize]| plan.windows(lengths.iter().copied(), |length| length != 7);
        // Of 512 and 500 twelve are padding, less than a sixteenth.
        assert_eq!(windows(plan(10, 1, Padding::Share), &[512, 500, 100]), 2);
        assert_eq!(windows(plan(10, 1, Padding::Share), &[512, 256]), 1);
        // Reading weights again takes as long as computing 300 positions, here under two sets.
        assert_eq!(windows(plan(10, 2, Padding::Positions(300)), &[100, 50, 1, 1]), 3);
        assert_eq!(windows(plan(10, 1, Padding::Positions(300)), &[100, 50, 1, 1]), 4);
        // No more rows than there is memory for, and one window where sets alone are more than that.
        assert_eq!(windows(plan(5, 2, Padding::Share), &[9; 4]), 2);
        assert_eq!(windows(plan(2, 5, Padding::Share), &[9; 4]), 1);
        assert_eq!(Vec::from_iter(plan(2, 5, Padding::Share).sets(5)), [0..2, 2..4, 4..5]);
        // Nothing is padded that would then compute otherwise.
        assert_eq!(windows(plan(10, 1, Padding::Positions(300)), &[8, 8, 7, 7]), 2);
        assert_eq!(windows(plan(10, 1, Padding::Positions(300)), &[7, 7]), 2);
    }
}
