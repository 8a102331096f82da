//! The recipe of a family: everything in which one decoder's arithmetic differs from another's, as data.
//!
//! [`Recipe::read`] turns a config.json into a recipe, or refuses it; the decoder follows the recipe and never looks at
//! the config again.

use super::families;
use super::rope::Rope;
use crate::checkpoint::ConfigFile;
use crate::error::Result;

/// A decoder, described.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The architecture that configs of this family name.
    pub architecture: &'static str,
    /// `model_type` of the config.
    pub model_type: &'static str,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The residual stream starts as this times the embedding, the factor rounded to the arithmetic's dtype. Noise goes
    /// in before it; hooks see the embedding after it.
    pub embedding_multiplier: Option<f64>,
    /// The norms.
    pub norm: Norm,
    /// What stands around attention and MLP.
    pub block: Block,
    /// The attention.
    pub attention: Attention,
    /// Each layer's own settings.
    pub layers: Vec<LayerPlan>,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<Rope>,
    /// Logits become c · tanh(logits / c).
    pub logit_softcap: Option<f64>,
    /// The head's weights are the embedding's.
    pub tied: bool,
}

/// How an RMSNorm (Zhang and Sennrich 2019) is computed. The mean square is always taken in at least f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub epsilon: f64,
    /// What becomes of the normed value and the weight.
    pub style: NormStyle,
}

/// Where a norm rounds, which is seen in f16 and bf16, and what it multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormStyle {
    /// Rounded, then times w.
    RoundThenWeight,
    /// Times w, then rounded (OLMo 2).
    WeightThenRound,
    /// Times 1 + w, then rounded (Gemma).
    OnePlusWeightThenRound,
}

/// Modules around attention and MLP, by their names within a layer; none where the family has none there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Block {
    /// The norm of what attention reads from the residual.
    pub before_attention: Option<&'static str>,
    /// The norm of what attention adds to the residual.
    pub after_attention: Option<&'static str>,
    /// The norm of what the MLP reads from the residual.
    pub before_mlp: Option<&'static str>,
    /// The norm of what the MLP adds to the residual.
    pub after_mlp: Option<&'static str>,
    /// Modules that do nothing outside of training, on what attention and MLP add: hooks see them.
    pub dropouts: Option<(&'static str, &'static str)>,
}

/// Multi-head attention with grouped keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// q, k and v are one projection, `qkv_proj`, with their rows in this order.
    pub fused: bool,
    /// q, k and v have a bias.
    pub qkv_bias: bool,
    /// o has a bias.
    pub o_bias: bool,
    /// Norms of queries and keys before the rotary embedding.
    pub qk_norm: QkNorm,
    /// Scores are multiplied by this.
    pub scale: f64,
    /// Scores then become c · tanh(scores / c).
    pub softcap: Option<f64>,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// Each head by itself, one weight for all heads.
    PerHead,
    /// All heads together.
    AllHeads,
}

/// What is a layer's own.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerPlan {
    /// A position sees this many, itself included; all before it where none.
    pub window: Option<usize>,
    /// Index into [`Recipe::ropes`].
    pub rope: usize,
    /// The MLP.
    pub mlp: Mlp,
}

/// A layer's MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mlp {
    /// One gated MLP for all positions.
    Dense(Gated),
    /// A mixture of them.
    Experts(Experts),
}

impl Mlp {
    /// Channels of gated product that a position has.
    pub fn width(&self) -> usize {
        match self {
            Mlp::Dense(mlp) => mlp.intermediate_size,
            Mlp::Experts(experts) => experts.top_k * experts.expert.intermediate_size,
        }
    }
}

/// A gated MLP: down(act(gate(x)) * up(x)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gated {
    /// Its modules' names, after the MLP's own.
    pub names: GatedNames,
    /// Width of the gated product.
    pub intermediate_size: usize,
    /// The gate's activation.
    pub activation: Activation,
    /// The projections have a bias.
    pub bias: bool,
}

/// Module names of a gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedNames {
    /// The gate and the projection beside it; where the second is none, the first holds both, the gate's rows first.
    pub gate_up: (&'static str, Option<&'static str>),
    /// The activation.
    pub activation: &'static str,
    /// The projection back.
    pub down: &'static str,
}

/// The usual names.
pub const GATED: GatedNames =
    GatedNames { gate_up: ("gate_proj", Some("up_proj")), activation: "act_fn", down: "down_proj" };

