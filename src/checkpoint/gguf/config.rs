//! A GGUF's metadata as a Hugging Face config.json, with the keys of transformers 4, which transformers 5 reads too.

use super::architecture::{Architecture, Setting, StackForm};
use super::attention;
use super::expected::{Source, expected, present, unknown};
use super::families;
use super::file::GgufFile;
use super::header::Value as Metadata;
use super::measure::measure;
use super::rope;
use super::rule::Need;
use super::sizes::missing;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

/// What the file holds in Hugging Face's terms.
#[derive(Debug)]
pub(super) struct Layout {
    pub config: Map<String, Value>,
    /// Hugging Face name to tensor.
    pub tensors: BTreeMap<String, Source>,
    /// In which form transformers has the experts of a layer in one tensor, if it does.
    pub stacks: Option<StackForm>,
}

/// Metadata that change what a model computes, their values that change nothing, and what they mean. Whatever else
/// they say is refused, since no key of these families' config.json says it.
const FOREIGN: &[(&str, f64, &str)] = &[
    ("expert_count", 0.0, "a mixture of experts"),
    ("expert_weights_norm", 1.0, "weights of experts that do not add up to 1"),
    ("expert_group_count", 1.0, "experts in groups"),
    ("router_logit_softcapping", 0.0, "a soft-capped router"),
    ("swiglu_clamp_exp", f64::NAN, "clamped experts"),
    ("swiglu_clamp_shexp", f64::NAN, "clamped experts"),
    ("moe_latent_size", 0.0, "experts on a narrow vector"),
    ("attention.temperature_scale", 0.0, "queries that grow with their position"),
    ("attention.shared_kv_layers", 0.0, "keys and values that layers share"),
    ("attention.output_scale", 1.0, "scaled attention"),
    ("attention.max_alibi_bias", 0.0, "ALiBi"),
    ("attention.indexer.head_count", 0.0, "sparse attention"),
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
    /// How many experts of a module have a tensor of this name.
    pub fn count_of(&self, module: &str, name: &str) -> usize {
        (0..).take_while(|expert| self.tensors.contains_key(&format!("{module}{expert}.{name}"))).count()
    }

    /// Reads the metadata and finds every tensor.
    pub fn read(file: &GgufFile) -> Result<Layout> {
        let architecture = family(file)?;
        let prefix = architecture.name;
        let sizes = measure(file, architecture)?;

        let mut tensors = BTreeMap::new();
        let mut config = architecture.config();
        for (need, is_there) in present(file, architecture, &sizes) {
            match need {
                Need::Always | Need::In(_) => {}
                Need::Switch(key, _) => drop(config.insert(key.into(), is_there.into())),
                Need::Untied => drop(config.insert("tie_word_embeddings".into(), (!is_there).into())),
            }
        }
        let mut known = HashSet::new();
        for expected in expected(file, architecture, &sizes) {
            for (name, shape) in &expected.stored {
                check_tensor(file, name, shape)?;
            }
            tensors.extend(expected.sources(architecture, &sizes));
            known.extend(expected.stored.into_iter().map(|(name, _)| name));
        }
        if let Some(name) = unknown(file, architecture, &sizes, &known).next() {
            let family = architecture.name;
            let problem = format!("is not a tensor of the {family} family as this tool knows it; use its safetensors");
            return Err(Error::tensor(file.path(), name, problem));
        }
        sizes.write(&mut config);
        rope::write(file, architecture, &sizes, &mut config)?;
        let (epsilon, name) = architecture.epsilon;
        config.insert(name.into(), json!(file.f64(&format!("{prefix}.{epsilon}"))?));
        attention::write(file, architecture, &sizes, &mut config)?;
        settings(file, architecture, &mut config)?;
        (architecture.own)(file, &sizes, &mut config)?;
        // null where there is none: left out, some config classes put in a number of their own.
        for (key, name) in SPECIAL_IDS {
            config.insert((*name).into(), json!(file.u64_opt(key)?));
        }
        config.insert("torch_dtype".into(), "float32".into());
        Ok(Layout { config, tensors, stacks: architecture.stacks })
    }
}

/// What config.json has as the metadata have it.
fn settings(file: &GgufFile, architecture: &Architecture, config: &mut Map<String, Value>) -> Result<()> {
    for (name, to, setting) in architecture.settings {
        let key = format!("{}.{name}", architecture.name);
        let value = match setting {
            Setting::Count => json!(file.u64_opt(&key)?.map_or_else(|| file.size(&key), |n| Ok(n as usize))?),
            Setting::Number(Some(default)) if file.get(&key).is_none() => json!(default),
            Setting::Number(_) => json!(file.decimal(&key)?),
            Setting::Flag(default) => file.bool_opt(&key)?.unwrap_or(*default).into(),
        };
        config.insert((*to).into(), value);
    }
    Ok(())
}

/// The family, and that this is a whole model of it which does nothing foreign to it.
fn family(file: &GgufFile) -> Result<&'static Architecture> {
    refuse_parts(file)?;
    let of = |what| Error::Unsupported { path: file.path().to_owned(), what };
    let architecture = families::find(file.str("general.architecture")?, file).map_err(of)?;
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
    let what = match kind {
        _ if vision => {
            "is the vision or audio part of a model (mmproj); give the GGUF of its language model".to_owned()
        }
        "model" => return Ok(()),
        _ => format!("metadata general.type is {kind}, expected a whole model"),
    };
    Err(Error::Unsupported { path: file.path().to_owned(), what })
}

fn refuse_foreign(file: &GgufFile, architecture: &Architecture) -> Result<()> {
    for (name, neutral, meaning) in FOREIGN {
        let is_own = architecture.caps.iter().any(|(cap, _)| cap == name)
            || architecture.settings.iter().any(|(setting, ..)| setting == name)
            || architecture.reads.contains(name)
            || (architecture.has_experts && *name == "expert_count");
        if is_own {
            continue;
        }
        let key = format!("{}.{name}", architecture.name);
        let value = match file.get(&key) {
            Some(Metadata::Bool(b)) => f64::from(u8::from(*b)),
            Some(Metadata::Array(_)) => f64::NAN,
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
    let key = format!("{}.expert_gating_func", architecture.name);
    match file.u64_opt(&key)?.unwrap_or(0) {
        0 => Ok(()),
        found if found == architecture.scores => Ok(()),
        found => {
            let what = format!(
                "metadata {key} is {found}: in this family experts are chosen otherwise ({}); use the model's \
                 safetensors",
                architecture.scores
            );
            Err(Error::Unsupported { path: file.path().to_owned(), what })
        }
    }
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
    let sizes = measure(file, architecture)?;
    let mut known = HashSet::new();
    let mut found = Vec::new();
    for (name, shape) in expected(file, architecture, &sizes).flat_map(|expected| expected.stored) {
        if known.contains(&name) {
            continue;
        }
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
    let extra = unknown(file, architecture, &sizes, &known).take(most - found.len());
    found.extend(extra.map(|name| (name.to_owned(), Mismatch::Extra)));
    Ok(found)
}

#[cfg(test)]
mod tests;
