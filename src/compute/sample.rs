//! Some layers of a model, one of each kind, to measure what rows take of all.

use super::Model;
use super::batch::{Carried, Group, Row};
use super::device::ComputeSettings;
use super::gradients::{Back, GradientHook};
use super::hook::{Hook, NoHook};
use super::memory::{self, Footprint};
use super::model::{Resident, head_rows};
use super::ops::Masks;
use super::passes::LayerPass;
use super::weights::{LayerWeights, Loader};
use super::work::layer_flops;
use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use candle_core::{Device, Tensor};
use std::sync::Arc;
use std::time::Instant;

/// Kinds of layers that are measured, at most: the first of them.
const MOST_KINDS: usize = 4;
/// Bytes that the weights of all measured layers may take, in the arithmetic's dtype.
const MOST_BYTES: u64 = 512 << 20;
/// Tokens of the text that pass, at most.
const MOST_POSITIONS: usize = 256;

/// Some layers of a model, the first of each kind, and a block of its head. What the beginning of a text takes of them
/// tells what the text takes of all.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Its vocabulary is that of the block.
    model: Model,
    layers: Vec<SampledLayer>,
    /// The beginning of the text.
    tokens: Arc<[u32]>,
    /// How many times as much all of the text takes: of the embedding, of layers, and of the head.
    embedding: f64,
    layer: f64,
    head: f64,
}

#[derive(Debug)]
struct SampledLayer {
    index: usize,
    weights: LayerWeights,
    /// How many layers are of its kind.
    stands_for: f64,
}

impl Sample {
    /// Of a model on a text; none where its layers take more memory than a measurement may.
    ///
    /// # Errors
    /// A weight cannot be read, or the device fails.
    pub fn of(
        checkpoint: Checkpoint,
        recipe: &Recipe,
        text: &[u32],
        settings: &ComputeSettings,
    ) -> Result<Option<Sample>> {
        let (device, dtype) = (settings.device.open()?, settings.arithmetic.dtype());
        let footprint = Footprint::on(&device, recipe, settings)?;
        let sampled = sampled(recipe);
        let bytes: u64 = sampled.iter().map(|(layer, _)| memory::layer_bytes(recipe, *layer, dtype)).sum();
        if bytes > MOST_BYTES.min(footprint.available / 4) {
            return Ok(None);
        }
        let loader = Loader { tensors: checkpoint.tensors(), dtype, device: &device };
        let layers = sampled
            .into_iter()
            .map(|(index, stands_for)| Ok(SampledLayer { index, weights: loader.layer(recipe, index)?, stands_for }));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let block = head_rows(recipe, dtype).min(recipe.vocab_size);
        let resident = Resident { layers: Vec::new(), head: loader.rows(&recipe.head_tensor(), 0..block)? };

        let tokens: Arc<[u32]> = text[..text.len().min(MOST_POSITIONS)].into();
        let (all, some) = (text.len() as f64, tokens.len() as f64);
        let flops = |layer, positions| layer_flops(recipe, layer, positions as u64) as f64;
        let of_all: f64 = (0..recipe.layers.len()).map(|layer| flops(layer, text.len())).sum();
        let of_sampled: f64 = layers.iter().map(|layer| layer.stands_for * flops(layer.index, tokens.len())).sum();
        let head = recipe.vocab_size as f64 / block as f64 * (all - 1.0) / (some - 1.0).max(1.0);

        let mut model =
            Model::holding(Some(resident), checkpoint, recipe.clone(), settings.arithmetic, (device, footprint))?;
        model.recipe.vocab_size = block;
        Ok(Some(Sample { model, layers, tokens, embedding: all / some, layer: of_all / of_sampled, head }))
    }

    /// The model whose layers these are: its recipe, sites and memory. Only this sample can compute with it.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The beginning of the text, which rows have to be of.
    pub fn tokens(&self) -> &Arc<[u32]> {
        &self.tokens
    }

    /// Seconds that such rows take, all in one chunk, through all layers up to the final norm, `hook` seeing what it
    /// would.
    ///
    /// # Errors
    /// The device or the hook fails.
    pub fn pass_s(&self, rows: &[Row], hook: &mut dyn Hook) -> Result<f64> {
        let all: Vec<usize> = (0..rows.len()).collect();
        let positions = self.tokens.len();
        let (ropes, masks) = (self.model.rope_tables(positions)?, Masks::default());
        let (mut groups, embedding) = self.timed(|| self.model.embed(rows, &all, positions, hook))?;
        let mut seconds = embedding * self.embedding;
        for SampledLayer { index, weights, stands_for } in &self.layers {
            let pass = LayerPass { index: *index, weights, ropes: &ropes, masks: &masks, positions, cache: None };
            let ((), layer) = self.timed(|| {
                self.model.through_layer(rows, &mut groups, pass, hook)?;
                hook.layer_done(*index)
            })?;
            seconds += layer * stands_for * self.layer;
        }
        let ((), norm) = self.timed(|| self.model.through_final_norm(rows, &mut groups, hook))?;
        Ok(seconds + norm * self.embedding)
    }

