//! DeepSeek V2 and V3, and what was built on them: Kimi K2, GLM 4.7 Flash, Mistral Small 4. Latent attention; many small
//! experts, chosen by group, with shared ones beside them; the first layers dense.

use super::Family;
use super::llama;
use crate::architecture::channel_mixer::{
    Activation, ChannelMixer, Experts, GatedMlp, Groups, Routing, Scores, Shared, StackNames, Stacks,
};
use crate::architecture::config_class::Class;
use crate::architecture::config_keys::{GROWTH_KEYS, activation_or, each_mlp, expect, query_growth, without_rope};
use crate::architecture::latent_attention::LatentAttention;
use crate::architecture::module::StackOrder;
use crate::architecture::recipe::Recipe;
use crate::architecture::rope::Scaling;
use crate::architecture::rope_config::{self, RopeClass};
use crate::architecture::token_mixer::TokenMixer;
use crate::checkpoint::config::Reader;
use crate::error::Result;
use serde_json::Value;

pub(super) const DEEPSEEK_V3: Family = Family {
    model_type: "deepseek_v3",
    architecture: "DeepseekV3ForCausalLM",
    inside: Some("kimi_k25"),
    read: deepseek_v3,
};

/// Of the same class, by the name that its authors' own code has for it.
pub(super) const KIMI_K2: Family = Family { model_type: "kimi_k2", ..DEEPSEEK_V3 };

pub(super) const DEEPSEEK_V2: Family =
    Family { model_type: "deepseek_v2", architecture: "DeepseekV2ForCausalLM", inside: None, read: deepseek_v2 };

pub(super) const GLM4_MOE_LITE: Family =
    Family { model_type: "glm4_moe_lite", architecture: "Glm4MoeLiteForCausalLM", inside: None, read: glm4_moe_lite };

pub(super) const MISTRAL4: Family =
    Family { model_type: "mistral4", architecture: "Mistral4ForCausalLM", inside: Some("mistral3"), read: mistral4 };

const V3_CLASS: Class = Class {
    vocab_size: 129_280,
    hidden_size: 7168,
    intermediate_size: 18_432,
    layers: 61,
    heads: 128,
    kv_heads: Some(128),
    head_dim: Some(64), // which says nothing here
    rope: RopeClass { positions: 4096, known: &["mscale_all_dim", "mscale"], ..llama::CLASS.rope },
    ..llama::CLASS
};

const V3_LATENT: Latent = Latent { query: Some(1536), key_value: 512, plain: 128, turned: 64, value: 128 };

const V2_CLASS: Class = Class {
    vocab_size: 102_400,
    hidden_size: 4096,
    intermediate_size: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    rope: RopeClass { positions: 2048, ..V3_CLASS.rope },
    ..V3_CLASS
};

const LITE_CLASS: Class = Class {
    vocab_size: 154_880,
    hidden_size: 2048,
    intermediate_size: 10_240,
    layers: 47,
    heads: 20,
    kv_heads: Some(20),
    null_kv_heads: false,
    rms_norm_eps: 1e-5,
    rope: RopeClass { positions: 202_752, ..V3_CLASS.rope },
    ..V3_CLASS
};

const MISTRAL4_CLASS: Class = Class {
    vocab_size: 131_072,
    hidden_size: 4096,
    intermediate_size: 12_288,
    layers: 36,
    heads: 32,
    kv_heads: Some(32),
    rope: RopeClass { positions: 1_048_576, known: GROWTH_KEYS, ..V3_CLASS.rope },
    ..V3_CLASS
};

/// DeepSeek-V3, R1, V3.1; Kimi K2.
fn deepseek_v3(c: &Reader) -> Result<Recipe> {
    let mut recipe = latent(c, &V3_CLASS, V3_LATENT)?;
    neighbours(c, &mut recipe)?;
    expect(c, "topk_method", &"noaux_tc".into())?;
    expect(c, "scoring_func", &"sigmoid".into())?;
    let dense = c.usize_or("first_k_dense_replace", 3)?;
    let class = Mixture {
        count: 256,
        top_k: 8,
        width: 2048,
        shared: 1,
        groups: Some((8, 4)),
        scale: 2.5,
        judged_by: 2,
        normalizes: true,
    };
    mixture(c, &mut recipe, class, &SIGMOID, |layer| layer >= dense)?;
    Ok(recipe)
}

