//! A GGUF's metadata as a Hugging Face config.json, with the keys of transformers 4, which transformers 5 reads too.

use super::architecture::{Architecture, Dim, EMBEDDING, Need};
use super::file::{GgufFile, Value as Metadata};
use super::rope::{FACTORS, rope_scaling};
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
    /// Whether the rows of its heads are interleaved.
    pub interleaved: bool,
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
        let architecture =
            Architecture::find(file.str("general.architecture")?).map_err(|p| Error::file(file.path(), p))?;
        let prefix = architecture.name;
        refuse_foreign(file, prefix)?;
        let sizes = Sizes::read(file, prefix)?;

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
                    let interleaved = rule.rotary && architecture.interleaves_heads;
                    tensors.insert(hf, Source { gguf, shape: shape.clone(), interleaved });
                }
            }
        }
        refuse_unknown_tensors(file, prefix, &tensors)?;
        sizes.write(&mut config);
        let theta = file.f64_opt(&format!("{prefix}.rope.freq_base"))?.unwrap_or(10_000.0);
        config.insert("rope_theta".into(), json!(theta));
        if let Some(scaling) = rope_scaling(file, prefix, theta, sizes.head)? {
            config.insert("rope_scaling".into(), scaling);
        }
        let epsilon = format!("{prefix}.attention.layer_norm_rms_epsilon");
        config.insert("rms_norm_eps".into(), json!(file.f64(&epsilon)?));
        let context = file.size(&format!("{prefix}.context_length"))?;
        config.insert("max_position_embeddings".into(), context.into());
        if let Some(window) = file.u64_opt(&format!("{prefix}.attention.sliding_window"))?
            && window != 0
            && window < context as u64
        {
            let problem = format!("is {window}, below the context of {context}; sliding attention is not supported");
            return Err(file.problem(&format!("{prefix}.attention.sliding_window"), problem));
        }
        for (key, name) in SPECIAL_IDS {
            if let Some(id) = file.u64_opt(key)? {
                config.insert((*name).into(), id.into());
            }
        }
        config.insert("torch_dtype".into(), "float32".into());
        Ok(Layout { config, tensors, head_size: sizes.head })
    }
}

/// The sizes that shapes are made of.
struct Sizes {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    key_value_heads: usize,
    head: usize,
    vocabulary: usize,
}

impl Sizes {
    fn read(file: &GgufFile, prefix: &str) -> Result<Sizes> {
        let key = |name: &str| format!("{prefix}.{name}");
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
        for name in ["rope.dimension_count", "attention.value_length"] {
            if let Some(other) = file.u64_opt(&key(name))?.filter(|n| *n != head as u64) {
                let problem = format!("is {other}, expected the head size {head}; partial heads are not supported");
                return Err(file.problem(&key(name), problem));
            }
        }
        let embedding = file.tensor(EMBEDDING).ok_or_else(|| missing(file, EMBEDDING))?;
        let vocabulary = embedding.shape.first().copied().unwrap_or(0);
        let sizes = Sizes { layers, hidden, intermediate, heads, key_value_heads, head, vocabulary };
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
            Dim::HeadSize => self.head,
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

fn refuse_foreign(file: &GgufFile, prefix: &str) -> Result<()> {
    for (name, neutral, meaning) in FOREIGN {
        let key = format!("{prefix}.{name}");
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
fn refuse_unknown_tensors(file: &GgufFile, prefix: &str, tensors: &BTreeMap<String, Source>) -> Result<()> {
    let known: HashSet<&str> = tensors.values().map(|s| s.gguf.as_str()).collect();
    match file.tensors().find(|(name, _)| !known.contains(name) && *name != FACTORS) {
        Some((name, _)) => {
            let problem = format!("is not a tensor of the {prefix} family as this tool knows it; use its safetensors");
            Err(Error::tensor(file.path(), name, problem))
        }
        None => Ok(()),
    }
}
