//! Layers and experts against their peers, whatever the architecture: the odd one out.
//!
//! What stands under a number in a name is a member of a stack. Members that hold the same tensors are of one kind. Models
//! have several kinds of layers for good reasons (a dense first layer before experts, attention of two sorts, a layer more
//! that predicts further): odd is what differs from a kind of many in little.

pub(super) mod stacks;

use super::Compared;
use super::check::Check;
use super::index::{Lost, Model};
use super::observation::Found;
use super::stored::at;
use super::tensors::role;
use super::vocabulary::of_text;
use super::weights::{Part, Weights, may_be_dense, module};
use crate::checkpoint::quantization::is_of_activations;
use crate::checkpoint::{ConfigFile, Opened, packing};
use crate::escape::printable;
use serde_json::{Value, json};
use stacks::{Stacks, Unit};
use std::collections::{BTreeMap, BTreeSet};

/// Compares the model's layers and experts with each other, but for what was compared with the config.
pub(super) fn compare<'a>(
    opened: &Opened,
    (model, weights): (&Model<'a, 'a>, &Weights<'a>),
    compared: &Compared,
    found: &mut Found,
) {
    let config = opened.config().ok().flatten();
    let settings = Settings::of(config.map(AsRef::as_ref));
    formats(weights, &settings, found);
    let units: Vec<Unit> = units(weights).into_iter().filter(|unit| !compared.is_compared(unit.name)).collect();
    let stacks = Stacks::of(&units, &settings.layer_types);
    if let Lost::Tensors(lost) = &model.lost {
        let listed = opened.index().ok().flatten().and_then(|file| file.index().ok());
        let listed = listed.iter().flat_map(|index| index.weight_map.iter().map(|(name, _)| name));
        let malformed = model.shards.iter().flat_map(|shard| shard.malformed());
        // Of these it is told that they are not there.
        let told = lost.iter().chain(malformed).chain(listed).map(|name| packing::name_of(name)).collect();
        missing(&stacks, &settings, told, weights, found);
    }
    for odd in stacks.odd_shapes() {
        let Some((shard, tensor)) = weights.place_of(odd.unit.name) else { continue };
        let message =
            format!("has shape {:?}, {} of its peers ({}) have {:?}", odd.unit.shape, odd.peers, odd.role, odd.usual);
        let evidence = json!({"shape": odd.unit.shape, "peers": odd.usual, "peers_count": odd.peers});
        found.add(Check::PeerShape, at(shard, tensor), printable(&message), evidence);
    }
}

/// What the config says of layers.
struct Settings {
    /// Layers of the text model.
    layers: Option<usize>,
    /// What sort each is of.
    layer_types: Vec<String>,
    /// Some take keys or values from elsewhere.
    shares_keys: bool,
}

impl Settings {
    fn of(config: Option<&ConfigFile>) -> Settings {
        let map = config.map(|config| of_text(config.map()));
        let get = |key: &str| map.as_ref().and_then(|map| map.get(key));
        let types = get("layer_types").and_then(Value::as_array);
        let types = types.and_then(|types| types.iter().map(|kind| kind.as_str().map(str::to_owned)).collect());
        let layers = get("num_hidden_layers").and_then(Value::as_u64).and_then(|layers| usize::try_from(layers).ok());
        let shares_keys = get("num_kv_shared_layers").and_then(Value::as_u64).is_some_and(|layers| layers > 0)
            || get("attention_k_eq_v").and_then(Value::as_bool).unwrap_or(false);
        Settings { layers, layer_types: types.unwrap_or_default(), shares_keys }
    }

    /// Whether a layer may do without this, by the config.
    fn may_lack(&self, name: &str) -> bool {
        let last = module(name).rsplit('.').next().unwrap_or_default();
        self.shares_keys && ["k_proj", "v_proj", "k_norm", "v_norm"].contains(&last)
    }

    /// Whether a weight is of a layer beyond those that the config counts, which predicts further tokens.
    fn is_beyond(&self, name: &str) -> bool {
        let layer = stacks::numbers(name).find(|(prefix, _, _)| prefix.ends_with("layers."));
        name.starts_with("mtp.")
            || name.contains(".mtp.")
            || layer.is_some_and(|(_, n, _)| self.layers.is_some_and(|of| n >= of))
    }
}

