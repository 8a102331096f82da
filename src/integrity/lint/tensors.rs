//! Tensors against the config, and against each other.

use super::check::Check;
use super::folder::File;
use super::header::{FolderShard, StoredTensor};
use super::index::{Lost, Model};
use super::observation::{Found, Location};
use super::stored::{at, compare_shape, shut_norms, tell_extra, tell_missing};
use super::weights::{Part, Weights};
use super::{Expected, consolidated, parts, rotary};
use crate::architecture::Recipe;
use crate::architecture::module::ModuleKind;
use crate::architecture::recipe::{EMBEDDING, HEAD, TIED_HEAD_DIFFERS};
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::names::{Meaning, Names};
use crate::checkpoint::packing::{self, NumberType};
use crate::checkpoint::quantization::is_of_activations;
use crate::checkpoint::stand_in::StandIn;
use crate::checkpoint::{ConfigFile, Opened};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Compares the model's tensors with its config; SHA-256 of that.
pub(super) fn compare<'a>(
    opened: &Opened,
    files: &[File],
    (model, weights): (&Model<'a, 'a>, &Weights<'a>),
    expected: Option<&Result<Expected>>,
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<Option<String>> {
    dtype_mix(weights, found);
    let file = files.iter().find(|f| f.name == "config.json");
    let Some(file) = file else {
        found.say(Check::ConfigMissing, Location::default(), "holds no config.json");
        consolidated::unknown(&model.consolidated, found);
        return Ok(None);
    };
    let (Some(config), Some(expected)) = (config(opened, file, found), expected) else {
        consolidated::unknown(&model.consolidated, found);
        return Ok(None);
    };
    let names = Names::of(config);
    let stored = Stored::of(&names, &model.shards, weights, found);
    match expected {
        Ok(Expected { recipe, parts }) => {
            consolidated::compare(opened.root(), &model.consolidated, recipe, &stored.text, found, progress)?;
            parts::compare(parts.as_ref(), &names, &stored.parts, (model, weights), file, found);
            Comparison { recipe, names: &names, model, weights, config: file }.compare(stored, found);
        }
        Err(e) => {
            let (check, message) = match e {
                Error::Unsupported { what, .. } => (Check::ConfigUnknown, format!("static audit only: {what}")),
                e => (Check::ConfigRefused, format!("the tensors were not compared with it: {e}")),
            };
            found.say(check, file.location(), message);
            consolidated::unknown(&model.consolidated, found);
            let tensors = stored.parts.values().chain(&stored.unknown);
            parts::not_examined(tensors.map(|(_, tensor)| tensor.name.as_str()), file, found);
        }
    }
    Ok(Some(config.sha256().to_owned()))
}

fn config<'o>(opened: &'o Opened, file: &File, found: &mut Found) -> Option<&'o ConfigFile> {
    match opened.config() {
        Ok(config) => config.map(Arc::as_ref),
        Err(e) => {
            let text = files::read_regular(&file.path).ok();
            match text.and_then(|text| StandIn::of_text(&text)) {
                Some(stand_in) => found.say(Check::NotDownloaded, file.location(), stand_in.to_string()),
                None => found.say(Check::ConfigInvalid, file.location(), format!("cannot be read: {e}")),
            }
            None
        }
    }
}

/// Layers and experts of the largest models published, some times over, where as many tensors are not there: the names
/// of more would only take memory.
const MOST_EXPECTED: usize = 30_000;

/// The model's tensors.
struct Stored<'a> {
    /// Those of the text model, by their names in a text model alone.
    text: BTreeMap<String, StoredTensor<'a>>,
    /// Those of other parts that the config has, by the names of transformers 5.
    parts: BTreeMap<String, StoredTensor<'a>>,
    /// Those that no part of the model has.
    unknown: Vec<StoredTensor<'a>>,
}

