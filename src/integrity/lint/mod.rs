//! The format, strictly: what in a checkpoint's folder breaks a rule, misleads a reader or could run code.
//!
//! Nothing stops at the first problem: a file that is malformed is told of and the others are examined all the same.

mod adapter;
mod added;
mod charsmap;
mod check;
mod components;
mod consolidated;
mod contents;
mod downloads;
mod dtype;
mod folder;
mod generation;
mod gguf;
mod header;
mod index;
mod json;
mod listed;
mod names;
mod observation;
mod packed;
mod params;
mod parts;
mod peers;
mod pickle;
mod pipeline;
mod rewriting;
mod rotary;
mod scales;
mod stated;
mod stored;
mod tekken;
mod template;
mod tensors;
#[cfg(test)]
pub(crate) mod tests;
mod token_ids;
mod tokenizer_class;
mod values;
mod vocabulary;
mod weights;

pub use adapter::Base as AdapterBase;
pub use check::Check;
pub use contents::json as examine_json;
pub use names::{ByName, by_name};
pub use observation::{Location, More, Observation};
pub use template::{TemplateNames, asked, literals, unusual};

use crate::architecture::{OtherParts, Recipe};
use crate::checkpoint::kind::what_to_do_without_safetensors;
use crate::checkpoint::names::{Meaning, Names};
use crate::checkpoint::{ConfigFile, Opened};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use components::{Component, Kind};
use header::FolderShard;
use listed::Listed;
use observation::Found;
use pipeline::Pipeline;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use vocabulary::Vocabulary;
use weights::Weights;

/// What lint saw, and how much it looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Lint {
    /// In order of file and check.
    pub observations: Vec<Observation>,
    /// How many more there were of a check that a file breaks over and over.
    pub not_listed: u64,
    /// How much was examined.
    pub examined: Examined,
    /// SHA-256 of config.json, lower-case hex; none where it cannot be read.
    pub config_sha256: Option<String>,
}

/// How much lint looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// Files in the folder and the folders in it.
    pub files: u64,
    /// Safetensors files whose header could be read.
    pub shards: u64,
    /// Tensors that these headers list.
    pub tensors: u64,
    /// Bytes of floating-point tensors whose values were read.
    pub value_bytes: u64,
}

/// What a config asks for.
struct Expected {
    /// The text model.
    recipe: Recipe,
    /// What lies beside it; an error where a part is known and its settings are not understood.
    parts: Result<OtherParts>,
}

impl Expected {
    /// None where there is no config that can be read; an error where it is not understood.
    fn of(opened: &Opened) -> Option<Result<Expected>> {
        let read = |config: &ConfigFile| {
            let recipe = Recipe::read(config)?;
            let parts = OtherParts::read(config, &recipe);
            Ok(Expected { recipe, parts })
        };
        opened.config().ok().flatten().map(|config| read(config))
    }
}

/// Which tensors were held against the config.
struct Compared {
    names: Names,
    text: bool,
    parts: bool,
}

impl Compared {
    fn of(opened: &Opened, weights: &Weights, expected: Option<&Result<Expected>>) -> Compared {
        let names = opened.config().ok().flatten().map(|config| Names::of(config)).unwrap_or_default();
        let Some(Ok(Expected { recipe, parts })) = expected else {
            return Compared { names, text: false, parts: false };
        };
        let text: BTreeSet<String> = weights.stored().filter_map(|(_, tensor)| names.text(&tensor.name)).collect();
        Compared {
            names,
            text: recipe.fused_experts(|name| text.contains(name)).is_none(),
            parts: matches!(parts, Ok(OtherParts::Known(_))),
        }
    }

    /// Whether a weight of this name was.
    fn is_compared(&self, weight: &str) -> bool {
        match self.names.meaning(weight) {
            Meaning::Text(_) => self.text,
            Meaning::OtherPart(_) => self.parts,
            Meaning::Unknown => false,
        }
    }
}

