//! What a neuron and an action ask of the weights, or why weights cannot express them.

use super::edit::Changes;
use crate::architecture::Recipe;
use crate::architecture::place::{self, Place};
use crate::architecture::recipe::{EMBEDDING, HEAD, Module, ModuleKind, NormStyle, QkNorm};
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::neuron::{Action, Neuron, Side};
use std::collections::BTreeMap;

/// One neuron of the request and what it is judged by.
pub(super) struct Request<'a> {
    pub recipe: &'a Recipe,
    pub modules: &'a BTreeMap<String, Module>,
    pub tensors: &'a Tensors,
    pub neuron: &'a Neuron,
}

impl Request<'_> {
    /// Adds what the action changes.
    pub fn add(&self, action: Action, changes: &mut Changes) -> Result<()> {
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
        match action {
            Action::Scale(beta) if !beta.is_finite() => {
                return Err(Error::input(format!("beta is {beta}, expected a finite number")));
            }
            Action::Set(value) if !value.is_finite() => {
                return Err(self.refused(format!("cannot be set to {value}, expected a finite number")));
            }
            Action::Set(_) if !parts.iter().any(Place::is_bias) => {
                let problem = "has no bias that could hold its mean; weights alone can mask it (no --mean) or scale it \
                               (--beta)";
                return Err(self.refused(problem));
            }
            _ => changes.add(self.neuron, action, &parts, one_plus),
        }
        Ok(())
    }

    fn refused(&self, problem: impl Into<String>) -> Error {
        refused(self.neuron, problem)
    }

    /// Whether a norm of queries or keys, head by head, has one head only, so that its weight is that head's own.
    fn is_of_one_head(&self, module: &Module) -> bool {
        module.outputs == self.recipe.attention.head_dim
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
                if self.recipe.attention.qk_norm == QkNorm::PerHead
                    && attention().is_some()
                    && !self.is_of_one_head(module) =>
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
            let Ok(weight) = self.tensors.weight(&name) else {
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
            let name = self.tensors.stored_name(&name);
            if weight.shape() != shape {
                let problem = format!("has shape {:?}, the config gives {shape:?}", weight.shape());
                return Err(Error::tensor(root, name, problem));
            }
            if weight.dense().is_none() || !weight.is_float() {
                let problem = format!(
                    "has dtype {}, expected F32, F16, BF16 or F64; patch the original, then quantize it",
                    weight.dtypes()
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
        write!(f, "{}:out:{}", crate::architecture::recipe::FINAL_NORM, self.0)
    }
}

fn refused(neuron: &Neuron, problem: impl Into<String>) -> Error {
    Error::Name { what: "neuron", text: neuron.to_string(), problem: problem.into() }
}
