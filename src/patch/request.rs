//! What a neuron and an action ask of the weights, or why weights cannot express them.

use super::changes::Changes;
use crate::architecture::Recipe;
use crate::architecture::module::{Module, Role};
use crate::architecture::place::NeuronPlace;
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::neuron::{Action, Neuron};

/// One neuron of the request and what it is judged by.
pub(super) struct Request<'a> {
    pub recipe: &'a Recipe,
    pub tensors: &'a Tensors,
    pub neuron: &'a Neuron,
}

impl Request<'_> {
    /// Adds what the action changes.
    pub fn add(&self, action: Action, changes: &mut Changes) -> Result<()> {
        let module = self.module()?;
        let Some((holder, _)) = self.recipe.holder(&module, self.neuron.site.side) else {
            return Err(self.refused(self.recipe.why_no_place(&module, self.neuron)));
        };
        self.check_tensors(&holder)?;
        let parts = self.recipe.parts(self.neuron, self.tensors);
        if parts.is_empty() {
            return Err(self.refused("no tensor of this checkpoint holds it alone"));
        }
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
            _ => changes.add(self.neuron, action, &parts, self.recipe.norm.is_one_plus()),
        }
        Ok(())
    }

    fn refused(&self, problem: impl Into<String>) -> Error {
        refused(self.neuron, problem)
    }

    /// The module that the neuron is a channel of.
    fn module(&self) -> Result<Module> {
        let module = self.recipe.module(&self.neuron.site.module).ok_or_else(|| {
            self.refused(format!(
                "this model has no such module; its layers L0 to L{} have {}",
                self.recipe.layers.len().saturating_sub(1),
                self.recipe.names_in_layers().join(", ")
            ))
        })?;
        let channels = module.channels(self.neuron.site.side);
        if self.neuron.channel >= channels {
            let problem = format!("the site has {channels} channels, 0 to {}", channels.saturating_sub(1));
            return Err(self.refused(problem));
        }
        Ok(module)
    }

    /// The tensors of the module that holds the neuron have to be what the config says, of floats.
    fn check_tensors(&self, module: &Module) -> Result<()> {
        let root = self.tensors.root();
        let mut expected = module.tensors();
        if let Some(stack) = module.stack.as_ref().filter(|stack| self.tensors.holds(&stack.tensor)) {
            let weight = self.tensors.weight(&stack.tensor)?;
            expected = vec![(stack.tensor.clone(), stack.shape(module.inputs, weight.shape(), weight.is_packed()).0)];
        }
        if module.role == Role::Embedding {
            expected.extend(self.recipe.head().tensors());
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
            if !weight.is_float() {
                let problem = format!(
                    "has dtype {}, expected F32, F16, BF16 or F64; patch the original, then quantize it",
                    weight.dtypes()
                );
                return Err(Error::tensor(root, name, problem));
            }
        }
        Ok(())
    }
}

fn refused(neuron: &Neuron, problem: impl Into<String>) -> Error {
    Error::Name { what: "neuron", text: neuron.to_string(), problem: problem.into() }
}
