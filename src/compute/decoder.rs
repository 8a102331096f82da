//! A text that grows token by token: what token mixers need of its earlier positions is kept.

use super::Model;
use super::batch::Row;
use super::cache::Cache;
use super::hook::NoHook;
use crate::error::Result;
use crate::neuron::Intervention;
use crate::progress::Silent;
use candle_core::Tensor;

/// One text under interventions, which act at every position. What it computes is what [`Model::last_logits`] does for
/// the whole text, up to the order of sums.
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Model,
    interventions: Vec<Intervention>,
    tokens: Vec<u32>,
    cache: Cache,
}

impl Model {
    /// A text without tokens yet, which may grow to `positions`.
    ///
    /// # Errors
    /// The model has no such neuron, or memory would not suffice.
    pub fn decoder(&self, interventions: Vec<Intervention>, positions: usize) -> Result<Decoder<'_>> {
        interventions.iter().try_for_each(|i| self.check(&i.neuron))?;
        let layers = &self.recipe.layers;
        let numbers: u64 = layers.iter().map(|layer| layer.token_mixer.kept(positions) as u64).sum();
        if self.device.is_cpu() {
            let bytes = numbers.saturating_mul(self.dtype.size_in_bytes() as u64);
            self.check_memory(&format!("keeping what layers need of {positions} tokens"), bytes)?;
        }
        let cache = Cache::empty(layers.len());
        Ok(Decoder { model: self, interventions, tokens: Vec::new(), cache })
    }
}

impl Decoder<'_> {
    /// Adds tokens to the text and gives the logits of the last, (vocabulary), in the arithmetic's dtype on the device.
    /// Where the text grows beyond what the rotary embedding was made for (dynamic, longrope), all of it is computed
    /// anew. After an error the decoder is of no more use.
    ///
    /// # Errors
    /// There are none, one is beyond the vocabulary, or memory would not suffice.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Tensor> {
        self.tokens.extend(tokens);
        let (kept, positions) = (self.cache.positions, self.tokens.len());
        if self.model.recipe.ropes.iter().any(|rope| rope.changes_between(kept, positions)) {
            self.cache = Cache::empty(self.cache.layers.len());
        }
        let new = &self.tokens[self.cache.positions..];
        let row = Row::with(new.into(), self.interventions.clone());
        let groups = self.model.hidden(&[row], Some(&mut self.cache), None, &mut NoHook, &Silent)?;
        self.cache.positions = positions;
        let last = groups[0].x.narrow(0, new.len() - 1, 1)?;
        Ok(self.model.logits_of(&[last])?[0].squeeze(0)?)
    }
}
