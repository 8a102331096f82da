//! Gated MLPs.

use super::layer::Layer;
use super::mlp_of::Of;
use super::ops;
use crate::architecture::channel_mixer::GatedMlp;
use crate::architecture::module::MlpRole;
use crate::error::Result;
use crate::neuron::Side;
use candle_core::{D, Tensor};

impl Layer<'_, '_, '_> {
    /// down(act(gate(x)) * up(x)); (groups, positions, hidden) in and out.
    pub(super) fn gated_mlp(&mut self, mlp: &GatedMlp, x: &Tensor, of: &Of) -> Result<Tensor> {
        let (gate, up) = if mlp.is_fused() {
            let both = self.linear_of(MlpRole::GateUp, x, of)?;
            let wide = mlp.intermediate_size;
            (both.narrow(D::Minus1, 0, wide)?, both.narrow(D::Minus1, wide, wide)?)
        } else {
            let gate = self.linear_of(MlpRole::Gate, x, of)?;
            (gate, self.linear_of(MlpRole::Up, x, of)?)
        };
        let of_activation =
            mlp.names.activation.map(|_| self.weights.module(of.role(MlpRole::Activation))).transpose()?;
        let see = |layer: &mut Self, side, x| match of_activation {
            Some(module) => layer.at(&module.path, side, x, of.among()),
            None => Ok(x),
        };
        let gate = see(self, Side::In, gate)?;
        let gate = mlp.limit.map_or_else(|| Ok(gate.clone()), |limit| gate.minimum(limit))?;
        let gate = see(self, Side::Out, ops::activation(&gate, mlp.activation)?)?;
        let up = mlp.limit.map_or_else(|| Ok(up.clone()), |limit| up.clamp(-limit, limit)? + 1.0)?;
        self.linear_of(MlpRole::Down, &(gate * up)?, of)
    }

    fn linear_of(&mut self, part: MlpRole, x: &Tensor, of: &Of) -> Result<Tensor> {
        let module = self.weights.module(of.role(part))?;
        let x = self.at(&module.path, Side::In, x.clone(), of.among())?;
        self.at(&module.path, Side::Out, module.linear(&x)?, of.among())
    }
}
