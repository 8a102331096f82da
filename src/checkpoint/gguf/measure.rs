//! Sizes from metadata.

use super::architecture::{Architecture, Form};
use super::families::LAYER_TABLE;
use super::families::rules::EMBEDDING;
use super::file::GgufFile;
use super::rule::{Dim, Need};
use super::sizes::{DeltaSizes, ExpertSizes, LatentSizes, LayerSizes, Mixer, Sizes, missing};
use crate::error::{Error, Result};

/// Experts of a layer, at most: some times as many as any model has.
const MOST_EXPERTS: usize = 1 << 14;

/// The metadata of an architecture.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'static Architecture,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    fn size(&self, name: &str) -> Result<usize> {
        self.file.size(&self.key(name))
    }

    fn size_opt(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        self.file.get(&key).map(|_| self.file.size(&key)).transpose()
    }

    /// A size that may be 0.
    fn count_or(&self, name: &str, default: usize) -> Result<usize> {
        match self.file.u64_opt(&self.key(name))? {
            None => Ok(default),
            Some(0) => Ok(0),
            Some(_) => self.size(name),
        }
    }

    fn problem(&self, name: &str, problem: String) -> Error {
        self.file.problem(&self.key(name), problem)
    }

    /// Whether a tensor that every file of the family has is of this size.
    fn uses(&self, dims: &[Dim]) -> bool {
        let always = self.architecture.groups.iter().filter(|(_, need)| !matches!(need, Need::Switch(..)));
        always.flat_map(|(rules, _)| *rules).any(|rule| rule.shape.iter().any(|dim| dims.contains(dim)))
    }

    /// The layers that are computed: not those that predict further tokens.
    fn layers(&self) -> Result<(usize, usize)> {
        let (all, further) = (self.size("block_count")?, self.count_or("nextn_predict_layers", 0)?);
        if all > self.file.tensor_count() {
            let problem = format!("is {all}, but there are only {} tensors", self.file.tensor_count());
            return Err(self.problem("block_count", problem));
        }
        let layers = all.checked_sub(further).filter(|layers| *layers > 0);
        layers
            .map(|layers| (layers, further))
            .ok_or_else(|| self.problem("nextn_predict_layers", format!("is {further}, of {all} layers")))
    }

    fn head(&self, hidden: usize, heads: usize) -> Result<usize> {
        let name =
            if self.architecture.form == Form::Latent { "attention.key_length_mla" } else { "attention.key_length" };
        let head = match self.size_opt(name)? {
            Some(head) => head,
            None if self.architecture.form == Form::Latent => self.size(name)?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let problem = format!("is {heads}, expected a divisor of {hidden}");
                return Err(self.problem("attention.head_count", problem));
            }
        };
        if !head.is_multiple_of(2) {
            let problem = format!("heads have {head} dimensions, expected an even number");
            return Err(Error::file(self.file.path(), problem));
        }
        if heads.checked_mul(head).is_none_or(|n| n > u32::MAX as usize) {
            return Err(self.problem("attention.head_count", format!("is {heads}, too many heads of {head}")));
        }
        Ok(head)
    }

    /// Channels that RoPE turns, and that values are as wide as keys.
    fn rotated(&self, head: usize) -> Result<usize> {
        let rotated = self.size_opt("rope.dimension_count")?.unwrap_or(head);
        if self.architecture.form == Form::Latent {
            let problem = || self.problem("rope.dimension_count", format!("is {rotated}, of heads of {head}"));
            return Some(rotated).filter(|n| *n < head && n.is_multiple_of(2)).ok_or_else(problem);
        }
        let refuse = |name: &str, part: usize| {
            let problem = format!("is {part}, expected the head size {head}; partial heads are not supported");
            Err(self.problem(name, problem))
        };
        let values = self.size_opt("attention.value_length")?.unwrap_or(head);
        if values != head {
            return refuse("attention.value_length", values);
        }
        let is_part = rotated < head && rotated.is_multiple_of(2);
        if rotated != head && !(self.architecture.rope.is_partial && is_part) {
            return refuse("rope.dimension_count", rotated);
        }
        Ok(rotated)
    }

    fn experts(&self) -> Result<Option<ExpertSizes>> {
        let count = if self.architecture.has_experts { self.count_or("expert_count", 0)? } else { 0 };
        if count == 0 {
            return match self.architecture.form {
                _ if !self.architecture.has_experts => Ok(None),
                Form::Gemma4 => Ok(None),
                _ => Err(self.problem("expert_count", "has to be the number of experts".into())),
            };
        }
        if count > MOST_EXPERTS {
            return Err(self.problem("expert_count", format!("is {count}, expected at most {MOST_EXPERTS}")));
        }
        let intermediate = match self.size_opt("expert_feed_forward_length")? {
            Some(size) => size,
            None => self.size("feed_forward_length")?,
        };
        let shared = match self.size_opt("expert_shared_feed_forward_length")? {
            Some(size) => size,
            None => self.count_or("expert_shared_count", 0)?.saturating_mul(intermediate).min(u32::MAX as usize),
        };
        Ok(Some(ExpertSizes { count, intermediate, shared }))
    }

    fn delta(&self) -> Result<DeltaSizes> {
        if self.architecture.form != Form::DeltaNet {
            return Ok(DeltaSizes::default());
        }
        let (key_heads, value_heads) = (self.size("ssm.group_count")?, self.size("ssm.time_step_rank")?);
        let all = self.size("ssm.inner_size")?;
        if !value_heads.is_multiple_of(key_heads) || !all.is_multiple_of(value_heads) {
            let problem = format!("is {value_heads}, expected a multiple of {key_heads} that divides {all}");
            return Err(self.problem("ssm.time_step_rank", problem));
        }
        Ok(DeltaSizes { key_heads, value_heads, key: self.size("ssm.state_size")?, value: all / value_heads })
    }

    fn latent(&self, head: usize, rotated: usize) -> Result<LatentSizes> {
        if self.architecture.form != Form::Latent {
            return Ok(LatentSizes::default());
        }
        Ok(LatentSizes {
            query: self.size_opt("attention.q_lora_rank")?,
            key_value: self.size("attention.kv_lora_rank")?,
            plain: head - rotated,
            value: self.size("attention.value_length_mla")?,
        })
    }

    /// The number of key heads of each layer; 0 where it has no attention.
    fn key_value_heads(&self, layers: usize, heads: usize) -> Result<Vec<usize>> {
        let name = "attention.head_count_kv";
        let each = self.file.sizes_opt(&self.key(name), layers)?.unwrap_or_else(|| vec![heads; layers]);
        if self.architecture.form == Form::Latent {
            return Ok(vec![heads; layers]);
        }
        let allows_none = self.architecture.form == Form::Convolution;
        match each.iter().find(|n| if **n == 0 { !allows_none } else { !heads.is_multiple_of(**n) }) {
            None => Ok(each),
            Some(n) => Err(self.problem(name, format!("is {n}, expected a divisor of {heads}"))),
        }
    }

    /// What brings the positions of each layer together.
    fn mixers(&self, key_value_heads: &[usize]) -> Result<Vec<Mixer>> {
        let layers = key_value_heads.len();
        let of_flags = |flags: &[bool]| {
            flags.iter().map(|other| if *other { Mixer::DeltaNet } else { Mixer::Attention }).collect()
        };
        Ok(match self.architecture.form {
            Form::DeltaNet => match self.file.flags_opt(&self.key("attention.recurrent_layers"), layers)? {
                Some(flags) => of_flags(&flags),
                None => {
                    let interval = self.size_opt("full_attention_interval")?.unwrap_or(4);
                    of_flags(&(1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect::<Vec<_>>())
                }
            },
            Form::Convolution => {
                let mixer = |heads: &usize| if *heads == 0 { Mixer::Convolution } else { Mixer::Attention };
                key_value_heads.iter().map(mixer).collect()
            }
            _ => vec![Mixer::Attention; layers],
        })
    }
}

