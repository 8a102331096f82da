//! Passes of rows through a model: from the embedding through the layers to the logits.

use super::Model;
use super::batch::{self, Carried, Group, Place, Row};
use super::cache::{Cache, Kept};
use super::hook::{Hook, NoHook, Tap};
use super::layer::{Beside, Layer};
use super::ops::{self, Masks, RopeTable};
use super::scored::Scored;
use super::trunk::{Branches, Trunk};
use super::weights::LayerWeights;
use crate::architecture::recipe::{EMBEDDING, LAYER_EMBEDDING};
use crate::error::Result;
use crate::neuron::{Intervention, ModulePath, Side};
use crate::progress::Progress;
use candle_core::Tensor;
use std::time::Instant;

/// What takes groups through a layer.
pub(super) struct LayerPass<'a, 'c> {
    pub index: usize,
    pub weights: &'a LayerWeights,
    pub ropes: &'a [RopeTable],
    pub masks: &'a Masks,
    /// Of the text, up to the last of the groups.
    pub positions: usize,
    /// What the layer keeps of earlier positions.
    pub cache: Option<&'c mut Kept>,
}

impl Model {
    /// Pushes rows through the layers and the final norm for what `hook` sees on the way. Progress advances by rows ×
    /// layers.
    ///
    /// # Errors
    /// The rows cannot be computed together, memory would not suffice, the hook failed, or the user asked to stop.
    pub fn trace(&self, rows: &[Row], hook: &mut dyn Hook, progress: &dyn Progress) -> Result<()> {
        self.hidden(rows, None, None, hook, progress).map(drop)
    }

    /// As [`Model::trace`], with a hook that changes nothing; `trunk` keeps the text's clean row if it is among them, and
    /// no other.
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn trace_keeping(
        &self,
        trunk: &mut Trunk,
        rows: &[Row],
        hook: &mut dyn Hook,
        progress: &dyn Progress,
    ) -> Result<()> {
        trunk.clear();
        self.hidden(rows, None, Some(trunk), hook, progress).map(drop)
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
        self.log_probs(rows, None, hook, progress)
    }

