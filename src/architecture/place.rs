//! What a neuron is in the file: a row, a column or an element of a tensor.

use crate::checkpoint::Tensors;
pub use crate::checkpoint::packing::Axis;
use crate::neuron::{Neuron, Side};
use std::fmt;

/// The part of one tensor whose change changes one neuron and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The tensor's name.
    pub tensor: String,
    /// The tensor's shape.
    pub shape: Vec<usize>,
    /// Along which axis the part lies.
    pub axis: Axis,
    /// Which row, column or element.
    pub index: usize,
}

impl Place {
    /// Whether it is an element of a module's bias.
    pub fn is_bias(&self) -> bool {
        self.axis == Axis::Element && self.tensor.ends_with(".bias")
    }

    /// Whether it is an element of a norm's weight: no other weight is a vector.
    pub fn is_norm(&self) -> bool {
        self.axis == Axis::Element && !self.is_bias()
    }
}

impl Place {
    /// In words, by the name that the file has for the tensor.
    pub fn in_file(&self, stored_as: &str) -> String {
        format!("{} {} of {stored_as} {:?}", self.axis.as_str(), self.index, self.shape)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_file(&self.tensor))
    }
}

/// Finds what `neuron` is in the file; none where no single tensor holds it alone (the input of a norm, a q/k norm
/// that all heads share, the embedding of a tied head).
pub fn place(neuron: &Neuron, tensors: &Tensors) -> Option<Place> {
    parts(neuron, tensors).into_iter().next()
}

/// Everything that a factor on `neuron` multiplies: the part that [`place`] finds, then the element of the bias where
/// the module has one. Empty where there is no such part.
pub fn parts(neuron: &Neuron, tensors: &Tensors) -> Vec<Place> {
    let module = neuron.site.module.as_str();
    let shape_of = |tensor: &str| tensors.get(tensor).map(|entry| entry.shape.as_slice());
    let part = |tensor: String, axis: Axis| {
        let shape = shape_of(&tensor)?.to_vec();
        let length = match (axis, shape.as_slice()) {
            (Axis::Row, &[rows, _]) => rows,
            (Axis::Column, &[_, columns]) => columns,
            (Axis::Element, &[elements]) => elements,
            _ => return None,
        };
        (neuron.channel < length).then_some(Place { tensor, shape, axis, index: neuron.channel })
    };
    let weight = format!("{module}.weight");
    let found = if let Some(mlp) = ACTIVATIONS.iter().find_map(|name| module.strip_suffix(name)) {
        // The output of the activation enters the down projection after a product with the up projection's: a factor on
        // it is one on that column. Its input is the gate's output.
        let down = DOWN.iter().map(|name| format!("{mlp}.{name}.weight")).find(|name| tensors.get(name).is_some());
        down.filter(|_| neuron.site.side == Side::Out).and_then(|down| part(down, Axis::Column))
    } else if module == EMBEDDING {
        // Stored [vocabulary, hidden]: a channel is a column. Without a head of its own the model reads logits from it.
        let own = tensors.get(HEAD).is_some() && neuron.site.side == Side::Out;
        own.then(|| part(weight, Axis::Column)).flatten()
    } else {
        match (shape_of(&weight).map_or(0, <[usize]>::len), neuron.site.side) {
            (2, Side::Out) => part(weight, Axis::Row),
            (2, Side::In) => part(weight, Axis::Column),
            (1, Side::Out) if !is_shared_by_heads(module, tensors) => part(weight, Axis::Element),
            _ => None,
        }
    };
    let bias =
        found.as_ref().filter(|p| p.axis == Axis::Row).and_then(|_| part(format!("{module}.bias"), Axis::Element));
    found.into_iter().chain(bias).collect()
}

/// Whether the module is a norm of queries or keys with one weight for all heads.
fn is_shared_by_heads(module: &str, tensors: &Tensors) -> bool {
    let projection = [("q_norm", "q_proj"), ("k_norm", "k_proj")]
        .iter()
        .find_map(|(norm, projection)| module.strip_suffix(norm).map(|start| format!("{start}{projection}.weight")));
    let first = |tensor: &str| tensors.get(tensor).and_then(|entry| entry.shape.first());
    projection.is_some_and(|projection| first(&projection) != first(&format!("{module}.weight")))
}

/// The modules of activations, after the MLP's own name.
const ACTIVATIONS: [&str; 2] = [".act_fn", ".activation_fn"];
/// The projections that read the gated product.
const DOWN: [&str; 2] = ["down_proj", "w2"];
/// The module of the token embedding.
const EMBEDDING: &str = "model.embed_tokens";
/// The tensor of a head of its own.
const HEAD: &str = "lm_head.weight";