/// The sizes of a file of a family.
pub(super) fn measure(file: &GgufFile, architecture: &'static Architecture) -> Result<Sizes> {
    let keys = Keys { file, architecture };
    let ((layers, further), hidden) = (keys.layers()?, keys.size("embedding_length")?);
    let intermediate = if keys.uses(&[Dim::Intermediate, Dim::GateUp]) {
        let each = file.sizes_opt(&keys.key("feed_forward_length"), layers)?;
        let each = each.filter(|each| each.iter().all(|n| *n > 0));
        each.map_or_else(|| keys.size("feed_forward_length").map(|n| vec![n; layers]), Ok)?
    } else {
        vec![keys.count_or("feed_forward_length", 0)?; layers]
    };
    let heads = keys.size("attention.head_count")?;
    let key_value_heads = keys.key_value_heads(layers, heads)?;
    let head = keys.head(hidden, heads)?;
    let rotated = keys.rotated(head)?;
    let vocabulary = rows(file, EMBEDDING)?;
    let experts = keys.experts()?;
    let dense = if experts.is_some() { keys.count_or("leading_dense_block_count", 0)? } else { layers };
    let layer_input = match architecture.form {
        Form::Gemma4 => keys.count_or("embedding_length_per_layer_input", 0)?,
        _ => 0,
    };
    let (slides, narrow, own) = match architecture.form {
        Form::Gemma4 => gemma4(&keys, layers)?,
        _ => (vec![false; layers], head, layers),
    };
    let mixers = keys.mixers(&key_value_heads)?;
    let has_values = |layer: usize| {
        let has =
            |layer| architecture.form != Form::Gemma4 || file.tensor(&format!("blk.{layer}.attn_v.weight")).is_some();
        layer < own && (slides[layer] || has(layer))
    };
    let each = (0..layers).map(|layer| LayerSizes {
        mixer: mixers[layer],
        slides: slides[layer],
        head: if slides[layer] { narrow } else { head },
        key_value_heads: key_value_heads[layer],
        intermediate: intermediate[layer],
        has_experts: layer >= dense,
        has_keys: layer < own,
        has_values: has_values(layer),
    });
    Ok(Sizes {
        layers,
        further,
        hidden,
        heads,
        head,
        rotated,
        vocabulary,
        context: keys.size("context_length")?,
        each: each.collect(),
        experts,
        delta: keys.delta()?,
        latent: keys.latent(head, rotated)?,
        kernel: match architecture.form {
            Form::DeltaNet => keys.size("ssm.conv_kernel")?,
            Form::Convolution => keys.size("shortconv.l_cache")?,
            _ => 0,
        },
        layer_input,
        layer_vocabulary: if layer_input > 0 { rows(file, LAYER_TABLE)? } else { 0 },
    })
}

