//! The modules whose weights hold critical neurons: what a quantizer is told to leave alone.

use crate::architecture::Recipe;
use crate::architecture::module::ModuleKind;
use crate::checkpoint::{Tensors, gguf};
use crate::neuron::{ModulePath, Neuron};

/// What quantizers leave alone, by their own names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreList {
    /// The modules, each once, in the order of the neurons.
    pub modules: Vec<IgnoredModule>,
    /// Neurons that need no entry, or have none, and why.
    pub left: Vec<String>,
}

/// A linear module that holds critical neurons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredModule {
    /// Its path in a model that transformers loads.
    pub path: String,
    /// Whether the text model is a part of another, for which loaders put more before the path.
    pub is_wrapped: bool,
    /// What a GGUF calls its weight, without `.weight`; none where the family is not known there.
    pub gguf: Option<String>,
}

impl IgnoreList {
    /// That of some neurons of a model.
    pub fn of(neurons: &[Neuron], recipe: &Recipe, tensors: &Tensors) -> IgnoreList {
        let mut list = IgnoreList::default();
        for neuron in neurons {
            match holder(neuron, recipe, tensors) {
                Ok(module) if list.modules.contains(&module) => {}
                Ok(module) => list.modules.push(module),
                Err(why) => list.left.push(format!("{}: no entry: {why}", neuron.short())),
            }
        }
        list
    }
}

/// The linear module whose weight holds a neuron, or why there is none.
fn holder(neuron: &Neuron, recipe: &Recipe, tensors: &Tensors) -> Result<IgnoredModule, String> {
    let place = recipe.place(neuron, tensors).ok_or("it lies in no tensor alone")?;
    let path = place.tensor.strip_suffix(".weight").unwrap_or(&place.tensor).to_owned();
    let module = path.parse().ok().and_then(|path: ModulePath| recipe.module(&path));
    match module.map(|module| module.kind) {
        Some(ModuleKind::Linear { .. }) => {}
        Some(ModuleKind::Norm { .. }) => return Err(format!("{path} is a norm, which quantizers leave alone")),
        _ => return Err(format!("{path} is an embedding, for which quantizers have settings of their own")),
    }
    let is_wrapped = tensors.stored_name(&place.tensor).contains("language_model.");
    Ok(IgnoredModule { gguf: gguf::module_name(recipe.model_type, &path), path, is_wrapped })
}
