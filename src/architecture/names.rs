//! What names tell by convention, for checkpoints of which there is no recipe: those of families that are not known
//! here, and files alone. Where there is a recipe, its modules are asked.

use super::module::{AttentionRole, MixerKind, MlpOf, MlpRole, Role};
use super::place::{Axis, NeuronPlace};
use super::recipe::EMBEDDING;
use super::stacks::{self, ACTIVATIONS, DOWN};
use crate::checkpoint::Tensors;
use crate::neuron::{ModulePath, Neuron, Side, Site};

/// The path within a layer that most families give to a module of this role.
pub(crate) fn usual(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Attention(AttentionRole::Query) => "self_attn.q_proj",
        Role::Attention(AttentionRole::Key) => "self_attn.k_proj",
        Role::Attention(AttentionRole::Value) => "self_attn.v_proj",
        Role::Attention(AttentionRole::Output) => "self_attn.o_proj",
        Role::Mlp { part: MlpRole::Gate, of: MlpOf::Layer } => "mlp.gate_proj",
        Role::Mlp { part: MlpRole::Up, of: MlpOf::Layer } => "mlp.up_proj",
        Role::Mlp { part: MlpRole::Down, of: MlpOf::Layer } => "mlp.down_proj",
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

/// The matrices whose columns are told one by one: one of a matrix, those of all experts of a stack; of others none.
pub(crate) fn matrices(tensor: &str, shape: &[usize]) -> usize {
    match *shape {
        [_, _] => 1,
        [experts, _, _] if stacks::is_stack(tensor) => experts,
        _ => 0,
    }
}

/// Whether each row of a tensor belongs to a token or to a position.
pub(crate) fn has_a_row_a_token(tensor: &str) -> bool {
    let module = tensor.strip_suffix(".weight").and_then(|module| module.rsplit('.').next()).unwrap_or_default();
    let is_one = ["embedding", "embeddings"].iter().any(|end| module.ends_with(end)) || module.starts_with("embed_");
    is_one && !module.contains("patch") || ["lm_head", "wte", "wpe", "token_embd", "shared"].contains(&module)
}

/// As [`Recipe::parts`](crate::Recipe::parts), by what the file holds: a config that was changed since, or is not
/// understood, must not bar the way back of a patch.
pub(crate) fn parts(neuron: &Neuron, tensors: &Tensors) -> Vec<NeuronPlace> {
    let module = neuron.site.module.as_str();
    let shape_of = |tensor: &str| tensors.shape_of(tensor);
    let part = |tensor: String, axis: Axis| {
        let shape = shape_of(&tensor)?;
        let length = match (axis, shape.as_slice()) {
            (Axis::Row, &[rows, _]) => rows,
            (Axis::Column, &[_, columns]) => columns,
            (Axis::Element, &[elements]) => elements,
            _ => return None,
        };
        (neuron.channel < length).then_some(NeuronPlace { tensor, shape, axis, index: neuron.channel })
    };
    let weight = format!("{module}.weight");
    let of_activation = module.rsplit_once('.').filter(|(_, name)| ACTIVATIONS.contains(name));
    let found = if let Some((mlp, _)) = of_activation {
        // The output of the activation enters the down projection after a product with the up projection's: a factor on
        // it is one on that column. Its input is the gate's output.
        let down = DOWN.iter().map(|name| format!("{mlp}.{name}.weight")).find(|name| tensors.holds(name));
        down.filter(|_| neuron.site.side == Side::Out).and_then(|down| part(down, Axis::Column))
    } else if let Some(net) = module.strip_suffix("linear_attn.norm").filter(|_| neuron.site.side == Side::Out) {
        // One weight serves all heads, but what comes out goes into this projection and nowhere else.
        part(format!("{net}linear_attn.out_proj.weight"), Axis::Column)
    } else if module == EMBEDDING {
        // Stored [vocabulary, hidden]: a channel is a column. Without a head of its own the model reads logits from it.
        let own = tensors.holds(HEAD) && neuron.site.side == Side::Out;
        own.then(|| part(weight, Axis::Column)).flatten()
    } else {
        match (shape_of(&weight).map_or(0, |shape| shape.len()), neuron.site.side) {
            (2, Side::Out) => part(weight, Axis::Row),
            (2, Side::In) => part(weight, Axis::Column),
            (1, Side::Out) if !is_shared_by_heads(module, tensors) => part(weight, Axis::Element),
            _ => None,
        }
    };
    let bias =
        found.as_ref().filter(|p| p.axis == Axis::Row).and_then(|_| part(format!("{module}.bias"), Axis::Element));
    if found.is_none() {
        return stacks::parts(neuron, &shape_of);
    }
    found.into_iter().chain(bias).collect()
}

/// Whether the module is a norm of queries or keys with one weight for all heads.
fn is_shared_by_heads(module: &str, tensors: &Tensors) -> bool {
    let shape = |tensor: String| tensors.shape_of(&tensor);
    let width = shape(format!("{module}.weight")).and_then(|shape| shape.first().copied());
    // The projection to queries may put out gates as well: what mixed values go into is as wide as queries are.
    let of = |ends: &[&str]| ends.iter().find_map(|end| module.strip_suffix(end));
    let all = match (of(&["q_norm", "q_layernorm", "query_layernorm"]), of(&["k_norm", "k_layernorm", "key_layernorm"]))
    {
        (Some(start), _) => ["o_proj", "out_proj"]
            .iter()
            .find_map(|name| shape(format!("{start}{name}.weight")).and_then(|shape| shape.get(1).copied())),
        (_, Some(start)) => shape(format!("{start}k_proj.weight")).and_then(|shape| shape.first().copied()),
        _ => return false,
    };
    all != width
}

/// The tensor of a head of its own.
const HEAD: &str = "lm_head.weight";

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

    /// What is said here and what a recipe says are one, for every module of every kind of family.
    #[test]
    fn parts_are_those_of_the_recipes() {
        let plain = ["llama", "qwen2", "gemma", "gemma3", "mixtral", "qwen3_moe", "phi3", "olmo2", "qwen3_5", "lfm2"];
        for family in plain.into_iter().chain(["granitemoehybrid", "granitemoeshared"]) {
            let folder = format!("{}/fixtures/{family}", env!("CARGO_MANIFEST_DIR"));
            let checkpoint = crate::Checkpoint::open(&folder, &crate::progress::Silent).unwrap();
            let recipe = Recipe::read(checkpoint.config()).unwrap();
            let mut found = 0;
            for info in recipe.sites().unwrap() {
                let neuron = Neuron { site: info.site, channel: 1 };
                let by_names = parts(&neuron, checkpoint.tensors());
                assert_eq!(recipe.parts(&neuron, checkpoint.tensors()), by_names, "{family} {neuron}");
                found += by_names.len();
            }
            assert!(found > 20, "{family}: {found}");
        }
    }
}
