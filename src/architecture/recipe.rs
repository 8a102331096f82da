//! The recipe of a family: everything in which one decoder's arithmetic differs from another's, as data.
//!
//! [`Recipe::read`] turns a config.json into a recipe, or refuses it; the decoder follows the recipe and never looks at
//! the config again.

use super::channel_mixer::ChannelMixer;
use super::module::{DeltaRole, LayerInputRole, MixerKind, MlpRole, Module, ModuleKind, Modules, Role, SiteInfo};
use super::rope::Rope;
use super::token_mixer::{GroupedQueryAttention, TokenMixer};
use crate::error::Result;
use crate::neuron::{ModulePath, Side, Site};
use std::ops::Range;

/// A decoder, described.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The architecture that configs of this family name.
    pub architecture: &'static str,
    /// `model_type` of the config.
    pub model_type: &'static str,
    /// Rows of the embedding: token ids are below this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The residual stream starts as this times the embedding, the factor rounded to the arithmetic's dtype. Noise goes
    /// in before it; hooks see the embedding after it.
    pub embedding_multiplier: Option<f64>,
    /// The norm before the head.
    pub final_norm: &'static str,
    /// The residual stream starts as this times what hooks see of the embedding.
    pub stream_multiplier: Option<f64>,
    /// What all its norms compute.
    pub norm: Norm,
    /// What stands around each layer's mixers.
    pub block: Block,
    /// Inputs of each layer beside the residual.
    pub layer_inputs: Option<LayerInputs>,
    /// Each layer's output is multiplied by a number of its own.
    pub layer_scale: bool,
    /// The decoder's layers, from the embedding on.
    pub layers: Vec<Layer>,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<Rope>,
    /// Logits are multiplied by this.
    pub logit_multiplier: Option<f64>,
    /// Logits then become c · tanh(logits / c).
    pub logit_softcap: Option<f64>,
    /// The head's weights are the embedding's.
    pub tied: bool,
}

/// How an RMSNorm (Zhang and Sennrich 2019) is computed. The mean square is always taken in at least f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// What is added to the mean square before the root.
    pub epsilon: f64,
    /// What becomes of the normed value and the weight.
    pub style: NormStyle,
    /// The mean is taken off first: it is a LayerNorm without a bias.
    pub is_centred: bool,
}

impl Norm {
    /// Whether it multiplies by 1 + w, not by w.
    pub fn is_one_plus(&self) -> bool {
        self.style == NormStyle::OnePlusWeightThenRound
    }
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

/// What stands around the two mixers of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Block {
    /// Around the token mixer.
    pub token: Around,
    /// Around the channel mixer.
    pub channel: Around,
    /// What a mixer adds to the residual is multiplied by this first.
    pub residual_multiplier: Option<f64>,
    /// The channel mixer reads what the token mixer reads, not what that has added to.
    pub is_parallel: bool,
}

/// Modules around a mixer, by their names within the layer; none where the family has none there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Around {
    /// The norm of what the mixer reads from the residual.
    pub norm_before: Option<&'static str>,
    /// What does nothing outside of training, on what the mixer puts out: hooks see it.
    pub dropout: Option<&'static str>,
    /// The norm of what the mixer adds to the residual.
    pub norm_after: Option<&'static str>,
}

/// A layer: what a token mixer and then a channel mixer put out is added to the residual.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// What brings positions together.
    pub token_mixer: TokenMixer,
    /// What computes at each position alone.
    pub channel_mixer: ChannelMixer,
}

/// Inputs of each layer beside the residual: a table of its own for tokens, and a projection of the embedding (Gemma 3n
/// and 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInputs {
    /// Rows of the table.
    pub vocab_size: usize,
    /// Channels of one layer's input.
    pub width: usize,
}