/// DeepSeek-V2: softmax scores, groups judged by their best.
fn deepseek_v2(c: &Reader) -> Result<Recipe> {
    let latent_class = Latent { query: Some(1536), key_value: 512, plain: 128, turned: 64, value: 128 };
    let mut recipe = latent(c, &V2_CLASS, latent_class)?;
    recipe.ropes.iter_mut().for_each(|rope| (rope.turns_neighbours, rope.turns_wide) = (true, true));
    let bias = c.bool_or("mlp_bias", false)?;
    expect(c, "norm_topk_prob", &false.into())?;
    expect(c, "scoring_func", &"softmax".into())?;
    let by_group = match c.str_opt("topk_method")? {
        Some("group_limited_greedy") => true,
        Some("greedy") => false,
        None if !c.has("topk_method") => false,
        _ => return Err(c.wrong("topk_method", "greedy or group_limited_greedy")),
    };
    let dense = c.usize_or("first_k_dense_replace", 0)?;
    if c.usize_opt("num_experts_per_tok")?.is_none() {
        return Err(c.wrong("num_experts_per_tok", "a whole number"));
    }
    let groups = if by_group { Some((0, 0)) } else { None };
    if !by_group {
        c.get("n_group");
        c.get("topk_group");
    }
    let routing = Routing { round_weights: false, wide: true, ..Routing::SOFTMAX };
    let class =
        Mixture { count: 64, top_k: 1, width: 1407, shared: 2, groups, scale: 1.0, judged_by: 1, normalizes: false };
    mixture(c, &mut recipe, class, &routing, |layer| layer >= dense)?;
    each_mlp(&mut recipe, |mlp| mlp.bias = bias);
    for layer in &mut recipe.layers {
        if let ChannelMixer::Experts(Experts { shared: Some(shared), .. }) = &mut layer.channel_mixer {
            shared.mlp.bias = bias;
        }
    }
    Ok(recipe)
}

/// GLM 4.7 Flash: DeepSeek-V3 with one dense layer.
fn glm4_moe_lite(c: &Reader) -> Result<Recipe> {
    let latent_class = Latent { query: Some(768), key_value: 512, plain: 192, turned: 64, value: 256 };
    let mut recipe = latent(c, &LITE_CLASS, latent_class)?;
    neighbours(c, &mut recipe)?;
    expect(c, "topk_method", &"noaux_tc".into())?;
    expect(c, "scoring_func", &"sigmoid".into())?;
    let layers = recipe.layers.len();
    let is_sparse = |value: &Value| match value.as_str() {
        Some("sparse") => Some(true),
        Some("dense") => Some(false),
        _ => None,
    };
    let sparse: Vec<bool> = match c.get("mlp_layer_types") {
        None => (0..layers).map(|layer| layer > 0).collect(),
        Some(types) => types
            .as_array()
            .and_then(|types| types.iter().map(is_sparse).collect::<Option<Vec<_>>>())
            .filter(|types| types.len() == layers)
            .ok_or_else(|| c.wrong("mlp_layer_types", &format!("{layers} times dense or sparse")))?,
    };
    let dense = sparse.iter().take_while(|sparse| !**sparse).count();
    if c.usize_opt("first_k_dense_replace")?.is_some_and(|first| first != dense) {
        return Err(c.wrong("first_k_dense_replace", &format!("{dense}, as transformers 5 has it by mlp_layer_types")));
    }
    let class = Mixture {
        count: 64,
        top_k: 4,
        width: 1536,
        shared: 1,
        groups: Some((1, 1)),
        scale: 1.8,
        judged_by: 2,
        normalizes: true,
    };
    mixture(c, &mut recipe, class, &SIGMOID, |layer| sparse[layer])?;
    Ok(recipe)
}

/// Mistral Small 4: softmax scores, queries that grow with their position.
fn mistral4(c: &Reader) -> Result<Recipe> {
    let latent_class = Latent { query: Some(1024), key_value: 256, plain: 64, turned: 64, value: 128 };
    let mut recipe = latent(c, &MISTRAL4_CLASS, latent_class)?;
    neighbours(c, &mut recipe)?;
    let growth = query_growth(c)?;
    for layer in &mut recipe.layers {
        if let TokenMixer::Latent(latent) = &mut layer.token_mixer {
            latent.query_growth = Some(growth);
        }
    }
    let dense = c.usize_or("first_k_dense_replace", 0)?;
    let class = Mixture {
        count: 128,
        top_k: 4,
        width: 2048,
        shared: 1,
        groups: Some((1, 1)),
        scale: 1.0,
        judged_by: 2,
        normalizes: true,
    };
    mixture(c, &mut recipe, class, &Routing::SOFTMAX, |layer| layer >= dense)?;
    Ok(recipe)
}

