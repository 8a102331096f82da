//! The modules that an adapter's config names, against those that its weights change, and the reverse.

use super::base::Base;
use super::config::{AdapterConfig, HEADS_OF_TASKS, Pattern, Targets, ends, ends_in, is_head};
use super::modules::{Modules, path};
use super::parts::Named;
use crate::architecture::names;
use crate::checkpoint::kind::ADAPTER_CONFIG;
use crate::escape::printable;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::header::StoredTensor;
use crate::integrity::lint::observation::{Found, Location};
use crate::integrity::lint::stored::{at, tell_extra};
use serde_json::json;
use std::collections::BTreeSet;

/// Compares them. A module that the base lacks may be named, where that is known.
pub(super) fn compare(modules: &Modules, config: &AdapterConfig, base: Option<&Base>, found: &mut Found) {
    if modules.changed.is_empty() && modules.whole.is_empty() {
        return;
    }
    let changed: Vec<&str> = modules.changed.keys().map(|module| path(module)).collect();
    let whole: Vec<&str> = modules.whole.iter().map(|(_, tensor)| whole_path(&tensor.name)).collect();
    let stored: BTreeSet<&str> = changed.iter().chain(&whole).copied().collect();
    for (module, parts) in &modules.changed {
        if let Some(part) = parts.iter().find(|(named, _)| is_untargeted(module, named, config)) {
            let (shard, tensor) = part.1;
            let message = format!("changes {}, which the config does not name: loaders leave it out", path(module));
            found.say(Check::AdapterTarget, at(shard, tensor), printable(&message));
        }
    }
    for place in &modules.whole {
        if !is_saved(*place, config) {
            tell_extra(*place, found);
        }
    }
    let mut lacks = |key: &str, name: &str| {
        let message = format!("{key} names {name}, and the weights hold nothing for it");
        let evidence = json!({"key": key, "name": name});
        found.add(Check::AdapterTarget, Location::file(ADAPTER_CONFIG), printable(&message), evidence);
    };
    let of_base: Option<BTreeSet<&str>> = base.map(|base| base.modules().flat_map(ends).collect());
    let is_in_base = |name: &str| of_base.as_ref().is_none_or(|ends| ends.contains(name));
    let of_stored: BTreeSet<&str> = stored.iter().flat_map(|module| ends(module)).collect();
    let has = |name: &str| of_stored.contains(name);
    if let Targets::Pattern(Pattern::Ends(names)) = &config.targets {
        let is_excluded = |name: &str| config.excluded.as_ref().is_some_and(|of| of.matches(name) != Some(false));
        let lacking = names.iter().filter(|name| !has(name) && is_in_base(name) && !is_excluded(name));
        lacking.for_each(|name| lacks("target_modules", name));
    }
    for name in config.names("target_parameters") {
        let parent = name.rsplit_once('.').map_or(name, |(parent, _)| parent);
        if !has(parent) {
            lacks("target_parameters", name);
        }
    }
    for (key, pattern) in config.unused_patterns(&changed) {
        lacks(key, pattern);
    }
    let within: BTreeSet<&str> = whole.iter().flat_map(|module| within(module)).collect();
    let has_saved = |name: &str| within.contains(name);
    let is_of_task = |name: &str| HEADS_OF_TASKS.contains(&name) && HEADS_OF_TASKS.iter().any(|other| has_saved(other));
    for name in config.saved.iter().filter(|name| !has_saved(name) && !is_of_task(name)) {
        let message = format!("is missing, and modules_to_save names it: {name} would be as it is in the base");
        found.say(Check::TensorMissing, Location::file(ADAPTER_CONFIG).tensor(name), printable(&message));
    }
    let tokens = modules.changed.values().flatten().any(|(named, _)| named.part.starts_with("trainable_tokens_"));
    if config.has("trainable_token_indices") && !tokens {
        let message = "is missing, and trainable_token_indices names tokens of the embedding";
        found.say(Check::TensorMissing, Location::file(ADAPTER_CONFIG).tensor("trainable_tokens_delta"), message);
    }
    unread(config, found);
}

/// Tells of what the config says and nothing was compared with.
fn unread(config: &AdapterConfig, found: &mut Found) {
    if let Targets::Pattern(Pattern::Whole(text, Err(error))) = &config.targets {
        let (check, problem) = match **error {
            fancy_regex::Error::ParseError(..) => {
                (Check::ConfigRefused, "is no regular expression, and PEFT refuses it")
            }
            _ => (Check::ConfigUnknown, "is no regular expression that is read here: nothing was compared"),
        };
        let message = format!("target_modules, {text:?}, {problem}");
        found.say(check, Location::file(ADAPTER_CONFIG), printable(&message));
    }
    let targets = match &config.targets {
        Targets::Pattern(Pattern::Ends(names)) => names,
        _ => return,
    };
    let forward = config.names("feedforward_modules");
    if let Some(name) = forward.iter().find(|name| !targets.contains(**name)) {
        let message = format!("feedforward_modules names {name}, which target_modules does not: PEFT refuses it");
        found.say(Check::ConfigRefused, Location::file(ADAPTER_CONFIG), printable(&message));
    }
}

/// Whether a change is of a module that the config does not name.
fn is_untargeted(module: &str, named: &Named, config: &AdapterConfig) -> bool {
    // What all modules share lies at the top; rows of the embedding are named by their numbers.
    if module == "base_model" || named.part.starts_with("trainable_tokens_") && config.has("trainable_token_indices") {
        return false;
    }
    let of_parameter = |name: &str| name.rsplit_once('.').is_some_and(|(parent, _)| ends_in(path(module), parent));
    if config.names("target_parameters").into_iter().any(of_parameter) {
        return false;
    }
    // What is linear in the base is not told by the adapter.
    config.is_target(path(module), !is_head(path(module))) == Some(false)
}

/// The module that a tensor that is saved whole is of.
fn whole_path(tensor: &str) -> &str {
    path([".weight", ".bias"].iter().find_map(|end| tensor.strip_suffix(end)).unwrap_or(tensor))
}

/// All paths that a module ends in, and those of what it lies in.
fn within(module: &str) -> impl Iterator<Item = &str> {
    ends(module).flat_map(|end| {
        let inner = end.match_indices('.').map(|(dot, _)| &end[..dot]);
        inner.chain(std::iter::once(end))
    })
}

/// Whether a tensor that is no part of a change has its place in the adapter.
fn is_saved((_, tensor): StoredTensor, config: &AdapterConfig) -> bool {
    let module = whole_path(&tensor.name);
    let has_biases = config.text("bias").is_some_and(|bias| bias != "none");
    within(module).any(|part| config.saved.contains(part))
        || has_biases && tensor.name.ends_with(".bias")
        // PEFT saves them where their vocabulary grew.
        || names::has_a_row_a_token(&format!("{module}.weight"))
        || config.kind == "LN_TUNING"
}
