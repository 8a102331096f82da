//! What an adapter changes, module by module: whether the parts of each change are there, fit, and change anything.

use super::config::AdapterConfig;
use super::parts::{Named, PAIRS, TOGETHER};
use crate::checkpoint::kind::ADAPTER_CONFIG;
use crate::checkpoint::packing::NumberType;
use crate::error::Count;
use crate::escape::printable;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::header::StoredTensor;
use crate::integrity::lint::observation::{Found, Location, More};
use crate::integrity::lint::stored::at;
use crate::integrity::lint::weights::Weights;
use serde_json::json;
use std::collections::BTreeMap;

/// The tensors of an adapter.
pub(super) struct Modules<'a> {
    /// Parts of changes, by the module that they change.
    pub(super) changed: BTreeMap<&'a str, Vec<(Named<'a>, StoredTensor<'a>)>>,
    /// What is saved as it is.
    pub(super) whole: Vec<StoredTensor<'a>>,
}

/// The path of a module in the base: PEFT puts its own before it, and its layers around the base's.
pub fn path(module: &str) -> &str {
    let own = module.strip_prefix("base_model.").unwrap_or(module);
    let own = own.strip_prefix("model.").filter(|_| own.len() < module.len()).unwrap_or(own);
    let mut own = own;
    while let Some(inner) = [".base_layer", ".modules_to_save", ".modules_to_save.default", ".token_adapter"]
        .iter()
        .find_map(|end| own.strip_suffix(end))
    {
        own = inner;
    }
    own
}

