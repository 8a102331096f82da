//! A GGUF's metadata as a Hugging Face config.json, with the keys of transformers 4, which transformers 5 reads too.

use super::architecture::{Architecture, Dim, EMBEDDING, Need, Role};
use super::attention;
use super::file::GgufFile;
use super::header::Value as Metadata;
use super::rope;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

/// What the file holds in Hugging Face's terms.
#[derive(Debug)]
pub(super) struct Layout {
    pub config: Map<String, Value>,
    /// Hugging Face name to tensor.
    pub tensors: BTreeMap<String, Source>,
    pub head_size: usize,
}

/// Where a tensor comes from.
#[derive(Debug)]
pub(super) struct Source {
    pub gguf: String,
    pub shape: Vec<usize>,
    pub change: Change,
}

/// How the tensor of the file becomes Hugging Face's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    None,
    /// The rows of its heads are interleaved.
    Interleaved,
    /// 1 is taken off, in f32.
    MinusOne,
}

/// Metadata that change what a model computes, their values that change nothing, and what they mean. Whatever else
/// they say is refused, since no key of these families' config.json says it.
const FOREIGN: &[(&str, f64, &str)] = &[
    ("expert_count", 0.0, "a mixture of experts"),
    ("attention.scale", f64::NAN, "its own attention scale"),
    ("attention.causal", 1.0, "attention that is not causal"),
    ("attention.clamp_kqv", 0.0, "clamped attention"),
    ("attn_logit_softcapping", 0.0, "soft-capped attention"),
    ("final_logit_softcapping", 0.0, "soft-capped logits"),
    ("logit_scale", 1.0, "scaled logits"),
    ("residual_scale", 1.0, "scaled residuals"),
    ("embedding_scale", 1.0, "scaled embeddings"),
    ("use_parallel_residual", 0.0, "parallel residuals"),
];

/// Special tokens: the key in the file and in config.json.
pub(super) const SPECIAL_IDS: &[(&str, &str)] = &[
    ("tokenizer.ggml.bos_token_id", "bos_token_id"),
    ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ("tokenizer.ggml.padding_token_id", "pad_token_id"),
];

impl Layout {
    /// Reads the metadata and finds every tensor.
    pub fn read(file: &GgufFile) -> Result<Layout> {
        refuse_parts(file)?;
        let architecture =
            Architecture::find(file.str("general.architecture")?).map_err(|p| Error::file(file.path(), p))?;
        let prefix = architecture.name;
        refuse_foreign(file, architecture)?;
        let sizes = Sizes::read(file, architecture)?;

        let mut tensors = BTreeMap::new();
        let mut config = architecture.config();
        for (rules, need) in architecture.groups {
            let first = rules.iter().flat_map(|rule| rule.names(1)).any(|(gguf, _)| file.tensor(&gguf).is_some());
            match need {
                Need::Always => {}
                Need::Switch(key) => drop(config.insert((*key).into(), first.into())),
                Need::Untied => drop(config.insert("tie_word_embeddings".into(), (!first).into())),
            }
            if *need != Need::Always && !first {
                continue;
            }
            for rule in *rules {
                let shape: Vec<usize> = rule.shape.iter().map(|dim| sizes.of(*dim)).collect();
                for (gguf, hf) in rule.names(sizes.layers) {
                    check_tensor(file, &gguf, &shape)?;
                    let change = match rule.role {
                        Role::Rotary if architecture.interleaves_heads => Change::Interleaved,
                        Role::Norm if architecture.adds_one_to_norms => Change::MinusOne,
                        _ => Change::None,
                    };
                    tensors.insert(hf, Source { gguf, shape: shape.clone(), change });
                }
            }
        }
        refuse_unknown_tensors(file, architecture, &tensors)?;
        sizes.write(&mut config);
        rope::write(file, architecture, &sizes, &mut config)?;
        let epsilon = format!("{prefix}.attention.layer_norm_rms_epsilon");
        config.insert("rms_norm_eps".into(), json!(file.f64(&epsilon)?));
        attention::write(file, architecture, &sizes, &mut config)?;
        // null where there is none: left out, some config classes put in a number of their own.
        for (key, name) in SPECIAL_IDS {
            config.insert((*name).into(), json!(file.u64_opt(key)?));
        }
        config.insert("torch_dtype".into(), "float32".into());
        Ok(Layout { config, tensors, head_size: sizes.head })
    }
}

/// The sizes that shapes are made of.
pub(super) struct Sizes {
    pub layers: usize,
    pub hidden: usize,
    intermediate: usize,
    pub heads: usize,
    key_value_heads: usize,
    pub head: usize,
    /// Channels of each head that RoPE turns.
    pub rotated: usize,
    vocabulary: usize,
    pub context: usize,
}

