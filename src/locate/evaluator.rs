//! The NLL of one text under sets of masked neurons, many sets at once, none twice.

use crate::compute::{Model, Row, Trunk};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::{Intervention, Neuron};
use crate::progress::Progress;
use std::collections::HashMap;
use std::sync::Arc;

/// Measures the NLL under each of some sets, as rows of one batch; the text names the wait.
type Measure<'a> = Box<dyn FnMut(&str, &[Vec<Neuron>]) -> Result<Vec<f64>> + 'a>;

/// Masks sets of neurons and remembers what it measured.
pub struct Evaluator<'a> {
    measure: Measure<'a>,
    /// Rows that a pass is worth.
    paid: Box<dyn Fn() -> usize + 'a>,
    known: HashMap<Vec<Neuron>, f64>,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of `tokens` under `model`.
    pub fn new(model: &'a Model, tokens: Arc<[u32]>, progress: &'a dyn Progress) -> Evaluator<'a> {
        Evaluator::along(model, Trunk::of(tokens.clone()), tokens, progress)
    }

    /// The same, where the text may have passed already.
    pub(super) fn along(
        model: &'a Model,
        mut trunk: Trunk,
        tokens: Arc<[u32]>,
        progress: &'a dyn Progress,
    ) -> Evaluator<'a> {
        let positions = tokens.len();
        let evaluator = Evaluator::measuring(move |stage, sets| {
            let row =
                |set: &Vec<Neuron>| Row::with(tokens.clone(), set.iter().cloned().map(Intervention::zero).collect());
            let rows: Vec<Row> = sets.iter().map(row).collect();
            progress.begin(stage, (rows.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
            let nlls = metrics::nlls_along(model, &mut trunk, &rows, progress)?;
            progress.end();
            Ok(nlls)
        });
        evaluator.paying(move || model.rows_paid_for(positions))
    }

    /// An evaluator of whatever `measure` gives for sets of masked neurons.
    pub(super) fn measuring(measure: impl FnMut(&str, &[Vec<Neuron>]) -> Result<Vec<f64>> + 'a) -> Evaluator<'a> {
        Evaluator { measure: Box::new(measure), paid: Box::new(|| 1), known: HashMap::new() }
    }

    /// The same, where a pass is worth as many rows as `paid` says.
    pub(super) fn paying(self, paid: impl Fn() -> usize + 'a) -> Evaluator<'a> {
        Evaluator { paid: Box::new(paid), ..self }
    }

    /// Rows that are as good as free once a pass is made: see [`Model::rows_paid_for`].
    pub(super) fn paid(&self) -> usize {
        (self.paid)()
    }

    /// Whether a set was measured.
    pub(super) fn knows(&self, set: &[Neuron]) -> bool {
        self.known.contains_key(&canonical(set))
    }

    /// Rows that were computed so far: sets that were measured, the empty one too.
    pub(super) fn rows(&self) -> usize {
        self.known.len()
    }

    /// The NLL in nats under each set of masked neurons; the empty set is the clean text. Sets that are new are
    /// computed as rows of one batch; `stage` names the wait.
    ///
    /// # Errors
    /// As [`Model::target_log_probs`].
    pub fn nlls(&mut self, stage: &str, sets: &[Vec<Neuron>]) -> Result<Vec<f64>> {
        let keys: Vec<Vec<Neuron>> = sets.iter().map(|set| canonical(set)).collect();
        let mut new: Vec<Vec<Neuron>> = keys.iter().filter(|k| !self.known.contains_key(*k)).cloned().collect();
        new.sort();
        new.dedup();
        if !new.is_empty() {
            let nlls = (self.measure)(stage, &new)?;
            self.known.extend(new.into_iter().zip(nlls));
        }
        Ok(keys.iter().map(|key| self.known[key]).collect())
    }
}

/// A set of neurons in one order, without repeats.
fn canonical(set: &[Neuron]) -> Vec<Neuron> {
    let mut set = set.to_vec();
    set.sort();
    set.dedup();
    set
}