impl<'a> Modules<'a> {
    pub(super) fn of(weights: &Weights<'a>) -> Modules<'a> {
        let mut modules = Modules { changed: BTreeMap::new(), whole: Vec::new() };
        for place in weights.stored() {
            match Named::of(&place.1.name) {
                Some(named) => modules.changed.entry(named.module).or_default().push((named, place)),
                None => modules.whole.push(place),
            }
        }
        // An activation can have an alpha, too.
        let is_change = |parts: &Vec<(Named, StoredTensor)>| parts.iter().any(|(named, _)| named.part != "alpha");
        modules.changed.retain(|_, parts| is_change(parts));
        modules
    }

    /// Compares the parts of each change with each other, and with the rank that the config gives.
    pub(super) fn compare_parts(&self, config: Option<&AdapterConfig>, found: &mut Found) {
        for (module, parts) in &self.changed {
            complete(parts, config, found);
            ranks(module, parts, config, found);
        }
        self.untrained(config, found);
    }

    /// Tells of changes that change nothing.
    fn untrained(&self, config: Option<&AdapterConfig>, found: &mut Found) {
        if config.is_some_and(|config| config.alpha == 0.0) {
            let message = "lora_alpha is 0: what is added to the base is multiplied by it, and nothing is changed";
            found.say(Check::AdapterUntrained, Location::file(ADAPTER_CONFIG), message);
        }
        let mut idle: Vec<(Named, StoredTensor)> = Vec::new();
        for parts in self.changed.values() {
            // The singular values begin at zero in place of either factor.
            let has_values = parts.iter().any(|(named, _)| named.part == "lora_E");
            let begins = |named: &Named| named.begins_at_zero() && !(has_values && named.part == "lora_B");
            let is_idle = |(named, place): &&(Named, StoredTensor)| match named {
                named if begins(named) => is_throughout(*place, 0.0),
                named if named.begins_at_one() => is_throughout(*place, 1.0),
                _ => false,
            };
            idle.extend(parts.iter().find(is_idle));
            for (_, place) in parts.iter().filter(|(named, _)| named.multiplies() && !begins(named)) {
                if is_throughout(*place, 0.0) {
                    found.say(Check::ZeroTensor, at(place.0, place.1), format!("all of {:?} is zero", place.1.shape));
                }
            }
        }
        let Some((named, (shard, tensor))) = idle.first() else { return };
        let (count, of) = (idle.len(), self.changed.len());
        let value = if named.begins_at_one() { "one" } else { "zero" };
        let of_modules = Count(of, "module", "modules");
        let all = if of == 1 { "its only module".to_owned() } else { format!("all {of_modules}") };
        let (place, message) = match count == of {
            true => {
                let message = format!("changes nothing: {} of {all} is {value} throughout", named.part);
                (shard.file.location(), format!("{message}, as before training"))
            }
            false => {
                let message = format!("is {value} throughout, as before training, and so in {count} of {of_modules}");
                (at(shard, tensor).and(More::InFile(count as u64 - 1)), message)
            }
        };
        found.add(Check::AdapterUntrained, place, printable(&message), json!({"modules": of, "untrained": count}));
    }

    /// Compares inputs that are put before the text with what the config says of them.
    pub(super) fn compare_prompts(&self, config: &AdapterConfig, found: &mut Found) {
        const NAME: &str = "prompt_embeddings";
        let Some(place) = self.whole.iter().find(|(_, tensor)| tensor.name == NAME) else {
            let message = format!("is missing, and {} puts it before the text", config.kind);
            return found.say(Check::TensorMissing, Location::file(ADAPTER_CONFIG).tensor(NAME), printable(&message));
        };
        let parts = config.number("num_transformer_submodules");
        let parts = parts.unwrap_or(if config.text("task_type") == Some("SEQ_2_SEQ_LM") { 2 } else { 1 });
        let rows = config.number("num_virtual_tokens").map(|tokens| tokens.saturating_mul(parts));
        // Of a prefix it is keys and values of every layer.
        let columns = config.number("token_dim").filter(|_| config.kind != "PREFIX_TUNING");
        let shape = place.1.shape.as_slice();
        let fits = |axis: usize, size: Option<usize>| size.is_none_or(|size| shape.get(axis) == Some(&size));
        if shape.len() != 2 || !fits(0, rows) || !fits(1, columns) {
            let size = |size: Option<usize>| size.map_or("any".to_owned(), |size| size.to_string());
            let message = format!("has shape {shape:?}, the config gives [{}, {}]", size(rows), size(columns));
            found.say(Check::TensorShape, at(place.0, place.1), printable(&message));
        }
    }
}

/// Tells of parts of a change that are not there.
fn complete(parts: &[(Named, StoredTensor)], config: Option<&AdapterConfig>, found: &mut Found) {
    let has = |part: &str| parts.iter().any(|(named, _)| named.part == part);
    let mut lacking: Vec<(&str, &str)> = Vec::new();
    let mut together = |names: &[&'static str]| {
        let there = names.iter().find(|name| has(name)).copied();
        let Some(there) = there else { return };
        lacking.extend(names.iter().filter(|name| !has(name)).map(|name| (*name, there)));
    };
    PAIRS.iter().filter(|(down, _)| !down.starts_with("hada")).for_each(|(down, up)| together(&[down, up]));
    TOGETHER.iter().for_each(|names| together(names));
    for (own, other) in [("lokr_w1", "lokr_w2"), ("lokr_w2", "lokr_w1")] {
        let there = parts.iter().find(|(named, _)| named.part.starts_with(own)).map(|(named, _)| named.part);
        let is_there = parts.iter().any(|(named, _)| named.part.starts_with(other));
        lacking.extend(there.filter(|_| !is_there).map(|there| (other, there)));
    }
    for beside in ["lora_magnitude_vector", "dora_scale", "lora_E"] {
        let is_alone = has(beside) && !PAIRS.iter().any(|(down, up)| has(down) || has(up));
        lacking.extend(is_alone.then_some([("lora_A", beside), ("lora_B", beside)]).into_iter().flatten());
    }
    if has("lora_A") && has("lora_B") {
        let is = |key: &str| config.is_some_and(|config| config.kind == "LORA" && config.is_set(key));
        let is_adaptive = config.is_some_and(|config| config.kind == "ADALORA");
        let has_bias = parts.iter().any(|(named, _)| named.part == "lora_B" && named.is_bias);
        lacking
            .extend((is("use_dora") && !has("lora_magnitude_vector")).then_some(("lora_magnitude_vector", "lora_A")));
        lacking.extend((is_adaptive && !has("lora_E")).then_some(("lora_E", "lora_A")));
        lacking.extend((is("lora_bias") && !has_bias).then_some(("lora_B.bias", "lora_A")));
    }
    for (lacking, there) in lacking {
        let Some((_, (shard, tensor))) = parts.iter().find(|(named, _)| named.part == there) else { continue };
        let name = match lacking {
            "lora_B.bias" => tensor.name.replacen("lora_A.weight", lacking, 1),
            _ => tensor.name.replacen(there, lacking, 1),
        };
        let message = format!("is missing, and {} is there", tensor.name);
        found.say(Check::TensorMissing, shard.file.location().tensor(name), printable(&message));
    }
}

/// Compares the ranks of factors, and the sizes of what has one element for each output.
fn ranks(module: &str, parts: &[(Named, StoredTensor)], config: Option<&AdapterConfig>, found: &mut Found) {
    // A core between the factors has them transposed.
    if parts.iter().any(|(named, _)| named.part.starts_with("hada_t") || named.part.starts_with("lokr_t")) {
        return;
    }
    let of_config = config.map(|config| config.rank_of(path(module))).filter(|rank| *rank > 0);
    // Experts whose weights are one tensor have as many ranks one after the other.
    let is_of_experts = config.is_some_and(|config| config.has("target_parameters"));
    let rank = |named: &Named, (_, tensor): &StoredTensor| Some(*tensor.shape.get(named.factor()?.rank_axis())?);
    for (named, place) in parts.iter().filter(|(named, _)| named.factor().is_some()) {
        let (shape, own) = (&place.1.shape, rank(named, place));
        let fits = |own: usize| {
            of_config.is_none_or(|rank| own == rank || is_of_experts && own > 0 && own.is_multiple_of(rank))
        };
        if shape.len() < 2 || !own.is_some_and(fits) {
            let expected =
                of_config.map_or("a matrix is expected".to_owned(), |rank| format!("the config gives rank {rank}"));
            let evidence = json!({"shape": shape, "rank": of_config});
            found.add(Check::TensorShape, at(place.0, place.1), format!("has shape {shape:?}, {expected}"), evidence);
        }
    }
    let of = |part: &str| parts.iter().find(|(named, _)| named.part == part && !named.is_bias);
    for (down, up) in PAIRS {
        let (Some((a, down)), Some((b, up))) = (of(down), of(up)) else { continue };
        let (Some(first), Some(second)) = (rank(a, down), rank(b, up)) else { continue };
        if first != second && (of_config.is_none() || is_of_experts) {
            let message = format!("has rank {second} (shape {:?}), {} has {first}", up.1.shape, down.1.name);
            let evidence = json!({"shape": up.1.shape, "other": down.1.shape});
            found.add(Check::TensorShape, at(up.0, up.1), printable(&message), evidence);
        }
        let Some(outputs) = up.1.shape.first() else { continue };
        let is_sized = |named: &Named| named.part == "lora_magnitude_vector" || named.part == b.part && named.is_bias;
        for (_, place) in parts.iter().filter(|(named, _)| is_sized(named) && !b.is_of_embedding()) {
            let elements = elements(&place.1.shape);
            if elements != *outputs {
                let message = format!("has shape {:?}, {} has {outputs} outputs", place.1.shape, up.1.name);
                found.say(Check::TensorShape, at(place.0, place.1), printable(&message));
            }
        }
    }
}

pub(super) fn elements(shape: &[usize]) -> usize {
    shape.iter().fold(1, |product: usize, size| product.saturating_mul(*size))
}

/// Whether a tensor is one value throughout.
fn is_throughout((shard, tensor): StoredTensor, value: f64) -> bool {
    let bytes = shard.bytes(tensor).filter(|bytes| !bytes.is_empty() && !shard.overlaps());
    bytes.is_some_and(|bytes| NumberType::of(tensor.dtype).position(bytes, |element| element != value).is_none())
}
