//! What a folder is that is no language model's.

use super::CONFIG;
use super::index::{INDEX, SINGLE};
use super::stand_in::unfinished;
use crate::files::kind::is_weights;
use std::path::Path;

/// What PEFT calls an adapter's config.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// What lists the parts of a pipeline of diffusers.
pub const PIPELINE: &str = "model_index.json";
/// What lists the modules of a sentence-transformers model.
pub const MODULES: &str = "modules.json";

/// What is to be said of a folder, or a file, without a config to those who need that of a language model.
pub fn without_config(root: &Path) -> String {
    let has = |name: &str| root.join(name).exists();
    let is = match root {
        _ if root.is_file() => "is a file of weights alone",
        _ if has(ADAPTER_CONFIG) => {
            "is an adapter (adapter_config.json), no language model; merge it into its base model first (PEFT's \
             merge_and_unload)"
        }
        _ if has(PIPELINE) => "is a pipeline of several models (model_index.json), no language model",
        _ if has(MODULES) => "is a sentence-transformers model (modules.json), no language model",
        _ => {
            return format!(
                "no {CONFIG} in this folder; expected a Hugging Face model folder with config.json, tokenizer.json and \
                 *.safetensors"
            );
        }
    };
    format!("{is}; expected a model folder with config.json, tokenizer.json and *.safetensors")
}

/// What is to be said of a folder that holds files of these names and no weights that would be taken from it.
pub fn what_to_do_without_safetensors(names: &[String]) -> String {
    let with = |ends: &[&str]| names.iter().find(|n| ends.iter().any(|end| n.ends_with(end)));
    if let Some(part) = names.iter().find(|n| unfinished(n).is_some_and(|whole| whole.ends_with(".safetensors"))) {
        return format!("holds {part}, a download that was not finished, and no {SINGLE}; fetch the checkpoint again");
    }
    if let Some(pickle) = with(&[".bin", ".pt", ".pth", ".pkl", ".ckpt"]) {
        return format!(
            "holds {pickle} but no {SINGLE}; pickle files can run code and are never read: convert with transformers' \
             save_pretrained"
        );
    }
    if let Some(gguf) = with(&[".gguf"]) {
        return format!(
            "holds {gguf} but no {SINGLE}; give that file itself, or convert it with `achilles-audit import`"
        );
    }
    if let Some(other) = names.iter().find(|n| n.to_ascii_lowercase().ends_with(".safetensors")) {
        return format!("holds {other}, and transformers looks for {SINGLE} or for {INDEX} with its shards");
    }
    if let Some(other) = names.iter().find(|name| is_weights(name)) {
        return format!("holds {other}, a form of weights that is not read here, and no {SINGLE}");
    }
    format!("no weights in this folder; expected {SINGLE} or {INDEX} with its shards")
}
