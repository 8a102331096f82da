//! Where a finding about a checkpoint lies, and where one about a neuron does.

use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::files::name_of;
use crate::integrity::lint::{Location, More};
use crate::neuron::Neuron;

/// The checkpoint as a whole: of a folder nothing, as places are told from there on.
pub fn whole(checkpoint: &Checkpoint) -> Location {
    match checkpoint.opened().is_gguf() {
        true => Location::file(name_of(checkpoint.root())),
        false => Location::default(),
    }
}

/// The part of a tensor that holds a neuron alone, or the whole checkpoint where none does.
pub fn of_neuron(neuron: &Neuron, checkpoint: &Checkpoint) -> Location {
    let tensors = checkpoint.tensors();
    let recipe = Recipe::read(checkpoint.config());
    let Some(part) = recipe.ok().and_then(|recipe| recipe.place(neuron, tensors)) else { return whole(checkpoint) };
    let shard = tensors.get(&part.tensor).and_then(|entry| entry.place.as_ref());
    let file = shard.and_then(|(at, _)| tensors.files().get(*at));
    let file = file.map_or(whole(checkpoint).file, |f| name_of(f.path()));
    Location::file(file).tensor(tensors.stored_name(&part.tensor)).at(part.axis, part.index as u64)
}

/// As [`of_neuron`] of the first of them, and the others.
pub fn of_neurons(neurons: &[Neuron], checkpoint: &Checkpoint) -> Location {
    let first = neurons.first().map_or_else(|| whole(checkpoint), |first| of_neuron(first, checkpoint));
    first.and(More::InFile(neurons.len().saturating_sub(1) as u64))
}
