//! Where spares can be: gated MLPs whose output enters the residual stream as it is.

use crate::architecture::Recipe;
use crate::architecture::module::{MixerKind, MlpOf, MlpRole, Module, ModuleKind, Role};
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::neuron::{Neuron, Side, Site};

/// The MLP of a layer, and where what it adds to can be seen.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub layer: usize,
    gate: (Site, usize),
    up: (Site, usize),
    /// What goes into its gate.
    pub input: Site,
    /// What goes into its down projection: the intermediate neurons.
    pub inner: Site,
    /// Its down projection's output.
    pub output: Site,
    /// The residual stream after the layer.
    pub after: Site,
    /// How many intermediate neurons it has.
    pub neurons: usize,
    /// What its output is multiplied by before it is added.
    pub multiplier: f64,
}

impl Place {
    /// That of a layer; none where its MLP cannot hold a spare: all of it are experts that not every position goes through,
    /// its output is normed or gated, it has biases, or it cuts off what is large.
    pub fn of(recipe: &Recipe, layer: usize) -> Result<Option<Place>> {
        if recipe.block.channel.norm_after.is_some() || recipe.layer_scale || recipe.layer_inputs.is_some() {
            return Ok(None);
        }
        let modules = recipe.layer_modules(layer);
        if modules.iter().any(|module| module.role == Role::SharedGate) {
            return Ok(None);
        }
        let is_down = |module: &&Module| {
            let whose = |of| module.role == Role::Mlp { part: MlpRole::Down, of };
            whose(MlpOf::Layer) || whose(MlpOf::Shared)
        };
        let Some(down) = modules.iter().find(is_down) else { return Ok(None) };
        let Some([gate, up]) = recipe.gate_and_up(down) else { return Ok(None) };
        let has_bias = [down, &gate.0, &up.0].iter().any(|module| module.kind != (ModuleKind::Linear { bias: false }));
        if has_bias || recipe.layers[layer].channel_mixer.mlp().limit.is_some() {
            return Ok(None);
        }
        let after = match recipe.layers.get(layer + 1) {
            None => Some(recipe.final_norm.to_owned()),
            Some(_) => {
                let next = recipe.layer_modules(layer + 1).into_iter();
                next.into_iter().find(|module| module.role == Role::NormBefore(MixerKind::Token)).map(|norm| norm.path)
            }
        };
        let Some(after) = after else { return Ok(None) };
        let site = |path: &str, side| -> Result<Site> { Ok(Site { module: path.parse()?, side }) };
        Ok(Some(Place {
            layer,
            input: site(&gate.0.path, Side::In)?,
            gate: (site(&gate.0.path, Side::Out)?, gate.1),
            up: (site(&up.0.path, Side::Out)?, up.1),
            inner: site(&down.path, Side::In)?,
            output: site(&down.path, Side::Out)?,
            after: site(&after, Side::In)?,
            neurons: down.inputs,
            multiplier: recipe.block.residual_multiplier.unwrap_or(1.0),
        }))
    }

    /// Checks that its weights are stored as themselves.
    ///
    /// # Errors
    /// One is packed, or missing.
    pub fn check_is_plain(&self, tensors: &Tensors) -> Result<()> {
        for line in self.lines(0) {
            let weight = tensors.weight(&format!("{}.weight", line.site.module))?;
            if weight.is_packed() {
                let problem = format!(
                    "is packed as {}, which cannot hold a spare's values; harden the model it was quantized from, then \
                     quantize that",
                    weight.format()
                );
                return Err(Error::tensor(tensors.root(), weight.name(), problem));
            }
        }
        Ok(())
    }

    /// The gate's row of an intermediate neuron, the one that meets it, and the column of the down projection.
    pub fn lines(&self, neuron: usize) -> [Neuron; 3] {
        let of = |site: &Site, channel| Neuron { site: site.clone(), channel };
        [of(&self.gate.0, self.gate.1 + neuron), of(&self.up.0, self.up.1 + neuron), of(&self.inner, neuron)]
    }
}

/// The layer whose MLP, or an expert of it, `neuron` is an output of: what can be spared.
///
/// # Errors
/// It is something else; the message says why that cannot be spared.
pub(super) fn layer_of(recipe: &Recipe, neuron: &Neuron) -> Result<usize> {
    let refused = |problem: &str| Error::Name { what: "neuron", text: neuron.to_string(), problem: problem.into() };
    let module = recipe.module(&neuron.site.module).ok_or_else(|| refused("this model has no such module"))?;
    let is_down = matches!(module.role, Role::Mlp { part: MlpRole::Down, of: MlpOf::Layer | MlpOf::Shared });
    match (neuron.site.side, module.layer, module.role) {
        (Side::Out, Some(layer), _) if is_down && neuron.channel < module.outputs => Ok(layer),
        (Side::Out, _, Role::NormAfter(_) | Role::NormBefore(_) | Role::FinalNorm) => Err(refused(
            "a norm's channel acts on every position, and no later neuron can stand in for it; only outputs of down_proj \
             can be spared: guard this one with a vault instead",
        )),
        (Side::Out, _, Role::Attention(_)) => Err(refused(
            "a channel of attention acts within its layer, before any later neuron could stand in for it; only outputs of \
             down_proj can be spared: guard this one with a vault instead",
        )),
        _ => Err(refused("only outputs of down_proj can be spared; guard this one with a vault instead")),
    }
}
