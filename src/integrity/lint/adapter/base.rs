//! The model that an adapter changes.

use super::config::{AdapterConfig, ends_in, is_head};
use super::modules::{Modules, elements, path};
use super::parts::{Factor, Named};
use crate::architecture::names;
use crate::checkpoint::Opened;
use crate::checkpoint::kind::ADAPTER_CONFIG;
use crate::checkpoint::names::Names;
use crate::error::{Count, Result};
use crate::escape::printable;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::observation::{Found, Location};
use crate::integrity::lint::stored::at;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The modules of a base, and the shapes of their weights.
#[derive(Debug)]
pub struct Base {
    name: String,
    names: Names,
    /// By the names that modules have where a text model stands alone.
    shapes: BTreeMap<String, Vec<usize>>,
    /// These names by what stands after their first part.
    inner: BTreeMap<String, String>,
}

impl Base {
    /// Opens one, of whatever form its weights are.
    ///
    /// # Errors
    /// It has no weights, or they cannot be read.
    pub fn of(opened: &Opened) -> Result<Base> {
        let tensors = if opened.is_gguf() { opened.named_tensors()? } else { opened.tensors()? };
        let names = opened.names()?;
        let mut base = Base { name: opened.name().to_owned(), names, shapes: BTreeMap::new(), inner: BTreeMap::new() };
        for weight in tensors.weights() {
            let module = base.own(weight.name().strip_suffix(".weight").unwrap_or(weight.name()));
            // A bias has no module of its own.
            if !weight.name().ends_with(".bias") {
                if let Some((_, inner)) = module.split_once('.') {
                    base.inner.insert(inner.to_owned(), module.clone());
                }
                base.shapes.insert(module, weight.shape().to_vec());
            }
        }
        Ok(base)
    }

    /// A module by the name that it has here.
    fn own(&self, module: &str) -> String {
        let stored = format!("{module}.weight");
        let name = self.names.text(&stored).unwrap_or(stored);
        name.strip_suffix(".weight").unwrap_or(&name).to_owned()
    }

