//! A vault: the rows, columns and elements of some neurons in a small file of their own, to repair a checkpoint with
//! when the original is out of reach.

use super::bits::{Bits, Held};
use super::folder;
use super::receipt::{Model, Receipt};
use super::request::{self, Request};
use crate::architecture::place::NeuronPlace;
use crate::architecture::{self, Recipe};
use crate::checkpoint::header::Header;
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::packing::{Axis, NumberType, OwnBits, Weight};
use crate::checkpoint::quantization::is_of_activations;
use crate::checkpoint::{Checkpoint, Tensors, sha256_hex};
use crate::clock::now_utc;
use crate::error::{Error, Result};
use crate::files;
use crate::neuron::Neuron;
use crate::tool::Tool;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

const SCHEMA: &str = "achilles-audit/vault/v1";
/// The key of `__metadata__` that holds the [`Index`] as JSON.
const INDEX: &str = "vault";

/// What a vault keeps, as its `__metadata__` says. The bytes are its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// What wrote it.
    pub tool: Tool,
    /// When, such as `2026-11-22T20:33:36Z`.
    pub time_utc: String,
    /// What it was taken from.
    pub model: Model,
    /// The parts; each is the vault's tensor `TENSOR:AXIS:INDEX`, of a GGUF `WEIGHT:AXIS:INDEX`.
    pub parts: Vec<Part>,
}

/// What one stored tensor has of one row, column or element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// The stored tensor, by the name that it has in a checkpoint of the text model alone.
    pub tensor: String,
    /// How the tensor's elements are stored.
    pub dtype: Dtype,
    /// The whole tensor's shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The weight that the tensor is codes, scales or zero points of, where it is packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// `row`, `column` or `element`, of a packed weight its own.
    pub axis: Axis,
    /// Its index along the axis, from 0, counted through all matrices of a stack.
    pub index: usize,
    /// SHA-256 of the kept bytes.
    pub sha256: String,
    /// SHA-256 of all other bits of what the weight is stored in, in order, without those of any part: tells whether a
    /// checkpoint is the one that the vault was taken from.
    pub rest_sha256: String,
}

/// How a weight is packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// The weight's name.
    pub weight: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// What its codes are, such as `FP8`.
    pub format: String,
    /// The stored tensors that its values come from, its codes first.
    pub stored: Vec<Stored>,
}

/// A stored tensor of a packed weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// The name that it has in a checkpoint of the text model alone.
    pub name: String,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl Stored {
    /// Those of a weight, without scales of activations.
    pub(super) fn all_of(tensors: &Tensors, weight: &Weight) -> Vec<Stored> {
        let of = |name: &str| {
            let entry = tensors.get(name).filter(|_| !is_of_activations(name))?;
            Some(Stored { name: name.to_owned(), dtype: entry.dtype, shape: entry.shape.clone() })
        };
        weight.stored().into_iter().filter_map(of).collect()
    }
}

impl Part {
    /// The vault's own tensor. That of a part of a packed weight holds bytes, in which only the part's own bits are not 0.
    pub fn key(&self) -> String {
        // Several weights may lie in one tensor of a GGUF.
        let lies_alone = |packed: &&Packed| packed.stored.iter().any(|stored| stored.name == self.tensor);
        let shared = self.packed.as_ref().filter(|packed| !lies_alone(packed));
        let of = shared.map_or(&self.tensor, |packed| &packed.weight);
        format!("{of}:{}:{}", self.axis.as_str(), self.index)
    }

    /// The element type of that.
    fn kept_as(&self) -> Dtype {
        if self.packed.is_some() { Dtype::U8 } else { self.dtype }
    }

    /// Which row, column or element of which weight it is.
    pub(super) fn place(&self) -> NeuronPlace {
        let (tensor, shape) = match &self.packed {
            Some(packed) => (&packed.weight, &packed.shape),
            None => (&self.tensor, &self.shape),
        };
        NeuronPlace { tensor: tensor.clone(), shape: shape.clone(), axis: self.axis, index: self.index }
    }

    /// What the weight is stored as.
    pub(super) fn format(&self) -> String {
        self.packed.as_ref().map_or_else(|| self.dtype.to_string(), |packed| packed.format.clone())
    }

