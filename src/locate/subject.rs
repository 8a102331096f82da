//! A model and the text to compute on.

use super::SearchSettings;
use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::compute::{ComputeSettings, Model};
use crate::error::Result;
use crate::evaluate::text::{Encoded, Tokenizer};
use crate::progress::Progress;
use std::time::Instant;

/// A model and the text to compute on, in its tokens.
#[derive(Debug)]
pub struct Subject {
    /// The instrumented decoder, its weights at hand.
    pub model: Model,
    /// The text, by the model's own tokenizer.
    pub text: Encoded,
    /// Seconds that loading took.
    pub load_s: f64,
}

/// What of a model and the text is known before the weights are loaded: a mistake here should not have to wait for
/// them.
#[derive(Debug)]
pub struct OpenedSubject {
    /// What the weights will be read from.
    pub checkpoint: Checkpoint,
    /// What its config describes.
    pub recipe: Recipe,
    /// The text, by the model's own tokenizer.
    pub text: Encoded,
    pub(super) seconds: f64,
}

impl OpenedSubject {
    /// Reads a checkpoint's config, has its tokenizer encode the text and checks every tensor against the config.
    ///
    /// # Errors
    /// The config or the tokenizer is not understood, the text is too short, or a tensor is missing or has the wrong shape.
    pub fn new(mut checkpoint: Checkpoint, text: &str) -> Result<OpenedSubject> {
        let started = Instant::now();
        let recipe = Recipe::read(checkpoint.config())?;
        let text = Tokenizer::of(&checkpoint)?.encode(text)?;
        Model::check_tensors(&mut checkpoint, &recipe)?;
        Ok(OpenedSubject { checkpoint, recipe, text, seconds: started.elapsed().as_secs_f64() })
    }

    /// Loads the weights.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn load(self, settings: &ComputeSettings, progress: &dyn Progress) -> Result<Subject> {
        let started = Instant::now();
        let model = Model::new(self.checkpoint, self.recipe, settings, progress)?;
        Ok(Subject { model, text: self.text, load_s: self.seconds + started.elapsed().as_secs_f64() })
    }

    /// Loads the weights, unless memory will not suffice to locate with them.
    ///
    /// # Errors
    /// As [`OpenedSubject::check_memory`] and [`OpenedSubject::load`].
    pub fn load_to_locate(
        self,
        (compute, search): (&ComputeSettings, &SearchSettings),
        progress: &dyn Progress,
    ) -> Result<Subject> {
        self.check_memory(search, compute)?;
        self.load(compute, progress)
    }
}

impl Subject {
    /// Opens and loads a checkpoint.
    ///
    /// # Errors
    /// As [`OpenedSubject::new`] and [`OpenedSubject::load`].
    pub fn load(
        checkpoint: Checkpoint,
        text: &str,
        settings: &ComputeSettings,
        progress: &dyn Progress,
    ) -> Result<Subject> {
        OpenedSubject::new(checkpoint, text)?.load(settings, progress)
    }
}
