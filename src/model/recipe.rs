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
    /// The residual stream starts as this times the embedding, the factor rounded to the arithmetic's dtype.
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
    /// The head's weights are the embedding's.
    pub tied: bool,
}

/// How an RMSNorm (Zhang and Sennrich 2019) is computed. The mean square is always taken in at least f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub epsilon: f64,
}

/// Names of the norms around attention and MLP, within a layer; none where the family has none there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// Applied to the residual before attention.
    pub before_attention: &'static str,
    /// Applied to the residual before the MLP.
    pub before_mlp: &'static str,
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
    /// q, k and v have a bias.
    pub qkv_bias: bool,
    /// o has a bias.
    pub o_bias: bool,
    /// Scores are multiplied by this.
    pub scale: f64,
}

/// What is a layer's own.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerPlan {
    /// Index into [`Recipe::ropes`].
    pub rope: usize,
    /// The MLP.
    pub mlp: Mlp,
}

/// A gated MLP: down(act(gate(x)) * up(x)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mlp {
    /// Width of the gated product.
    pub intermediate_size: usize,
    /// The gate's activation.
    pub activation: Activation,
    /// All three projections have a bias.
    pub bias: bool,
}

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
    /// An RMSNorm with a weight per channel.
    Norm,
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

impl Recipe {
    /// The recipe that `config` describes.
    ///
    /// # Errors
    /// The architecture is not supported (the message names those that are), a key is missing or contradicts another,
    /// or the config asks for arithmetic that is not implemented.
    pub fn read(config: &ConfigFile) -> Result<Recipe> {
        families::read(config)
    }

    /// The leaf modules of layer `layer` in the order in which they fire, under the checkpoint's paths.
    pub fn layer_modules(&self, layer: usize) -> Vec<Module> {
        let Attention { heads, kv_heads, head_dim, qkv_bias, o_bias, .. } = self.attention;
        let hidden = self.hidden_size;
        let mlp = self.layers[layer].mlp;
        let wide = mlp.intermediate_size;
        let linear = |bias| ModuleKind::Linear { bias };
        let norm = |name| (name, ModuleKind::Norm, hidden, hidden);
        let parts = [
            norm(self.block.before_attention),
            ("self_attn.q_proj", linear(qkv_bias), hidden, heads * head_dim),
            ("self_attn.k_proj", linear(qkv_bias), hidden, kv_heads * head_dim),
            ("self_attn.v_proj", linear(qkv_bias), hidden, kv_heads * head_dim),
            ("self_attn.o_proj", linear(o_bias), heads * head_dim, hidden),
            norm(self.block.before_mlp),
            ("mlp.gate_proj", linear(mlp.bias), hidden, wide),
            ("mlp.act_fn", ModuleKind::Function, wide, wide),
            ("mlp.up_proj", linear(mlp.bias), hidden, wide),
            ("mlp.down_proj", linear(mlp.bias), wide, hidden),
        ];
        let module = |(name, kind, inputs, outputs)| Module {
            path: format!("model.layers.{layer}.{name}"),
            kind,
            inputs,
            outputs,
        };
        parts.into_iter().map(module).collect()
    }

    /// All leaf modules that hooks can see, in the order in which they fire. The head is not among them: its outputs
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
        all.push(Module { path: FINAL_NORM.into(), kind: ModuleKind::Norm, inputs: hidden, outputs: hidden });
        all
    }

    /// Name and shape of every tensor the decoder reads.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all: Vec<_> = self.modules().iter().flat_map(Module::tensors).collect();
        if !self.tied {
            all.push((format!("{HEAD}.weight"), vec![self.vocab_size, self.hidden_size]));
        }
        all
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
            ModuleKind::Norm => vec![weight(vec![self.outputs])],
            ModuleKind::Embedding => vec![weight(vec![self.inputs, self.outputs])],
            ModuleKind::Function => vec![],
        }
    }
}
