//! From neurons and factors to byte edits.

use super::number::Float;
use crate::checkpoint::place::{self, Axis, Place};
use crate::checkpoint::tensors::Entry;
use crate::checkpoint::{Checkpoint, Tensors};
use crate::error::{Error, Result};
use crate::model::Recipe;
use crate::model::recipe::{EMBEDDING, HEAD, Module, ModuleKind, NormStyle, QkNorm};
use crate::neuron::{Action, Intervention, Neuron, Side};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Everything that baking some interventions into a checkpoint changes, worked out and not yet written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The checkpoint's folder.
    pub root: PathBuf,
    /// What the user called it.
    pub source: String,
    /// The architecture its config names.
    pub architecture: String,
    /// SHA-256 of its config.json.
    pub config_sha256: String,
    /// What was asked for, in order of neuron.
    pub interventions: Vec<Intervention>,
    /// The edits by file and offset. Two of them meet where a row crosses a column: both then hold the product there.
    pub edits: Vec<Edit>,
    /// The worst rounding.
    pub rounding: Rounding,
    /// The names of all shards.
    pub shards: BTreeSet<String>,
}

/// One row, column or element and its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// What is changed.
    pub place: Place,
    /// The tensor's element type.
    pub dtype: Dtype,
    /// The shard's file name.
    pub file: String,
    /// Which bytes of it.
    pub span: Span,
    /// They as they are, one after the other.
    pub before: Vec<u8>,
    /// They as they will be.
    pub after: Vec<u8>,
}

/// Equal pieces of a file at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Where the first piece begins, counted from the start of the file.
    pub offset: u64,
    /// Bytes of a piece.
    pub piece_bytes: u64,
    /// From the beginning of a piece to the beginning of the next.
    pub stride_bytes: u64,
    /// Pieces.
    pub pieces: u64,
}

/// The largest error that a dtype's rounding made, over the value that the factor asks for: of a weight, or of what a
/// norm multiplies by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rounding {
    /// 0 where every value is exact.
    pub worst_relative: f64,
    /// The tensor that holds it.
    pub tensor: Option<String>,
}

impl Plan {
    /// Works out the edits.
    ///
    /// # Errors
    /// A neuron is not there, is given twice, or cannot be changed by changing weights (the message says why, and what
    /// comes nearest); a tensor is quantized or not what the config says; a value would overflow.
    pub fn new(checkpoint: &Checkpoint, recipe: &Recipe, interventions: &[Intervention]) -> Result<Plan> {
        let tensors = checkpoint.tensors();
        if tensors.files().is_empty() {
            let problem = "is a GGUF, whose blocks share their scales: convert it with `achilles-audit import` and \
                           patch the folder that gives";
            return Err(Error::file(checkpoint.root(), problem));
        }
        if interventions.is_empty() {
            return Err(Error::input("no neuron to patch; name some with --neuron or --critical"));
        }
        let mut interventions = interventions.to_vec();
        interventions.sort_by(|a, b| a.neuron.cmp(&b.neuron));
        if let Some(pair) = interventions.windows(2).find(|pair| pair[0].neuron == pair[1].neuron) {
            return Err(refused(&pair[0].neuron, "is given twice; give it once, with the product of the factors"));
        }
        let modules: BTreeMap<String, Module> = recipe.modules().into_iter().map(|m| (m.path.clone(), m)).collect();
        let mut changes = Changes::default();
        for intervention in &interventions {
            let request = Request { recipe, modules: &modules, tensors, neuron: &intervention.neuron };
            request.add(intervention.action, &mut changes)?;
        }
        let mut edits = Vec::new();
        let mut rounding = Rounding { worst_relative: 0.0, tensor: None };
        for (name, of_tensor) in &changes.0 {
            of_tensor.edits(tensors, name, &mut edits, &mut rounding)?;
        }
        edits.sort_by(|a: &Edit, b| (&a.file, a.span).cmp(&(&b.file, b.span)));
        Ok(Plan {
            root: checkpoint.root().to_owned(),
            source: checkpoint.name().to_owned(),
            architecture: recipe.architecture.to_owned(),
            config_sha256: checkpoint.config().sha256().to_owned(),
            interventions,
            edits,
            rounding,
            shards: tensors.files().iter().map(|file| file_name(file.path())).collect(),
        })
    }