/// The table of tokens that all layers' inputs are read from, one after the other.
pub const LAYER_EMBEDDING: &str = "model.embed_tokens_per_layer";
/// The projection of the embedding to all layers' inputs.
pub const LAYER_PROJECTION: &str = "model.per_layer_model_projection";
/// The norm of that.
pub const LAYER_PROJECTION_NORM: &str = "model.per_layer_projection_norm";
/// The module of the token embedding.
pub const EMBEDDING: &str = "model.embed_tokens";
/// What most families call the norm before the head.
pub const FINAL_NORM: &str = "model.norm";
/// The module of an untied head.
pub const HEAD: &str = "lm_head";
/// What becomes of a head in the file that differs from the embedding, where the config says that the two are one.
pub const TIED_HEAD_DIFFERS: &str = "by tie_word_embeddings the two are one, but transformers 5 computes with the head, \
    transformers 4 and vLLM with the embedding; set tie_word_embeddings to false or remove the head";

impl Recipe {
    /// The attention of layer `layer`, if that is its token mixer.
    pub fn attention(&self, layer: usize) -> Option<&GroupedQueryAttention> {
        match &self.layers.get(layer)?.token_mixer {
            TokenMixer::Attention(attention) => Some(attention),
            _ => None,
        }
    }

    /// The leaf modules of layer `layer`, the token mixer's before the channel mixer's, under the checkpoint's paths.
    pub fn layer_modules(&self, layer: usize) -> Vec<Module> {
        self.layer_modules_with(layer, 0..usize::MAX)
    }

    /// As [`Recipe::layer_modules`], of the experts only these.
    fn layer_modules_with(&self, layer: usize, experts: Range<usize>) -> Vec<Module> {
        let hidden = self.hidden_size;
        let mut modules = Modules::of_layer(layer, experts);
        let Layer { token_mixer, channel_mixer } = &self.layers[layer];
        for (mixer, around) in [(MixerKind::Token, self.block.token), (MixerKind::Channel, self.block.channel)] {
            if let Some(name) = around.norm_before {
                modules.norm(name, Role::NormBefore(mixer), hidden, hidden);
            }
            match mixer {
                MixerKind::Token => token_mixer.modules(hidden, &mut modules),
                MixerKind::Channel => channel_mixer.modules(hidden, &mut modules),
            }
            if let Some(name) = around.dropout {
                modules.function(name, Role::Dropout(mixer), hidden);
            }
            if let Some(name) = around.norm_after {
                modules.norm(name, Role::NormAfter(mixer), hidden, hidden);
            }
        }
        if let Some(LayerInputs { width, .. }) = self.layer_inputs {
            let role = Role::LayerInput;
            modules.linear("per_layer_input_gate", role(LayerInputRole::Gate), false, hidden, width);
            modules.function("act_fn", role(LayerInputRole::Activation), width);
            modules.linear("per_layer_projection", role(LayerInputRole::Projection), false, width, hidden);
            modules.norm("post_per_layer_input_norm", role(LayerInputRole::Norm), hidden, hidden);
        }
        if self.layer_scale {
            modules.vector("layer_scalar", Role::LayerScale, 1);
        }
        modules.into_list()
    }

    /// All leaf modules, layer by layer. The head is not among them: its outputs are logits, not neurons.
    pub fn modules(&self) -> Vec<Module> {
        let mut all = vec![self.embedding()];
        all.extend(self.of_layer_inputs());
        all.extend((0..self.layers.len()).flat_map(|layer| self.layer_modules(layer)));
        all.push(self.final_norm());
        all
    }

    /// The leaf module at `path`, the head included.
    pub fn module(&self, path: &ModulePath) -> Option<Module> {
        match path.layer() {
            Some(layer) => {
                let experts = self.layers.get(layer)?.channel_mixer.experts();
                let expert = experts.and_then(|experts| experts.number(path.in_layer()));
                let modules = self.layer_modules_with(layer, only(expert));
                modules.into_iter().find(|module| module.path == path.as_str() && module.is_hooked())
            }
            None => {
                let outside = [self.embedding(), self.final_norm(), self.head()].into_iter();
                outside.chain(self.of_layer_inputs()).find(|module| module.path == path.as_str())
            }
        }
    }

    /// The module that does `role` in the layer of `module`.
    pub(super) fn beside(&self, module: &Module, role: Role) -> Option<Module> {
        let modules = self.layer_modules_with(module.layer?, only(role.expert()));
        modules.into_iter().find(|other| other.role == role)
    }

