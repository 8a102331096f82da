//! A text that grows token by token: what attention needs of its earlier positions is kept.

use super::batch::Row;
use super::hook::NoHook;
use super::{Model, device};
use crate::error::Result;
use crate::neuron::Intervention;
use crate::progress::Silent;
use candle_core::Tensor;

/// One text under interventions, which act at every position. What it computes is what [`Model::last_logits`] does for
/// the whole text, up to the order of sums.
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Model,
    head: Tensor,
    interventions: Vec<Intervention>,
    cache: KeyValueCache,
}

/// Keys and values of every layer at the positions so far.
#[derive(Debug)]
pub(super) struct KeyValueCache {
    pub positions: usize,
    pub layers: Vec<KeyValues>,
}

/// Keys and values of one layer at the positions so far, each (1, positions, heads · width). Keys are kept as they are
/// before the rotary embedding: dynamic and longrope turn earlier positions otherwise once the text has grown.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyValues(Option<(Tensor, Tensor)>);

impl KeyValues {
    /// Takes those of further positions and gives those of all.
    pub fn extend(&mut self, keys: Tensor, values: Tensor) -> Result<(Tensor, Tensor)> {
        let (keys, values) = match self.0.take() {
            Some((k, v)) => (Tensor::cat(&[k, keys], 1)?, Tensor::cat(&[v, values], 1)?),
            None => (keys, values),
        };
        self.0 = Some((keys.clone(), values.clone()));
        Ok((keys, values))
    }
}

impl Model {
    /// A text without tokens yet, which may grow to `positions`.
    ///
    /// # Errors
    /// The model has no such neuron, or memory would not suffice.
    pub fn decoder(&self, interventions: Vec<Intervention>, positions: usize) -> Result<Decoder<'_>> {
        interventions.iter().try_for_each(|i| self.check(&i.neuron))?;
        let (attention, layers) = (&self.recipe.attention, self.recipe.layers.len());
        let numbers = (2 * layers * attention.kv_heads * attention.head_dim) as u64;
        if self.device.is_cpu() {
            let bytes = numbers.saturating_mul(self.dtype.size_in_bytes() as u64).saturating_mul(positions as u64);
            device::check_memory(&format!("keeping keys and values of {positions} tokens"), bytes)?;
        }
        let cache = KeyValueCache { positions: 0, layers: vec![KeyValues::default(); layers] };
        Ok(Decoder { model: self, head: self.head()?, interventions, cache })
    }
}

impl Decoder<'_> {
    /// Adds tokens to the text and gives the logits of the last, (vocabulary), in the arithmetic's dtype on the device.
    /// After an error the decoder is of no more use.
    ///
    /// # Errors
    /// There are none, one is beyond the vocabulary, or memory would not suffice.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let row = Row::with(tokens.into(), self.interventions.clone());
        let groups = self.model.hidden(&[row], Some(&mut self.cache), &mut NoHook, &Silent)?;
        self.cache.positions += tokens.len();
        let last = groups[0].x.narrow(0, tokens.len() - 1, 1)?;
        Ok(self.model.logits_of(&last, &self.head)?.squeeze(0)?)
    }
}