impl<'a> Stored<'a> {
    fn of(names: &Names, shards: &[&'a FolderShard<'a>], weights: &Weights<'a>, found: &mut Found) -> Stored<'a> {
        let mut stored = Stored { text: BTreeMap::new(), parts: BTreeMap::new(), unknown: Vec::new() };
        let mut seen = BTreeSet::new();
        for shard in shards {
            // The same name in two places has findings of its own.
            for tensor in shard.tensors().iter().filter(|t| seen.insert(t.name.as_str())) {
                let weight = match weights.part(&tensor.name) {
                    Part::Beside(_) => continue,
                    Part::Alone if is_of_activations(&tensor.name) => continue,
                    // Packers of old gave every module a bias.
                    Part::Alone if weights.is_bias_of_nothing((shard, tensor)) => continue,
                    Part::Alone => &tensor.name,
                    Part::Codes(weight) => weight,
                };
                let (part, name) = match names.meaning(weight) {
                    Meaning::Unknown => {
                        stored.unknown.push((shard, tensor));
                        continue;
                    }
                    Meaning::Text(name) => (&mut stored.text, name),
                    Meaning::OtherPart(name) => (&mut stored.parts, name),
                };
                match part.get(&name) {
                    None => {
                        part.insert(name, (shard, tensor));
                    }
                    Some((_, first)) => {
                        let message = format!("is the same weight as {}, {name} to loaders", first.name);
                        let evidence = json!({"other": first.name, "weight": name});
                        found.add(Check::TensorClash, at(shard, tensor), message, evidence);
                    }
                }
            }
        }
        stored
    }
}

/// What tensors are held against.
struct Comparison<'c, 'a> {
    recipe: &'c Recipe,
    names: &'c Names,
    model: &'c Model<'a, 'a>,
    weights: &'c Weights<'a>,
    config: &'c File,
}

impl<'a> Comparison<'_, 'a> {
    fn compare(&self, stored: Stored<'a>, found: &mut Found) {
        let (recipe, config, lost) = (self.recipe, self.config, &self.model.lost);
        let Stored { mut text, unknown, .. } = stored;
        // Before the names of all of them are made, as a config can ask for billions.
        let (least, have) = (recipe.fewest_tensors(|name| text.get(name)?.1.shape.first().copied()), text.len());
        let most = have.max(1).saturating_mul(100).min(MOST_EXPECTED.max(have));
        if least > most {
            if lost.nothing() {
                let message = format!("the config asks for {least} tensors or more, {have} are there");
                found.say(Check::TensorMissing, config.location(), message);
            }
            return;
        }
        if recipe.tied {
            tied_head(&mut text, found);
        }
        let modules = recipe.modules();
        let norms = modules.iter().filter(|module| matches!(module.kind, ModuleKind::Norm { .. }));
        let shut = norms.filter_map(|module| {
            Some((*text.get(&module.weight())?, if recipe.is_one_plus(module) { -1.0 } else { 0.0 }))
        });
        shut_norms(shut, &self.model.shards, found);
        let asked_for = recipe.tensors_in(|name| {
            let (_, tensor) = text.get(name)?;
            Some((tensor.shape.clone(), matches!(self.weights.part(&tensor.name), Part::Codes(_))))
        });
        let fused = recipe.fused_experts(|name| text.contains_key(name));
        if let Some(name) = &fused {
            let message = format!("the experts are fused ({name}) and were not compared with it");
            found.say(Check::ConfigUnknown, config.location(), message);
        }
        let is_fused = |name: &str| fused.is_some() && recipe.is_of_experts(name);
        let malformed = self.model.shards.iter().flat_map(|s| s.malformed());
        // Of these enough was said; of all, where there is no index.
        let told: Option<BTreeSet<String>> = match lost {
            Lost::Any => None,
            Lost::Tensors(names) => {
                Some(names.iter().chain(malformed).filter_map(|n| self.names.text(&packing::name_of(n))).collect())
            }
        };
        let mut missing = Vec::new();
        let mut asked = 0;
        for (name, shape) in asked_for {
            asked += 1;
            let Some(place) = text.remove(&name) else {
                if !is_fused(&name) && told.as_ref().is_some_and(|told| !told.contains(&name)) {
                    missing.push((name, shape));
                }
                continue;
            };
            compare_shape(place, self.weights, &shape, found);
        }
        tell_missing(Check::TensorMissing, missing, asked, config, found);
        text.retain(|name, place| !is_fused(name) && !rotary::examine(recipe, name, *place, found));
        text.into_values().chain(unknown).for_each(|place| tell_extra(place, found));
    }
}