    /// The modules whose products `down`, the last projection of a gated MLP, reads: that of the gate and the one that
    /// meets it, and which of its outputs comes first; the same module where one projection is both.
    pub(crate) fn gate_and_up(&self, down: &Module) -> Option<[(Module, usize); 2]> {
        let Role::Mlp { part: MlpRole::Down, of } = down.role else { return None };
        let beside = |part| self.beside(down, Role::Mlp { part, of });
        match beside(MlpRole::GateUp) {
            Some(both) => Some([(both.clone(), 0), (both, down.inputs)]),
            None => Some([(beside(MlpRole::Gate)?, 0), (beside(MlpRole::Up)?, 0)]),
        }
    }

    /// Every site that hooks can see, layer by layer.
    ///
    /// # Errors
    /// A module has a name that is none.
    pub fn sites(&self) -> Result<Vec<SiteInfo>> {
        let mut sites = Vec::new();
        for module in self.modules().into_iter().filter(Module::is_hooked) {
            let path: ModulePath = module.path.parse()?;
            for side in [Side::In, Side::Out] {
                if module.kind == ModuleKind::Embedding && side == Side::In {
                    continue;
                }
                let channels = module.channels(side);
                sites.push(SiteInfo { site: Site { module: path.clone(), side }, module: module.clone(), channels });
            }
        }
        Ok(sites)
    }

    /// The modules before the layers that make inputs of each.
    pub(super) fn of_layer_inputs(&self) -> Vec<Module> {
        let Some(LayerInputs { vocab_size, width }) = self.layer_inputs else { return Vec::new() };
        let (hidden, all) = (self.hidden_size, self.layers.len() * width);
        let linear = ModuleKind::Linear { bias: false };
        vec![
            outside(LAYER_EMBEDDING, Role::LayerEmbedding, ModuleKind::Embedding, vocab_size, all),
            outside(LAYER_PROJECTION, Role::LayerProjection, linear, hidden, all),
            outside(LAYER_PROJECTION_NORM, Role::LayerProjectionNorm, ModuleKind::Norm { width }, all, all),
        ]
    }

    fn embedding(&self) -> Module {
        outside(EMBEDDING, Role::Embedding, ModuleKind::Embedding, self.vocab_size, self.hidden_size)
    }

    fn final_norm(&self) -> Module {
        let width = self.hidden_size;
        outside(self.final_norm, Role::FinalNorm, ModuleKind::Norm { width }, width, width)
    }

    pub(crate) fn head(&self) -> Module {
        outside(HEAD, Role::Head, ModuleKind::Linear { bias: false }, self.hidden_size, self.vocab_size)
    }

    /// Numbers that a text takes along from layer to layer for each position: the residual stream, inputs of each layer,
    /// keys and values that layers lend to later ones.
    pub fn carried_width(&self) -> usize {
        let inputs = self.layer_inputs.map_or(0, |inputs| self.layers.len() * inputs.width);
        self.hidden_size + inputs + self.layers.iter().map(|layer| layer.token_mixer.lent_width()).sum::<usize>()
    }