    /// Of no neurons and without digests.
    fn of(tensors: &Tensors, weight: &Weight, own: &OwnBits, place: &NeuronPlace) -> Part {
        let packed = || Packed {
            weight: weight.name().to_owned(),
            shape: weight.shape().to_vec(),
            format: weight.format(),
            stored: Stored::all_of(tensors, weight),
        };
        Part {
            neurons: Vec::new(),
            tensor: own.place.tensor.to_owned(),
            dtype: own.place.dtype,
            shape: own.place.shape.to_vec(),
            packed: weight.is_packed().then(packed),
            axis: place.axis,
            index: place.index,
            sha256: String::new(),
            rest_sha256: String::new(),
        }
    }
}

/// What was kept.
#[derive(Debug)]
pub struct Kept {
    /// What the vault says of itself.
    pub index: Index,
    /// Bytes of its parts.
    pub bytes: u64,
}

/// Keeps what is stored for some neurons in the new file `out`: of a packed weight the codes, and the scales and zero
/// points that it has for itself. Without a recipe, of an architecture that is not known, neurons are told by their names.
///
/// # Errors
/// `out` is there, or lies in a model folder; a neuron is not there, is given twice, or weights do not hold it alone; the
/// checkpoint is patched; a file cannot be read or written.
pub fn keep<'a>(
    checkpoint: &Checkpoint,
    recipe: impl Into<Option<&'a Recipe>>,
    neurons: &[Neuron],
    out: &Path,
) -> Result<Kept> {
    check_out(out)?;
    if !checkpoint.opened().is_gguf() {
        checkpoint.opened().folder()?;
    }
    let (recipe, tensors, root) = (recipe.into(), checkpoint.tensors(), checkpoint.root());
    let places = places(checkpoint, recipe, neurons)?;
    let _lock = folder::lock_shared(root)?;
    if Receipt::read(root)?.is_some() {
        let problem = "is patched, and a vault is to keep the original weights; undo that with `achilles-audit \
                       unpatch` first";
        return Err(Error::file(root, problem));
    }
    let missing = || Error::file(root, "was changed in the meantime; try again");
    let (mut parts, mut kept) = (Vec::new(), Vec::new());
    for of_weight in places.chunk_by(|(a, _), (b, _)| a.tensor == b.tensor) {
        let weight = tensors.weight(&of_weight[0].0.tensor)?;
        let mut owned = Vec::new();
        for (place, neurons) in of_weight {
            for own in weight.own_bits(place.axis, place.index)? {
                let mut bytes = own.place.span.read(own.place.file.bytes()).ok_or_else(missing)?;
                bytes.iter_mut().zip(&own.mask).for_each(|(byte, mask)| *byte &= mask);
                owned.push((place, neurons, own, bytes));
            }
        }
        let held: Vec<Held> = owned.iter().map(|(.., own, bytes)| Held::of(&own.place, &own.mask, bytes)).collect();
        let rest = Bits::of(&held).and_then(|bits| bits.rest_sha256(&weight)).ok_or_else(missing)?;
        for (place, neurons, own, bytes) in owned {
            let (sha256, rest_sha256) = (sha256_hex(&bytes), rest.clone());
            parts.push(Part {
                neurons: neurons.clone(),
                sha256,
                rest_sha256,
                ..Part::of(tensors, &weight, &own, place)
            });
            kept.push(bytes);
        }
    }
    let model = Model {
        source: checkpoint.name().to_owned(),
        architecture: architecture::name(checkpoint.config(), recipe),
        config_sha256: checkpoint.config().sha256().to_owned(),
    };
    let index = Index { tool: Tool::this(), time_utc: now_utc(), model, parts };
    files::write_whole(out, &index.file(&kept)?)?;
    Ok(Kept { index, bytes: kept.iter().map(|bytes| bytes.len() as u64).sum() })
}

/// Where neurons lie, and which of them, in order of tensor.
fn places(
    checkpoint: &Checkpoint,
    recipe: Option<&Recipe>,
    neurons: &[Neuron],
) -> Result<Vec<(NeuronPlace, Vec<Neuron>)>> {
    let mut neurons: Vec<&Neuron> = neurons.iter().collect();
    request::check(checkpoint, recipe, &neurons)?;
    neurons.sort();
    let mut places = BTreeMap::new();
    for neuron in neurons {
        for place in (Request { recipe, tensors: checkpoint.tensors(), neuron }).parts()? {
            let key = (place.tensor.clone(), place.axis.as_str(), place.index);
            places.entry(key).or_insert((place, Vec::new())).1.push(neuron.clone());
        }
    }
    Ok(places.into_values().collect())
}

