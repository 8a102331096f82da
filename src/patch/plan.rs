//! From neurons and factors to byte edits.

use super::changes::Changes;
use super::edit::{Cost, Edit, file_name};
use super::request::{self, Request};
use crate::architecture::{self, Recipe};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::integrity::receipt::{Requested, Rounding, Spare};
use crate::neuron::{Intervention, Neuron};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// A row or a column and what it is overwritten with.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The neuron that it is.
    pub neuron: Neuron,
    /// Its values, in the order of the weight.
    pub values: Arc<[f32]>,
}

/// Everything that baking some interventions into a checkpoint changes, worked out and not yet written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The checkpoint's folder, or its .gguf file.
    pub root: PathBuf,
    /// What the user called it.
    pub source: String,
    /// The architecture its config names.
    pub architecture: String,
    /// SHA-256 of its config.json.
    pub config_sha256: String,
    /// What was asked for, in order of neuron.
    pub interventions: Vec<Intervention>,
    /// The rows and columns that are overwritten.
    pub lines: Vec<Line>,
    /// Of a plan that hardens, its spares.
    pub spares: Vec<Spare>,
    /// The edits by file and offset. Two of them meet where a row crosses a column: both then hold the product there.
    pub edits: Vec<Edit>,
    /// What rounding to the stored types costs at worst.
    pub rounding: Rounding,
    /// The names of all shards.
    pub shards: BTreeSet<String>,
}

impl Plan {
    /// Works out the edits. Without a recipe, of an architecture that is not known, neurons are told by their names.
    ///
    /// # Errors
    /// A neuron is not there, is given twice, or cannot be changed by changing weights (the message says why, and what
    /// comes nearest); a tensor is quantized or not what the config says; a value would overflow.
    pub fn new<'a>(
        checkpoint: &Checkpoint,
        recipe: impl Into<Option<&'a Recipe>>,
        interventions: &[Intervention],
    ) -> Result<Plan> {
        let (recipe, tensors) = (recipe.into(), checkpoint.tensors());
        request::check(checkpoint, recipe, &interventions.iter().map(|i| &i.neuron).collect::<Vec<_>>())?;
        let mut interventions = interventions.to_vec();
        interventions.sort_by(|a, b| a.neuron.cmp(&b.neuron));
        let mut changes = Changes::default();
        for intervention in &interventions {
            let request = Request { recipe, tensors, neuron: &intervention.neuron };
            request.add(intervention.action, &mut changes)?;
        }
        let plan = Plan::of(checkpoint, recipe, &changes)?;
        Ok(Plan { interventions, ..plan })
    }

    /// Works out the edits that overwrite rows and columns with values, which are rounded to the weights' dtype.
    ///
    /// # Errors
    /// A neuron is not there, is given twice, or is no row or column of a tensor of floats; or there are more values or
    /// fewer than that has, or one that would overflow.
    pub fn of_lines(checkpoint: &Checkpoint, recipe: &Recipe, lines: &[Line], spares: &[Spare]) -> Result<Plan> {
        let tensors = checkpoint.tensors();
        request::check(checkpoint, Some(recipe), &lines.iter().map(|line| &line.neuron).collect::<Vec<_>>())?;
        let mut changes = Changes::default();
        for line in lines {
            let request = Request { recipe: Some(recipe), tensors, neuron: &line.neuron };
            changes.add_values(&line.neuron, &line.values, &request.parts()?);
        }
        let plan = Plan::of(checkpoint, Some(recipe), &changes)?;
        // What the receipt says are the values as they are stored.
        let rounded = |line: &Line| {
            let edit = plan.edits.iter().find(|edit| edit.neurons.contains(&line.neuron));
            let values = edit.map(|edit| edit.values_after().iter().map(|value| *value as f32).collect());
            Line { neuron: line.neuron.clone(), values: values.unwrap_or_else(|| line.values.clone()) }
        };
        Ok(Plan { lines: lines.iter().map(rounded).collect(), spares: spares.to_vec(), ..plan })
    }

    /// What the edits make of which neurons.
    pub(super) fn asked(&self) -> Vec<Requested> {
        let overwritten = self.lines.iter().map(Requested::overwritten);
        self.interventions.iter().map(Requested::of).chain(overwritten).collect()
    }

    fn of(checkpoint: &Checkpoint, recipe: Option<&Recipe>, changes: &Changes) -> Result<Plan> {
        let tensors = checkpoint.tensors();
        let (edits, Cost { rounding, scaled }) =
            changes.edits(tensors, &|_, _, _, span, file| span.read(file.bytes()))?;
        if scaled > 0 && rounding.to_zero == scaled {
            let problem = "every value would be rounded to 0: the factor is too small for the weights' dtype; to mask, \
                           use 0";
            return Err(Error::input(problem));
        }
        Ok(Plan {
            root: checkpoint.root().to_owned(),
            source: checkpoint.name().to_owned(),
            architecture: architecture::name(checkpoint.config(), recipe),
            config_sha256: checkpoint.config().sha256().to_owned(),
            interventions: Vec::new(),
            lines: Vec::new(),
            spares: Vec::new(),
            edits,
            rounding,
            shards: tensors.mapped().iter().map(|file| file_name(file.path())).collect(),
        })
    }

    /// The checkpoint as the edits make it, in memory alone. Not of a GGUF.
    ///
    /// # Errors
    /// A file changed since the plan was made.
    pub fn applied(&self, checkpoint: &Checkpoint) -> Result<Checkpoint> {
        let piece = |edit: &'_ Edit| edit.span.piece_bytes as usize;
        let changes: Vec<(&str, u64, &[u8])> = self
            .edits
            .iter()
            .flat_map(|edit| {
                let pieces = edit.span.offsets().zip(edit.after.chunks_exact(piece(edit)));
                pieces.map(|(at, bytes)| (edit.file.as_str(), at, bytes))
            })
            .collect();
        checkpoint.with_bytes(&changes)
    }

    /// The names of the shards that change.
    pub fn files(&self) -> BTreeSet<&str> {
        self.edits.iter().map(|e| e.file.as_str()).collect()
    }
}
