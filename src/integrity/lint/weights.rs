//! The model's weights, whatever they are packed as: which stored tensors belong to which.

use super::header::StoredTensor;
use super::index::Model;
use crate::checkpoint::packing::{self, COMPANIONS, NumberType, Usual};
use crate::checkpoint::quantization::{Method, OF_INPUTS, Quantization, is_of_activations};
use crate::checkpoint::{Opened, Tensors};
use crate::error::Error;
use crate::neuron::out_of_wrapper;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The weights of the files that loaders take them from.
pub(super) struct Weights<'a> {
    tensors: Tensors,
    places: BTreeMap<&'a str, StoredTensor<'a>>,
    /// What packed them, as far as it is known here.
    pub quantization: Option<Arc<Quantization>>,
    /// The packed ones, by name.
    pub packed: BTreeMap<String, Packed>,
    /// Those that cannot be unpacked, and why.
    pub broken: BTreeMap<String, String>,
    /// Scales, zero points and the like whose codes are not there, by the weight that they would belong to.
    pub left_over: BTreeMap<String, Vec<String>>,
    /// The weights that stored tensors are a part of.
    weight_of: HashMap<String, String>,
}

/// A packed weight.
pub(super) struct Packed {
    /// `FP8`, `INT4`.
    pub format: String,
    pub usual: Usual,
    pub shape: Vec<usize>,
    /// Its stored tensors, the codes first.
    pub stored: Vec<String>,
}

