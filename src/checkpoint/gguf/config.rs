//! A GGUF's metadata as a Hugging Face config.json, with the keys of transformers 4, which transformers 5 reads too.

use super::architecture::{Architecture, Need, Role};
use super::attention;
use super::file::GgufFile;
use super::header::Value as Metadata;
use super::rope;
use super::sizes::{Sizes, missing};
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