    /// As [`Model::target_log_probs`] without a hook; rows begin where they branch off `trunk`, which keeps the text's
    /// clean row if it is among them and has not passed yet.
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn target_log_probs_along(
        &self,
        trunk: &mut Trunk,
        rows: &[Row],
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f64>>> {
        self.log_probs(rows, Some(trunk), &mut NoHook, progress)
    }

    fn log_probs(
        &self,
        rows: &[Row],
        trunk: Option<&mut Trunk>,
        hook: &mut dyn Hook,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f64>>> {
        let groups = self.hidden(rows, None, trunk, hook, progress)?;
        let scored: Vec<Scored> = rows.iter().map(Scored::all_of).collect();
        self.log_probs_of_rows(groups, &scored, progress)
    }

    /// The logits of every row, (positions, vocabulary), in the arithmetic's dtype on the device. Progress advances by
    /// rows × layers.
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn logits(&self, rows: &[Row], hook: &mut dyn Hook, progress: &dyn Progress) -> Result<Vec<Tensor>> {
        let groups = self.hidden(rows, None, None, hook, progress)?;
        self.logits_of_rows(rows.len(), &groups, |x| Ok(x.clone()))
    }

    /// What each row says of the token after it: the logits of its last position, (vocabulary), in the arithmetic's
    /// dtype on the device. Progress advances by rows × layers.
    ///
    /// # Errors
    /// As [`Model::trace`].
    pub fn last_logits(&self, rows: &[Row], hook: &mut dyn Hook, progress: &dyn Progress) -> Result<Vec<Tensor>> {
        let groups = self.hidden(rows, None, None, hook, progress)?;
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
        let read: Vec<Tensor> = groups.iter().map(|group| of(&group.x)).collect::<Result<_>>()?;
        let mut result: Vec<Option<Tensor>> = vec![None; rows];
        for (group, logits) in groups.iter().zip(self.logits_of(&read)?) {
            for &row in &group.rows {
                result[row] = Some(logits.clone());
            }
        }
        Ok(result.into_iter().flatten().collect())
    }

    /// The rows' groups with what the head reads: (positions, hidden) after the final norm. With a cache there is one
    /// row: the positions after those that the cache holds. With a trunk rows begin where they branch off it, and hooks
    /// do not see them before.
    pub(super) fn hidden(
        &self,
        rows: &[Row],
        mut cache: Option<&mut Cache>,
        trunk: Option<&mut Trunk>,
        hook: &mut dyn Hook,
        progress: &dyn Progress,
    ) -> Result<Vec<Group>> {
        let positions = batch::positions(rows, self.recipe.vocab_size)?;
        for intervention in rows.iter().flat_map(|r| &r.interventions) {
            self.check(&intervention.neuron)?;
        }
        let left = self.memory.for_rows();
        self.memory.check_rows(&self.recipe, rows.len(), positions, self.dtype, left)?;
        let chunk_rows = self.memory.chunk_rows(&self.recipe, positions, self.dtype, left);
        let all = cache.as_ref().map_or(0, |cache| cache.positions) + positions;
        let ropes = self.rope_tables(all)?;
        let masks = ops::Masks::default();
        let layers = self.recipe.layers.len();
        let has_room = self.memory.has_room_for_a_trunk(&self.recipe, positions, self.dtype, left);
        let mut branches = Branches::of(rows, trunk, layers, has_room);
        progress.advance(branches.skipped())?;
        let mut groups = self.embed(rows, &branches.whole, positions, hook)?;
        self.each_layer(branches.first()..layers, |index, weights| {
            let started = Instant::now();
            branches.at(index, &mut groups)?;
            groups = batch::split(std::mem::take(&mut groups), rows, Place::Layer(index));
            for chunk in groups.chunks_mut(chunk_rows) {
                let cache = cache.as_mut().map(|cache| &mut cache.layers[index]);
                let pass = LayerPass { index, weights, ropes: &ropes, masks: &masks, positions: all, cache };
                self.through_layer(rows, chunk, pass, hook)?;
                progress.advance(chunk.iter().map(|g| g.rows.len() as u64).sum())?;
            }
            self.pace.computed(groups.len() * positions, started.elapsed());
            hook.layer_done(index)
        })?;
        branches.at(layers, &mut groups)?;
        groups = batch::split(groups, rows, Place::Final);
        for chunk in groups.chunks_mut(chunk_rows) {
            self.through_final_norm(rows, chunk, hook)?;
        }
        Ok(groups)
    }

    /// Takes a chunk of groups through a layer.
    pub(super) fn through_layer(
        &self,
        rows: &[Row],
        chunk: &mut [Group],
        pass: LayerPass<'_, '_>,
        hook: &mut dyn Hook,
    ) -> Result<()> {
        let LayerPass { index, weights, ropes, masks, positions, cache } = pass;
        let beside = Beside::of(&self.recipe, index, chunk)?;
        let mut lent = None;
        self.in_chunk(rows, chunk, Place::Layer(index), hook, |x, tap| {
            let (recipe, plan) = (&self.recipe, &self.recipe.layers[index]);
            let mut layer = Layer { recipe, plan, weights, ropes, masks, positions, tap, cache, beside, lent: None };
            let x = layer.forward(x)?;
            lent = layer.lent;
            Ok(x)
        })?;
        let Some((keys, values)) = lent else { return Ok(()) };
        let heads = keys.dim(0)? / chunk.len();
        for (at, group) in chunk.iter_mut().enumerate() {
            let own = (keys.narrow(0, at * heads, heads)?, values.narrow(0, at * heads, heads)?);
            group.carried.lent.insert(index, own);
        }
        Ok(())
    }

    /// Takes a chunk of groups through the final norm, to what the head reads.
    pub(super) fn through_final_norm(&self, rows: &[Row], chunk: &mut [Group], hook: &mut dyn Hook) -> Result<()> {
        self.in_chunk(rows, chunk, Place::Final, hook, |x, mut tap| {
            let module: ModulePath = self.recipe.final_norm.parse()?;
            let x = tap.at(&module, Side::In, x)?;
            tap.at(&module, Side::Out, ops::rms_norm(&x, &self.final_norm, self.recipe.norm)?)
        })
    }

    /// Stacks the chunk's groups, applies `f` and takes them apart again.
    fn in_chunk(
        &self,
        rows: &[Row],
        chunk: &mut [Group],
        place: Place,
        hook: &mut dyn Hook,
        f: impl FnOnce(Tensor, Tap<'_>) -> Result<Tensor>,
    ) -> Result<()> {
        let members: Vec<Vec<usize>> = chunk.iter().map(|g| g.rows.clone()).collect();
        let interventions: Vec<Vec<Intervention>> =
            chunk.iter().map(|g| batch::interventions_at(&rows[g.rows[0]], place)).collect();
        let x = Tensor::stack(&chunk.iter().map(|g| &g.x).collect::<Vec<_>>(), 0)?;
        let x = f(x, Tap { rows: &members, interventions: &interventions, hook })?;
        for (at, group) in chunk.iter_mut().enumerate() {
            group.x = x.get(at)?;
        }
        Ok(())
    }

    /// The residual stream before the first layer of those `at` these places among the rows, one group for all with the
    /// same tokens and noise.
    pub(super) fn embed(
        &self,
        rows: &[Row],
        at: &[usize],
        positions: usize,
        hook: &mut dyn Hook,
    ) -> Result<Vec<Group>> {
        let mut groups: Vec<Group> = Vec::new();
        for (at, row) in at.iter().map(|at| (*at, &rows[*at])) {
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
                    groups.push(Group { rows: vec![at], x, carried: Carried::default() });
                }
            }
        }
        groups = batch::split(groups, rows, Place::Embedding);
        for group in groups.chunks_mut(1) {
            let tokens = rows[group[0].rows[0]].tokens.clone();
            let mut inputs = None;
            self.in_chunk(rows, group, Place::Embedding, hook, |x, mut tap| {
                let x = match self.recipe.embedding_multiplier {
                    Some(factor) => (x * factor)?,
                    None => x,
                };
                let x = tap.at(&EMBEDDING.parse()?, Side::Out, x)?;
                if let Some(weights) = &self.layer_inputs {
                    let of_tokens = self.rows_of_tokens(LAYER_EMBEDDING, &tokens)?;
                    inputs = Some(weights.inputs(&self.recipe, &of_tokens, &x, &mut tap)?);
                }
                match self.recipe.stream_multiplier {
                    Some(factor) => Ok(ops::scaled(&x, factor)?),
                    None => Ok(x),
                }
            })?;
            group[0].carried.inputs = inputs;
        }
        Ok(groups)
    }
}