/// Every weight by its name, whatever it is packed as.
fn units<'w>(weights: &'w Weights<'_>) -> Vec<Unit<'w>> {
    let is_buffer = |name: &str| {
        ["inv_freq", "position_ids", "num_batches_tracked", "masked_bias"].iter().any(|end| name.ends_with(end))
    };
    let mut units: Vec<Unit> = Vec::new();
    for place in weights.stored() {
        let stored = place.1.name.as_str();
        let name = match weights.part(stored) {
            Part::Beside(_) => continue,
            Part::Codes(weight) => weight,
            Part::Alone if is_of_activations(stored) || is_buffer(stored) => continue,
            Part::Alone => stored,
        };
        units.push(Unit { name, shape: weights.shape(place).unwrap_or_default() });
    }
    units
}

/// Names that evidence lists.
const LISTED: usize = 20;
/// Members that are gone whose parts are not told of again.
const MOST_GONE: usize = 1000;

/// Members that lack little of what those of their kind have, and members that are not there.
fn missing(stacks: &Stacks, settings: &Settings, mut told: BTreeSet<String>, weights: &Weights, found: &mut Found) {
    let mut gone: Vec<String> = Vec::new();
    for gap in stacks.gaps(settings.layers) {
        let whole = format!("{}{}", gap.prefix, gap.number);
        if gone.len() < MOST_GONE {
            gone.push(format!("{whole}."));
        }
        let first = told.range(format!("{whole}.")..).next();
        if first.is_some_and(|name| name.strip_prefix(&whole).is_some_and(|rest| rest.starts_with('.'))) {
            continue;
        }
        let file = weights.place_of(gap.beside).map(|(shard, _)| shard.file.location()).unwrap_or_default();
        let message = format!("is missing as a whole; {} others are there", gap.members);
        found.add(Check::PeerMissing, file.tensor(&whole), message, json!({"others": gap.members}));
    }
    for odd in stacks.odd_members() {
        let is_told = |name: &&String| told.contains(*name) || gone.iter().any(|gone| name.starts_with(gone));
        let lacking = odd.missing.iter().filter(|name| !is_told(name) && !settings.may_lack(name));
        let lacking: Vec<&String> = lacking.collect();
        let Some(first) = lacking.first() else { continue };
        let file = weights.place_of(odd.beside).map(|(shard, _)| shard.file.location()).unwrap_or_default();
        let others = match lacking.len() - 1 {
            0 => String::new(),
            more => format!(", and so {} {} more of {}", if more == 1 { "is" } else { "are" }, more, odd.member),
        };
        let message = format!("is missing, {} of its peers ({}) have it{others}", odd.peers, odd.stack);
        let listed = &lacking[..lacking.len().min(LISTED)];
        let evidence = json!({"missing": listed, "count": lacking.len(), "peers_count": odd.peers});
        found.add(Check::PeerMissing, file.tensor(first.as_str()), printable(&message), evidence);
        told.extend(odd.missing);
    }
}

/// Weights that are packed otherwise than the same one of other layers, where the config does not say so.
fn formats(weights: &Weights, settings: &Settings, found: &mut Found) {
    let Some(quantization) = &weights.quantization else { return };
    let mut roles: BTreeMap<String, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for (name, packed) in &weights.packed {
        roles.entry(role(name)).or_default().entry(&packed.format).or_default().push(name);
    }
    for place in weights.stored().filter(|(_, tensor)| weights.part(&tensor.name) == Part::Alone) {
        // A float among codes; what is a code without a scale has a finding of its own.
        if let Some(of_role) = roles.get_mut(&role(&place.1.name))
            && packing::NumberType::of(place.1.dtype).holds_weights()
        {
            of_role.entry(DENSE).or_default().push(&place.1.name);
        }
    }
    for (role, formats) in roles.iter().filter(|(_, formats)| formats.len() > 1) {
        let packed = formats.iter().filter(|(format, _)| **format != DENSE);
        let Some((usual, peers)) = packed.clone().max_by_key(|(_, names)| names.len()) else { continue };
        let dense = formats.get(DENSE).into_iter().flatten();
        let dense = dense.filter(|name| !may_be_dense(quantization, module(name)) && !settings.is_beyond(name));
        let few = |names: &&Vec<&str>| !quantization.is_mixed && names.len() * 4 <= peers.len();
        let others = packed.clone().filter(|(format, _)| *format != usual).map(|(_, names)| names);
        let others = others.filter(few).flatten();
        for name in dense.chain(others) {
            let Some((shard, tensor)) = weights.place_of(name) else { continue };
            let own =
                weights.packed.get(*name).map_or_else(|| tensor.dtype.to_string(), |packed| packed.format.clone());
            let message =
                format!("is {own}, {} of its peers ({role}) are {usual}, and the config does not say so", peers.len());
            let evidence = json!({"format": own, "peers": usual, "peers_count": peers.len()});
            found.add(Check::PeerDtype, at(shard, tensor), printable(&message), evidence);
        }
    }
}

/// What is not packed.
const DENSE: &str = "";
