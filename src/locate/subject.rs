//! A model and the text to compute on.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::{Model, Recipe, Settings};
use crate::progress::Progress;
use crate::text::{Encoded, Tokenizer};
use std::time::Instant;

/// A model and the text to compute on, in its tokens.
#[derive(Debug)]
pub struct Subject {
    /// The model.
    pub model: Model,
    /// The text.
    pub text: Encoded,
    /// Seconds that loading took.
    pub load_s: f64,
}

impl Subject {
    /// Loads a checkpoint. The text comes first: a mistake there should not have to wait for the weights.
    ///
    /// # Errors
    /// The config or the tokenizer is not understood, the text is too short, or as [`Model::new`].
    pub fn load(checkpoint: Checkpoint, text: &str, settings: &Settings, progress: &dyn Progress) -> Result<Subject> {
        let started = Instant::now();
        let recipe = Recipe::read(checkpoint.config())?;
        let text = Tokenizer::of(&checkpoint)?.encode(text)?;
        let model = Model::new(checkpoint, recipe, settings, progress)?;
        Ok(Subject { model, text, load_s: started.elapsed().as_secs_f64() })
    }
}
