//! What names tell by convention, for checkpoints of which there is no recipe: those of families that are not known
//! here, and files alone. Where there is a recipe, its modules are asked.

use super::module::{AttentionRole, MixerKind, MlpRole, Role};
use super::place::Axis;
use crate::neuron::{ModulePath, Neuron, Side, Site};

/// The path within a layer that most families give to a module of this role.
pub(crate) fn usual(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Attention(AttentionRole::Query) => "self_attn.q_proj",
        Role::Attention(AttentionRole::Key) => "self_attn.k_proj",
        Role::Attention(AttentionRole::Value) => "self_attn.v_proj",
        Role::Attention(AttentionRole::Output) => "self_attn.o_proj",
        Role::Mlp { part: MlpRole::Gate, expert: None } => "mlp.gate_proj",
        Role::Mlp { part: MlpRole::Up, expert: None } => "mlp.up_proj",
        Role::Mlp { part: MlpRole::Down, expert: None } => "mlp.down_proj",
        Role::NormAfter(MixerKind::Channel) => "post_feedforward_layernorm",
        _ => return None,
    })
}

/// The neuron that a line of a tensor is: an output channel for a row, an input channel for a column.
pub(crate) fn neuron(tensor: &str, dimensions: usize, axis: Axis, index: usize) -> Option<Neuron> {
    let module = module(tensor)?;
    let side = match (axis, dimensions) {
        (Axis::Row, 2) | (Axis::Element, 1) => Side::Out,
        (Axis::Column, 2) => Side::In,
        _ => return None,
    };
    Some(Neuron { site: Site { module, side }, channel: index })
}

/// The module whose weight or bias a tensor is.
pub(crate) fn module(tensor: &str) -> Option<ModulePath> {
    tensor.strip_suffix(".weight").or_else(|| tensor.strip_suffix(".bias"))?.parse().ok()
}

/// Whether a tensor is the embedding of tokens.
pub(crate) fn is_embedding(tensor: &str) -> bool {
    tensor.ends_with("embed_tokens.weight")
}

/// Whether each row of a tensor belongs to a token or to a position.
pub(crate) fn has_a_row_a_token(tensor: &str) -> bool {
    is_embedding(tensor) || ["lm_head.weight", "wte.weight", "wpe.weight"].iter().any(|end| tensor.ends_with(end))
}

/// What a tensor of Mistral's own form is called in the form that config.json describes.
pub(crate) fn of_mistral(own: &str) -> Option<String> {
    let known = match own {
        "tok_embeddings.weight" => "model.embed_tokens.weight",
        "norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => "",
    };
    if !known.is_empty() {
        return Some(known.to_owned());
    }
    let (layer, rest) = own.strip_prefix("layers.")?.split_once('.')?;
    let rest = match rest.strip_suffix(".weight")? {
        "attention_norm" => "input_layernorm".to_owned(),
        "ffn_norm" => "post_attention_layernorm".to_owned(),
        "attention.wq" => "self_attn.q_proj".to_owned(),
        "attention.wk" => "self_attn.k_proj".to_owned(),
        "attention.wv" => "self_attn.v_proj".to_owned(),
        "attention.wo" => "self_attn.o_proj".to_owned(),
        "feed_forward.w1" => "mlp.gate_proj".to_owned(),
        "feed_forward.w2" => "mlp.down_proj".to_owned(),
        "feed_forward.w3" => "mlp.up_proj".to_owned(),
        other => format!("block_sparse_moe.{}", other.strip_prefix("feed_forward.")?),
    };
    Some(format!("model.layers.{layer}.{rest}.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Recipe;
    use crate::checkpoint::ConfigFile;
    use std::path::Path;

    #[test]
    fn usual_names_are_those_of_the_recipes() {
        let named = |model_type: &str| {
            let config = ConfigFile::parse(Path::new("config.json"), &format!("{{\"model_type\": {model_type:?}}}"));
            let recipe = Recipe::read(&config.unwrap()).unwrap();
            let modules = recipe.layer_modules(0).into_iter();
            let usual = modules.filter_map(|module| Some((usual(module.role)?, module.path)));
            usual.inspect(|(name, path)| assert_eq!(path, &format!("model.layers.0.{name}"))).count()
        };
        assert_eq!([named("llama"), named("qwen3"), named("gemma2"), named("mixtral")], [7, 7, 8, 4]);
    }
}
