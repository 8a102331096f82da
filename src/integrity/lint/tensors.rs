//! Tensors against the config, and against each other.

use super::Expected;
use super::check::Check;
use super::folder::File;
use super::header::Shard;
use super::observation::{Found, Location};
use crate::checkpoint::ConfigFile;
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::tensors::{name_in_text_model, text_model_prefix};
use crate::error::Result;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// Compares the model's tensors with its config; SHA-256 of that.
pub(super) fn compare(
    root: &Path,
    files: &[File],
    model: &[&Shard],
    expected: &dyn Fn(&ConfigFile) -> Result<Expected>,
    found: &mut Found,
) -> Option<String> {
    dtype_mix(model, found);
    let Some(file) = files.iter().find(|f| f.name == "config.json") else {
        found.say(Check::ConfigMissing, Location::default(), "holds no config.json");
        return None;
    };
    let config = match ConfigFile::read(&root.join(&file.name)) {
        Ok(config) => config,
        Err(e) => {
            found.say(Check::ConfigInvalid, file.location(), format!("cannot be read: {e}"));
            return None;
        }
    };
    match expected(&config) {
        Ok(expected) => with_expected(expected, model, file, found),
        Err(e) => {
            let message = format!("the tensors were not compared with it: {e}");
            found.say(Check::ConfigUnknown, file.location(), message);
        }
    }
    Some(config.sha256().to_owned())
}

/// Layers and experts of the largest models published, some times over, where as many tensors are not there: the names of
/// more would only take memory.
const MOST_EXPECTED: usize = 30_000;

fn with_expected(expected: Expected, model: &[&Shard], config: &File, found: &mut Found) {
    let mut tensors: HashMap<&str, (&Shard, &TensorEntry)> = HashMap::new();
    for shard in model {
        for tensor in &shard.header.tensors {
            tensors.entry(&tensor.name).or_insert((shard, tensor));
        }
    }
    let have = tensors.len();
    let most = have.max(1).saturating_mul(100).min(MOST_EXPECTED.max(have));
    if expected.at_least > most {
        let message = format!("the config asks for {} tensors or more, {have} are there", expected.at_least);
        return found.say(Check::TensorMissing, config.location(), message);
    }
    let prefix = text_model_prefix(|name| tensors.contains_key(name));
    let mut by_name: BTreeMap<String, (&Shard, &TensorEntry)> = BTreeMap::new();
    let stand_alone = |name: &str| prefix.and_then(|p| name_in_text_model(p, name)).unwrap_or_else(|| name.to_owned());
    for (name, place) in &tensors {
        by_name.insert(stand_alone(name), *place);
    }
    let malformed: BTreeSet<String> =
        model.iter().flat_map(|s| s.malformed.iter()).map(|name| stand_alone(name)).collect();
    let mut missing = Vec::new();
    let mut asked = 0;
    for (name, shape) in (expected.tensors)() {
        asked += 1;
        let Some((shard, tensor)) = by_name.remove(&name) else {
            if !malformed.contains(&name) {
                missing.push((name, shape));
            }
            continue;
        };
        if tensor.shape != shape {
            let message = format!("has shape {:?}, the config gives {shape:?}", tensor.shape);
            let evidence = json!({"expected": shape, "found": tensor.shape});
            found.add(Check::TensorShape, shard.file.location().tensor(&tensor.name), message, evidence);
        }
    }
    tell_missing(missing, asked, config, found);
    let harmless =
        |name: &str| name.ends_with("rotary_emb.inv_freq") || OTHER_MODELS.iter().any(|p| name.starts_with(p));
    for (shard, tensor) in by_name.into_values().filter(|(_, t)| !harmless(&t.name)) {
        let message =
            format!("has shape {:?} and dtype {}, and the config has no use for it", tensor.shape, tensor.dtype);
        found.say(Check::TensorExtra, shard.file.location().tensor(&tensor.name), message);
    }
}

/// Tensors that are not there; of many (a lost shard) the first few.
fn tell_missing(mut missing: Vec<(String, Vec<usize>)>, asked: usize, config: &File, found: &mut Found) {
    const LISTED: usize = 10;
    if missing.len() > LISTED {
        let count = missing.len();
        missing.truncate(LISTED);
        let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
        let message =
            format!("{count} of the {asked} tensors that the config asks for are missing, the first is {}", names[0]);
        return found.add(Check::TensorMissing, config.location(), message, json!({"count": count, "first": names}));
    }
    for (name, shape) in missing {
        let message = format!("is missing, the config asks for it with shape {shape:?}");
        found.add(Check::TensorMissing, config.location().tensor(name), message, json!({"shape": shape}));
    }
}

/// Where a multimodal checkpoint keeps what is not its text model.
const OTHER_MODELS: &[&str] =
    &["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

/// Tensors of another dtype than most of those that have their name in other layers (or experts).
fn dtype_mix(model: &[&Shard], found: &mut Found) {
    type ByDtype<'a> = BTreeMap<String, Vec<(&'a Shard<'a>, &'a TensorEntry)>>;
    let mut roles: BTreeMap<String, ByDtype> = BTreeMap::new();
    for shard in model {
        for tensor in &shard.header.tensors {
            let of_role = roles.entry(role(&tensor.name)).or_default();
            of_role.entry(tensor.dtype.to_string()).or_default().push((shard, tensor));
        }
    }
    for (role, dtypes) in roles.iter().filter(|(_, dtypes)| dtypes.len() > 1) {
        let Some((usual, peers)) = dtypes.iter().max_by_key(|(_, tensors)| tensors.len()) else { continue };
        for (shard, tensor) in dtypes.iter().filter(|(dtype, _)| *dtype != usual).flat_map(|(_, tensors)| tensors) {
            let message = format!("is {}, {} of its peers ({role}) are {usual}", tensor.dtype, peers.len());
            let evidence = json!({"dtype": tensor.dtype.to_string(), "peers": usual, "peers_count": peers.len()});
            found.add(Check::DtypeMix, shard.file.location().tensor(&tensor.name), message, evidence);
        }
    }
}

/// A name with its numbers (of layers and experts) taken out.
fn role(name: &str) -> String {
    let parts = name.split('.').map(|part| match !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
        true => "N",
        false => part,
    });
    parts.collect::<Vec<_>>().join(".")
}
