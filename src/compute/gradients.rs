//! Gradients of a row's NLL by its activations, layer by layer in reverse: kept are what went into each layer and the
//! graph of one layer at a time, so that streamed weights are read twice and nothing grows with the model's depth but
//! the residual stream.

use super::Model;
use super::batch;
use super::batch::{Carried, Group, Place, Row};
use super::hook::{Hook, NoHook};
use super::ops::Masks;
use super::passes::LayerPass;
use crate::error::{Error, Result};
use crate::neuron::Site;
use crate::progress::Progress;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use std::collections::BTreeMap;

/// Sees activations and gradients by them; see [`Model::gradients`].
pub trait GradientHook {
    /// Whether this hook wants to see `site`.
    fn wants(&self, site: &Site) -> bool;

    /// `x` and ∂NLL/∂x are (positions, channels), in the arithmetic's dtype. `x` is after interventions. The gradient of
    /// what goes into a module is by that module alone, not by others that read the same; that of an expert is 0 at
    /// positions that are not routed to it.
    ///
    /// # Errors
    /// Whatever the hook cannot do.
    fn on(&mut self, site: &Site, x: &Tensor, gradient: &Tensor) -> Result<()>;
}

impl Model {
    /// The mean NLL in nats of a row's tokens from the second on, and its gradient by each activation that `hook` wants,
    /// the last layer's first. Which experts a position is routed to is taken as given. Progress advances by up to
    /// 2 × layers: layers below all that is wanted are not followed back.
    ///
    /// # Errors
    /// The row cannot be computed or has no second token, the arithmetic is f16, in which gradients vanish, memory would
    /// not suffice, the hook failed, or the user asked to stop.
    pub fn gradients(&self, row: &Row, hook: &mut dyn GradientHook, progress: &dyn Progress) -> Result<f64> {
        if self.dtype == DType::F16 {
            return Err(Error::input("gradients are too small for f16: use --dtype bf16, f32 or f64"));
        }
        let rows = std::slice::from_ref(row);
        let positions = batch::positions(rows, self.recipe.vocab_size)?;
        if positions < 2 {
            return Err(Error::input("the text has one token, so there is none to predict: nothing has a gradient"));
        }
        row.interventions.iter().try_for_each(|intervention| self.check(&intervention.neuron))?;
        self.memory.check_gradients(&self.recipe, positions, self.dtype, self.memory.for_rows())?;
        let (ropes, masks) = (self.rope_tables(positions)?, Masks::default());

        let mut recorder = Recorder::of(hook);
        let embedded = only(self.embed(rows, &[0], positions, &mut recorder)?)?;
        let of_embedding = recorder.seen;
        let mut group = detached(&embedded);
        let mut inputs = Vec::with_capacity(self.recipe.layers.len());
        self.each_layer(0..self.recipe.layers.len(), |index, weights| {
            inputs.push(group.x.clone());
            let pass = LayerPass { index, weights, ropes: &ropes, masks: &masks, positions, cache: None };
            self.through_layer(rows, std::slice::from_mut(&mut group), pass, &mut NoHook)?;
            progress.advance(1)
        })?;

        let x = Var::from_tensor(&group.x)?;
        let mut normed = [Group { x: x.as_tensor().clone(), ..group.clone() }];
        let mut recorder = Recorder::of(hook);
        self.through_final_norm(rows, &mut normed, &mut recorder)?;
        let seen = recorder.seen;
        let targets = &row.tokens[1..];
        let read = normed[0].x.detach();
        let (nll, of_read) = self.nll_and_gradient(&read.narrow(0, 0, targets.len())?, targets)?;
        // Nothing is predicted of what comes after the last token.
        let of_last = read.narrow(0, 0, 1)?.zeros_like()?;
        let of_normed = (Tensor::cat(&[of_read, of_last], 0)? / targets.len() as f64)?;
        let found = follow_back(&[(&normed[0].x, of_normed)])?;
        show(seen, &found, hook)?;
        let mut back = Back::from(of(&found, &x)?);

        let wanted = self.sites().iter().filter(|info| hook.wants(&info.site));
        let lowest = wanted.map(|info| self.first_layer_before(&info.site)).min().unwrap_or(inputs.len());
        self.each_layer((lowest..inputs.len()).rev(), |index, weights| {
            let pass = LayerPass { index, weights, ropes: &ropes, masks: &masks, positions, cache: None };
            back.through_layer(self, row, (&inputs[index], &group.carried), pass, hook)?;
            progress.advance(1)
        })?;
        if !of_embedding.is_empty() {
            let of_inputs = embedded.carried.inputs.as_ref().zip(back.of_inputs);
            let stage = [Some((&embedded.x, back.of_x)), of_inputs].into_iter().flatten();
            show(of_embedding, &follow_back(&stage.collect::<Vec<_>>())?, hook)?;
        }
        Ok(nll / targets.len() as f64)
    }

    /// The first layer that has to be followed back for the gradient by a site.
    fn first_layer_before(&self, site: &Site) -> usize {
        match Place::of(&site.module) {
            Place::Embedding => 0,
            Place::Layer(layer) => layer,
            Place::Final => self.recipe.layers.len(),
        }
    }
}

/// What is known on the way back: gradients by what flows into the layers that were passed.
pub(super) struct Back {
    /// By the residual stream, (positions, hidden).
    of_x: Tensor,
    /// By the inputs of each layer, where there are any.
    of_inputs: Option<Tensor>,
    /// By the keys and values that a layer lends, from all its borrowers that were passed.
    of_lent: BTreeMap<usize, (Tensor, Tensor)>,
}

