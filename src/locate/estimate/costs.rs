//! What rows cost on this machine: measured with the model's own layers.

use crate::compute::{Hook, NoHook, Row, Sample};
use crate::error::Result;
use crate::locate::adaptive::Adaptive;
use crate::locate::gradient::Effect;
use crate::locate::importance::of_clean;
use crate::locate::stage::Stage;
use crate::locate::sums::Importance;
use crate::locate::{Ranking, Samples};
use std::time::{Duration, Instant};

/// How long each of some costs is measured, and how many times at least.
const MEASURED: Duration = Duration::from_millis(120);
const LEAST_TIMES: usize = 3;

/// Rows that pass together to measure, at most.
const MOST_ROWS: usize = 32;

/// Rows that gradients are counted as.
pub(super) const GRADIENT_ROWS: usize = 3;

/// Seconds that passes take, computing alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    /// A pass, whatever the number of its rows.
    pub pass_s: f64,
    /// A row.
    pub row_s: f64,
}

impl Cost {
    /// Of so many passes and rows.
    pub fn of(&self, passes: usize, rows: usize) -> f64 {
        passes as f64 * self.pass_s + rows as f64 * self.row_s
    }
}

/// What locating does with rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Costs {
    /// Through the layers, importance being taken.
    pub importance: Cost,
    /// Through the layers, nothing being looked at.
    pub layers: Cost,
    /// A row's log-probabilities, of what has passed the layers.
    pub head_s: f64,
}

impl Costs {
    /// Where nothing but matrix products took time: so many operations a second.
    pub fn of_products(flops: f64, layers: u64, head: u64) -> Costs {
        let cost = Cost { pass_s: 0.0, row_s: layers as f64 / flops };
        Costs { importance: cost, layers: cost, head_s: head as f64 / flops }
    }

    /// As real layers show, of which `chunk_rows` rows pass one at once; `keeps`: whether sums stay from look to look.
    pub fn measure(sample: &Sample, stage: Stage, chunk_rows: usize, keeps: bool) -> Result<Costs> {
        let importance = match stage.settings.ranking {
            Ranking::Gradient => {
                let all = usual(|| sample.gradients_s(&mut Effect::of(stage)))?;
                Cost { pass_s: 0.0, row_s: all / GRADIENT_ROWS as f64 }
            }
            ranking if !ranking.reads_text() => Cost { pass_s: 0.0, row_s: 0.0 },
            Ranking::Noise => cost(sample, stage, chunk_rows, || hook(stage, keeps))?,
            _ => Cost { pass_s: 0.0, row_s: seconds(sample, stage, 1, &|| hook(stage, keeps))? },
        };
        Ok(Costs {
            importance,
            layers: cost(sample, stage, chunk_rows, || Box::new(NoHook))?,
            head_s: usual(|| sample.head_s())?,
        })
    }
}

/// What takes importance of the rows that pass.
fn hook(stage: Stage, keeps: bool) -> Box<dyn Hook> {
    match (of_clean(stage.settings.ranking), stage.settings.samples) {
        (Some(importance), _) => Box::new(stage.by_clean(importance)),
        (None, Samples::Exactly(samples)) => Box::new(Importance::new(stage, samples)),
        (None, Samples::Auto) => Box::new(Importance::new(stage, Adaptive::FIRST).watching(Adaptive::watched(), keeps)),
    }
}

/// Of a pass of one row, and of one of as many as pass a layer at once.
fn cost(sample: &Sample, stage: Stage, chunk_rows: usize, hook: impl Fn() -> Box<dyn Hook>) -> Result<Cost> {
    let rows = chunk_rows.clamp(2, MOST_ROWS);
    let (one, all) = (seconds(sample, stage, 1, &hook)?, seconds(sample, stage, rows, &hook)?);
    let row_s = ((all - one) / (rows - 1) as f64).max(0.0);
    Ok(Cost { pass_s: (one - row_s).max(0.0), row_s })
}

/// Of a pass of the clean row and noisy ones.
fn seconds(sample: &Sample, stage: Stage, rows: usize, hook: &impl Fn() -> Box<dyn Hook>) -> Result<f64> {
    let rows = [vec![Row::clean(sample.tokens().clone())], stage.noisy(0..rows - 1)].concat();
    usual(|| sample.pass_s(&rows, &mut *hook()))
}

/// The median of some times, the first of which, which makes threads and buffers, does not count.
fn usual(mut seconds: impl FnMut() -> Result<f64>) -> Result<f64> {
    seconds()?;
    let (started, mut all) = (Instant::now(), Vec::new());
    while all.len() < LEAST_TIMES || started.elapsed() < MEASURED {
        all.push(seconds()?);
    }
    let middle = all.len() / 2;
    Ok(*all.select_nth_unstable_by(middle, f64::total_cmp).1)
}