    /// Seconds that the log-probabilities of a row take, of what has passed all layers.
    ///
    /// # Errors
    /// The device fails.
    pub fn head_s(&self) -> Result<f64> {
        let (x, targets) = self.read()?;
        let (_, seconds) = self.timed(|| self.model.log_probs_of(vec![(x, &targets)]))?;
        Ok(seconds * self.head)
    }

    /// Seconds that gradients of a row take: through all layers and the head, and back.
    ///
    /// # Errors
    /// The device or the hook fails.
    pub fn gradients_s(&self, hook: &mut dyn GradientHook) -> Result<f64> {
        let row = Row::clean(self.tokens.clone());
        let rows = std::slice::from_ref(&row);
        let positions = self.tokens.len();
        let (ropes, masks) = (self.model.rope_tables(positions)?, Masks::default());
        let mut groups: Vec<Group> = self.model.embed(rows, &[0], positions, &mut NoHook)?;
        let (x, targets) = self.read()?;
        let (_, head) = self.timed(|| self.model.nll_and_gradient(&x, &targets))?;
        let mut seconds = head * self.head;
        for SampledLayer { index, weights, stands_for } in &self.layers {
            let pass = || LayerPass { index: *index, weights, ropes: &ropes, masks: &masks, positions, cache: None };
            let before: Vec<(Tensor, Carried)> = groups.iter().map(|of| (of.x.clone(), of.carried.clone())).collect();
            let ((), layer) = self.timed(|| {
                self.model.through_layer(rows, &mut groups, pass(), &mut NoHook)?;
                for (x, carried) in &before {
                    Back::from(x.ones_like()?).through_layer(&self.model, &row, (x, carried), pass(), hook)?;
                }
                Ok(())
            })?;
            seconds += layer * stands_for * self.layer;
        }
        Ok(seconds)
    }

    /// What the head reads, (tokens that are followed by one, hidden), and those that follow, all in its block.
    fn read(&self) -> Result<(Tensor, Vec<u32>)> {
        let targets = vec![0; self.tokens.len().saturating_sub(1).max(1)];
        let shape = (targets.len(), self.model.recipe.hidden_size);
        Ok((Tensor::ones(shape, self.model.dtype, &Device::Cpu)?.to_device(&self.model.device)?, targets))
    }

    fn timed<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let started = Instant::now();
        let result = f()?;
        self.model.device.synchronize()?;
        Ok((result, started.elapsed().as_secs_f64()))
    }
}

