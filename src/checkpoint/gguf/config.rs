//! A GGUF's metadata as a Hugging Face config.json, with the keys of transformers 4, which transformers 5 reads too.

use super::architecture::{Architecture, Dim, EMBEDDING, Need};
use super::file::GgufFile;
use super::header::Value as Metadata;
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
        let base = format!("{prefix}.rope.freq_base");
        let theta = file.f64_opt(&base)?.unwrap_or(10_000.0);
        if theta <= 0.0 {
            return Err(file.problem(&base, format!("is {theta}, expected a positive number")));
        }
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

#[cfg(test)]
mod tests {
    use super::super::GgufCheckpoint;
    use super::super::header::ValueType;
    use super::super::writer::{Writer, expected, fixture};
    use super::*;

    fn open(change: impl FnOnce(&mut Writer) -> &mut Writer) -> Result<GgufCheckpoint> {
        let mut writer = Writer::llama();
        change(&mut writer);
        GgufCheckpoint::open(writer.file().path())
    }

    fn refused(change: impl FnOnce(&mut Writer) -> &mut Writer) -> String {
        let problem = open(change).unwrap_err().to_string();
        assert!(!problem.contains('\n'), "{problem}");
        problem
    }

    #[test]
    fn whole_models_have_the_config_that_transformers_reads() {
        for family in ["llama", "qwen2", "qwen3"] {
            let checkpoint = GgufCheckpoint::open(&fixture(&format!("tiny-{family}.gguf"))).unwrap();
            let expected = expected(&format!("tiny-{family}.json"));
            for (key, value) in expected["config"].as_object().unwrap() {
                assert_eq!(checkpoint.config().get(key), Some(value), "{family}: {key}");
            }
            assert_eq!(checkpoint.config()["rope_theta"], 10_000.0);
            assert_eq!(checkpoint.config()["head_dim"], 8);
        }
    }

    #[test]
    fn biases_and_scaling_come_from_the_tensors() {
        let checkpoint = GgufCheckpoint::open(&fixture("tiny-llama.gguf")).unwrap();
        let config = checkpoint.config();
        assert_eq!((&config["attention_bias"], &config["mlp_bias"]), (&json!(true), &json!(true)));
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        assert_eq!(config["rope_scaling"], scaling);
        let plain = open(|w| w).unwrap();
        assert_eq!(plain.config()["attention_bias"], false);
        assert!(!plain.config().contains_key("rope_scaling"));
    }

    #[test]
    fn scaling_in_the_metadata_is_taken_over() {
        let linear = open(|w| w.str("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.0));
        assert_eq!(linear.unwrap().config()["rope_scaling"], json!({"rope_type": "linear", "factor": 2.0}));
        let legacy = open(|w| w.f32("llama.rope.scale_linear", 4.0));
        assert_eq!(legacy.unwrap().config()["rope_scaling"]["factor"], 4.0);
        let yarn = open(|w| {
            w.str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
            w.u32("llama.rope.scaling.original_context_length", 4)
        });
        let expected = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4});
        assert_eq!(yarn.unwrap().config()["rope_scaling"], expected);
        assert!(refused(|w| w.str("llama.rope.scaling.type", "longrope")).contains("longrope"));
        assert!(refused(|w| w.str("llama.rope.scaling.type", "linear")).contains("llama.rope.scaling.factor"));
    }

    #[test]
    fn an_output_layer_unties() {
        assert_eq!(open(|w| w).unwrap().config()["tie_word_embeddings"], true);
        let untied = open(|w| w.ramp("output.weight", &[5, 8])).unwrap();
        assert_eq!(untied.config()["tie_word_embeddings"], false);
        assert!(untied.tensors().any(|(name, shape)| name == "lm_head.weight" && shape == [5, 8]));
    }

    #[test]
    fn missing_metadata_is_named() {
        for key in ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"]
        {
            let key = format!("llama.{key}");
            assert!(refused(|w| w.without(&key)).contains(&format!("metadata {key} is missing")), "{key}");
            assert!(refused(|w| w.u32(&key, 0)).contains(&key), "{key}");
        }
        let epsilon = "llama.attention.layer_norm_rms_epsilon";
        assert!(refused(|w| w.without(epsilon)).contains(epsilon));
        assert!(refused(|w| w.without("general.architecture")).contains("general.architecture"));
        // As many key heads as query heads, where the file does not say.
        let problem = refused(|w| w.without("llama.attention.head_count_kv"));
        assert!(problem.contains("blk.0.attn_k.weight: has shape [4, 8], expected [8, 8]"), "{problem}");
    }

    #[test]
    fn what_the_family_does_not_do_is_named() {
        assert!(refused(|w| w.str("general.architecture", "mamba")).contains("mamba"));
        assert!(refused(|w| w.u32("llama.expert_count", 8)).contains("mixture of experts"));
        assert!(open(|w| w.u32("llama.expert_count", 0)).is_ok());
        assert!(refused(|w| w.f32("llama.attention.scale", 0.1)).contains("llama.attention.scale"));
        assert!(refused(|w| w.bool("llama.attention.causal", false)).contains("not causal"));
        assert!(open(|w| w.bool("llama.attention.causal", true)).is_ok());
        assert!(refused(|w| w.u32("llama.attention.sliding_window", 8)).contains("sliding"));
        assert!(open(|w| w.u32("llama.attention.sliding_window", 16)).is_ok());
        assert!(refused(|w| w.u32("llama.rope.dimension_count", 2)).contains("rope.dimension_count"));
        assert!(refused(|w| w.u32("llama.attention.head_count_kv", 3)).contains("divisor of 2"));
        let per_layer = 2u32.to_le_bytes();
        let key = "llama.attention.head_count";
        assert!(refused(|w| w.array(key, ValueType::U32, 1, &per_layer)).contains("array of 1 u32"));
        assert!(refused(|w| w.u32("llama.block_count", u32::MAX)).contains("only 11 tensors"));
    }

    #[test]
    fn tensors_are_all_there_and_no_more() {
        let name = "blk.0.ffn_up.weight";
        assert!(refused(|w| w.without(name)).contains("tensor blk.0.ffn_up.weight: is missing"));
        assert!(refused(|w| w.ramp(name, &[8, 6])).contains("expected [6, 8]"));
        assert!(refused(|w| w.ramp("blk.0.extra.weight", &[8])).contains("blk.0.extra.weight"));
        assert!(refused(|w| w.ramp("blk.0.attn_q.bias", &[8])).contains("blk.0.attn_k.bias: is missing"));
        assert!(refused(|w| w.tensor(name, &[6, 8], 26, &[0; 192])).contains("type I32"));
        let problem = refused(|w| w.ramp(FACTORS, &[3]));
        assert!(problem.contains("rope_freqs.weight: has shape [3], expected [2]"), "{problem}");
    }
}
