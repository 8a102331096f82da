//! The instrumented decoder: layers outside, rows inside. Weights are fetched once a pass, every row is pushed through
//! each layer in chunks that fit memory, and hooks reduce what they need on the way.

mod attention;
mod batch;
mod decoder;
mod device;
mod hook;
mod layer;
mod mlp;
mod ops;
mod weights;

pub use batch::{Noise, Row};
pub use decoder::Decoder;
pub use device::{Arithmetic, DeviceChoice, Settings};
pub use hook::{Hook, NoHook, SiteInfo};
pub use weights::Residency;

use crate::architecture::recipe::{EMBEDDING, FINAL_NORM, HEAD, ModuleKind};
use crate::architecture::rope::Rope;
use crate::architecture::{self, Recipe};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::neuron::{Intervention, Neuron, Side, Site};
use crate::progress::Progress;
use batch::{Group, Place};
use candle_core::{DType, Device, Tensor};
use decoder::KeyValueCache;
use hook::Tap;
use layer::Layer;
use ops::{NormWeight, RopeTable};
use std::collections::HashMap;
use weights::{LayerWeights, Loader};

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Error {
        Error::Compute(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

/// Bytes of activations that one chunk of groups may take.
const CHUNK_BYTES: u64 = 32 << 20;
/// Bytes of logits that are computed at once.
const LOGITS_BYTES: usize = 64 << 20;

/// A checkpoint ready to compute.
#[derive(Debug)]
pub struct Model {
    checkpoint: Checkpoint,
    recipe: Recipe,
    sites: Vec<SiteInfo>,
    site_index: HashMap<Site, usize>,
    arithmetic: Arithmetic,
    dtype: DType,
    device: Device,
    final_norm: NormWeight,
    resident: Option<Resident>,
}

/// What stays on the device between passes.
#[derive(Debug)]
struct Resident {
    layers: Vec<LayerWeights>,
    head: Tensor,
}

impl Model {
    /// Checks every tensor against the checkpoint's recipe and prepares the weights.
    ///
    /// # Errors
    /// A setting is not supported, a tensor is missing or has the wrong shape, or memory would not suffice.
    pub fn new(
        mut checkpoint: Checkpoint,
        recipe: Recipe,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Model> {
        if recipe.tied {
            // As in transformers, whichever of the two is there is both.
            checkpoint.tensors_mut().stand_for(&format!("{HEAD}.weight"), &format!("{EMBEDDING}.weight"));
        }
        architecture::check(&recipe, checkpoint.tensors())?;
        let dtype = settings.arithmetic.dtype();
        let device = settings.device.open()?;
        let residency = device::residency(&recipe, settings, dtype, &device)?;
        let loader = Loader { tensors: checkpoint.tensors(), dtype, device: &device };
        let final_norm = loader.norm(FINAL_NORM)?;
        let resident = match residency {
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
        let sites = sites_of(&recipe)?;
        let site_index = sites.iter().enumerate().map(|(at, s)| (s.site.clone(), at)).collect();
        Ok(Model {
            checkpoint,
            recipe,
            sites,
            site_index,
            arithmetic: settings.arithmetic,
            dtype,
            device,
            final_norm,
            resident,
        })
    }

    /// The checkpoint it computes.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The checkpoint, without the weights that were made ready.
    pub fn into_checkpoint(self) -> Checkpoint {
        self.checkpoint
    }

    /// Its recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
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
        device::check_memory(what, needed)
    }

    /// Pushes rows through the layers and the final norm for what `hook` sees on the way. Progress advances by rows ×
    /// layers.
    ///
    /// # Errors
    /// The rows cannot be computed together, memory would not suffice, the hook failed, or the user asked to stop.
    pub fn trace(&self, rows: &[Row], hook: &mut dyn Hook, progress: &dyn Progress) -> Result<()> {
        self.hidden(rows, None, hook, progress).map(drop)
    }

    /// ln P(x_t | x_<t) of every row, for t = 1 … T−1. Progress advances by rows × (layers + 1).
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn target_log_probs(
        &self,
        rows: &[Row],
        hook: &mut dyn Hook,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f64>>> {
        let groups = self.hidden(rows, None, hook, progress)?;
        let head = self.head()?;
        let mut result = vec![Vec::new(); rows.len()];
        for group in groups {
            let tokens = rows[group.rows[0]].tokens.clone();
            let targets = tokens.len() - 1;
            let mut log_probs = Vec::with_capacity(targets);
            let step = (LOGITS_BYTES / (self.recipe.vocab_size * self.dtype.size_in_bytes())).clamp(1, targets.max(1));
            for from in (0..targets).step_by(step) {
                let to = (from + step).min(targets);
                let logits = self.logits_of(&group.x.narrow(0, from, to - from)?, &head)?;
                log_probs.extend(ops::log_probs_of(&logits, &tokens[from + 1..to + 1])?);
            }
            for &row in &group.rows {
                result[row] = log_probs.clone();
            }
            progress.advance(group.rows.len() as u64)?;
        }
        Ok(result)
    }

    /// The logits of every row, (positions, vocabulary), in the arithmetic's dtype on the device. Progress advances by
    /// rows × layers.
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn logits(&self, rows: &[Row], hook: &mut dyn Hook, progress: &dyn Progress) -> Result<Vec<Tensor>> {
        let groups = self.hidden(rows, None, hook, progress)?;
        self.logits_of_rows(rows.len(), &groups, |x| Ok(x.clone()))
    }

    /// What each row says of the token after it: the logits of its last position, (vocabulary), in the arithmetic's
    /// dtype on the device. Progress advances by rows × layers.
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn last_logits(&self, rows: &[Row], hook: &mut dyn Hook, progress: &dyn Progress) -> Result<Vec<Tensor>> {
        let groups = self.hidden(rows, None, hook, progress)?;
        let logits = self.logits_of_rows(rows.len(), &groups, |x| Ok(x.narrow(0, x.dim(0)? - 1, 1)?))?;
        logits.iter().map(|logits| Ok(logits.squeeze(0)?)).collect()
    }

    /// The logits of each row's group, at the positions that `of` takes.
    fn logits_of_rows(
        &self,
        rows: usize,
        groups: &[Group],
        of: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let head = self.head()?;
        let mut result: Vec<Option<Tensor>> = vec![None; rows];
        for group in groups {
            let logits = self.logits_of(&of(&group.x)?, &head)?;
            for &row in &group.rows {
                result[row] = Some(logits.clone());
            }
        }
        Ok(result.into_iter().flatten().collect())
    }

    fn logits_of(&self, x: &Tensor, head: &Tensor) -> Result<Tensor> {
        let logits = x.matmul(&head.t()?)?;
        match self.recipe.logit_softcap {
            Some(cap) => Ok(ops::softcap(&logits, cap)?),
            None => Ok(logits),
        }
    }

    fn head(&self) -> Result<Tensor> {
        match &self.resident {
            Some(resident) => Ok(resident.head.clone()),
            None => self.loader().tensor(&self.recipe.head_tensor()),
        }
    }

    fn loader(&self) -> Loader<'_> {
        Loader { tensors: self.checkpoint.tensors(), dtype: self.dtype, device: &self.device }
    }

    /// The rows' groups with what the head reads: (positions, hidden) after the final norm. With a cache there is one
    /// row: the positions after those that the cache holds.
    fn hidden(
        &self,
        rows: &[Row],
        mut cache: Option<&mut KeyValueCache>,
        hook: &mut dyn Hook,
        progress: &dyn Progress,
    ) -> Result<Vec<Group>> {
        let positions = batch::positions(rows, self.recipe.vocab_size)?;
        for intervention in rows.iter().flat_map(|r| &r.interventions) {
            self.check(&intervention.neuron)?;
        }
        let chunk_rows = device::chunk_rows(&self.recipe, positions, self.dtype, CHUNK_BYTES);
        device::check_activations(&self.recipe, rows.len(), chunk_rows, positions, self.dtype, &self.device)?;
        let ropes = self.rope_tables(cache.as_ref().map_or(0, |cache| cache.positions) + positions)?;
        let mut groups = self.embed(rows, positions, hook)?;
        self.each_layer(|index, weights| {
            groups = batch::split(std::mem::take(&mut groups), rows, Place::Layer(index));
            for chunk in groups.chunks_mut(chunk_rows) {
                let place = Place::Layer(index);
                self.in_chunk(rows, chunk, place, format!("model.layers.{index}."), hook, |x, tap| {
                    let plan = &self.recipe.layers[index];
                    let cache = cache.as_mut().map(|cache| &mut cache.layers[index]);
                    Layer { recipe: &self.recipe, plan, weights, ropes: &ropes, tap, cache }.forward(x)
                })?;
                progress.advance(chunk.iter().map(|g| g.rows.len() as u64).sum())?;
            }
            hook.layer_done(index)
        })?;
        groups = batch::split(groups, rows, Place::Final);
        for chunk in groups.chunks_mut(chunk_rows) {
            self.in_chunk(rows, chunk, Place::Final, String::new(), hook, |x, mut tap| {
                let x = tap.at(FINAL_NORM, Side::In, x)?;
                tap.at(FINAL_NORM, Side::Out, ops::rms_norm(&x, &self.final_norm, self.recipe.norm)?)
            })?;
        }
        Ok(groups)
    }

    /// Stacks the chunk's groups, applies `f` and takes them apart again.
    fn in_chunk(
        &self,
        rows: &[Row],
        chunk: &mut [Group],
        place: Place,
        prefix: String,
        hook: &mut dyn Hook,
        f: impl FnOnce(Tensor, Tap<'_>) -> Result<Tensor>,
    ) -> Result<()> {
        let members: Vec<Vec<usize>> = chunk.iter().map(|g| g.rows.clone()).collect();
        let interventions: Vec<Vec<Intervention>> =
            chunk.iter().map(|g| batch::interventions_at(&rows[g.rows[0]], place)).collect();
        let x = Tensor::stack(&chunk.iter().map(|g| &g.x).collect::<Vec<_>>(), 0)?;
        let x = f(x, Tap { prefix, rows: &members, interventions: &interventions, hook })?;
        for (at, group) in chunk.iter_mut().enumerate() {
            group.x = x.get(at)?;
        }
        Ok(())
    }

    /// The residual stream before the first layer, one group for all rows with the same tokens and noise.
    fn embed(&self, rows: &[Row], positions: usize, hook: &mut dyn Hook) -> Result<Vec<Group>> {
        let mut groups: Vec<Group> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let same = |g: &&mut Group| {
                let other = &rows[g.rows[0]];
                other.tokens == row.tokens && other.noise == row.noise
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.rows.push(at),
                None => {
                    let known = groups.iter().find(|g| rows[g.rows[0]].tokens == row.tokens);
                    let clean = known.filter(|g| rows[g.rows[0]].noise.is_none()).map(|g| g.x.clone());
                    let mut x = match clean {
                        Some(x) => x,
                        None => self.embedding_rows(&row.tokens)?,
                    };
                    if let Some(noise) = row.noise {
                        let noise = noise.tensor(positions, self.recipe.hidden_size)?;
                        x = (x + noise.to_dtype(self.dtype)?.to_device(&self.device)?)?;
                    }
                    groups.push(Group { rows: vec![at], x });
                }
            }
        }
        groups = batch::split(groups, rows, Place::Embedding);
        for group in groups.chunks_mut(1) {
            self.in_chunk(rows, group, Place::Embedding, String::new(), hook, |x, mut tap| {
                let x = match self.recipe.embedding_multiplier {
                    Some(factor) => (x * factor)?,
                    None => x,
                };
                tap.at(EMBEDDING, Side::Out, x)
            })?;
        }
        Ok(groups)
    }

    /// The embeddings of `tokens`, (tokens, hidden), read row by row from the map.
    fn embedding_rows(&self, tokens: &[u32]) -> Result<Tensor> {
        let loader = self.loader();
        let name = format!("{EMBEDDING}.weight");
        let rows = tokens.iter().map(|&t| loader.rows(&name, t as usize..t as usize + 1));
        Ok(Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn rope_tables(&self, positions: usize) -> Result<Vec<RopeTable>> {
        let table = |rope: &Rope| {
            let table = rope.table(positions, self.dtype == DType::F64);
            Ok(RopeTable::new(table, positions, self.dtype, &self.device)?)
        };
        self.recipe.ropes.iter().map(table).collect()
    }

    /// Calls `f` with each layer's weights in turn; streamed ones are read one layer ahead.
    fn each_layer(&self, mut f: impl FnMut(usize, &LayerWeights) -> Result<()>) -> Result<()> {
        if let Some(resident) = &self.resident {
            return resident.layers.iter().enumerate().try_for_each(|(index, weights)| f(index, weights));
        }
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::sync_channel(0);
            scope.spawn(move || {
                for index in 0..self.recipe.layers.len() {
                    // The receiver hangs up when a layer failed or the user asked to stop.
                    if send.send(self.loader().layer(&self.recipe, index)).is_err() {
                        break;
                    }
                }
            });
            for (index, weights) in receive.into_iter().enumerate() {
                f(index, &weights?)?;
            }
            Ok(())
        })
    }
}

/// Every site that hooks can see in a model of this recipe, layer by layer.
///
/// # Errors
/// A module has a name that is none.
pub fn sites_of(recipe: &Recipe) -> Result<Vec<SiteInfo>> {
    let mut sites = Vec::new();
    for module in recipe.modules() {
        for (side, channels) in [(Side::In, module.inputs), (Side::Out, module.outputs)] {
            if module.kind == ModuleKind::Embedding && side == Side::In {
                continue;
            }
            let site = Site { module: module.path.parse()?, side };
            sites.push(SiteInfo { site, module: module.clone(), channels });
        }
    }
    Ok(sites)
}
