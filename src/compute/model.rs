//! A checkpoint ready to compute.

use super::ahead::ahead;
use super::device::{self, Arithmetic, ComputeSettings};
use super::layer_inputs::LayerInputWeights;
use super::memory::{self, Footprint, Memory};
use super::ops::{NormWeight, RopeTable};
use super::pace::Pace;
use super::weights::{self, LayerWeights, Loader, Residency};
use crate::architecture::module::SiteInfo;
use crate::architecture::recipe::{EMBEDDING, HEAD};
use crate::architecture::rope::Rope;
use crate::architecture::{self, Recipe};
use crate::checkpoint::Checkpoint;
use crate::document::ModelIdentity;
use crate::error::{Error, Result};
use crate::neuron::{Neuron, Site};
use crate::progress::Progress;
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::time::Instant;

/// A checkpoint ready to compute.
#[derive(Debug)]
pub struct Model {
    pub(super) checkpoint: Checkpoint,
    pub(super) recipe: Recipe,
    sites: Vec<SiteInfo>,
    site_index: HashMap<Site, usize>,
    arithmetic: Arithmetic,
    pub(super) dtype: DType,
    pub(super) device: Device,
    pub(super) final_norm: NormWeight,
    pub(super) layer_inputs: Option<LayerInputWeights>,
    /// Tokens of the vocabulary in a block of the head.
    pub(super) head_rows: usize,
    pub(super) memory: Memory,
    pub(super) pace: Pace,
    pub(super) resident: Option<Resident>,
}

/// What stays on the device between passes.
#[derive(Debug)]
pub(super) struct Resident {
    pub layers: Vec<LayerWeights>,
    /// [vocabulary, hidden].
    pub head: Tensor,
}

/// Tokens of the vocabulary in a block of the head.
pub(super) fn head_rows(recipe: &Recipe, dtype: DType) -> usize {
    (memory::BLOCK_BYTES / (recipe.hidden_size * dtype.size_in_bytes()).max(1)).max(1)
}

impl Model {
    /// Checks every tensor against the checkpoint's recipe and prepares the weights.
    ///
    /// # Errors
    /// A setting is not supported, a tensor is missing or has the wrong shape, or memory would not suffice.
    pub fn new(
        mut checkpoint: Checkpoint,
        recipe: Recipe,
        settings: &ComputeSettings,
        progress: &dyn Progress,
    ) -> Result<Model> {
        Model::check_tensors(&mut checkpoint, &recipe)?;
        let dtype = settings.arithmetic.dtype();
        let device = settings.device.open()?;
        let footprint = Footprint::on(&device, &recipe, settings)?;
        footprint.check()?;
        let loader = Loader { tensors: checkpoint.tensors(), dtype, device: &device };
        let resident = match footprint.residency {
            Residency::Streamed => None,
            Residency::Resident => {
                progress.begin("loading weights", recipe.layers.len() as u64 + 1, "layers");
                let mut layers = Vec::with_capacity(recipe.layers.len());
                for index in 0..recipe.layers.len() {
                    layers.push(loader.layer(&recipe, index)?);
                    progress.advance(1)?;
                }
                let head = loader.tensor(&recipe.head_tensor())?;
                progress.advance(1)?;
                progress.end();
                Some(Resident { layers, head })
            }
        };
        Model::holding(resident, checkpoint, recipe, settings.arithmetic, (device, footprint))
    }

    /// With what stays of its layers and head, if anything does.
    pub(super) fn holding(
        resident: Option<Resident>,
        checkpoint: Checkpoint,
        recipe: Recipe,
        arithmetic: Arithmetic,
        (device, footprint): (Device, Footprint),
    ) -> Result<Model> {
        let dtype = arithmetic.dtype();
        let loader = Loader { tensors: checkpoint.tensors(), dtype, device: &device };
        let final_norm = loader.norm(recipe.final_norm)?;
        let layer_inputs = recipe.layer_inputs.map(|of| LayerInputWeights::load(of, &loader)).transpose()?;
        let sites = recipe.sites()?;
        let site_index = sites.iter().enumerate().map(|(at, s)| (s.site.clone(), at)).collect();
        Ok(Model {
            head_rows: head_rows(&recipe, dtype),
            checkpoint,
            recipe,
            sites,
            site_index,
            arithmetic,
            dtype,
            device,
            final_norm,
            layer_inputs,
            memory: footprint.memory(),
            pace: Pace::default(),
            resident,
        })
    }

    /// Checks every tensor against the checkpoint's recipe.
    ///
    /// # Errors
    /// One is missing, or has the wrong shape.
    pub fn check_tensors(checkpoint: &mut Checkpoint, recipe: &Recipe) -> Result<()> {
        if recipe.tied {
            // As in transformers, whichever of the two is there is both.
            checkpoint.tensors_mut().stand_for(HEAD, EMBEDDING);
        }
        architecture::check(recipe, checkpoint.tensors())
    }

    /// The checkpoint it computes.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The checkpoint, without the weights that were made ready.
    pub fn into_checkpoint(self) -> Checkpoint {
        self.checkpoint
    }

