//! The checkpoints in a folder: the model that it is, an adapter, the components of a pipeline, models in folders below,
//! and weights beside which no config lies. Each is examined by itself.

use super::check::Check;
use super::folder::File;
use super::header::FolderShard;
use super::listed::Listed;
use super::observation::{Found, Location};
use crate::checkpoint::kind::{ADAPTER_CONFIG, MODULES, PIPELINE};
use crate::checkpoint::weight_names::WeightNames;
use crate::checkpoint::{CONFIG, Opened};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A checkpoint in the folder.
pub(super) struct Component<'o> {
    /// The folder that it lies in, below the whole one, with a slash at its end; empty for that itself.
    pub prefix: String,
    pub kind: Kind,
    opened: Own<'o>,
    /// Its files, by their names in its folder.
    pub files: Vec<File>,
}

/// What a checkpoint's files are read from: nothing of the whole folder's own is read twice.
enum Own<'o> {
    Whole(&'o Opened),
    Part(Box<Opened>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A config.json and what it describes.
    Model,
    /// An adapter of PEFT.
    Adapter,
    /// Weights beside which no config lies.
    Alone,
}

impl Component<'_> {
    pub fn opened(&self) -> &Opened {
        match &self.opened {
            Own::Whole(opened) => opened,
            Own::Part(opened) => opened,
        }
    }

    /// The names of its files of weights, in its folder.
    fn weights(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str()).filter(|name| name.ends_with(".safetensors"))
    }

    /// Its own of all safetensors files.
    pub fn shards<'c>(&'c self, all: &HashMap<&str, &FolderShard>) -> Vec<FolderShard<'c>> {
        let whole = |file: &File| format!("{}{}", self.prefix, file.name);
        self.files.iter().filter_map(|file| Some(all.get(whole(file).as_str())?.called(file))).collect()
    }
}

/// The names of the files of a set of weights, and what is made of them.
type Set<'n> = (WeightNames, Vec<&'n str>);

/// All checkpoints of what was opened, that of the folder itself first.
pub(super) fn all<'o>(opened: &'o Opened, files: &[File], listed: &Listed) -> Vec<Component<'o>> {
    if opened.is_file() {
        let part = opened.part(opened.base(), None, opened.weight_names().clone());
        let files = files.iter().map(|file| file.within("")).collect();
        return vec![Component { prefix: String::new(), kind: Kind::Alone, opened: Own::Part(Box::new(part)), files }];
    }
    let mut folders: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
    for file in files {
        let end = file.name.rfind('/').map_or(0, |at| at + 1);
        folders.entry(&file.name[..end]).or_default().push(file);
    }
    folders.into_iter().flat_map(|(prefix, here)| in_folder(opened, (prefix, &here), listed)).collect()
}

/// Variants of a component's weights, such as half precision; more are none.
const MOST_VARIANTS: usize = 16;