/// What the class assumes of latent attention, as [`LatentAttention`] has it.
struct Latent {
    query: Option<usize>,
    key_value: usize,
    plain: usize,
    turned: usize,
    value: usize,
}

/// The common case with latent attention in all layers.
fn latent(c: &Reader, class: &Class, latent: Latent) -> Result<Recipe> {
    let mut recipe = without_rope(c, class, activation_or(c, "hidden_act", Activation::Silu)?)?;
    let Some(attention) = recipe.attention(0).cloned() else { return Ok(recipe) };
    if attention.kv_heads != attention.heads {
        return Err(c.wrong("num_key_value_heads", &format!("{}, as many as heads", attention.heads)));
    }
    let query_latent = match c.usize_opt("q_lora_rank")? {
        None if c.has("q_lora_rank") => None,
        given => given.or(latent.query),
    };
    if query_latent == Some(0) {
        return Err(c.wrong("q_lora_rank", "a positive whole number, or null"));
    }
    let plain_dim = c.size_or("qk_nope_head_dim", latent.plain)?;
    let turned_dim = c.size_or("qk_rope_head_dim", latent.turned)?;
    let width = plain_dim + turned_dim;
    c.get("qk_head_dim"); // their sum
    let (partial, head_dim) = match class.rope.known.contains(&GROWTH_KEYS[0]) {
        // A share of the whole head, of which the classes make as many channels as are turned.
        true => (Some(turned_dim as f64 / width as f64), width),
        false => (class.rope.partial, turned_dim),
    };
    if c.usize_opt("head_dim")?.is_some_and(|found| found != head_dim) {
        return Err(c.wrong("head_dim", &format!("{head_dim}, which it is to transformers, or no such key")));
    }
    recipe.ropes = vec![rope_config::read(c, &RopeClass { partial, ..class.rope }, head_dim)?];
    if recipe.ropes[0].rotated() != turned_dim {
        return Err(c.wrong("qk_rope_head_dim", "as many channels as partial_rotary_factor turns"));
    }
    let mixer = LatentAttention {
        heads: attention.heads,
        query_latent,
        key_value_latent: c.size_or("kv_lora_rank", latent.key_value)?,
        plain_dim,
        turned_dim,
        value_dim: c.size_or("v_head_dim", latent.value)?,
        bias: c.bool_or("attention_bias", false)?,
        norm_epsilon: 1e-6,
        scale: scale(c, &recipe, width)?,
        rope: 0,
        query_growth: None,
    };
    for layer in &mut recipe.layers {
        layer.token_mixer = TokenMixer::Latent(mixer.clone());
    }
    for (key, value) in [("moe_layer_freq", 1.into()), ("ep_size", 1.into())] {
        expect(c, key, &value)?;
    }
    // Of training, and of the layers that predict further tokens, which no loader runs for text.
    for key in ["aux_loss_alpha", "seq_aux", "num_nextn_predict_layers", "num_mtp_layers"] {
        c.get(key);
    }
    Ok(recipe)
}

/// 1 / √width, times the square of what YaRN makes of `mscale_all_dim`, which the classes do whatever the scaling is.
fn scale(c: &Reader, recipe: &Recipe, width: usize) -> Result<f64> {
    let all = rope_config::own_number(c, "mscale_all_dim")?.unwrap_or(0.0);
    let factor = match recipe.ropes[0].settings().scaling {
        Scaling::Default | Scaling::Proportional { .. } => 1.0,
        Scaling::Linear { factor }
        | Scaling::Dynamic { factor, .. }
        | Scaling::Yarn { factor, .. }
        | Scaling::Llama3 { factor, .. } => factor,
        Scaling::LongRope { .. } if all == 0.0 => 1.0,
        Scaling::LongRope { .. } => rope_config::own_number(c, "factor")?.ok_or_else(|| {
            c.wrong_or_left_out("rope_parameters", "an object with factor, which mscale_all_dim multiplies")
        })?,
    };
    let mscale = if factor > 1.0 { 0.1 * all * factor.ln() + 1.0 } else { 1.0 };
    Ok(mscale * mscale / (width as f64).sqrt())
}