/// Whether a vault can be written to `out`.
///
/// # Errors
/// It is there already, or lies in a model folder.
pub fn check_out(out: &Path) -> Result<()> {
    if files::parent(out)?.join("config.json").exists() {
        let problem = "would lie in a model folder, where vLLM loads every *.safetensors; keep it elsewhere, out of \
                       reach of what may damage the model";
        return Err(Error::file(out, problem));
    }
    if out.symlink_metadata().is_ok_and(|about| about.is_file()) {
        let problem = "is there already and may be a vault that is still needed; choose another name or remove it";
        return Err(Error::file(out, problem));
    }
    files::check_writable(out)
}

impl Index {
    fn file(&self, kept: &[Vec<u8>]) -> Result<Vec<u8>> {
        let bad = |e: &dyn std::fmt::Display| Error::input(format!("the vault cannot be written: {e}"));
        let json = serde_json::to_string(self).map_err(|e| bad(&e))?;
        let metadata = HashMap::from([("schema".to_owned(), SCHEMA.to_owned()), (INDEX.to_owned(), json)]);
        let mut tensors = Vec::with_capacity(kept.len());
        for (part, bytes) in self.parts.iter().zip(kept) {
            let dtype = part.kept_as();
            let elements = bytes.len() / NumberType::of(dtype).bytes();
            let view = TensorView::new(dtype, vec![elements], bytes).map_err(|e| bad(&e))?;
            tensors.push((part.key(), view));
        }
        safetensors::serialize(tensors, Some(metadata)).map_err(|e| bad(&e))
    }
}

/// A vault that was read and whose kept bytes are those it was written with.
#[derive(Debug)]
pub struct Vault {
    file: MappedFile,
    /// What its metadata say that it keeps.
    pub index: Index,
    kept: Vec<Range<u64>>,
}

impl Vault {
    /// Reads and checks a vault.
    ///
    /// # Errors
    /// It is not one, or was damaged.
    pub fn read(path: &Path) -> Result<Vault> {
        let file = MappedFile::open(path)?;
        let header = Header::read(file.bytes()).map_err(|problem| Error::Header { path: path.into(), problem })?;
        let not_one =
            |problem: &str| Error::file(path, format!("{problem}; expected what `achilles-audit vault` writes"));
        match header.metadata.get("schema").map(String::as_str) {
            Some(SCHEMA) => {}
            Some(other) => return Err(not_one(&format!("has the schema {other:?}"))),
            None => return Err(not_one("is not a vault")),
        }
        let json = header.metadata.get(INDEX).ok_or_else(|| not_one("says nothing of what it keeps"))?;
        let index: Index = serde_json::from_str(json).map_err(|e| not_one(&format!("says of itself: {e}")))?;
        let mut tensors: BTreeMap<_, _> = header.tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let mut kept = Vec::with_capacity(index.parts.len());
        for part in &index.parts {
            // Removed, so that none serves two parts.
            let tensor = tensors.remove(&part.key()).filter(|t| t.dtype == part.kept_as() && t.shape.len() == 1);
            let tensor = tensor.ok_or_else(|| not_one(&format!("does not hold its part {}", part.key())))?;
            if slice(file.bytes(), &tensor.bytes).map(sha256_hex).as_ref() != Some(&part.sha256) {
                let problem = format!("its part {} is not what it was written with: the file is damaged", part.key());
                return Err(Error::file(path, problem));
            }
            kept.push(tensor.bytes);
        }
        match tensors.into_keys().next() {
            Some(name) => Err(not_one(&format!("holds {name:?}, which is none of its parts"))),
            None => Ok(Vault { file, index, kept }),
        }
    }

    /// The parts and their bytes.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Part, &[u8])> {
        let bytes = self.kept.iter().map(|range| slice(self.file.bytes(), range).unwrap_or_default());
        self.index.parts.iter().zip(bytes)
    }
}

fn slice<'a>(file: &'a [u8], range: &Range<u64>) -> Option<&'a [u8]> {
    file.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
