//! Which sites the candidates are on.

use crate::architecture::Recipe;
use crate::architecture::module::{MlpRole, ModuleKind, Role, SiteInfo};
use crate::compute::Model;
use crate::error::{Error, Result};
use crate::neuron::{self, Side};
use std::fmt;
use std::str::FromStr;

/// Parts of a dotted module name that make the published code hook it.
const REFERENCE_NAMES: [&str; 5] = ["mlp", "ffn", "feed_forward", "attention", "self_attn"];

/// Which modules' channels are ranked and masked.
#[derive(Debug, Clone, PartialEq)]
pub enum SiteSelection {
    /// What the published code hooks: leaf modules whose name contains mlp, ffn, feed_forward, attention or self_attn.
    Reference,
    /// The linear ones of these.
    Linear,
    /// The MLPs' last projections.
    DownProj,
    /// The projections that MLPs gate.
    UpProj,
    /// The MLPs' gates.
    GateProj,
    /// The linear modules of attention.
    Attention,
    /// Module paths that match a glob; `*` matches dots too.
    Glob(String),
}

impl fmt::Display for SiteSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SiteSelection::Reference => "reference",
            SiteSelection::Linear => "linear",
            SiteSelection::DownProj => "down_proj",
            SiteSelection::UpProj => "up_proj",
            SiteSelection::GateProj => "gate_proj",
            SiteSelection::Attention => "attention",
            SiteSelection::Glob(glob) => glob,
        })
    }
}

neuron::serialize_as_text!(SiteSelection);

impl FromStr for SiteSelection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "reference" => SiteSelection::Reference,
            "linear" => SiteSelection::Linear,
            "down_proj" => SiteSelection::DownProj,
            "up_proj" => SiteSelection::UpProj,
            "gate_proj" => SiteSelection::GateProj,
            "attention" => SiteSelection::Attention,
            glob => {
                glob_matcher(glob)?;
                SiteSelection::Glob(glob.into())
            }
        })
    }
}

impl SiteSelection {
    /// The model's sites that this choice names, on one side, in the order in which they fire.
    ///
    /// # Errors
    /// No module matches.
    pub fn select<'m>(&self, model: &'m Model, side: Side) -> Result<Vec<&'m SiteInfo>> {
        let sites = self.of(model.recipe(), model.sites(), side)?;
        let in_mlp = |s: &&SiteInfo| matches!(s.module.role, Role::Mlp { .. } | Role::Router);
        if !sites.iter().any(in_mlp) && matches!(self, SiteSelection::Reference | SiteSelection::Linear) {
            tracing::warn!(
                "sites {self} holds no MLP of this model, as in the published code; `--sites '*'` is all of it"
            );
        }
        Ok(sites)
    }

    /// As [`SiteSelection::select`], of a recipe's [`sites`](Recipe::sites).
    ///
    /// # Errors
    /// No module matches.
    pub fn of<'m>(&self, recipe: &Recipe, sites: &'m [SiteInfo], side: Side) -> Result<Vec<&'m SiteInfo>> {
        let published = |path: &str| REFERENCE_NAMES.iter().any(|name| path.contains(name));
        let linear = |info: &SiteInfo| matches!(info.module.kind, ModuleKind::Linear { .. });
        let is_mlp = |info: &SiteInfo, wanted| matches!(info.module.role, Role::Mlp { part, .. } if part == wanted);
        let glob = match self {
            SiteSelection::Glob(glob) => Some(glob_matcher(glob)?),
            _ => None,
        };
        let chosen = |info: &SiteInfo| {
            let path = &info.module.path;
            match self {
                SiteSelection::Reference => published(path),
                SiteSelection::Linear => published(path) && linear(info),
                SiteSelection::DownProj => is_mlp(info, MlpRole::Down),
                SiteSelection::UpProj => is_mlp(info, MlpRole::Up),
                SiteSelection::GateProj => is_mlp(info, MlpRole::Gate),
                SiteSelection::Attention => matches!(info.module.role, Role::Attention(_)) && linear(info),
                SiteSelection::Glob(_) => {
                    glob.as_ref().is_some_and(|g| g.is_match(path) || g.is_match(info.site.module.short()))
                }
            }
        };
        let sites: Vec<&SiteInfo> = sites.iter().filter(|s| s.site.side == side && chosen(s)).collect();
        if sites.is_empty() {
            return Err(Error::Name {
                what: "sites",
                text: self.to_string(),
                problem: format!(
                    "no module matches; expected reference, linear, down_proj, up_proj, gate_proj, attention or a glob over L0 to L{} with {}",
                    recipe.layers.len() - 1,
                    recipe.names_in_layers().join(", ")
                ),
            });
        }
        Ok(sites)
    }
}

fn glob_matcher(glob: &str) -> Result<globset::GlobSet> {
    // Also by the names of a multimodal checkpoint's file, or a base model's.
    let path = neuron::out_of_wrapper(glob).or_else(|| neuron::out_of_base_model(glob));
    let set = crate::glob::set(&[path.as_deref().unwrap_or(glob)]);
    set.map_err(|problem| Error::Name { what: "sites", text: glob.into(), problem })
}
