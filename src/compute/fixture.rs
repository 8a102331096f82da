//! The tiny models of `fixtures/`, for tests.

use super::{Arithmetic, ComputeSettings, DeviceChoice, Model, Residency};
use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::progress::Silent;

pub(crate) fn opened(family: &str) -> (Checkpoint, Recipe) {
    let folder = format!("{}/fixtures/{family}", env!("CARGO_MANIFEST_DIR"));
    let checkpoint = Checkpoint::open(&folder, &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    (checkpoint, recipe)
}

/// On the CPU.
pub(crate) fn model(family: &str, arithmetic: Arithmetic, residency: Option<Residency>) -> Model {
    let (checkpoint, recipe) = opened(family);
    let settings = ComputeSettings { arithmetic, device: DeviceChoice::Cpu, residency, ..ComputeSettings::default() };
    Model::new(checkpoint, recipe, &settings, &Silent).unwrap()
}