/// Those of one folder.
fn in_folder<'o>(opened: &'o Opened, (prefix, here): (&str, &[&File]), listed: &Listed) -> Vec<Component<'o>> {
    let names = || here.iter().map(|file| &file.name[prefix.len()..]);
    let has = |wanted: &str| names().any(|name| name == wanted);
    let sets = WeightNames::sets(names());
    let (of_adapter, mut others): (Vec<Set>, Vec<Set>) = sets.into_iter().partition(|(set, _)| set.are_of_adapter());
    let mut components = Vec::new();
    let by_name: BTreeMap<&str, &File> = names().zip(here.iter().copied()).collect();
    let is_weights = |name: &str| !WeightNames::sets(std::iter::once(name)).is_empty();
    let beside: Vec<&str> = names().filter(|name| !is_weights(name)).collect();
    let mut add = |kind, config: Option<&'static str>, weights: WeightNames, own: &[&str]| {
        let beside = config.iter().flat_map(|_| &beside);
        let files = own.iter().chain(beside).filter_map(|name| Some(by_name.get(name)?.within(prefix)));
        let mut files: Vec<File> = files.collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let own = match prefix.is_empty() && kind == Kind::Model && weights == *opened.weight_names() {
            true => Own::Whole(opened),
            false => Own::Part(Box::new(opened.part(&opened.root().join(prefix), config, weights))),
        };
        components.push(Component { prefix: prefix.to_owned(), kind, opened: own, files });
    };
    let own = WeightNames::of_folder(names().filter(|name| !of_adapter.iter().any(|(_, of)| of.contains(name))));
    let needs_weights = listed.needs_weights(prefix);
    let is_there = others.iter().any(|(set, _)| *set == own);
    let variant = || others.iter().map(|(set, _)| set).find(|set| needs_weights && set.are_usual());
    let found = if is_there { Some(own) } else { variant().cloned() };
    let has_own = found.is_some();
    let own = found.unwrap_or_else(|| listed.weight_names(prefix));
    let is_model = match (has(CONFIG), prefix.is_empty()) {
        (true, true) => has_own || !listed.is_of_others(),
        (true, false) => has_own || needs_weights,
        (false, true) => has_own && !listed.needs_no_config(prefix),
        (false, false) => has_own && needs_weights && !listed.needs_no_config(prefix),
    };
    if is_model {
        let of_libraries: Vec<Set> = match needs_weights && !prefix.is_empty() {
            true => others.iter().filter(|(set, _)| set.are_usual()).cloned().collect(),
            false => Vec::new(),
        };
        match of_libraries.as_slice() {
            // Of a pipeline's component every variant is whole.
            [_, _, ..] if of_libraries.len() <= MOST_VARIANTS => {
                others.retain(|(set, _)| !set.are_usual());
                of_libraries.into_iter().for_each(|(set, own)| add(Kind::Model, Some(CONFIG), set, &own));
            }
            _ => {
                let all: Vec<&str> = std::mem::take(&mut others).into_iter().flat_map(|(_, files)| files).collect();
                add(Kind::Model, Some(CONFIG), own, &all);
            }
        }
    }
    if has(ADAPTER_CONFIG) || !of_adapter.is_empty() {
        let all: Vec<&str> = of_adapter.iter().flat_map(|(_, files)| files).copied().collect();
        let weights = of_adapter.into_iter().next().map_or_else(WeightNames::of_adapter, |(set, _)| set);
        add(Kind::Adapter, Some(ADAPTER_CONFIG), weights, &all);
    }
    others.into_iter().for_each(|(set, own)| add(Kind::Alone, None, set, &own));
    components
}

/// Tells of checkpoints that are not what the folder is, or that nothing says what they should be; of what lies in one
/// folder once.
pub(super) fn tell(components: &[Component], listed: &Listed, found: &mut Found) {
    components.iter().filter(|component| component.prefix.is_empty()).for_each(|own| alone(own, found));
    let mut nested: BTreeMap<&str, Vec<&Component>> = BTreeMap::new();
    for component in components.iter().filter(|one| !one.prefix.is_empty() && !listed.is_listed(&one.prefix)) {
        nested.entry(&component.prefix).or_default().push(component);
    }
    for (prefix, here) in nested {
        let mut say = |name: &str, message: &str| {
            found.say(Check::NestedModel, Location::file(format!("{prefix}{name}")), message);
        };
        let (adapters, others): (Vec<&Component>, Vec<&Component>) =
            here.iter().partition(|component| component.kind == Kind::Adapter);
        if !adapters.is_empty() {
            say(
                ADAPTER_CONFIG,
                "is of an adapter in a folder of its own, which loaders put on a model where it is named",
            );
        }
        let weights: BTreeSet<&str> = others.iter().flat_map(|component| component.weights()).collect();
        let Some(first) = weights.first() else { continue };
        let which = match weights.len() {
            1 => "holds weights".to_owned(),
            count => format!("is the first of {count} files of weights"),
        };
        let what = match others.iter().any(|component| component.kind == Kind::Model) {
            true => "its chat template was not tried, and signs of a lesion not looked for",
            false => "no config was held against them",
        };
        say(first, &format!("{which} in a folder of their own, which are loaded where that is named; {what}"));
    }
}

fn alone(component: &Component, found: &mut Found) {
    if let (Kind::Alone, Some(first)) = (component.kind, component.weights().next()) {
        let message = "no config says what tensors these weights should have: they were examined by themselves";
        found.say(Check::WeightsAlone, Location::file(first), message);
    }
}

/// Whether a file is the config or the index of one of them, of which it is told where it is read.
pub(super) fn is_settings(components: &[Component], file: &str) -> bool {
    let of = |component: &Component| {
        let config = match component.kind {
            Kind::Model => CONFIG,
            Kind::Adapter => ADAPTER_CONFIG,
            Kind::Alone => "",
        };
        let name = file.strip_prefix(component.prefix.as_str());
        name.is_some_and(|name| name == config || name == component.opened().weight_names().index)
    };
    components.iter().any(of) || [PIPELINE, MODULES].contains(&file)
}
