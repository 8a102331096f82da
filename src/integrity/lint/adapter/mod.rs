//! An adapter: its tensors against each other, against its config, and against its base where that is given.

mod base;
mod config;
mod layers;
mod modules;
mod parts;
mod targets;

use super::check::Check;
use super::index::Model;
use super::observation::{Found, Location};
use super::weights::Weights;
use super::{dtype, folder::File, index};
use crate::checkpoint::Opened;
use crate::checkpoint::kind::ADAPTER_CONFIG;
use crate::escape::printable;
pub use base::Base;
use config::AdapterConfig;
use modules::Modules;

/// Whether a tensor is a part of a change of low rank, or of another that adapters make, by its name.
pub(super) fn is_of_adapter(tensor: &str) -> bool {
    parts::Named::of(tensor).is_some_and(|named| named.part != "alpha")
}

/// Looks at an adapter's tensors, but for their values.
pub(super) fn examine<'a>(
    opened: &Opened,
    files: &[File],
    (model, weights): (&Model<'a, 'a>, &Weights<'a>),
    base: Option<&Base>,
    found: &mut Found,
) {
    let at = || Location::file(ADAPTER_CONFIG);
    dtype::compare(opened, files, weights, found);
    index::empty(model, found);
    let modules = Modules::of(weights);
    let config = match opened.config().map(|config| config.map(|config| AdapterConfig::read(config))) {
        Ok(Some(Ok(config))) => Some(config),
        Ok(Some(Err(e))) => {
            found.say(Check::ConfigRefused, at(), format!("the weights were not compared with it: {e}"));
            None
        }
        Ok(None) => {
            let message = format!("holds an adapter's weights and no {ADAPTER_CONFIG}");
            found.say(Check::ConfigMissing, Location::default(), message);
            None
        }
        Err(e) => {
            found.say(Check::ConfigInvalid, at(), format!("cannot be read: {e}"));
            None
        }
    };
    modules.compare_parts(config.as_ref(), found);
    let Some(config) = config.filter(|_| model.lost.nothing()) else { return };
    if !config.is_known() {
        let message = format!("static audit only: adapters of the type {:?} are not known here", config.kind);
        return found.say(Check::ConfigUnknown, at(), printable(&message));
    }
    if config.is_of_prompts() {
        modules.compare_prompts(&config, found);
    } else {
        targets::compare(&modules, &config, base, found);
        if config.is_of_all_layers() && base.is_none() {
            layers::compare(&modules, found);
        }
    }
    match base {
        Some(base) => base.compare(&modules, &config, found),
        None => {
            let of = config.text("base_model_name_or_path").unwrap_or("a base that is not named");
            let message = format!(
                "changes {of}, which was not given (--base): whether its modules are there and shapes fit was not looked at"
            );
            found.say(Check::AdapterAlone, at(), printable(&message));
        }
    }
}

/// Looks at the parts of changes among weights beside which no config lies; whether there are any.
pub(super) fn examine_parts(weights: &Weights, found: &mut Found) -> bool {
    let modules = Modules::of(weights);
    modules.compare_parts(None, found);
    !modules.changed.is_empty()
}