/// A head in the file of a model whose head is the embedding; from here on the embedding alone.
fn tied_head(text: &mut BTreeMap<String, StoredTensor>, found: &mut Found) {
    let (embedding, head) = (format!("{EMBEDDING}.weight"), format!("{HEAD}.weight"));
    let Some((shard, tensor)) = text.remove(&head) else { return };
    let Some(of_embedding) = text.get(&embedding) else {
        let message = "stands for the embedding, which is tied to it: transformers 5 takes it for that, others do not";
        found.say(Check::TiedHeadStored, at(shard, tensor), message);
        text.insert(embedding, (shard, tensor));
        return;
    };
    if is_same((shard, tensor), *of_embedding) {
        let message = format!("is the same as {}, to which it is tied", of_embedding.1.name);
        return found.say(Check::TiedHeadStored, at(shard, tensor), message);
    }
    let message = format!("differs from {}: {TIED_HEAD_DIFFERS}", of_embedding.1.name);
    found.say(Check::TiedHeadDiffers, at(shard, tensor), message);
}

fn is_same(a: StoredTensor, b: StoredTensor) -> bool {
    let kind = |t: &TensorEntry| (t.dtype, t.shape.clone());
    let (bytes_a, bytes_b) = (a.0.bytes(a.1), b.0.bytes(b.1));
    kind(a.1) == kind(b.1) && bytes_a.is_some() && bytes_a == bytes_b
}

/// Tensors of another dtype than most of those that have their name in other layers (or experts); where there is no
/// most, the mix itself.
fn dtype_mix(weights: &Weights, found: &mut Found) {
    type ByDtype<'a> = BTreeMap<String, Vec<StoredTensor<'a>>>;
    let mut roles: BTreeMap<String, ByDtype> = BTreeMap::new();
    for (shard, tensor) in weights.stored() {
        // Which weights are packed is looked at elsewhere.
        if matches!(weights.part(&tensor.name), Part::Codes(_)) || !NumberType::of(tensor.dtype).holds_weights() {
            continue;
        }
        let of_role = roles.entry(role(&tensor.name)).or_default();
        of_role.entry(tensor.dtype.to_string()).or_default().push((shard, tensor));
    }
    for (role, dtypes) in roles.iter().filter(|(_, dtypes)| dtypes.len() > 1) {
        let all: usize = dtypes.values().map(Vec::len).sum();
        let usual = dtypes.iter().find(|(_, tensors)| 2 * tensors.len() > all);
        let Some((usual, peers)) = usual else {
            let counts: Vec<String> = dtypes.iter().map(|(dtype, of)| format!("{} {dtype}", of.len())).collect();
            let first = dtypes.values().flatten().min_by_key(|(_, tensor)| &tensor.name);
            if let Some((shard, tensor)) = first {
                let message = format!("is one of {all} tensors ({role}) of several dtypes: {}", counts.join(", "));
                found.add(Check::DtypeMix, at(shard, tensor), message, json!({"dtypes": counts}));
            }
            continue;
        };
        for (shard, tensor) in dtypes.iter().filter(|(dtype, _)| *dtype != usual).flat_map(|(_, tensors)| tensors) {
            let message = format!("is {}, {} of its peers ({role}) are {usual}", tensor.dtype, peers.len());
            let evidence = json!({"dtype": tensor.dtype.to_string(), "peers": usual, "peers_count": peers.len()});
            found.add(Check::DtypeMix, at(shard, tensor), message, evidence);
        }
    }
}

/// A name with its numbers (of layers and experts) taken out.
pub(super) fn role(name: &str) -> String {
    let parts = name.split('.').map(|part| match !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
        true => "N",
        false => part,
    });
    parts.collect::<Vec<_>>().join(".")
}