    /// The names that modules have within layers, each once; an expert's number is written `N`.
    pub fn names_in_layers(&self) -> Vec<String> {
        let mut names = Vec::new();
        let modules = (0..self.layers.len()).flat_map(|layer| self.layer_modules(layer));
        for module in modules.filter(Module::is_hooked) {
            let name = module.path.splitn(4, '.').nth(3).unwrap_or_default();
            let name = match module.role.expert() {
                Some(expert) => name.replacen(&format!(".experts.{expert}."), ".experts.N.", 1),
                None => name.to_owned(),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// A lower bound of the number of tensors: one a layer, and one an expert where a file does not hold all in one;
    /// `matrices` tells how many a tensor of that name has, if there is one.
    pub fn fewest_tensors(&self, matrices: impl Fn(&str) -> Option<usize>) -> usize {
        let of = |(layer, plan): (usize, &Layer)| {
            let Some(experts) = plan.channel_mixer.experts() else { return 1 };
            let stack = experts.stack_path(MlpRole::Down).map(|path| format!("model.layers.{layer}.{path}"));
            let is_stacked = stack.is_some_and(|stack| matrices(&stack) == Some(experts.count));
            if is_stacked { 1 } else { experts.count }
        };
        self.layers.iter().enumerate().map(of).fold(0, usize::saturating_add)
    }

    /// Name and shape of every tensor the decoder reads, each expert's its own.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors_in(|_| None)
    }

    /// As [`Recipe::tensors`], of a file that may hold the experts of a layer in one tensor; `find` gives the shape of a
    /// tensor and whether it is packed, or none where the file has none of that name.
    pub fn tensors_in(&self, find: impl Fn(&str) -> Option<(Vec<usize>, bool)>) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        for module in self.modules() {
            let stack = module.stack.as_ref().and_then(|stack| Some((stack, find(&stack.tensor)?)));
            match stack {
                None => all.extend(module.tensors()),
                Some((stack, (found, is_packed))) if stack.expert == 0 && stack.first == 0 => {
                    all.push((stack.tensor.clone(), stack.shape(module.inputs, &found, is_packed).0));
                    if module.kind == (ModuleKind::Linear { bias: true }) {
                        all.push((stack.bias(), vec![stack.experts, stack.outputs]));
                    }
                }
                Some(_) => {}
            }
        }
        if !self.tied {
            all.extend(self.head().tensors());
        }
        all
    }

    /// The rotary embedding whose frequencies a tensor is to hold, if it is the buffer that old versions of
    /// transformers saved. Nothing reads it but they.
    pub fn rotary_buffer(&self, name: &str, shape: &[usize]) -> Option<&Rope> {
        let in_layer = || {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let attention = self.attention(layer.parse().ok()?)?;
            attention.rope.filter(|_| rest == "self_attn.rotary_emb.inv_freq")
        };
        let rope = (name == "model.rotary_emb.inv_freq").then_some(0).or_else(in_layer);
        rope.and_then(|rope| self.ropes.get(rope)).filter(|rope| shape == [rope.rotated() / 2])
    }

    /// The first tensor that holds all experts of a layer in a form that is not read, if a file has such tensors; `has`
    /// tells whether it has one.
    pub fn fused_experts(&self, has: impl Fn(&str) -> bool) -> Option<String> {
        self.layers.iter().enumerate().find_map(|(layer, plan)| {
            let experts = plan.channel_mixer.experts().filter(|experts| experts.stacks.is_none())?;
            let start = format!("model.layers.{layer}.{}", experts.prefix());
            let names = ["gate_up_proj", "gate_up_proj.weight", "down_proj"].map(|end| format!("{start}{end}"));
            names.into_iter().find(|name| has(name))
        })
    }

    /// Whether a tensor is within the module of some layer's experts, one for each of them or one for all.
    pub fn is_of_experts(&self, name: &str) -> bool {
        let of_layer = |name: &str| {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let experts = self.layers.get(layer.parse::<usize>().ok()?)?.channel_mixer.experts()?;
            rest.strip_prefix(&experts.prefix()).map(drop)
        };
        of_layer(name).is_some()
    }

    /// Whether a module is a norm that multiplies by 1 + w.
    pub fn is_one_plus(&self, module: &Module) -> bool {
        let is_own = module.role == Role::DeltaNet(DeltaRole::Norm);
        matches!(module.kind, ModuleKind::Norm { .. }) && self.norm.is_one_plus() && !is_own
    }

    /// The tensor that holds the head's weights, [vocabulary, hidden].
    pub fn head_tensor(&self) -> String {
        if self.tied { self.embedding().weight() } else { self.head().weight() }
    }
}

/// A module that is in no layer.
fn outside(path: &str, role: Role, kind: ModuleKind, inputs: usize, outputs: usize) -> Module {
    Module { path: path.into(), layer: None, role, kind, inputs, outputs, stack: None }
}

/// One expert, or none.
fn only(expert: Option<usize>) -> Range<usize> {
    expert.map_or(0..0, |number| number..number.saturating_add(1))
}
