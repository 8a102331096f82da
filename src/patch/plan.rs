//! From neurons and factors to byte edits.

use super::changes::Changes;
use super::edit::{Cost, Edit, file_name};
use super::request::{self, Request};
use crate::architecture::{self, Recipe};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::integrity::receipt::Rounding;
use crate::neuron::Intervention;
use std::collections::BTreeSet;
use std::path::PathBuf;

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
            interventions,
            edits,
            rounding,
            shards: tensors.mapped().iter().map(|file| file_name(file.path())).collect(),
        })
    }

    /// The names of the shards that change.
    pub fn files(&self) -> BTreeSet<&str> {
        self.edits.iter().map(|e| e.file.as_str()).collect()
    }
}
