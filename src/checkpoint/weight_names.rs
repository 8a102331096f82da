//! What the files of one set of weights are called: those that one loader takes.

use super::index::{INDEX, SINGLE, shard_stem};
use crate::files;
use std::collections::BTreeMap;
use std::path::Path;

/// A file, or the shards that an index lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightNames {
    /// Of weights that are one file: `model.safetensors`.
    pub single: String,
    /// Of the index of several: `model.safetensors.index.json`.
    pub index: String,
}

/// What libraries call the weights of a folder, the first that is there first: transformers, PEFT, diffusers.
const STEMS: [&str; 3] = [MODEL, ADAPTER, DIFFUSERS];
const MODEL: &str = "model";
const ADAPTER: &str = "adapter_model";
const DIFFUSERS: &str = "diffusion_pytorch_model";

impl Default for WeightNames {
    /// Those of transformers.
    fn default() -> WeightNames {
        WeightNames { single: SINGLE.into(), index: INDEX.into() }
    }
}

impl WeightNames {
    /// Those that loaders look for in a folder that holds files of these names; transformers' where there are none. Of
    /// variants (`model.fp16.safetensors`) transformers takes none unless it is told to.
    pub fn of_folder<'n>(names: impl Iterator<Item = &'n str>) -> WeightNames {
        let sets = WeightNames::sets(names);
        let find = |is: &dyn Fn(&WeightNames, &str) -> bool| {
            STEMS.iter().find_map(|stem| sets.iter().map(|(set, _)| set).find(|set| is(set, stem)))
        };
        let plain = find(&|set, stem| set.stem() == stem);
        let found = plain.or_else(|| find(&|set, stem| set.is_variant_of(stem) && !set.is_variant_of(MODEL)));
        found.cloned().unwrap_or_default()
    }

    /// Those of PEFT.
    pub fn of_adapter() -> WeightNames {
        WeightNames::of_stem(ADAPTER)
    }

    /// Those of diffusers.
    pub fn of_diffusers() -> WeightNames {
        WeightNames::of_stem(DIFFUSERS)
    }

    fn of_stem(stem: &str) -> WeightNames {
        WeightNames { single: format!("{stem}{END}"), index: format!("{stem}{END}.index.json") }
    }

    /// Whether a folder holds weights that a library looks for.
    pub fn is_there(folder: &Path) -> bool {
        let names = files::names_in(folder);
        WeightNames::sets(names.iter().map(String::as_str)).iter().any(|(set, _)| set.are_usual())
    }

    /// All sets of a folder, whatever they are called, each with the names of its files.
    pub fn sets<'n>(names: impl Iterator<Item = &'n str>) -> Vec<(WeightNames, Vec<&'n str>)> {
        let mut sets: BTreeMap<String, (Option<&str>, Vec<&str>)> = BTreeMap::new();
        for name in names {
            let (stem, index) = match (stem_of_index(name), name.strip_suffix(END)) {
                (Some(stem), _) => (stem, Some(name)),
                (None, Some(stem)) => (shard_stem(name).unwrap_or_else(|| stem.to_owned()), None),
                (None, None) => continue,
            };
            let set = sets.entry(stem).or_default();
            set.0 = set.0.or(index);
            set.1.push(name);
        }
        let names = |(stem, (index, files)): (String, (Option<&str>, _))| {
            let usual = WeightNames::of_stem(&stem);
            (WeightNames { index: index.map_or(usual.index, str::to_owned), ..usual }, files)
        };
        sets.into_iter().map(names).collect()
    }

    /// Whether a library looks for weights of this name, or of a variant of it (`model.fp16.safetensors`).
    pub fn are_usual(&self) -> bool {
        STEMS.iter().any(|stem| self.stem() == *stem || self.is_variant_of(stem))
    }

    /// Whether they are an adapter's.
    pub fn are_of_adapter(&self) -> bool {
        self.stem() == ADAPTER || self.is_variant_of(ADAPTER)
    }

    /// The names without what they all end in.
    pub fn stem(&self) -> &str {
        self.single.strip_suffix(END).unwrap_or(&self.single)
    }

    fn is_variant_of(&self, stem: &str) -> bool {
        let variant = self.stem().strip_prefix(stem).and_then(|rest| rest.strip_prefix('.'));
        variant.is_some_and(|variant| !variant.is_empty() && !variant.contains('.'))
    }
}

const END: &str = ".safetensors";

/// The stem of the set that an index of this name belongs to. Where there is a variant, transformers and diffusers put it
/// into different places.
fn stem_of_index(name: &str) -> Option<String> {
    let (stem, rest) = name.strip_suffix(".json")?.split_once(".safetensors.")?;
    match rest.split('.').collect::<Vec<_>>().as_slice() {
        ["index"] => Some(stem.to_owned()),
        ["index", variant] | [variant, "index"] => Some(format!("{stem}.{variant}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_are_there_are_found() {
        let of = |names: &[&str]| WeightNames::of_folder(names.iter().copied());
        let single = |names: &[&str]| of(names).single;
        assert_eq!(of(&["config.json"]), WeightNames::default());
        assert_eq!(of(&["other.safetensors"]), WeightNames::default());
        assert_eq!(of(&["adapter_model.safetensors", "model.safetensors"]), WeightNames::default());
        assert_eq!(single(&["adapter_model.safetensors", "adapter_config.json"]), "adapter_model.safetensors");
        assert_eq!(single(&["model.fp16.safetensors"]), "model.safetensors");
        assert_eq!(single(&["model.fp16.safetensors", "model.safetensors"]), "model.safetensors");
        for index in [
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.safetensors.fp16.index.json",
        ] {
            let found = of(&[index, "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"]);
            let fp16 = "diffusion_pytorch_model.fp16.safetensors".to_owned();
            assert_eq!(found, WeightNames { single: fp16, index: index.into() });
        }
        assert!(of(&["diffusion_pytorch_model-00001-of-00002.fp16.safetensors"]).single.contains("fp16"));
    }

    #[test]
    fn every_file_of_weights_is_in_one_set() {
        let names = [
            "b-00001-of-00002.safetensors",
            "b-00002-of-00002.safetensors",
            "a.safetensors",
            "b.json",
            "b.safetensors.index.json",
        ];
        let sets = WeightNames::sets(names.into_iter());
        let files: Vec<(&str, &[&str])> = sets.iter().map(|(set, files)| (set.stem(), files.as_slice())).collect();
        assert_eq!(files, [("a", &names[2..3]), ("b", &[names[0], names[1], names[4]])]);
        assert!(!sets.iter().any(|(set, _)| set.are_usual()));
    }
}
