//! Folders that list what they are made of: the components of a pipeline (model_index.json of diffusers), the modules of a
//! sentence-transformers model (modules.json).

use super::check::Check;
use super::folder::File;
use super::header::FolderShard;
use super::observation::{Found, Location};
use super::stored::at;
use crate::checkpoint::kind::{MODULES, PIPELINE};
use crate::checkpoint::weight_names::WeightNames;
use crate::checkpoint::{CONFIG, Opened};
use crate::escape::printable;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a folder says it is made of.
#[derive(Default)]
pub(super) struct Listed {
    /// By the folder of each, with a slash at its end; empty for the folder itself.
    parts: BTreeMap<String, Part>,
    /// The file that cannot be followed, and why.
    broken: Vec<(&'static str, String)>,
    is_pipeline: bool,
}

/// A component or module.
struct Part {
    /// The file that lists it.
    by: &'static str,
    /// What its weights are called where nothing else is there.
    weights: WeightNames,
    /// The name of its class, without those of the modules that it is in.
    class: String,
    needs: Needs,
}

/// What has to lie in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// A config and weights.
    Weights,
    /// Weights that no config describes.
    WeightsAlone,
    /// One of these files.
    OneOf(&'static [&'static str]),
    /// Nothing, or what is not known here.
    Nothing,
}