/// A mixture of experts: each position goes through the `top_k` experts that the router scores highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// The module that holds the router (`gate`) and the `experts`.
    pub module: &'static str,
    /// Experts.
    pub count: usize,
    /// Experts a position goes through.
    pub top_k: usize,
    /// The weights of the chosen are divided by their sum.
    pub normalize: bool,
    /// The weights are rounded to the arithmetic's dtype before they multiply; else the product is taken in f32.
    pub round_weights: bool,
    /// Each expert.
    pub expert: Gated,
}

/// The module that holds a dense MLP.
pub const MLP: &str = "mlp";

/// The activation functions of gated MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// x · Φ(x).
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// What a module is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// y = W x (+ b), W stored [outputs, inputs].
    Linear {
        /// There is a b.
        bias: bool,
    },
    /// An RMSNorm over `width` channels at a time, with a weight for each of them.
    Norm {
        /// Channels normed together; all, but in q/k norms per head.
        width: usize,
    },
    /// No tensors: an activation.
    Function,
    /// A table of `inputs` rows; it has an output side only.
    Embedding,
}

/// A leaf module, which hooks can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The checkpoint's own path.
    pub path: String,
    /// What it is made of.
    pub kind: ModuleKind,
    /// Channels going in.
    pub inputs: usize,
    /// Channels coming out.
    pub outputs: usize,
}

/// The module of the token embedding.
pub const EMBEDDING: &str = "model.embed_tokens";
/// The module of the norm before the head.
pub const FINAL_NORM: &str = "model.norm";
/// The tensor of an untied head.
pub const HEAD: &str = "lm_head";
/// What becomes of a head in the file that differs from the embedding, where the config says that the two are one.
pub const TIED_HEAD_DIFFERS: &str = "by tie_word_embeddings the two are one, but transformers 5 computes with the head, \
    transformers 4 and vLLM with the embedding; set tie_word_embeddings to false or remove the head";

impl Recipe {
    /// The recipe that `config` describes.
    ///
    /// # Errors
    /// The architecture is not supported (the message names those that are), a key is missing or contradicts another,
    /// or the config asks for arithmetic that is not implemented.
    pub fn read(config: &ConfigFile) -> Result<Recipe> {
        families::read(config)
    }

    /// The leaf modules of layer `layer`, attention's before the MLP's, under the checkpoint's paths.
    pub fn layer_modules(&self, layer: usize) -> Vec<Module> {
        let a = &self.attention;
        let block = &self.block;
        let hidden = self.hidden_size;
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let mut modules = Vec::new();
        let mut add = |name: &str, kind, inputs, outputs| {
            modules.push(Module { path: format!("model.layers.{layer}.{name}"), kind, inputs, outputs });
        };
        let linear = |bias| ModuleKind::Linear { bias };
        let norm = ModuleKind::Norm { width: hidden };

        if let Some(name) = block.before_attention {
            add(name, norm, hidden, hidden);
        }
        if a.fused {
            add("self_attn.qkv_proj", linear(a.qkv_bias), hidden, q + 2 * kv);
        } else {
            add("self_attn.q_proj", linear(a.qkv_bias), hidden, q);
            add("self_attn.k_proj", linear(a.qkv_bias), hidden, kv);
            add("self_attn.v_proj", linear(a.qkv_bias), hidden, kv);
        }
        let widths = match a.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some((a.head_dim, a.head_dim)),
            QkNorm::AllHeads => Some((q, kv)),
        };
        if let Some((q_width, k_width)) = widths {
            add("self_attn.q_norm", ModuleKind::Norm { width: q_width }, q, q);
            add("self_attn.k_norm", ModuleKind::Norm { width: k_width }, kv, kv);
        }
        add("self_attn.o_proj", linear(a.o_bias), q, hidden);
        if let Some((name, _)) = block.dropouts {
            add(name, ModuleKind::Function, hidden, hidden);
        }
        for name in [block.after_attention, block.before_mlp].into_iter().flatten() {
            add(name, norm, hidden, hidden);
        }