/// Which layers slide, how wide their heads are, and how many have keys of their own.
fn gemma4(keys: &Keys, layers: usize) -> Result<(Vec<bool>, usize, usize)> {
    let pattern = keys.key("attention.sliding_window_pattern");
    let slides = keys.file.flags_opt(&pattern, layers)?;
    let slides = slides.ok_or_else(|| keys.file.problem(&pattern, "is missing; convert the model again"))?;
    let narrow = keys.size("attention.key_length_swa")?;
    for (name, expected) in [("attention.value_length_swa", narrow), ("rope.dimension_count_swa", narrow)] {
        let found = keys.size_opt(name)?.unwrap_or(expected);
        if found != expected {
            return Err(keys.problem(name, format!("is {found}, expected the head size {expected}")));
        }
    }
    let shared = keys.count_or("attention.shared_kv_layers", 0)?;
    let own = layers.checked_sub(shared).filter(|own| *own > 0);
    let own =
        own.ok_or_else(|| keys.problem("attention.shared_kv_layers", format!("is {shared}, of {layers} layers")))?;
    Ok((slides, narrow, own))
}

/// Rows of a tensor that has to be there.
fn rows(file: &GgufFile, name: &str) -> Result<usize> {
    let tensor = file.tensor(name).ok_or_else(|| missing(file, name))?;
    Ok(tensor.shape.first().copied().unwrap_or(0))
}