/// A module as modules.json has it.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Listed {
    /// As the files in the folder have it.
    pub fn of(opened: &Opened, files: &[File]) -> Listed {
        let mut listed = Listed::default();
        let is_there = |name: &str| !opened.is_file() && files.iter().any(|file| file.name == name);
        if is_there(PIPELINE) {
            listed.is_pipeline = true;
            match read::<Map<String, Value>>(opened, PIPELINE) {
                Ok(components) => components.iter().for_each(|(name, of)| listed.component(name, of)),
                Err(e) => listed.broken.push((PIPELINE, format!("cannot be read: {e}"))),
            }
        }
        if is_there(MODULES) {
            match read::<Vec<Module>>(opened, MODULES) {
                Ok(modules) => modules.into_iter().for_each(|module| listed.module(module)),
                Err(e) => listed.broken.push((MODULES, format!("cannot be read: {e}"))),
            }
        }
        listed
    }

    /// `"unet": ["diffusers", "UNet2DConditionModel"]`; one that is left out has null for both.
    fn component(&mut self, name: &str, of: &Value) {
        let Some([Value::String(library), Value::String(class)]) = of.as_array().map(Vec::as_slice) else { return };
        if name.contains(['/', '\\']) || name == ".." {
            self.broken.push((PIPELINE, format!("lists {name}, which is a path and no folder of its own")));
        }
        let needs = Needs::of_component(class);
        let weights = if library == "diffusers" { WeightNames::of_diffusers() } else { WeightNames::default() };
        self.parts.insert(format!("{name}/"), Part { by: PIPELINE, weights, class: class.clone(), needs });
    }

    fn module(&mut self, Module { path, kind }: Module) {
        let class = kind.rsplit('.').next().unwrap_or_default().to_owned();
        let needs = match kind.starts_with("sentence_transformers.") {
            true => Needs::of_module(&class),
            false => Needs::Nothing,
        };
        let folder = if path.is_empty() { path } else { format!("{}/", path.trim_end_matches('/')) };
        self.parts.insert(folder, Part { by: MODULES, weights: WeightNames::default(), class, needs });
    }

    /// Whether all that it lists lies in folders below.
    pub fn is_of_others(&self) -> bool {
        self.is_pipeline || !self.parts.is_empty() && !self.parts.contains_key("")
    }

    pub fn is_listed(&self, folder: &str) -> bool {
        self.parts.contains_key(folder)
    }

    pub fn needs_weights(&self, folder: &str) -> bool {
        self.parts.get(folder).is_some_and(|part| matches!(part.needs, Needs::Weights | Needs::WeightsAlone))
    }

    pub fn needs_no_config(&self, folder: &str) -> bool {
        self.parts.get(folder).is_some_and(|part| part.needs == Needs::WeightsAlone)
    }

    /// What the weights in a folder are called where none are there.
    pub fn weight_names(&self, folder: &str) -> WeightNames {
        self.parts.get(folder).map(|part| part.weights.clone()).unwrap_or_default()
    }

    /// Whether it lists anything, or should.
    pub fn is_some(&self) -> bool {
        self.is_pipeline || !self.parts.is_empty() || !self.broken.is_empty()
    }

    /// Tells of what it lists that is not there.
    pub fn examine(&self, files: &[File], found: &mut Found) {
        for (file, problem) in &self.broken {
            found.say(Check::ConfigInvalid, Location::file(*file), printable(problem));
        }
        if self.is_pipeline && self.parts.is_empty() && self.broken.is_empty() {
            found.say(Check::ConfigInvalid, Location::file(PIPELINE), "lists no component of a pipeline");
        }
        let names: HashSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let folders = names.iter().flat_map(|name| name.match_indices('/').map(|(at, _)| &name[..=at]));
        let folders: HashSet<&str> = folders.collect();
        for (folder, Part { by, class, needs, .. }) in &self.parts {
            let has = |name: &str| names.contains(format!("{folder}{name}").as_str());
            let is_there = folder.is_empty() || folders.contains(folder.as_str());
            // A pipeline may be given these from elsewhere; modules are looked for here alone.
            let incomplete = if *by == MODULES { Check::ComponentMissing } else { Check::ComponentIncomplete };
            let nothing = || "there is no such folder, or nothing is in it".to_owned();
            let (check, problem) = match needs {
                Needs::Nothing => continue,
                Needs::OneOf(_) if !is_there => (incomplete, nothing()),
                Needs::OneOf(names) if !names.iter().any(|name| has(name)) => {
                    (incomplete, format!("its folder holds no {}", names.join(" or ")))
                }
                Needs::Weights | Needs::WeightsAlone if !is_there => (Check::ComponentMissing, nothing()),
                // Of weights that are not there it is told as of any model's.
                _ => continue,
            };
            let name = folder.trim_end_matches('/');
            let message = format!("lists {name} ({class}), which is missing: {problem}");
            found.add(check, Location::file(*by), printable(&message), json!({"component": name, "class": class}));
        }
    }

    /// Compares the weights of modules whose config says all of them.
    pub fn compare(&self, opened: &Opened, shards: &HashMap<&str, &FolderShard>, found: &mut Found) {
        for folder in self.parts.iter().filter(|(_, part)| part.by == MODULES).map(|(folder, _)| folder) {
            let Some(shard) = shards.get(format!("{folder}model.safetensors").as_str()) else { continue };
            let Ok(config) = read::<Map<String, Value>>(opened, &format!("{folder}{CONFIG}")) else { continue };
            let size = |key: &str| config.get(key).and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
            let Some((inputs, outputs)) = size("in_features").zip(size("out_features")) else { continue };
            for (name, shape) in [("linear.weight", vec![outputs, inputs]), ("linear.bias", vec![outputs])] {
                match shard.tensors().iter().find(|tensor| tensor.name == name) {
                    Some(tensor) if tensor.shape != shape => {
                        let message = format!("has shape {:?}, the config gives {shape:?}", tensor.shape);
                        let evidence = json!({"shape": tensor.shape, "expected": shape});
                        found.add(Check::TensorShape, at(shard, tensor), message, evidence);
                    }
                    None if name.ends_with("weight") && shard.is_readable() => {
                        let message = format!("is missing, the config asks for it with shape {shape:?}");
                        found.say(Check::TensorMissing, shard.file.location().tensor(name), message);
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Needs {
    /// Of a component of diffusers, by the name of its class.
    fn of_component(class: &str) -> Needs {
        let is = |ends: &[&str]| ends.iter().any(|end| class.ends_with(end));
        match class {
            // Other runtimes' weights are told of by their names.
            _ if ["Flax", "Onnx", "OV"].iter().any(|start| class.starts_with(start)) => Needs::Nothing,
            _ if is(&["Scheduler"]) => Needs::OneOf(&["scheduler_config.json"]),
            _ if is(&["Tokenizer", "TokenizerFast"]) => Needs::OneOf(&[
                "tokenizer.json",
                "vocab.json",
                "vocab.txt",
                "spiece.model",
                "tokenizer.model",
                "sentencepiece.bpe.model",
            ]),
            _ if is(&["FeatureExtractor", "ImageProcessor", "ImageProcessorFast", "VideoProcessor"]) => {
                Needs::OneOf(&["preprocessor_config.json", "processor_config.json"])
            }
            _ if is(&[
                "Model",
                "Encoder",
                "Decoder",
                "Checker",
                "Adapter",
                "Generation",
                "CausalLM",
                "Projection",
                "Vocoder",
            ]) || ["Model", "Autoencoder", "UNet", "Transformer"].iter().any(|part| class.contains(part)) =>
            {
                Needs::Weights
            }
            _ => Needs::Nothing,
        }
    }

    /// Of a module of sentence-transformers.
    fn of_module(class: &str) -> Needs {
        match class {
            "Transformer" | "MLMTransformer" | "CLIPModel" | "Dense" | "LayerNorm" | "WeightedLayerPooling" => {
                Needs::Weights
            }
            "StaticEmbedding" | "LSTM" | "CNN" | "WordEmbeddings" => Needs::WeightsAlone,
            "Pooling" => Needs::OneOf(&[CONFIG]),
            _ => Needs::Nothing,
        }
    }
}

/// What a file of the folder holds, or why that is not what was expected.
fn read<T: DeserializeOwned>(opened: &Opened, name: &str) -> std::result::Result<T, String> {
    let read = opened.settings(name).map_err(|e| e.to_string())?;
    read.ok_or_else(|| "it is not there".to_owned())
}
