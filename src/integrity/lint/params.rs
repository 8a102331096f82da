//! params.json, by which loaders of Mistral's own form compute, against what the config says.

use super::generation::{SHORT, usual_context};
use crate::architecture::rope::Scaling;
use crate::architecture::{Recipe, changes_nothing};
use crate::checkpoint::{ConfigFile, LARGEST_NEEDED};
use crate::files;
use serde_json::Value;
use std::path::Path;

/// The config of checkpoints in Mistral's own form.
pub(super) const FILE: &str = "params.json";

/// Keys that change nothing of what is computed.
const IDLE: &[&str] = &["model_type", "max_batch_size"];
/// Keys of how long a text may be.
const CONTEXT: &[&str] = &["max_seq_len", "max_position_embeddings"];

/// Holds the file in a folder against the recipe; what is not the same, or not known here, is the error.
pub(super) fn compare(root: &Path, recipe: &Recipe) -> Result<(), String> {
    let path = root.join(FILE);
    let text = files::read_text(&path, LARGEST_NEEDED).map_err(|_| "is not there, or cannot be read".to_owned())?;
    let params = ConfigFile::parse(&path, &text).map_err(|_| "is no JSON object".to_owned())?;
    let said = |key: &str| params.map().get(key).filter(|value| !value.is_null());
    let known = settings(recipe);
    let mut others = params.map().keys().filter(|key| !known.iter().any(|known| known.key == *key));
    let is_told = |key: &&String| match (key.as_str(), said(key)) {
        (key, _) if IDLE.contains(&key) || CONTEXT.contains(&key) => true,
        ("moe", Some(moe)) => is_moe(moe, recipe),
        (key, value) => value.is_none_or(|value| changes_nothing(key, value)),
    };
    if let Some(key) = others.find(|key| !is_told(key)) {
        return Err(format!("has {key:?}, of which it is not known here whether the config says the same"));
    }
    let is_short =
        |key: &&&str| said(key).and_then(Value::as_f64).is_some_and(|n| n * SHORT < usual_context("mistral"));
    if let Some(key) = CONTEXT.iter().find(is_short) {
        return Err(format!("has a {key} that refuses or cuts most prompts"));
    }
    if recipe.ropes.iter().any(|rope| rope.settings().scaling != Scaling::Default) {
        return Err("does not say how positions are stretched, as the config does".to_owned());
    }
    for Setting { key, expected, default } in known {
        let number = |value: &Value| value.as_f64().or(value.as_bool().map(|set| f64::from(u8::from(set))));
        let found = said(key).map_or(default, number);
        if found != expected {
            let [found, expected] = [found, expected].map(|n| n.map_or("nothing".to_owned(), |n| n.to_string()));
            return Err(format!("gives {found} for {key:?}, the config {expected}"));
        }
    }
    Ok(())
}

/// A number in it.
struct Setting {
    key: &'static str,
    /// By the config.
    expected: Option<f64>,
    /// What is taken where it is not there.
    default: Option<f64>,
}

fn settings(recipe: &Recipe) -> Vec<Setting> {
    let attention = recipe.attention(0);
    let heads = attention.map(|a| a.heads);
    let hidden = recipe.layers.first().map(|layer| layer.channel_mixer.mlp().intermediate_size);
    let window = attention.and_then(|a| a.window);
    let whole = |n: usize| Some(n as f64);
    let all = [
        ("dim", whole(recipe.hidden_size), None),
        ("n_layers", whole(recipe.layers.len()), None),
        ("n_heads", heads.and_then(whole), None),
        ("n_kv_heads", attention.and_then(|a| whole(a.kv_heads)), heads.and_then(whole)),
        (
            "head_dim",
            attention.and_then(|a| whole(a.head_dim)),
            heads.and_then(|n| whole(recipe.hidden_size / n.max(1))),
        ),
        ("norm_eps", Some(recipe.norm.epsilon), None),
        ("rope_theta", recipe.ropes.first().map(|rope| rope.settings().theta), Some(10_000.0)),
        ("sliding_window", window.and_then(whole), None),
        // By the shapes of tensors, too.
        ("hidden_dim", hidden.and_then(whole), hidden.and_then(whole)),
        ("vocab_size", whole(recipe.vocab_size), whole(recipe.vocab_size)),
        ("tied_embeddings", Some(f64::from(u8::from(recipe.tied))), Some(0.0)),
    ];
    all.map(|(key, expected, default)| Setting { key, expected, default }).into()
}

/// Whether what it says of a mixture of experts is what the recipe has.
fn is_moe(said: &Value, recipe: &Recipe) -> bool {
    let Some(experts) = recipe.layers.first().and_then(|layer| layer.channel_mixer.experts()) else { return false };
    let is = |key: &str, n: usize| said.get(key).and_then(Value::as_u64) == Some(n as u64);
    is("num_experts", experts.count) && is("num_experts_per_tok", experts.top_k)
}