impl Sizes {
    fn read(file: &GgufFile, architecture: &Architecture) -> Result<Sizes> {
        let key = |name: &str| format!("{}.{name}", architecture.name);
        let layers = file.size(&key("block_count"))?;
        if layers > file.tensor_count() {
            let problem = format!("is {layers}, but there are only {} tensors", file.tensor_count());
            return Err(file.problem(&key("block_count"), problem));
        }
        let hidden = file.size(&key("embedding_length"))?;
        let intermediate = file.size(&key("feed_forward_length"))?;
        let heads = file.size(&key("attention.head_count"))?;
        let grouped = key("attention.head_count_kv");
        let key_value_heads = if file.get(&grouped).is_some() { file.size(&grouped)? } else { heads };
        if !heads.is_multiple_of(key_value_heads) {
            return Err(file.problem(&grouped, format!("is {key_value_heads}, expected a divisor of {heads}")));
        }
        let head_key = key("attention.key_length");
        let head = match file.get(&head_key) {
            Some(_) => file.size(&head_key)?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let problem = format!("is {heads}, expected a divisor of {hidden}");
                return Err(file.problem(&key("attention.head_count"), problem));
            }
        };
        if !head.is_multiple_of(2) {
            return Err(Error::file(file.path(), format!("heads have {head} dimensions, expected an even number")));
        }
        let refuse_part = |name: &str, part: usize| {
            let problem = format!("is {part}, expected the head size {head}; partial heads are not supported");
            Err(file.problem(&key(name), problem))
        };
        let (values, turned) = ("attention.value_length", "rope.dimension_count");
        let size_or_head = |name: &str| if file.get(&key(name)).is_some() { file.size(&key(name)) } else { Ok(head) };
        let (value_size, rotated) = (size_or_head(values)?, size_or_head(turned)?);
        if value_size != head {
            return refuse_part(values, value_size);
        }
        if rotated != head && !(architecture.rope.is_phi && rotated < head && rotated.is_multiple_of(2)) {
            return refuse_part(turned, rotated);
        }
        let embedding = file.tensor(EMBEDDING).ok_or_else(|| missing(file, EMBEDDING))?;
        let vocabulary = embedding.shape.first().copied().unwrap_or(0);
        let context = file.size(&key("context_length"))?;
        let sizes = Sizes { layers, hidden, intermediate, heads, key_value_heads, head, rotated, vocabulary, context };
        if heads.checked_mul(head).is_none_or(|n| n > u32::MAX as usize) {
            return Err(file.problem(&key("attention.head_count"), format!("is {heads}, too many heads of {head}")));
        }
        Ok(sizes)
    }

    fn of(&self, dim: Dim) -> usize {
        match dim {
            Dim::Hidden => self.hidden,
            Dim::Intermediate => self.intermediate,
            Dim::Query => self.heads * self.head,
            Dim::KeyValue => self.key_value_heads * self.head,
            Dim::QueryKeyValue => (self.heads + 2 * self.key_value_heads) * self.head,
            Dim::HeadSize => self.head,
            Dim::GateUp => 2 * self.intermediate,
            Dim::Vocabulary => self.vocabulary,
        }
    }

    fn write(&self, config: &mut Map<String, Value>) {
        let sizes = [
            ("hidden_size", self.hidden),
            ("intermediate_size", self.intermediate),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.key_value_heads),
            ("head_dim", self.head),
            ("vocab_size", self.vocabulary),
            ("max_position_embeddings", self.context),
        ];
        config.extend(sizes.map(|(key, n)| (key.to_owned(), Value::from(n))));
    }
}

fn missing(file: &GgufFile, tensor: &str) -> Error {
    Error::tensor(file.path(), tensor, "is missing; convert the model again")
}

fn check_tensor(file: &GgufFile, name: &str, shape: &[usize]) -> Result<()> {
    let info = file.tensor(name).ok_or_else(|| missing(file, name))?;
    if info.shape != shape {
        let problem = format!("has shape {:?}, expected {shape:?} from the metadata", info.shape);
        return Err(Error::tensor(file.path(), name, problem));
    }
    if !info.ty.is_supported() {
        let problem = format!("has type {}, which cannot be read", info.ty.name);
        let advice = format!("use a file of {}", super::types::GgmlType::supported());
        return Err(Error::tensor(file.path(), name, format!("{problem}; {advice}")));
    }
    Ok(())
}

/// Files that hold a part of a model, or what goes beside one.
fn refuse_parts(file: &GgufFile) -> Result<()> {
    let count = file.u64_opt("split.count")?.unwrap_or(1);
    if count > 1 {
        let part = file.u64_opt("split.no")?.unwrap_or(0).saturating_add(1);
        let advice = "join all parts with `llama-gguf-split --merge FIRST OUT` and give the result";
        return Err(Error::file(file.path(), format!("is part {part} of {count} of a split GGUF; {advice}")));
    }
    let kind = file.str_opt("general.type")?.unwrap_or("model");
    let vision = kind == "mmproj" || file.str_opt("general.architecture")? == Some("clip");
    match kind {
        _ if vision => {
            let problem = "is the vision or audio part of a model (mmproj); give the GGUF of its language model";
            Err(Error::file(file.path(), problem))
        }
        "model" => Ok(()),
        _ => Err(file.problem("general.type", format!("is {kind}, expected a whole model"))),
    }
}

fn refuse_foreign(file: &GgufFile, architecture: &Architecture) -> Result<()> {
    for (name, neutral, meaning) in FOREIGN {
        if architecture.caps.iter().any(|(cap, _)| cap == name) {
            continue;
        }
        let key = format!("{}.{name}", architecture.name);
        let value = match file.get(&key) {
            Some(Metadata::Bool(b)) => f64::from(u8::from(*b)),
            _ => match file.f64_opt(&key)? {
                Some(value) => value,
                None => continue,
            },
        };
        if value != *neutral {
            let problem = format!("is {value}: {meaning} is not supported in a GGUF; use the model's safetensors");
            return Err(file.problem(&key, problem));
        }
    }
    Ok(())
}

/// A tensor that no rule names would be left out without a word.
fn refuse_unknown_tensors(
    file: &GgufFile,
    architecture: &Architecture,
    tensors: &BTreeMap<String, Source>,
) -> Result<()> {
    let known: HashSet<&str> = tensors.values().map(|s| s.gguf.as_str()).collect();
    let of_rope = |name: &str| rope::tensors(architecture).any(|known| known == name);
    match file.tensors().find(|(name, _)| !known.contains(name) && !of_rope(name)) {
        Some((name, _)) => {
            let family = architecture.name;
            let problem = format!("is not a tensor of the {family} family as this tool knows it; use its safetensors");
            Err(Error::tensor(file.path(), name, problem))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
