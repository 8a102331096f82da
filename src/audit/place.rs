//! Where a checkpoint lies, and where in it a neuron does.

use crate::architecture::Recipe;
use crate::checkpoint::hub::Origin;
use crate::checkpoint::{Checkpoint, Folder, Source};
use crate::error::{Error, Result};
use crate::integrity::lint::{Location, More};
use crate::neuron::Neuron;
use crate::progress::Progress;
use std::path::{Path, PathBuf};

/// Where a checkpoint's files lie.
pub enum Place {
    Folder(Folder),
    Gguf(PathBuf),
}

impl Place {
    pub fn find(model: &str, progress: &dyn Progress) -> Result<Place> {
        Ok(match Source::find(model)? {
            Source::Gguf(path) => Place::Gguf(path),
            source => Place::Folder(source.folder_at_hand(progress)?),
        })
    }

    pub fn path(&self) -> &Path {
        match self {
            Place::Folder(folder) => &folder.path,
            Place::Gguf(path) => path,
        }
    }

    /// Which commit of a hub repository it is, if it is one.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Place::Folder(folder) => folder.origin.as_ref(),
            Place::Gguf(_) => None,
        }
    }

    pub fn folder(&self) -> Result<&Path> {
        match self {
            Place::Folder(folder) => Ok(&folder.path),
            Place::Gguf(path) => Err(Error::file(path, "is a GGUF; fingerprints are of model folders")),
        }
    }

    pub fn open(&self, name: &str) -> Result<Checkpoint> {
        match self {
            Place::Folder(folder) => Checkpoint::open_folder(name, folder),
            Place::Gguf(path) => Checkpoint::open_gguf(name, path),
        }
    }
}

/// The checkpoint as a whole: of a folder nothing, as places are told from there on.
pub fn whole(checkpoint: &Checkpoint) -> Location {
    match checkpoint.root().is_dir() {
        true => Location::default(),
        false => Location::file(name_of(checkpoint.root())),
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

/// A path's last part.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
