//! What a pass costs, counted.

use crate::architecture::module::ModuleKind;
use crate::architecture::recipe::{EMBEDDING, LAYER_EMBEDDING};
use crate::architecture::token_mixer::TokenMixer;
use crate::architecture::{Recipe, tensors_of};
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::Weight;

/// What it takes to pass all layers, or the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations of one row: of matrix products, a product and a sum each counted as one.
    pub row_flops: u64,
    /// Bytes of the files that are read of the weights, once.
    pub bytes: u64,
}

impl Work {
    /// Of rows of so many positions: of the layers, and of the head.
    pub fn of(recipe: &Recipe, tensors: &Tensors, positions: usize) -> (Work, Work) {
        let bytes = |name: &String| tensors.weight(name).map_or(0, |weight| stored_bytes(&weight));
        let head = recipe.head_tensor();
        // Of tables only the rows of tokens are read.
        let elsewhere = [EMBEDDING, LAYER_EMBEDDING].map(|table| format!("{table}.weight"));
        let names = tensors_of(recipe, tensors).into_iter().map(|(name, _)| name);
        let of_layers = names.filter(|name| *name != head && !elsewhere.contains(name));
        let layers = 0..recipe.layers.len();
        (
            Work {
                row_flops: layers.map(|layer| layer_flops(recipe, layer, positions as u64)).sum(),
                bytes: of_layers.map(|name| bytes(&name)).sum(),
            },
            Work {
                row_flops: 2 * (recipe.hidden_size * recipe.vocab_size) as u64 * (positions as u64).saturating_sub(1),
                bytes: bytes(&head),
            },
        )
    }
}

/// Floating-point operations of one row through a layer.
pub(super) fn layer_flops(recipe: &Recipe, layer: usize, positions: u64) -> u64 {
    let layer_of = &recipe.layers[layer];
    let mut flops = 0;
    for module in recipe.layer_modules(layer).iter().filter(|m| matches!(m.kind, ModuleKind::Linear { .. })) {
        let whole = 2 * (module.inputs * module.outputs) as u64 * positions;
        flops += match layer_of.channel_mixer.experts().filter(|_| module.role.expert().is_some()) {
            Some(experts) => whole * experts.top_k as u64 / experts.count.max(1) as u64,
            None => whole,
        };
    }
    // Scores and what is mixed by them.
    flops
        + 2 * positions.pow(2)
            * match &layer_of.token_mixer {
                TokenMixer::Attention(a) => 2 * a.query_width() as u64,
                TokenMixer::Latent(a) => (a.heads * (a.head_dim() + a.value_dim)) as u64,
                TokenMixer::GatedDeltaNet(_) | TokenMixer::ShortConvolution(_) => 0,
            }
}

/// Bytes of the files that a weight lies in.
pub(super) fn stored_bytes(weight: &Weight) -> u64 {
    weight.places().unwrap_or_default().into_iter().map(|(_, place)| place.end - place.start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::fixture::opened;

    /// Counted by hand from the config: 3 layers of 40 channels, 4 query and 2 key heads of 10, 56 channels of MLP, a
    /// vocabulary of 97, stored in F32.
    #[test]
    fn a_pass_is_counted() {
        let (checkpoint, recipe) = opened("llama");
        let linear = 40 * (2 * 40 + 2 * 20) + 3 * 40 * 56;
        let scores = 2 * 40 * 12 * 12;
        let (layers, head) = Work::of(&recipe, checkpoint.tensors(), 12);
        // Two norms a layer and the last; the embedding is not read but for the rows of tokens.
        assert_eq!(layers, Work { row_flops: 3 * 2 * (linear * 12 + scores), bytes: 4 * (3 * (linear + 2 * 40) + 40) });
        assert_eq!(head, Work { row_flops: 2 * 40 * 97 * 11, bytes: 4 * 97 * 40 });
    }

    /// Of experts only those that a position is sent through compute, and all are read.
    #[test]
    fn experts_compute_as_many_as_are_chosen() {
        let (checkpoint, recipe) = opened("mixtral");
        let experts = recipe.layers[0].channel_mixer.experts().unwrap();
        let of_experts = |chosen: usize| 2 * 3 * recipe.hidden_size * experts.expert.intermediate_size * chosen;
        let mut every = recipe.clone();
        for layer in &mut every.layers {
            let crate::architecture::channel_mixer::ChannelMixer::Experts(experts) = &mut layer.channel_mixer else {
                panic!("no experts")
            };
            experts.top_k = experts.count;
        }
        let of = |recipe| Work::of(recipe, checkpoint.tensors(), 5).0;
        let (some, all) = (of(&recipe), of(&every));
        let more = recipe.layers.len() * 5 * of_experts(experts.count - experts.top_k);
        assert_eq!((all.row_flops - some.row_flops, all.bytes), (more as u64, some.bytes));
        assert!(experts.count > experts.top_k);
    }
}
