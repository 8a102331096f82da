//! The rows of a pass, and the groups that still compute as one.

use crate::architecture::recipe::{EMBEDDING, LAYER_EMBEDDING, LAYER_PROJECTION, LAYER_PROJECTION_NORM};
use crate::error::{Error, Result};
use crate::neuron::{Intervention, ModulePath};
use candle_core::{Device, Tensor};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One text on its way through the decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Token ids; all rows of a batch have the same number.
    pub tokens: Arc<[u32]>,
    /// Noise on its embeddings.
    pub noise: Option<Noise>,
    /// What is done to its neurons.
    pub interventions: Vec<Intervention>,
}

/// x̃ = x + α ε, ε ~ N(0, I), on the output of the embedding table (the paper's equation for stage 1). The noise is
/// made on the host, so that a seed gives the same on every device and in every dtype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// α, absolute: not relative to the embeddings' norm.
    pub alpha: f64,
    /// What the noise is drawn from: equal seeds give equal noise.
    pub seed: u64,
    /// Which of the independent samples of this seed.
    pub sample: u64,
}

impl Row {
    /// A text through the model as it is: no interventions, no noise.
    pub fn clean(tokens: Arc<[u32]>) -> Row {
        Row { tokens, noise: None, interventions: Vec::new() }
    }

    /// The text under interventions.
    pub fn with(tokens: Arc<[u32]>, interventions: Vec<Intervention>) -> Row {
        Row { tokens, noise: None, interventions }
    }
}

impl Noise {
    /// α ε as (positions, hidden) in f32 on the host.
    pub(crate) fn tensor(&self, positions: usize, hidden: usize) -> candle_core::Result<Tensor> {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
        rng.set_stream(self.sample);
        let normal = StandardNormal.sample_iter(&mut rng).take(positions * hidden);
        let values: Vec<f32> = normal.map(|e: f64| (self.alpha * e) as f32).collect();
        Tensor::from_vec(values, (positions, hidden), &Device::Cpu)
    }
}

/// Rows that no intervention has told apart yet, computed once.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Indices into the batch.
    pub rows: Vec<usize>,
    /// The residual stream, (positions, hidden).
    pub x: Tensor,
    /// What it takes along beside that.
    pub carried: Carried,
}

/// What goes with a group from layer to layer beside the residual stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    /// Inputs of each layer, (positions, layers · width).
    pub inputs: Option<Tensor>,
    /// Keys and values that layers lend to later ones, each (key heads, positions, width), by the layer that lends.
    pub lent: BTreeMap<usize, (Tensor, Tensor)>,
}

/// Which of a row's interventions act at a place: before the layers, in one of them, or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Up to the embedding, after its scale.
    Embedding,
    /// A decoder layer.
    Layer(usize),
    /// The final norm.
    Final,
}

/// Modules that compute before the layers.
const BEFORE_LAYERS: [&str; 4] = [EMBEDDING, LAYER_EMBEDDING, LAYER_PROJECTION, LAYER_PROJECTION_NORM];

impl Place {
    /// The place of a module.
    pub fn of(module: &ModulePath) -> Place {
        match module.layer() {
            Some(layer) => Place::Layer(layer),
            None if BEFORE_LAYERS.contains(&module.as_str()) => Place::Embedding,
            None => Place::Final,
        }
    }
}

/// The interventions of `row` at `place`.
pub(crate) fn interventions_at(row: &Row, place: Place) -> Vec<Intervention> {
    row.interventions.iter().filter(|i| Place::of(&i.neuron.site.module) == place).cloned().collect()
}

/// Splits groups whose rows part ways at `place`.
pub(crate) fn split(groups: Vec<Group>, rows: &[Row], place: Place) -> Vec<Group> {
    let mut split = Vec::with_capacity(groups.len());
    for group in groups {
        let mut parts: Vec<(Vec<Intervention>, Vec<usize>)> = Vec::new();
        for row in group.rows {
            let key = interventions_at(&rows[row], place);
            match parts.iter_mut().find(|(k, _)| *k == key) {
                Some((_, members)) => members.push(row),
                None => parts.push((key, vec![row])),
            }
        }
        split.extend(parts.into_iter().map(|(_, rows)| Group {
            rows,
            x: group.x.clone(),
            carried: group.carried.clone(),
        }));
    }
    split
}

/// Checks that rows can be computed together and returns their number of positions.
pub(crate) fn positions(rows: &[Row], vocab_size: usize) -> Result<usize> {
    let Some(first) = rows.first() else { return Err(Error::input("there is nothing to compute: no rows")) };
    let positions = first.tokens.len();
    for row in rows {
        if row.tokens.is_empty() {
            return Err(Error::input("the text is empty: it has no tokens"));
        }
        if row.tokens.len() != positions {
            return Err(Error::input(format!("rows of {positions} and {} tokens in one batch", row.tokens.len())));
        }
        if let Some(token) = row.tokens.iter().find(|t| **t as usize >= vocab_size) {
            return Err(Error::input(format!(
                "token {token} is beyond the model's vocabulary of {vocab_size}; the tokenizer is not this model's"
            )));
        }
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Arithmetic, NoHook, fixture};
    use crate::progress::Silent;
    use candle_core::DType;

    #[test]
    fn a_group_carries_as_many_numbers_as_memory_is_checked_for() {
        for family in ["llama", "gemma4"] {
            let model = fixture::model(family, Arithmetic::F32, None);
            let tokens: Arc<[u32]> = [5, 6, 7].into();
            let groups = model.hidden(&[Row::clean(tokens.clone())], None, None, &mut NoHook, &Silent).unwrap();
            let Group { x, carried, .. } = &groups[0];
            let lent = carried.lent.values().flat_map(|(keys, values)| [keys, values]);
            let numbers: usize = lent.chain(&carried.inputs).chain([x]).map(Tensor::elem_count).sum();
            assert_eq!(numbers, model.recipe().carried_width() * tokens.len(), "{family}");
            assert_eq!(carried.lent.is_empty(), family == "llama");
            let rows = 1 << 40;
            let refused = model.memory.check_rows(model.recipe(), rows, tokens.len(), DType::F32, 1 << 30);
            let Err(Error::Memory { needed, .. }) = refused else { panic!("{refused:?}") };
            assert_eq!(needed / (4 * rows as u64), numbers as u64, "{family}");
        }
    }
}