/// `rope_interleave`.
fn neighbours(c: &Reader, recipe: &mut Recipe) -> Result<()> {
    let neighbours = c.bool_or("rope_interleave", true)?;
    recipe.ropes.iter_mut().for_each(|rope| rope.turns_neighbours = neighbours);
    Ok(())
}

/// The router of DeepSeek-V3, but for its groups.
pub(super) const SIGMOID: Routing = Routing {
    scores: Scores::Sigmoid,
    correction: Some("gate.e_score_correction_bias"),
    wide: true,
    round_weights: false,
    ..Routing::SOFTMAX
};

/// What a class assumes of a mixture of experts.
pub(super) struct Mixture {
    pub count: usize,
    pub top_k: usize,
    /// Of an expert.
    pub width: usize,
    /// Experts that all positions go through, as one MLP.
    pub shared: usize,
    /// How many groups there are, and how many of them experts are chosen from, where keys tell of them.
    pub groups: Option<(usize, usize)>,
    /// What weights are multiplied by.
    pub scale: f64,
    /// As in [`Groups`].
    pub judged_by: usize,
    /// Whether weights are divided by their sum unless `norm_topk_prob` is off.
    pub normalizes: bool,
}

/// Experts in the layers that `is_sparse` names.
pub(super) fn mixture(
    c: &Reader,
    recipe: &mut Recipe,
    class: Mixture,
    routing: &Routing,
    is_sparse: impl Fn(usize) -> bool,
) -> Result<()> {
    // transformers has another name for it, too.
    let key = if c.has("num_local_experts") { "num_local_experts" } else { "n_routed_experts" };
    let count = c.size_or(key, class.count)?;
    if c.size_or("n_routed_experts", count)? != count {
        return Err(c.wrong("n_routed_experts", &format!("{count}, as in {key}")));
    }
    let top_k = c.size_or("num_experts_per_tok", class.top_k)?;
    let groups = class.groups.map(|groups| groups_of(c, count, top_k, groups, class.judged_by)).transpose()?.flatten();
    if top_k > count {
        return Err(c.wrong("num_experts_per_tok", &format!("at most the {count} experts")));
    }
    let width = c.size_or("moe_intermediate_size", class.width)?;
    let shared = c.size_or("n_shared_experts", class.shared)?;
    let normalize = class.normalizes && c.bool_or("norm_topk_prob", true)?;
    let scale = c.f64_or("routed_scaling_factor", class.scale)?;
    let routing = Routing { groups, scale, normalize: normalize.then_some(1e-20), ..*routing };
    for (index, layer) in recipe.layers.iter_mut().enumerate() {
        if let (true, ChannelMixer::Mlp(mlp)) = (is_sparse(index), layer.channel_mixer) {
            let shared = GatedMlp { intermediate_size: shared * width, ..mlp };
            layer.channel_mixer = ChannelMixer::Experts(Experts {
                module: "mlp",
                router: "gate",
                router_bias: false,
                count,
                top_k,
                routing,
                expert: GatedMlp { intermediate_size: width, ..mlp },
                stacks: Some(Stacks { names: StackNames::USUAL, order: StackOrder::OutIn, interleaved: false }),
                shared: Some(Shared { module: "mlp.shared_experts", mlp: shared, gate: None }),
            });
        }
    }
    Ok(())
}

/// `n_group` and `topk_group`; none where experts are chosen from all.
fn groups_of(
    c: &Reader,
    experts: usize,
    top_k: usize,
    (count, kept): (usize, usize),
    judged_by: usize,
) -> Result<Option<Groups>> {
    let (count, kept) = (c.size_or("n_group", count)?, c.size_or("topk_group", kept)?);
    if !experts.is_multiple_of(count) || (judged_by > experts / count && count > 1) {
        return Err(c.wrong_or_left_out("n_group", &format!("a divisor of the {experts} experts")));
    }
    if kept > count || top_k > kept * (experts / count) {
        return Err(
            c.wrong_or_left_out("topk_group", &format!("at most the {count} groups, with {top_k} experts or more"))
        );
    }
    Ok((kept < count).then_some(Groups { count, kept, judged_by }))
}