    /// The names of the shards that change.
    pub fn files(&self) -> BTreeSet<&str> {
        self.edits.iter().map(|e| e.file.as_str()).collect()
    }
}

impl Edit {
    /// The values as they are.
    pub fn values_before(&self) -> Vec<f64> {
        Float::of(self.dtype).map(|float| float.read(&self.before)).unwrap_or_default()
    }

    /// The values as they will be.
    pub fn values_after(&self) -> Vec<f64> {
        Float::of(self.dtype).map(|float| float.read(&self.after)).unwrap_or_default()
    }
}

impl Span {
    /// Where the bytes of `place` lie; `entry` is its tensor's. None where the tensor has no such part.
    pub(super) fn of(place: &Place, entry: &Entry) -> Option<Span> {
        let (_, bytes) = entry.place.as_ref()?;
        Span::within(place.axis, place.index, &entry.shape, entry.dtype, bytes.start)
    }

    /// As [`Span::of`], of a tensor that begins at `start`.
    pub(super) fn within(axis: Axis, index: usize, shape: &[usize], dtype: Dtype, start: u64) -> Option<Span> {
        let element = Float::of(dtype)?.size() as u64;
        let at = index as u64;
        let piece = |offset, piece_bytes| Span { offset, piece_bytes, stride_bytes: piece_bytes, pieces: 1 };
        match (axis, shape) {
            (Axis::Row, &[rows, columns]) if index < rows => {
                let row = columns as u64 * element;
                Some(piece(start + at * row, row))
            }
            (Axis::Column, &[rows, columns]) if index < columns => {
                let row = columns as u64 * element;
                let offset = start + at * element;
                Some(Span { offset, piece_bytes: element, stride_bytes: row, pieces: rows as u64 })
            }
            (Axis::Element, &[elements]) if index < elements => Some(piece(start + at * element, element)),
            _ => None,
        }
    }

    /// Where each piece begins.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        let Span { offset, stride_bytes, pieces, .. } = *self;
        (0..pieces).map(move |at| offset + at * stride_bytes)
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.piece_bytes * self.pieces
    }

    /// The span's bytes in a whole file; none where the file is shorter.
    pub fn read(&self, file: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.bytes() as usize);
        for offset in self.offsets() {
            bytes.extend(file.get(offset as usize..(offset + self.piece_bytes) as usize)?);
        }
        Some(bytes)
    }
}

/// What becomes of one element, row or column.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    /// v β.
    Scale(f64),
    /// (1 + v) β − 1.
    ScaleOnePlus(f64),
    /// This value.
    Set(f64),
}

impl Change {
    /// The value that `stored` is to become, and the offset that makes of it what the network multiplies by.
    fn apply(self, stored: f64) -> (f64, f64) {
        match self {
            // Zero is zero whatever was there: infinity times 0 would be NaN.
            Change::Scale(0.0) => (0.0, 0.0),
            Change::Scale(beta) => (stored * beta, 0.0),
            Change::ScaleOnePlus(0.0) => (-1.0, 1.0),
            Change::ScaleOnePlus(1.0) => (stored, 1.0),
            Change::ScaleOnePlus(beta) => (beta.mul_add(stored, beta - 1.0), 1.0),
            Change::Set(value) => (value, 0.0),
        }
    }

    /// Both at once. Only factors ever meet: other parts belong to one neuron each.
    fn and(self, other: Change) -> Change {
        match (self, other) {
            (Change::Scale(a), Change::Scale(b)) => Change::Scale(a * b),
            (_, last) => last,
        }
    }
}

