//! Windows, soft caps and the scale of attention: from a GGUF's metadata to the keys of config.json.

use super::architecture::{Architecture, Window};
use super::file::GgufFile;
use super::header::Value as Metadata;
use super::sizes::Sizes;
use crate::error::Result;
use serde_json::{Map, Value, json};

/// Writes what the family's config.json says of them.
pub(super) fn write(
    file: &GgufFile,
    architecture: &Architecture,
    sizes: &Sizes,
    config: &mut Map<String, Value>,
) -> Result<()> {
    for (name, default) in architecture.caps {
        let key = format!("{}.{name}", architecture.name);
        let cap = file.f64_opt(&key)?.or(*default).filter(|cap| *cap != 0.0);
        if let Some(cap) = cap.filter(|cap| *cap < 0.0) {
            return Err(file.problem(&key, format!("is {cap}, expected a number above 0")));
        }
        config.insert((*name).into(), json!(cap));
    }
    if let Some(layers) = architecture.scalar_exception {
        let scalar = if sizes.layers == layers { sizes.hidden / sizes.heads } else { sizes.head };
        config.insert("query_pre_attn_scalar".into(), scalar.into());
    }
    window(file, architecture, sizes, config)
}

fn window(file: &GgufFile, architecture: &Architecture, sizes: &Sizes, config: &mut Map<String, Value>) -> Result<()> {
    let key = format!("{}.attention.sliding_window", architecture.name);
    let pattern_key = format!("{key}_pattern");
    let context = sizes.context;
    let size = match file.u64_opt(&key)? {
        Some(0) => Some(None),
        Some(_) => Some(Some(file.size(&key)?)),
        None => None,
    };
    match architecture.window {
        Window::Never => match size.flatten().filter(|window| *window < context) {
            None => return Ok(()),
            Some(window) => {
                let problem =
                    format!("is {window}, below the context of {context}; sliding attention is not supported");
                return Err(file.problem(&key, problem));
            }
        },
        Window::EveryLayer => {
            if file.get(&pattern_key).is_some() {
                return Err(file.problem(&pattern_key, "is not known in this family"));
            }
            // Phi-3 files from before llama.cpp wrote the key, as llama.cpp reads them: only the models of 4096
            // positions had a window that is shorter than their context.
            let older = (context == 4096 && [32, 40].contains(&sizes.layers)).then_some(2047);
            config.insert("sliding_window".into(), json!(size.unwrap_or(older)));
        }
        Window::Periodic { period, size: default } => {
            let slides: Vec<bool> = match file.get(&pattern_key) {
                Some(Metadata::Array(_)) => file.flags_opt(&pattern_key, sizes.layers)?.unwrap_or_default(),
                pattern => {
                    let period = pattern.map_or(Ok(period), |_| file.size(&pattern_key))?;
                    (1..=sizes.layers).map(|layer| !layer.is_multiple_of(period)).collect()
                }
            };
            let size = size.unwrap_or(default);
            let kind = |slides| if size.is_some() && slides { "sliding_attention" } else { "full_attention" };
            config.insert("layer_types".into(), slides.into_iter().map(kind).collect());
            if let Some(size) = size {
                config.insert("sliding_window".into(), size.into());
            }
        }
    }
    Ok(())
}