        let mut gated = |module: &str, g: &Gated| {
            let wide = g.intermediate_size;
            let name = |name: &str| format!("{module}.{name}");
            match g.names.gate_up {
                (gate, Some(up)) => {
                    add(&name(gate), linear(g.bias), hidden, wide);
                    add(&name(g.names.activation), ModuleKind::Function, wide, wide);
                    add(&name(up), linear(g.bias), hidden, wide);
                }
                (both, None) => {
                    add(&name(both), linear(g.bias), hidden, 2 * wide);
                    add(&name(g.names.activation), ModuleKind::Function, wide, wide);
                }
            }
            add(&name(g.names.down), linear(g.bias), wide, hidden);
        };
        match &self.layers[layer].mlp {
            Mlp::Dense(g) => gated(MLP, g),
            Mlp::Experts(e) => {
                for number in 0..e.count {
                    gated(&format!("{}.experts.{number}", e.module), &e.expert);
                }
                add(&format!("{}.gate", e.module), linear(false), hidden, e.count);
            }
        }
        if let Some((_, name)) = block.dropouts {
            add(name, ModuleKind::Function, hidden, hidden);
        }
        if let Some(name) = block.after_mlp {
            add(name, norm, hidden, hidden);
        }
        modules
    }

    /// All leaf modules that hooks can see, layer by layer. The head is not among them: its outputs
    /// are logits, not neurons.
    pub fn modules(&self) -> Vec<Module> {
        let hidden = self.hidden_size;
        let mut all = vec![Module {
            path: EMBEDDING.into(),
            kind: ModuleKind::Embedding,
            inputs: self.vocab_size,
            outputs: hidden,
        }];
        all.extend((0..self.layers.len()).flat_map(|layer| self.layer_modules(layer)));
        all.push(Module {
            path: FINAL_NORM.into(),
            kind: ModuleKind::Norm { width: hidden },
            inputs: hidden,
            outputs: hidden,
        });
        all
    }

    /// The names that modules have within layers, each once; an expert's number is written `N`.
    pub fn names_in_layers(&self) -> Vec<String> {
        let mut names = Vec::new();
        for module in (0..self.layers.len()).flat_map(|layer| self.layer_modules(layer)) {
            let name = module.path.splitn(4, '.').nth(3).unwrap_or_default();
            let name = match name.split_once(".experts.") {
                Some((mlp, rest)) => {
                    format!("{mlp}.experts.N{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
                }
                None => name.to_owned(),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// A lower bound of the number of tensors: one a layer and one an expert.
    pub fn fewest_tensors(&self) -> usize {
        let of = |layer: &LayerPlan| match layer.mlp {
            Mlp::Dense(_) => 1,
            Mlp::Experts(experts) => experts.count,
        };
        self.layers.iter().map(of).fold(0, usize::saturating_add)
    }

    /// Name and shape of every tensor the decoder reads.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all: Vec<_> = self.modules().iter().flat_map(Module::tensors).collect();
        if !self.tied {
            all.push((format!("{HEAD}.weight"), vec![self.vocab_size, self.hidden_size]));
        }
        all
    }

    /// The rotary embedding whose frequencies a tensor is to hold, if it is the buffer that old versions of
    /// transformers saved. Nothing reads it but they.
    pub fn rotary_buffer(&self, name: &str, shape: &[usize]) -> Option<&Rope> {
        let in_layer = || {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let plan = layer.parse::<usize>().ok().and_then(|layer| self.layers.get(layer))?;
            (rest == "self_attn.rotary_emb.inv_freq").then_some(plan.rope)
        };
        let rope = (name == "model.rotary_emb.inv_freq").then_some(0).or_else(in_layer);
        rope.and_then(|rope| self.ropes.get(rope)).filter(|rope| shape == [rope.rotated() / 2])
    }

    /// The first tensor that holds all experts of a layer, if a file has such tensors; `has` tells whether it has one.
    pub fn fused_experts(&self, has: impl Fn(&str) -> bool) -> Option<String> {
        self.layers.iter().enumerate().find_map(|(layer, plan)| {
            let Mlp::Experts(experts) = plan.mlp else { return None };
            let start = format!("model.layers.{layer}.{}.experts", experts.module);
            let names = ["gate_up_proj", "gate_up_proj.weight", "down_proj"].map(|end| format!("{start}.{end}"));
            names.into_iter().find(|name| has(name))
        })
    }

    /// The tensor that holds the head's weights, [vocabulary, hidden].
    pub fn head_tensor(&self) -> String {
        format!("{}.weight", if self.tied { EMBEDDING } else { HEAD })
    }
}

impl Module {
    /// Name and shape of the module's tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let weight = |shape| (format!("{}.weight", self.path), shape);
        match self.kind {
            ModuleKind::Linear { bias } => {
                let mut tensors = vec![weight(vec![self.outputs, self.inputs])];
                if bias {
                    tensors.push((format!("{}.bias", self.path), vec![self.outputs]));
                }
                tensors
            }
            ModuleKind::Norm { width } => vec![weight(vec![width])],
            ModuleKind::Embedding => vec![weight(vec![self.inputs, self.outputs])],
            ModuleKind::Function => vec![],
        }
    }
}