    /// What its config describes, which the decoder follows.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Which model it is, and where its weights are packed what they are decoded from.
    pub fn identity(&self) -> ModelIdentity {
        let formats = architecture::formats(&self.recipe, self.checkpoint.tensors());
        let computed = self.arithmetic.as_str();
        let read = || format!("decoded from {}; activations in {computed}", formats.join(", "));
        let weights = (!formats.is_empty()).then(read);
        ModelIdentity { weights, ..ModelIdentity::of(&self.checkpoint, self.recipe.architecture) }
    }

    /// The precision it computes in.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The device it computes on: `cpu`, `cuda:0` or `metal`.
    pub fn device_name(&self) -> String {
        device::name(&self.device)
    }

    /// The first weight that makes arithmetic fail (NaN, infinite or beyond all reason), in words; none where there is
    /// none.
    pub fn not_finite(&self) -> Option<String> {
        weights::not_finite(&self.recipe, self.checkpoint.tensors())
    }

    /// Every site that hooks can see, layer by layer.
    pub fn sites(&self) -> &[SiteInfo] {
        &self.sites
    }

    /// The site's place in [`Model::sites`] and its width.
    ///
    /// # Errors
    /// The model has no such site.
    pub fn site(&self, site: &Site) -> Result<(usize, &SiteInfo)> {
        let missing = || Error::Name {
            what: "site",
            text: site.to_string(),
            problem: format!(
                "this model has no such site; its layers L0 to L{} have {}",
                self.recipe.layers.len() - 1,
                self.recipe.names_in_layers().join(", ")
            ),
        };
        let at = *self.site_index.get(site).ok_or_else(missing)?;
        Ok((at, &self.sites[at]))
    }

    /// Checks that the model has this neuron.
    ///
    /// # Errors
    /// It has no such site, or the site has fewer channels.
    pub fn check(&self, neuron: &Neuron) -> Result<()> {
        let (_, site) = self.site(&neuron.site)?;
        if neuron.channel < site.channels {
            return Ok(());
        }
        let problem = format!("the site has {} channels, 0 to {}", site.channels, site.channels - 1);
        Err(Error::Name { what: "neuron", text: neuron.to_string(), problem })
    }

    /// Refuses what would need more host memory than there is.
    ///
    /// # Errors
    /// `needed` bytes are not free.
    pub fn check_memory(&self, what: &str, needed: u64) -> Result<()> {
        self.memory.check_left(what, needed, self.memory.for_rows())
    }

    /// Bytes that sums over rows may take, which stay from pass to pass.
    pub fn memory_for_sums(&self) -> u64 {
        self.memory.for_sums()
    }

    /// Whether weights are read anew in each pass.
    pub fn is_streamed(&self) -> bool {
        self.resident.is_none()
    }

    /// Rows of so many positions that make a pass worth reading streamed weights for: computing them takes as long, as
    /// earlier passes have shown. One where weights stay.
    pub fn rows_paid_for(&self, positions: usize) -> usize {
        self.pace.rows_paid_for(positions).min(self.rows_at_once(positions))
    }

    /// Rows of so many positions that one pass can take; at least one.
    pub fn rows_at_once(&self, positions: usize) -> usize {
        self.memory.rows_at_once(&self.recipe, positions, self.dtype, self.memory.for_rows())
    }

    /// The head's weights, [vocabulary, hidden], where they are kept.
    pub(super) fn resident_head(&self) -> Option<&Tensor> {
        self.resident.as_ref().map(|resident| &resident.head)
    }

    pub(super) fn loader(&self) -> Loader<'_> {
        Loader { tensors: self.checkpoint.tensors(), dtype: self.dtype, device: &self.device }
    }

    /// The embeddings of `tokens`, (tokens, hidden), read row by row from the map.
    pub(super) fn embedding_rows(&self, tokens: &[u32]) -> Result<Tensor> {
        self.rows_of_tokens(EMBEDDING, tokens)
    }

    /// The rows of `tokens` in a table, read one by one from the map.
    pub(super) fn rows_of_tokens(&self, table: &str, tokens: &[u32]) -> Result<Tensor> {
        let loader = self.loader();
        let name = format!("{table}.weight");
        let rows = tokens.iter().map(|&t| loader.rows(&name, t as usize..t as usize + 1));
        Ok(Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The rotary embeddings that layers refer to, for texts of this many positions.
    pub(super) fn rope_tables(&self, positions: usize) -> Result<Vec<RopeTable>> {
        let table = |rope: &Rope| {
            let table = rope.table(positions, self.dtype == DType::F64);
            Ok(RopeTable::new(table, positions, self.dtype, &self.device)?)
        };
        self.recipe.ropes.iter().map(table).collect()
    }

    /// Calls `f` with the weights of these layers in turn; streamed ones are read one layer ahead.
    pub(super) fn each_layer(
        &self,
        mut layers: impl Iterator<Item = usize> + Clone + Send,
        mut f: impl FnMut(usize, &LayerWeights) -> Result<()>,
    ) -> Result<()> {
        if let Some(resident) = &self.resident {
            return layers.try_for_each(|index| f(index, &resident.layers[index]));
        }
        let load = |index| {
            let started = Instant::now();
            let weights = self.loader().layer(&self.recipe, index)?;
            self.pace.read(started.elapsed());
            Ok(weights)
        };
        ahead(layers, load, |index, weights| f(index, &weights))
    }
}