impl Back {
    /// From the last layer, where the gradient by what comes out of it is known.
    pub fn from(of_x: Tensor) -> Back {
        Back { of_x, of_inputs: None, of_lent: BTreeMap::new() }
    }

    /// Computes a layer again, from what flowed into it, and follows the gradient back through it.
    pub fn through_layer(
        &mut self,
        model: &Model,
        row: &Row,
        (x, carried): (&Tensor, &Carried),
        pass: LayerPass<'_, '_>,
        hook: &mut dyn GradientHook,
    ) -> Result<()> {
        let index = pass.index;
        let x = Var::from_tensor(x)?;
        let inputs = carried.inputs.as_ref().map(Var::from_tensor).transpose()?;
        let lender = model.recipe.attention(index).and_then(|attention| attention.borrows);
        let mut borrowed = BTreeMap::new();
        if let Some((lender, (keys, values))) = lender.and_then(|lender| Some((lender, carried.lent.get(&lender)?))) {
            borrowed.insert(lender, (Var::from_tensor(keys)?, Var::from_tensor(values)?));
        }
        let tensors = |(keys, values): &(Var, Var)| (keys.as_tensor().clone(), values.as_tensor().clone());
        let lent = borrowed.iter().map(|(lender, of)| (*lender, tensors(of))).collect();
        let carried = Carried { inputs: inputs.as_ref().map(|inputs| inputs.as_tensor().clone()), lent };
        let mut group = [Group { rows: vec![0], x: x.as_tensor().clone(), carried }];
        let mut recorder = Recorder::of(hook);
        model.through_layer(std::slice::from_ref(row), &mut group, pass, &mut recorder)?;
        let seen = recorder.seen;

        let [group] = group;
        let mut results = vec![(&group.x, self.of_x.clone())];
        if let (Some((keys, values)), Some((of_keys, of_values))) =
            (group.carried.lent.get(&index), self.of_lent.remove(&index))
        {
            results.extend([(keys, of_keys), (values, of_values)]);
        }
        let found = follow_back(&results)?;
        show(seen, &found, hook)?;
        self.of_x = of(&found, &x)?;
        if let Some(inputs) = inputs {
            self.of_inputs = Some(sum(self.of_inputs.take(), of(&found, &inputs)?)?);
        }
        for (lender, (keys, values)) in borrowed {
            let (of_keys, of_values) = self.of_lent.remove(&lender).unzip();
            let both = (sum(of_keys, of(&found, &keys)?)?, sum(of_values, of(&found, &values)?)?);
            self.of_lent.insert(lender, both);
        }
        Ok(())
    }
}

/// Takes what flows by at the sites that are wanted, and lets the gradient by it be asked for later.
struct Recorder<'a> {
    hook: &'a dyn GradientHook,
    seen: Vec<Seen>,
}

struct Seen {
    site: Site,
    /// (1, positions, channels).
    x: Tensor,
    /// Zeros that were added to it: the gradient by them is that by x.
    added: Var,
}

impl<'a> Recorder<'a> {
    fn of(hook: &'a dyn GradientHook) -> Recorder<'a> {
        Recorder { hook, seen: Vec::new() }
    }
}

impl Hook for Recorder<'_> {
    fn wants(&self, site: &Site) -> bool {
        self.hook.wants(site)
    }

    fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        let added = Var::zeros(x.shape(), x.dtype(), x.device())?;
        let changed = (x + added.as_tensor())?;
        self.seen.push(Seen { site: site.clone(), x: x.detach(), added });
        Ok(Some(changed))
    }
}

/// Shows the hook what was seen, with the gradients that were found.
fn show(seen: Vec<Seen>, found: &GradStore, hook: &mut dyn GradientHook) -> Result<()> {
    for Seen { site, x, added } in seen {
        hook.on(&site, &x.squeeze(0)?, &of(found, &added)?.squeeze(0)?)?;
    }
    Ok(())
}

/// Gradients by all that `results` come of, where those by the results are known.
fn follow_back(results: &[(&Tensor, Tensor)]) -> Result<GradStore> {
    let products = results.iter().map(|(x, gradient)| (*x * gradient)?.sum_all());
    let sum =
        products.reduce(|a, b| a? + b?).ok_or_else(|| Error::Compute("there is nothing to follow back".into()))?;
    Ok(sum?.backward()?)
}

/// The gradient by a variable: zeros where nothing comes of it.
fn of(found: &GradStore, variable: &Var) -> Result<Tensor> {
    Ok(match found.get(variable) {
        Some(gradient) => gradient.clone(),
        None => variable.zeros_like()?,
    })
}

fn sum(so_far: Option<Tensor>, more: Tensor) -> Result<Tensor> {
    Ok(match so_far {
        Some(so_far) => (so_far + more)?,
        None => more,
    })
}

/// The one group of one row.
fn only(groups: Vec<Group>) -> Result<Group> {
    groups.into_iter().next().ok_or_else(|| Error::Compute("one row has no group".into()))
}

/// The same values, which nothing is followed back through.
fn detached(group: &Group) -> Group {
    let inputs = group.carried.inputs.as_ref().map(Tensor::detach);
    Group { rows: group.rows.clone(), x: group.x.detach(), carried: Carried { inputs, lent: BTreeMap::new() } }
}
