//! How a model's weights are read, for people.

use super::short::short;
use crate::document::ModelIdentity;

/// A line; nothing where every number is stored as itself.
pub fn line(model: &ModelIdentity) -> String {
    told(model.weights.as_deref()).map_or(String::new(), |told| told + "\n")
}

/// What the line says.
pub(super) fn told(weights: Option<&str>) -> Option<String> {
    weights.map(|how| format!("weights {}", short(how)))
}
