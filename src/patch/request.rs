//! What a neuron and an action ask of the weights, or why weights cannot express them.

use super::changes::Changes;
use crate::architecture::module::{Module, Role};
use crate::architecture::place::NeuronPlace;
use crate::architecture::{Recipe, check_head, names, stacks};
use crate::checkpoint::{Checkpoint, Tensors};
use crate::error::{Error, Result};
use crate::neuron::{self, Action, Neuron};

/// One neuron of the request and what it is judged by.
pub(super) struct Request<'a> {
    /// None where the architecture is not known: names tell then.
    pub recipe: Option<&'a Recipe>,
    pub tensors: &'a Tensors,
    pub neuron: &'a Neuron,
}

/// Checks that neurons of this checkpoint can be told in its file at all.
pub(super) fn check(checkpoint: &Checkpoint, recipe: Option<&Recipe>, neurons: &[&Neuron]) -> Result<()> {
    let tensors = checkpoint.tensors();
    if neurons.is_empty() {
        return Err(Error::input("no neuron given; name some with --neuron or --critical"));
    }
    neuron::check_distinct(neurons.iter().copied())?;
    recipe.map_or(Ok(()), |recipe| check_head(recipe, tensors))
}

impl Request<'_> {
    /// Adds what the action changes.
    pub fn add(&self, action: Action, changes: &mut Changes) -> Result<()> {
        let parts = self.parts()?;
        match action {
            Action::Scale(beta) if !beta.is_finite() => {
                return Err(Error::input(format!("beta is {beta}, expected a finite number")));
            }
            Action::Set(value) if !value.is_finite() => {
                return Err(self.refused(format!("cannot be set to {value}, expected a finite number")));
            }
            Action::Set(_) if !parts.iter().any(NeuronPlace::is_bias) => {
                let problem = "has no bias that could hold its mean; weights alone can mask it (no --mean) or scale it \
                               (--beta)";
                return Err(self.refused(problem));
            }
            _ => {
                let one_plus = self.recipe.is_some_and(|recipe| recipe.norm.is_one_plus());
                changes.add(self.neuron, action, &parts, one_plus);
            }
        }
        Ok(())
    }

    /// Everything that a factor on the neuron multiplies.
    pub fn parts(&self) -> Result<Vec<NeuronPlace>> {
        let parts = match self.recipe {
            Some(recipe) => self.parts_by(recipe)?,
            None => self.parts_by_names()?,
        };
        for part in &parts {
            let weight = self.tensors.weight(&part.tensor)?;
            if !weight.is_float() {
                let problem = format!(
                    "has dtype {}, expected F32, F16, BF16 or F64; patch the original, then quantize it",
                    weight.dtypes()
                );
                return Err(Error::tensor(self.tensors.root(), self.tensors.stored_name(&part.tensor), problem));
            }
        }
        Ok(parts)
    }

    fn parts_by(&self, recipe: &Recipe) -> Result<Vec<NeuronPlace>> {
        let module = self.module(recipe)?;
        let Some((holder, _)) = recipe.holder(&module, self.neuron.site.side) else {
            return Err(self.refused(recipe.why_no_place(&module, self.neuron)));
        };
        let shape_of = |name: &str| self.tensors.shape_of(name);
        let is_stacked = holder.stack.as_ref().is_some_and(|stack| self.tensors.holds(&stack.tensor))
            || !self.tensors.holds(&holder.weight()) && !stacks::parts(self.neuron, &shape_of).is_empty();
        if !is_stacked {
            self.check_tensors(recipe, &holder)?;
        }
        let parts = recipe.parts(self.neuron, self.tensors);
        if parts.is_empty() {
            let why = stacks::why_no_part(self.neuron, &shape_of);
            return Err(self.refused(why.unwrap_or_else(|| "no tensor of this checkpoint holds it alone".into())));
        }
        Ok(parts)
    }

    /// Of an architecture that is not known: projections and experts of its layers, which all families name and store
    /// alike. What norms multiply by differs, and so does what lies outside of the layers.
    fn parts_by_names(&self) -> Result<Vec<NeuronPlace>> {
        let parts = names::parts(self.neuron, self.tensors);
        if self.neuron.site.module.layer().is_none() || parts.first().is_some_and(NeuronPlace::is_norm) {
            let problem = "this architecture is not known, so that only projections of its layers can be told by their \
                           names, such as L0.mlp.down_proj";
            return Err(self.refused(problem));
        }
        if parts.is_empty() {
            let why = stacks::why_no_part(self.neuron, &|name| self.tensors.shape_of(name)).unwrap_or_else(|| {
                let weight = format!("{}.weight", self.neuron.site.module);
                match self.tensors.weight(&weight) {
                    Ok(weight) => format!("no part of {} {:?} is it alone", weight.name(), weight.shape()),
                    Err(_) => format!("this checkpoint has no {weight}, nor a stack of experts that holds it"),
                }
            });
            return Err(self.refused(why));
        }
        Ok(parts)
    }

    fn refused(&self, problem: impl Into<String>) -> Error {
        refused(self.neuron, problem)
    }

    /// The module that the neuron is a channel of.
    fn module(&self, recipe: &Recipe) -> Result<Module> {
        let module = recipe.module(&self.neuron.site.module).ok_or_else(|| {
            self.refused(format!(
                "this model has no such module; its layers L0 to L{} have {}",
                recipe.layers.len().saturating_sub(1),
                recipe.names_in_layers().join(", ")
            ))
        })?;
        let channels = module.channels(self.neuron.site.side);
        if self.neuron.channel >= channels {
            let problem = format!("the site has {channels} channels, 0 to {}", channels.saturating_sub(1));
            return Err(self.refused(problem));
        }
        Ok(module)
    }

    /// The tensors of the module that holds the neuron have to be what the config says.
    fn check_tensors(&self, recipe: &Recipe, module: &Module) -> Result<()> {
        let root = self.tensors.root();
        let mut expected = module.tensors();
        if let Some(stack) = module.stack.as_ref().filter(|stack| self.tensors.holds(&stack.tensor)) {
            let weight = self.tensors.weight(&stack.tensor)?;
            expected = vec![(stack.tensor.clone(), stack.shape(module.inputs, weight.shape(), weight.is_packed()).0)];
        }
        if module.role == Role::Embedding {
            expected.extend(recipe.head().tensors());
        }
        for (name, shape) in expected {
            if !self.tensors.holds(&name) {
                let start = name.strip_suffix("weight").filter(|start| start.ends_with('.'));
                let other =
                    start.and_then(|start| self.tensors.iter().find(|(n, _)| n.starts_with(start) && *n != name));
                let problem = match other.filter(|(n, _)| !n.ends_with(".bias")) {
                    Some((other, _)) => format!(
                        "is there in a form that is not known ({}); patch the original, then quantize it",
                        self.tensors.stored_name(other)
                    ),
                    None => "is missing, the config asks for it".to_owned(),
                };
                return Err(Error::tensor(root, name, problem));
            }
            let weight = self.tensors.weight(&name)?;
            let name = self.tensors.stored_name(&name);
            if weight.shape() != shape {
                let problem = format!("has shape {:?}, the config gives {shape:?}", weight.shape());
                return Err(Error::tensor(root, name, problem));
            }
        }
        Ok(())
    }
}

fn refused(neuron: &Neuron, problem: impl Into<String>) -> Error {
    Error::Name { what: "neuron", text: neuron.to_string(), problem: problem.into() }
}