/// Examines a model folder, a GGUF or a safetensors file. Each checkpoint that lies in a folder is examined by itself, an
/// adapter beside its base, where that is given.
///
/// # Errors
/// The folder cannot be read, is no checkpoint's (it has neither a config nor weights), the header of a GGUF cannot be
/// followed, a base is given and there is no adapter to put on it, or the user asked to stop. What
/// is wrong with a checkpoint is never an error but an observation.
pub fn lint(opened: &Opened, base: Option<&AdapterBase>, progress: &dyn Progress) -> Result<Lint> {
    if let Some(file) = opened.gguf_file()? {
        refuse_base(opened, base, false)?;
        return gguf::lint(opened, file, progress);
    }
    let mut found = Found::default();
    let files = folder::files_of(opened, &mut found)?;
    let listed = Listed::of(opened, &files);
    let components = components::all(opened, &files, &listed);
    if components.is_empty() && !listed.is_some() {
        return Err(Error::file(opened.root(), what_to_do_without_safetensors(&files::names_in(opened.root()))));
    }
    refuse_base(opened, base, components.iter().any(|component| component.kind == Kind::Adapter))?;
    downloads::examine(&files, &mut found);
    let shards = header::read(opened, &files, &mut found);
    contents::examine(&files, &shards, &|file| components::is_settings(&components, file), &mut found);
    contents::blobs(&files, &shards, &mut found, progress)?;
    listed.examine(&files, &mut found);
    components::tell(&components, &listed, &mut found);
    let by_name: HashMap<&str, &FolderShard> = shards.iter().map(|shard| (shard.file.name.as_str(), shard)).collect();
    listed.compare(opened, &by_name, &mut found);
    let (mut config_sha256, mut value_bytes) = (None, 0);
    for component in &components {
        let shards = component.shards(&by_name);
        let one = |found: &mut Found| examine(component, &shards, base, found, progress);
        let examined = found.within(&component.prefix, one)?;
        value_bytes += examined.value_bytes;
        config_sha256 = config_sha256.or(examined.config_sha256.filter(|_| component.prefix.is_empty()));
    }
    let examined = Examined {
        files: files.len() as u64,
        shards: shards.iter().filter(|s| s.is_readable()).count() as u64,
        tensors: shards.iter().map(|s| s.tensors().len() as u64).sum(),
        value_bytes,
    };
    let (observations, not_listed) = found.finish();
    Ok(Lint { observations, not_listed, examined, config_sha256 })
}

fn refuse_base(opened: &Opened, base: Option<&AdapterBase>, is_adapter: bool) -> Result<()> {
    let problem = "is no adapter, which is what --base is for; compare two models with `scan --base` or `diff`";
    if base.is_some() && !is_adapter { Err(Error::file(opened.root(), problem)) } else { Ok(()) }
}

/// What came of examining one checkpoint of a folder.
struct OfComponent {
    value_bytes: u64,
    config_sha256: Option<String>,
}

fn examine(
    component: &Component,
    shards: &[FolderShard],
    base: Option<&AdapterBase>,
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<OfComponent> {
    let (opened, Component { kind, files, .. }) = (component.opened(), component);
    let model = index::compare(opened, files, shards, found);
    let weights = Weights::of(opened, &model);
    let expected = Expected::of(opened).filter(|_| *kind == Kind::Model);
    let compared = Compared::of(opened, &weights, expected.as_ref());
    let mut config_sha256 = None;
    match kind {
        Kind::Model => {
            let parts = (&model, &weights);
            config_sha256 = tensors::compare(opened, files, parts, expected.as_ref(), found, progress)?;
            dtype::compare(opened, files, &weights, found);
            packed::examine(&weights, found);
            peers::compare(opened, parts, &compared, found);
            let vocabulary = serving(opened, &model.shards, expected.as_ref(), found);
            tekken::compare(files, vocabulary.as_ref(), found);
        }
        Kind::Adapter => adapter::examine(opened, files, (&model, &weights), base, found),
        Kind::Alone => {
            index::empty(&model, found);
            if !adapter::examine_parts(&weights, found) {
                peers::compare(opened, (&model, &weights), &compared, found);
            }
        }
    }
    let is_compared = |name: &str| compared.is_compared(name);
    let value_bytes = values::scan(shards, &weights, &is_compared, found, progress)?;
    Ok(OfComponent { value_bytes, config_sha256 })
}

/// Examines what the configs and the tokenizer of a model have it read and say, its weights aside.
pub fn served(opened: &Opened) -> Vec<Observation> {
    let mut found = Found::default();
    serving(opened, &[], Expected::of(opened).as_ref(), &mut found);
    found.finish().0
}

fn serving(
    opened: &Opened,
    model: &[&FolderShard],
    expected: Option<&Result<Expected>>,
    found: &mut Found,
) -> Option<Vocabulary> {
    let vocabulary = vocabulary::of(opened, found);
    token_ids::compare(opened, model, vocabulary.as_ref(), found);
    generation::examine(opened, vocabulary.as_ref(), expected, found);
    if let Some(pipeline) = Pipeline::of(opened, vocabulary.as_ref(), found) {
        rewriting::examine(&pipeline, vocabulary.as_ref(), found);
        tokenizer_class::examine(opened, &pipeline, found);
    }
    vocabulary
}
