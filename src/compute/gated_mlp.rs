//! Gated MLPs.

use super::experts::Among;
use super::layer::Layer;
use super::ops;
use crate::architecture::channel_mixer::GatedMlp;
use crate::architecture::module::{MlpRole, Role};
use crate::error::Result;
use crate::neuron::Side;
use candle_core::{D, Tensor};

impl Layer<'_, '_, '_> {
    /// down(act(gate(x)) * up(x)); (groups, positions, hidden) in and out. With `among`, the MLP is an expert's, and x
    /// holds only some positions of the chunk: those it lists, as one group.
    pub(super) fn gated_mlp(&mut self, mlp: &GatedMlp, x: &Tensor, among: Option<&Among>) -> Result<Tensor> {
        let role = |part| Role::Mlp { part, expert: among.map(|among| among.expert) };
        let (gate, up) = if mlp.is_fused() {
            let both = self.linear_among(role(MlpRole::GateUp), x, among)?;
            let wide = mlp.intermediate_size;
            (both.narrow(D::Minus1, 0, wide)?, both.narrow(D::Minus1, wide, wide)?)
        } else {
            let gate = self.linear_among(role(MlpRole::Gate), x, among)?;
            (gate, self.linear_among(role(MlpRole::Up), x, among)?)
        };
        let gate = match mlp.names.activation {
            None => ops::activation(&gate, mlp.activation)?,
            Some(_) => {
                let activation = &self.weights.module(role(MlpRole::Activation))?.path;
                let gate = self.at(activation, Side::In, gate, among)?;
                self.at(activation, Side::Out, ops::activation(&gate, mlp.activation)?, among)?
            }
        };
        self.linear_among(role(MlpRole::Down), &(gate * up)?, among)
    }

    fn linear_among(&mut self, role: Role, x: &Tensor, among: Option<&Among>) -> Result<Tensor> {
        let module = self.weights.module(role)?;
        let x = self.at(&module.path, Side::In, x.clone(), among)?;
        self.at(&module.path, Side::Out, module.linear(&x)?, among)
    }
}