/// What a stored tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'w> {
    /// Of no packed weight.
    Alone,
    /// The codes of this weight.
    Codes(&'w str),
    /// What this weight's codes need to be read.
    Beside(&'w str),
}

impl<'a> Weights<'a> {
    pub fn of(opened: &Opened, model: &Model<'a, 'a>) -> Weights<'a> {
        let mut weights = Weights {
            tensors: Tensors::of_shards(opened, model.shards.iter().filter_map(|shard| shard.opened())),
            places: BTreeMap::new(),
            quantization: None,
            packed: BTreeMap::new(),
            broken: BTreeMap::new(),
            left_over: BTreeMap::new(),
            weight_of: HashMap::new(),
        };
        for shard in &model.shards {
            for tensor in shard.tensors() {
                weights.places.entry(&tensor.name).or_insert((shard, tensor));
            }
        }
        // What only another tool's settings give a meaning is not guessed at.
        match opened.quantization() {
            Ok(Some(settings)) if matches!(settings.method, Method::Other(_)) => return weights,
            Err(_) => return weights,
            Ok(settings) => weights.quantization = settings,
        }
        for (name, found) in weights.tensors.packed() {
            match found {
                Ok(found) => {
                    let stored: Vec<String> = found.stored().into_iter().map(str::to_owned).collect();
                    weights.weight_of.extend(stored.iter().map(|part| (part.clone(), name.clone())));
                    let shape = found.shape().to_vec();
                    weights.packed.insert(name, Packed { format: found.format(), usual: found.usual(), shape, stored });
                }
                Err(Error::Tensor { problem, .. }) => _ = weights.broken.insert(name, problem),
                Err(error) => _ = weights.broken.insert(name, error.to_string()),
            }
        }
        if weights.quantization.is_some() {
            weights.find_left_over();
        }
        weights
    }

    /// A packed weight, to be read.
    pub fn read(&self, name: &str) -> Option<packing::Weight<'_>> {
        self.tensors.weight(name).ok()
    }

    /// Where a stored tensor is.
    pub fn place(&self, stored: &str) -> Option<StoredTensor<'a>> {
        self.places.get(stored).copied()
    }

    /// The bytes of a stored tensor; none where it shares them with others, which could be many times the file.
    pub fn bytes(&self, stored: &str) -> Option<&'a [u8]> {
        let (shard, tensor) = self.place(stored)?;
        shard.bytes(tensor).filter(|_| !shard.overlaps())
    }

    /// Whether the file ends before all parts of a weight: that is told, and what lacks them is its consequence.
    pub fn is_cut(&self, weight: &str) -> bool {
        let beside = COMPANIONS.iter().map(|end| format!("{}{end}", module(weight)));
        let mut parts = packing::codes_of(weight).chain(beside).filter_map(|part| self.place(&part));
        parts.any(|(shard, tensor)| shard.bytes(tensor).is_none())
    }

    /// The first value of a stored tensor.
    pub fn first_value(&self, stored: &str) -> Option<f32> {
        let (_, tensor) = self.place(stored)?;
        let mut value = [0.0f32];
        let number = NumberType::of(tensor.dtype);
        number.decode(self.bytes(stored)?.get(..number.bytes())?, &mut value);
        Some(value[0])
    }

    /// Where the codes of a weight are, which may be broken; or the weight itself, where it is not packed.
    pub fn place_of(&self, weight: &str) -> Option<StoredTensor<'a>> {
        let codes = self.packed.get(weight).and_then(|packed| packed.stored.first());
        let names = || packing::codes_of(weight);
        codes.and_then(|codes| self.place(codes)).or_else(|| names().find_map(|name| self.place(&name)))
    }

    /// All stored tensors of the model in order of name, those of one name once.
    pub fn stored(&self) -> impl Iterator<Item = StoredTensor<'a>> {
        self.places.values().copied()
    }

    /// What a stored tensor is.
    pub fn part(&self, stored: &str) -> Part<'_> {
        if let Some(weight) = self.weight_of.get(stored) {
            let codes = self.packed.get(weight).and_then(|packed| packed.stored.first());
            return if codes.is_some_and(|codes| codes == stored) { Part::Codes(weight) } else { Part::Beside(weight) };
        }
        if let Some((weight, _)) = self.broken.get_key_value(&packing::name_of(stored)) {
            return Part::Codes(weight);
        }
        match self.weight_beside(stored).and_then(|weight| self.broken.get_key_value(&weight)) {
            Some((weight, _)) => Part::Beside(weight),
            None => Part::Alone,
        }
    }

    /// The shape of the weight that a stored tensor is the codes of, or is; none where it cannot be unpacked.
    pub fn shape(&self, (_, tensor): StoredTensor<'a>) -> Option<&[usize]> {
        let is_code = || self.quantization.is_some() && !NumberType::of(tensor.dtype).holds_weights();
        match self.part(&tensor.name) {
            Part::Codes(weight) => self.packed.get(weight).map(|packed| packed.shape.as_slice()),
            _ if is_code() => None,
            _ => Some(&tensor.shape),
        }
    }

    /// Whether a tensor is a bias of zeros beside codes of GPTQ or AWQ.
    pub fn is_bias_of_nothing(&self, (shard, tensor): StoredTensor<'a>) -> bool {
        let Some(module) = tensor.name.strip_suffix(".bias") else { return false };
        let packed = self.packed.get(&format!("{module}.weight"));
        packed.is_some_and(|packed| packed.usual.bias_of_nothing)
            && shard.bytes(tensor).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    }

    /// The weight that a tensor stands beside by its name, as a scale does.
    fn weight_beside(&self, stored: &str) -> Option<String> {
        let of = |end: &&str| {
            let module = stored.strip_suffix(*end)?;
            let names = [format!("{module}.weight"), module.to_owned()];
            names.into_iter().find(|name| self.broken.contains_key(name))
        };
        COMPANIONS.iter().chain(OF_INPUTS).find_map(of)
    }

    /// Finds scales, zero points and the like whose codes are not there.
    fn find_left_over(&mut self) {
        let mut left: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (_, tensor) in self.stored() {
            let name = &tensor.name;
            if self.part(name) != Part::Alone || is_of_activations(name) {
                continue;
            }
            // What others than quantizers call so is not counted.
            let mut ends = COMPANIONS
                .iter()
                .filter(|end| end.starts_with(".weight") || [".qzeros", ".scales", ".SCB"].contains(end));
            let Some(module) = ends.find_map(|end| name.strip_suffix(end)) else { continue };
            left.entry(format!("{module}.weight")).or_default().push(name.clone());
        }
        let is_one = |names: &Vec<String>| names.iter().any(|name| !name.ends_with(".scales"));
        left.retain(|_, names| is_one(names));
        for (weight, names) in &left {
            self.weight_of.extend(names.iter().map(|name| (name.clone(), weight.clone())));
        }
        self.left_over = left;
    }
}

/// The module of a weight.
pub(super) fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// The ends of the names of what stands beside a weight's codes.
pub(super) fn ends<'w>(name: &str, packed: &'w Packed) -> Vec<&'w str> {
    packed.stored.iter().skip(1).filter_map(|stored| stored.strip_prefix(module(name))).collect()
}

/// Whether a module may be stored as it is, by what the config says.
pub(super) fn may_be_dense(settings: &Quantization, module: &str) -> bool {
    let names = [Some(module.to_owned()), out_of_wrapper(module)].into_iter().flatten();
    let of_text =
        names.clone().filter_map(|name| Some(format!("model.language_model.{}", name.strip_prefix("model.")?)));
    let lists_them = !matches!(settings.method, Method::BitsAndBytes | Method::Mxfp4) && !settings.is_mixed;
    !lists_them || names.clone().chain(of_text).any(|name| !settings.packs(&name))
}
