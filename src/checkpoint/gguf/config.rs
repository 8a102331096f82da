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
        let architecture = family(file)?;
        let prefix = architecture.name;
        let sizes = Sizes::read(file, architecture)?;

        let mut tensors = BTreeMap::new();
        let mut config = architecture.config();
        for (need, is_there) in present(file, architecture) {
            match need {
                Need::Always => {}
                Need::Switch(key) => drop(config.insert(key.into(), is_there.into())),
                Need::Untied => drop(config.insert("tie_word_embeddings".into(), (!is_there).into())),
            }
        }
        for (gguf, hf, shape, role) in expected(file, architecture, &sizes) {
            check_tensor(file, &gguf, &shape)?;
            let change = match role {
                Role::Rotary if architecture.interleaves_heads => Change::Interleaved,
                Role::Norm if architecture.adds_one_to_norms => Change::MinusOne,
                _ => Change::None,
            };
            tensors.insert(hf, Source { gguf, shape, change });
        }
        let known: HashSet<&str> = tensors.values().map(|source| source.gguf.as_str()).collect();
        if let Some(name) = unknown(file, architecture, &known).next() {
            let family = architecture.name;
            let problem = format!("is not a tensor of the {family} family as this tool knows it; use its safetensors");
            return Err(Error::tensor(file.path(), name, problem));
        }
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

/// The family, and that this is a whole model of it which does nothing foreign to it.
fn family(file: &GgufFile) -> Result<&'static Architecture> {
    refuse_parts(file)?;
    let of = |what| Error::Unsupported { path: file.path().to_owned(), what };
    let architecture = Architecture::find(file.str("general.architecture")?).map_err(of)?;
    refuse_foreign(file, architecture).map(|()| architecture)
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
            let what =
                format!("metadata {key} is {value}: {meaning} is not supported in a GGUF; use the model's safetensors");
            return Err(Error::Unsupported { path: file.path().to_owned(), what });
        }
    }
    Ok(())
}

/// Whether each group of a family's tensors is there.
fn present(file: &GgufFile, architecture: &Architecture) -> impl Iterator<Item = (Need, bool)> {
    architecture.groups.iter().map(|(rules, need)| {
        let mut names = rules.iter().flat_map(|rule| rule.names(1));
        (*need, names.any(|(gguf, _)| file.tensor(&gguf).is_some()))
    })
}

/// Every tensor that a family of these sizes has: its two names, its shape, and what was done to it.
fn expected(
    file: &GgufFile,
    architecture: &'static Architecture,
    sizes: &Sizes,
) -> impl Iterator<Item = (String, String, Vec<usize>, Role)> {
    let groups = architecture.groups.iter().zip(present(file, architecture));
    let groups = groups.filter(|(_, (need, is_there))| *need == Need::Always || *is_there);
    groups.flat_map(|((rules, _), _)| *rules).flat_map(|rule| {
        let shape: Vec<usize> = rule.shape.iter().map(|dim| sizes.of(*dim)).collect();
        rule.names(sizes.layers).map(move |(gguf, hf)| (gguf, hf, shape.clone(), rule.role))
    })
}

/// Tensors that no rule names: they would be left out without a word.
fn unknown<'f>(
    file: &'f GgufFile,
    architecture: &'static Architecture,
    known: &HashSet<&str>,
) -> impl Iterator<Item = &'f str> {
    let of_rope = |name: &str| rope::tensors(architecture).any(|known| known == name);
    file.tensors().map(|(name, _)| name).filter(move |name| !known.contains(name) && !of_rope(name))
}

/// A tensor that is not as the metadata of a known family say.
#[derive(Debug, Clone, PartialEq)]
pub enum Mismatch {
    /// It is not there.
    Missing,
    /// It has another shape than this.
    Shape(Vec<usize>),
    /// No tensor of this name is of the family.
    Extra,
}

/// Tensors that are not as the metadata say, at most so many.
///
/// # Errors
/// The family is not known, or the metadata cannot be understood.
pub fn mismatches(file: &GgufFile, most: usize) -> Result<Vec<(String, Mismatch)>> {
    let architecture = family(file)?;
    let sizes = Sizes::read(file, architecture)?;
    let mut known = HashSet::new();
    let mut found = Vec::new();
    for (name, _, shape, _) in expected(file, architecture, &sizes) {
        match file.tensor(&name) {
            None => found.push((name, Mismatch::Missing)),
            Some(info) => {
                if info.shape != shape {
                    found.push((name.clone(), Mismatch::Shape(shape)));
                }
                known.insert(name);
            }
        }
        if found.len() >= most {
            return Ok(found);
        }
    }
    let known = known.iter().map(String::as_str).collect();
    let extra = unknown(file, architecture, &known).take(most - found.len());
    found.extend(extra.map(|name| (name.to_owned(), Mismatch::Extra)));
    Ok(found)
}

#[cfg(test)]
mod tests;