    /// The paths of its modules.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().map(String::as_str)
    }

    /// The module that an adapter means, and its weight's shape. Classes of one family put their own name before those of
    /// their modules, or not.
    fn find(&self, module: &str) -> Option<(&str, &[usize])> {
        let own = self.own(module);
        let inner = own.split_once('.').map_or(own.as_str(), |(_, inner)| inner);
        let exact = [own.as_str(), inner].into_iter().find_map(|name| self.shapes.get_key_value(name));
        let within = || self.shapes.get_key_value(self.inner.get(own.as_str())?);
        // A head may be the embedding.
        let is_tied = ["lm_head", "embed_out"].iter().any(|head| ends_in(&own, head));
        let is_embedding = |name: &str| names::is_embedding(&format!("{name}.weight"));
        let tied = || self.shapes.iter().find(|(name, _)| is_tied && is_embedding(name));
        let (name, shape) = exact.or_else(within).or_else(tied)?;
        Some((name, shape))
    }

    /// Compares an adapter's modules and shapes with it.
    pub(super) fn compare(&self, modules: &Modules, config: &AdapterConfig, found: &mut Found) {
        if modules.changed.is_empty() && modules.whole.is_empty() {
            return;
        }
        if config.is_of_prompts() {
            return self.compare_prompts(modules, config, found);
        }
        let mut met = BTreeSet::new();
        for (module, parts) in modules.changed.iter().filter(|(module, _)| **module != "base_model") {
            let Some((name, shape)) = self.find(path(module)) else {
                // Of layers that are repeated only the first is there; parameters of experts have no module.
                if !config.has("layer_replication")
                    && !config.has("target_parameters")
                    && let Some((_, (shard, tensor))) = parts.first()
                {
                    let message = format!("changes {}, which the base ({}) does not have", path(module), self.name);
                    found.say(Check::AdapterMisfit, at(shard, tensor), printable(&message));
                }
                continue;
            };
            met.insert(name);
            for (named, (shard, tensor)) in parts {
                if let Some(expected) = self.misfit(named, &tensor.shape, shape, config) {
                    let message = format!(
                        "has shape {:?}, {name} of the base ({}) has {shape:?}: {expected} is expected",
                        tensor.shape, self.name
                    );
                    let evidence = json!({"shape": tensor.shape, "base": shape});
                    found.add(Check::AdapterMisfit, at(shard, tensor), printable(&message), evidence);
                }
            }
        }
        self.compare_whole(modules, found);
        if config.has("target_parameters") {
            return;
        }
        let is_target = |module: &str, shape: &[usize]| {
            let is_linear =
                shape.len() == 2 && !names::has_a_row_a_token(&format!("{module}.weight")) && !is_head(module);
            config.is_target(module, is_linear) == Some(true)
        };
        let left =
            self.shapes.iter().filter(|(module, shape)| is_target(module, shape) && !met.contains(module.as_str()));
        let left: Vec<&str> = left.map(|(module, _)| module.as_str()).collect();
        if let Some(first) = left.first() {
            let count = Count(left.len(), "module", "modules");
            let message = format!("names {count} of the base that the weights hold nothing for, the first is {first}");
            let evidence = json!({"count": left.len(), "first": &left[..left.len().min(10)]});
            found.add(Check::AdapterTarget, Location::file(ADAPTER_CONFIG), printable(&message), evidence);
        }
    }

    /// What a part of a change should be, where it does not fit the base's weight.
    fn misfit(&self, named: &Named, shape: &[usize], base: &[usize], config: &AdapterConfig) -> Option<String> {
        let (outputs, inputs) = match base {
            [outputs, inputs @ ..] if config.is_set("fan_in_fan_out") && inputs.len() == 1 => {
                (inputs[0], vec![*outputs])
            }
            [outputs, inputs @ ..] if !inputs.is_empty() => (*outputs, inputs.to_vec()),
            _ => return None,
        };
        // [tokens, channels]: the first factor looks tokens up.
        let (outputs, inputs) = if named.is_of_embedding() { (inputs[0], vec![outputs]) } else { (outputs, inputs) };
        let elements = elements(shape);
        let of = |module: &str| config.names("feedforward_modules").iter().any(|name| ends_in(module, name));
        match named.factor() {
            Some(Factor::Down) if config.is_set("use_qalora") || config.has("target_parameters") => None,
            Some(Factor::Up) if config.has("target_parameters") => None,
            Some(Factor::Down) if named.part.starts_with("lora") => {
                (shape.get(1..) != Some(&inputs)).then(|| format!("[rank, {}]", list(&inputs)))
            }
            Some(Factor::Up) if named.part.starts_with("lora") => {
                (shape.first() != Some(&outputs)).then(|| format!("[{outputs}, rank]"))
            }
            None if named.part == "ia3_l" => {
                let expected = if of(path(named.module)) { inputs[0] } else { outputs };
                (elements != expected).then(|| format!("{expected} elements"))
            }
            None if named.part == "lora_magnitude_vector" && !named.is_of_embedding() => {
                (elements != outputs).then(|| format!("{outputs} elements"))
            }
            _ => None,
        }
    }

    /// Modules that are saved whole; a vocabulary may have grown, and a head may be a new one.
    fn compare_whole(&self, modules: &Modules, found: &mut Found) {
        for (shard, tensor) in &modules.whole {
            let Some(module) = tensor.name.strip_suffix(".weight") else { continue };
            let Some((name, shape)) = self.find(path(module)).filter(|(name, _)| !is_head(name)) else { continue };
            let skipped = usize::from(names::has_a_row_a_token(&tensor.name));
            if tensor.shape.get(skipped..) != shape.get(skipped..) {
                let message = format!("has shape {:?}, {name} of the base ({}) has {shape:?}", tensor.shape, self.name);
                let evidence = json!({"shape": tensor.shape, "base": shape});
                found.add(Check::AdapterMisfit, at(shard, tensor), printable(&message), evidence);
            }
        }
    }

    fn compare_prompts(&self, modules: &Modules, config: &AdapterConfig, found: &mut Found) {
        let embedding = self.shapes.iter().find(|(name, _)| names::is_embedding(&format!("{name}.weight")));
        let Some((name, [_, width])) = embedding.map(|(name, shape)| (name, shape.as_slice())) else { return };
        let prompt = modules.whole.iter().find(|(_, tensor)| tensor.name == "prompt_embeddings");
        let Some((shard, tensor)) = prompt.filter(|_| config.kind != "PREFIX_TUNING") else { return };
        if tensor.shape.get(1) != Some(width) {
            let message = format!("has shape {:?}, {name} of the base ({}) is {width} wide", tensor.shape, self.name);
            found.say(Check::AdapterMisfit, at(shard, tensor), printable(&message));
        }
    }
}

fn list(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