/// The layers to measure, in their order, and how many layers each stands for: the first of each kind, and those that
/// lend them keys and values.
fn sampled(recipe: &Recipe) -> Vec<(usize, f64)> {
    let layers = &recipe.layers;
    let is_first = |layer: &usize| !layers[..*layer].contains(&layers[*layer]);
    let mut sampled: Vec<usize> = (0..layers.len()).filter(is_first).take(MOST_KINDS).collect();
    let lenders = sampled.iter().filter_map(|layer| recipe.attention(*layer)?.borrows);
    sampled.extend(lenders.collect::<Vec<_>>());
    sampled.sort_unstable();
    sampled.dedup();
    let alike = |layer: usize| layers.iter().filter(|of| **of == layers[layer]).count();
    let also = |layer: usize| sampled.iter().filter(|of| layers[**of] == layers[layer]).count();
    sampled.iter().map(|layer| (*layer, alike(*layer) as f64 / also(*layer) as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::fixture::opened;
    use crate::compute::{Arithmetic, DeviceChoice};
    use crate::neuron::Site;
    use crate::progress::Silent;
    use std::collections::BTreeMap;

    fn settings() -> ComputeSettings {
        ComputeSettings { arithmetic: Arithmetic::F64, device: DeviceChoice::Cpu, ..ComputeSettings::default() }
    }

    fn sample(family: &str, tokens: u32) -> Sample {
        let (mut checkpoint, recipe) = opened(family);
        Model::check_tensors(&mut checkpoint, &recipe).unwrap();
        let text: Vec<u32> = (0..tokens).map(|at| at * 7 % 90).collect();
        Sample::of(checkpoint, &recipe, &text, &settings()).unwrap().unwrap()
    }

    #[test]
    fn layers_stand_for_all_of_their_kind() {
        let mut recipe = opened("llama").1;
        assert_eq!(sampled(&recipe), [(0, 3.0)]);
        recipe.layers = vec![recipe.layers[0].clone(); 9];
        for layer in [2, 5, 8] {
            let channel_mixer = opened("mixtral").1.layers[0].channel_mixer;
            recipe.layers[layer].channel_mixer = channel_mixer;
        }
        assert_eq!(sampled(&recipe), [(0, 6.0), (2, 3.0)]);
        for family in ["gemma2", "gemma4", "lfm2", "qwen3_5", "deepseek_v3", "gpt_oss"] {
            let recipe = opened(family).1;
            let all: f64 = sampled(&recipe).iter().map(|(_, stands_for)| stands_for).sum();
            assert!((all - recipe.layers.len() as f64).abs() < 1e-9, "{family}");
        }
    }

    /// What a hook saw last of each site.
    struct Seen(BTreeMap<Site, Tensor>);

    impl Hook for Seen {
        fn wants(&self, _: &Site) -> bool {
            true
        }

        fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
            self.0.insert(site.clone(), x.clone());
            Ok(None)
        }
    }

    impl GradientHook for Seen {
        fn wants(&self, _: &Site) -> bool {
            true
        }

        fn on(&mut self, site: &Site, x: &Tensor, gradient: &Tensor) -> Result<()> {
            assert_eq!(x.shape(), gradient.shape());
            self.0.insert(site.clone(), gradient.clone());
            Ok(())
        }
    }

    /// The first layer computes what the model's does, and every kind of layer computes, forwards and back.
    #[test]
    fn what_is_measured_is_what_the_model_computes() {
        for family in ["llama", "gemma2", "gemma4", "lfm2", "qwen3_5", "deepseek_v3", "gpt_oss"] {
            let sample = sample(family, 12);
            let rows = [Row::clean(sample.tokens().clone())];
            let (mut seen, mut expected) = (Seen(BTreeMap::new()), Seen(BTreeMap::new()));
            assert!(sample.pass_s(&rows, &mut seen).unwrap() > 0.0);
            let (checkpoint, recipe) = opened(family);
            let model = Model::new(checkpoint, recipe, &settings(), &Silent).unwrap();
            model.trace(&rows, &mut expected, &Silent).unwrap();
            let layers: Vec<_> = sample.layers.iter().map(|layer| Some(layer.index)).collect();
            for (site, expected) in &expected.0 {
                assert_eq!(seen.0.contains_key(site), site.module.layer().is_none_or(|at| layers.contains(&Some(at))));
                if site.module.layer().is_none_or(|at| at > 0) {
                    continue;
                }
                let off = (&seen.0[site] - expected).unwrap().abs().unwrap().flatten_all().unwrap();
                assert!(off.max(0).unwrap().to_scalar::<f64>().unwrap() < 1e-12, "{family} {site}");
            }
            let mut of_gradients = Seen(BTreeMap::new());
            assert!(sample.gradients_s(&mut of_gradients).unwrap() > 0.0 && sample.head_s().unwrap() > 0.0);
            let followed = of_gradients.0.keys().map(|site| site.module.layer());
            assert_eq!(followed.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(), layers);
        }
    }

    /// A text twice as long takes twice the products and four times the scores of attention.
    #[test]
    fn what_is_left_out_is_scaled_up_to() {
        let sample = sample("llama", 4 * MOST_POSITIONS as u32);
        let flops = |positions| layer_flops(&sample.model.recipe, 0, positions as u64) as f64;
        assert_eq!(sample.tokens().len(), MOST_POSITIONS);
        assert_eq!(sample.layer, flops(4 * MOST_POSITIONS) / flops(MOST_POSITIONS));
        assert_eq!(sample.embedding, 4.0);
        assert!(sample.layer > 4.0 && (sample.head - 4.0).abs() < 0.02);
    }

    #[test]
    fn layers_that_take_too_much_are_left_alone() {
        let (checkpoint, recipe) = opened("llama");
        let little = ComputeSettings { memory: Some(crate::error::Bytes(1 << 10)), ..settings() };
        assert!(Sample::of(checkpoint, &recipe, &[1, 2, 3], &little).unwrap().is_none());
    }
}