/// The changes of all tensors.
#[derive(Debug, Default)]
struct Changes(BTreeMap<String, TensorChanges>);

/// The changes of one tensor, by index.
#[derive(Debug, Default)]
struct TensorChanges {
    rows: BTreeMap<usize, (Change, Vec<Neuron>)>,
    columns: BTreeMap<usize, (Change, Vec<Neuron>)>,
    elements: BTreeMap<usize, (Change, Vec<Neuron>)>,
}

impl Changes {
    fn add(&mut self, place: &Place, change: Change, neuron: &Neuron) {
        let of_tensor = self.0.entry(place.tensor.clone()).or_default();
        let of_axis = match place.axis {
            Axis::Row => &mut of_tensor.rows,
            Axis::Column => &mut of_tensor.columns,
            Axis::Element => &mut of_tensor.elements,
        };
        let entry = of_axis.entry(place.index);
        let entry = entry.and_modify(|(known, _)| *known = known.and(change)).or_insert((change, Vec::new()));
        entry.1.push(neuron.clone());
    }
}

impl TensorChanges {
    fn edits(&self, tensors: &Tensors, name: &str, to: &mut Vec<Edit>, worst: &mut Rounding) -> Result<()> {
        let bad = |problem: String| Error::tensor(tensors.root(), name, problem);
        let missing = || bad("is not where its header says".into());
        let entry = tensors.get(name).ok_or_else(missing)?;
        let float = Float::of(entry.dtype).ok_or_else(missing)?;
        let (at, _) = entry.place.as_ref().ok_or_else(missing)?;
        let file = &tensors.files()[*at];
        let axes = [(Axis::Row, &self.rows), (Axis::Column, &self.columns), (Axis::Element, &self.elements)];
        for (axis, of_axis) in axes {
            for (&index, (change, neurons)) in of_axis {
                let place = Place { tensor: name.into(), shape: entry.shape.clone(), axis, index };
                let span = Span::of(&place, entry).ok_or_else(missing)?;
                let before = span.read(file.bytes()).ok_or_else(missing)?;
                let mut after = Vec::with_capacity(before.len());
                let stored = before.chunks_exact(float.size()).zip(float.read(&before));
                for (at, (bytes, value)) in stored.enumerate() {
                    // A row meets columns that change too, and a column rows.
                    let crossing = match axis {
                        Axis::Row => self.columns.get(&at),
                        Axis::Column => self.rows.get(&at),
                        Axis::Element => None,
                    };
                    let change = crossing.map_or(*change, |(other, _)| change.and(*other));
                    let (exact, offset) = change.apply(value);
                    if exact.is_nan() && value.is_nan() {
                        after.extend(bytes);
                        continue;
                    }
                    let rounded = float.append(exact, &mut after);
                    if !rounded.is_finite() && value.is_finite() {
                        let problem = format!("{place}: {value} would become {exact:e}, beyond {}", entry.dtype);
                        return Err(bad(format!("{problem}; use a smaller factor")));
                    }
                    let error = (rounded - exact).abs() / (exact + offset).abs();
                    if error > worst.worst_relative {
                        *worst = Rounding { worst_relative: error, tensor: Some(name.to_owned()) };
                    }
                }
                to.push(Edit {
                    neurons: neurons.clone(),
                    place,
                    dtype: entry.dtype,
                    file: file_name(file.path()),
                    span,
                    before,
                    after,
                });
            }
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn refused(neuron: &Neuron, problem: impl Into<String>) -> Error {
    Error::Name { what: "neuron", text: neuron.to_string(), problem: problem.into() }
}

/// One neuron of the request and what it is judged by.
struct Request<'a> {
    recipe: &'a Recipe,
    modules: &'a BTreeMap<String, Module>,
    tensors: &'a Tensors,
    neuron: &'a Neuron,
}

impl Request<'_> {
    fn add(&self, action: Action, changes: &mut Changes) -> Result<()> {
        let module = self.module()?;
        if let Some(problem) = self.cannot(&module) {
            return Err(self.refused(problem));
        }
        self.check_tensors(&module)?;
        let parts = place::parts(self.neuron, self.tensors);
        if parts.is_empty() {
            return Err(self.refused("no tensor of this checkpoint holds it alone"));
        }
        let one_plus = self.recipe.norm.style == NormStyle::OnePlusWeightThenRound;
        let is_norm = matches!(module.kind, ModuleKind::Norm { .. });
        let is_bias = |part: &Place| part.tensor.ends_with(".bias");
        let factor = match action {
            Action::Zero => 0.0,
            Action::Scale(beta) if beta.is_finite() => beta,
            Action::Scale(beta) => return Err(Error::input(format!("beta is {beta}, expected a finite number"))),
            Action::Set(value) if !value.is_finite() => {
                return Err(self.refused(format!("cannot be set to {value}, expected a finite number")));
            }
            Action::Set(_) if !parts.iter().any(is_bias) => {
                let problem = "has no bias that could hold its mean; weights alone can mask it (no --mean) or scale it \
                               (--beta)";
                return Err(self.refused(problem));
            }
            Action::Set(_) => 0.0,
        };
        for part in &parts {
            let change = match action {
                Action::Set(value) if is_bias(part) => Change::Set(value),
                _ if is_norm && one_plus => Change::ScaleOnePlus(factor),
                _ => Change::Scale(factor),
            };
            changes.add(part, change, self.neuron);
        }
        Ok(())
    }

    fn refused(&self, problem: impl Into<String>) -> Error {
        refused(self.neuron, problem)
    }

    /// The module that the neuron is a channel of.
    fn module(&self) -> Result<Module> {
        let path = self.neuron.site.module.as_str();
        let head = || Module {
            path: HEAD.into(),
            kind: ModuleKind::Linear { bias: false },
            inputs: self.recipe.hidden_size,
            outputs: self.recipe.vocab_size,
        };
        let module = self.modules.get(path).cloned().or_else(|| (path == HEAD).then(head)).ok_or_else(|| {
            self.refused(format!(
                "this model has no such module; its layers L0 to L{} have {}",
                self.recipe.layers.len().saturating_sub(1),
                self.recipe.names_in_layers().join(", ")
            ))
        })?;
        let side = self.neuron.site.side;
        let channels = if side == Side::In { module.inputs } else { module.outputs };
        if self.neuron.channel >= channels {
            let problem = format!("the site has {channels} channels, 0 to {}", channels.saturating_sub(1));
            return Err(self.refused(problem));
        }
        Ok(module)
    }

    /// Why weights cannot express a factor on the neuron, and what comes nearest.
    fn cannot(&self, module: &Module) -> Option<String> {
        let Neuron { site, channel } = self.neuron;
        let path = module.path.as_str();
        let short = site.module.short();
        let beside = |old: &str, new: &str| short.strip_suffix(old).map(|start| format!("{start}{new}:out:{channel}"));
        let attention = || beside("q_norm", "q_proj").or_else(|| beside("k_norm", "k_proj"));
        match (module.kind, site.side) {
            (ModuleKind::Embedding, Side::In) => Some("an embedding has an output side only".into()),
            (ModuleKind::Embedding, Side::Out) if self.recipe.tied => {
                let first = self.recipe.block.before_attention;
                let nearest =
                    first.map(|norm| format!("; what the first layer reads of it is L0.{norm}:out:{channel}"));
                let reason = "the head is tied to the embedding, so its weights are the logits' too";
                Some(format!("{reason}{}", nearest.unwrap_or_default()))
            }
            (ModuleKind::Linear { .. }, side) if path == HEAD && self.recipe.tied => Some(match side {
                Side::In => {
                    format!("the head is tied: its weights are the embedding's; patch {} instead", FinalNorm(*channel))
                }
                Side::Out => "the head is tied: its weights are the embedding's; give the model a head of its own \
                              (tie_word_embeddings false, lm_head.weight) first"
                    .into(),
            }),
            (ModuleKind::Norm { .. }, Side::In) => Some(match attention() {
                Some(projection) => format!("it is what {projection} puts out: patch that"),
                None => format!(
                    "a norm's input is no weight, and it acts on all channels through the mean square; the nearest is \
                     its output, {short}:out:{channel}"
                ),
            }),
            (ModuleKind::Norm { .. }, Side::Out)
                if self.recipe.attention.qk_norm == QkNorm::PerHead && attention().is_some() =>
            {
                Some(format!(
                    "one weight serves this channel of all heads; the nearest is {}, the same channel of this head \
                     before the norm",
                    attention().unwrap_or_default()
                ))
            }
            (ModuleKind::Function, side) => {
                if let Some((attention, mlp)) = self.recipe.block.dropouts {
                    let before = |name, module| beside(name, module).filter(|_| path.ends_with(name));
                    let same = before(attention, "self_attn.o_proj").or_else(|| before(mlp, "mlp.down_proj"));
                    if let Some(same) = same {
                        return Some(format!(
                            "a dropout has no weights; it passes on what {same} puts out: patch that"
                        ));
                    }
                }
                if side == Side::Out {
                    return None;
                }
                let mlp = |path: &str| path.rsplit_once('.').map(|(mlp, _)| mlp.to_owned()).unwrap_or_default();
                let gates = ["gate_proj", "gate_up_proj", "w1"];
                let gate = gates.iter().find(|g| self.modules.contains_key(&format!("{}.{g}", mlp(path))));
                let gate = format!("{}.{}:out:{channel}", mlp(&short), gate.copied().unwrap_or("gate_proj"));
                Some(format!("an activation has no weights; its input is what {gate} puts out: patch that"))
            }
            _ => None,
        }
    }

    /// The tensors of the module, or of the one whose column it is, have to be what the config says, of floats.
    fn check_tensors(&self, module: &Module) -> Result<()> {
        let root = self.tensors.root();
        let mut expected = module.tensors();
        if module.kind == ModuleKind::Function {
            let mlp = module.path.rsplit_once('.').map(|(mlp, _)| mlp).unwrap_or_default();
            let down = ["down_proj", "w2"].iter().find_map(|d| self.modules.get(&format!("{mlp}.{d}")));
            expected = down.map(Module::tensors).unwrap_or_default();
        }
        if module.path == EMBEDDING {
            expected.push((format!("{HEAD}.weight"), vec![module.inputs, module.outputs]));
        }
        for (name, shape) in expected {
            let Some(entry) = self.tensors.get(&name) else {
                let start = name.strip_suffix("weight").unwrap_or(&name);
                let packed = PACKED.iter().map(|end| format!("{start}{end}")).find(|n| self.tensors.get(n).is_some());
                let problem = match packed {
                    Some(packed) => {
                        format!("is packed by a quantizer ({packed}); patch the original, then quantize it")
                    }
                    None => "is missing, the config asks for it".into(),
                };
                return Err(Error::tensor(root, name, problem));
            };
            if entry.shape != shape {
                let problem = format!("has shape {:?}, the config gives {shape:?}", entry.shape);
                return Err(Error::tensor(root, name, problem));
            }
            if Float::of(entry.dtype).is_none() {
                let problem = format!(
                    "has dtype {}, expected F32, F16, BF16 or F64; patch the original, then quantize it",
                    entry.dtype
                );
                return Err(Error::tensor(root, name, problem));
            }
        }
        Ok(())
    }
}

/// What quantizers call a packed weight.
const PACKED: [&str; 5] = ["qweight", "weight_packed", "weight_quantized", "weight.quant_map", "blocks"];

/// Prints the output channel of the final norm.
struct FinalNorm(usize);

impl std::fmt::Display for FinalNorm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:out:{}", crate::model::recipe::FINAL_NORM, self.0)
    }
}
