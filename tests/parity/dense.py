"""Random configs of the families without experts.

A function a family; it is given a random generator and returns `model_type`, a config in transformers' own keys and a
length of text.
"""

from draw import (CONV, FULL, LINEAR, PARTIAL, SLIDING, base, chance, divisors, growth, mix, rope, rope_of_images, some,
                  window, windows_of_qwen, without_share)


def llama(r):
    c, d, t = base(r)
    return "llama", c | dict(attention_bias=chance(r, 0.4), mlp_bias=chance(r, 0.4), rope_parameters=rope(r, d, t)), t


def mistral(r):
    c, d, t = base(r)
    return "mistral", c | dict(sliding_window=r.choice([None, window(r, t)]), rope_parameters=rope(r, d, t)), t


def ministral3(r):
    c, d, t = base(r)
    p = growth(r, rope(r, d, t), t)
    return "ministral3", c | dict(sliding_window=r.choice([None, window(r, t)]), rope_parameters=p), t


def qwen2(r):
    c, d, t = base(r, own_head_dim=None)
    return "qwen2", c | windows_of_qwen(r, c, t) | dict(rope_parameters=rope(r, d, t)), t


def qwen3(r):
    c, d, t = base(r)
    c |= windows_of_qwen(r, c, t) | dict(attention_bias=chance(r, 0.4), rope_parameters=rope(r, d, t))
    return "qwen3", c, t


def qwen2_vl(r):
    c, d, t = base(r, own_head_dim=False)
    return "qwen2_vl_text", c | windows_of_qwen(r, c, t) | dict(rope_parameters=rope_of_images(r, d, t)), t


def qwen2_5_vl(r):
    _, c, t = qwen2_vl(r)
    return "qwen2_5_vl_text", c, t


def qwen3_vl(r):
    c, d, t = base(r)
    p = rope_of_images(r, d, t, mrope_interleaved=True)
    return "qwen3_vl_text", c | dict(attention_bias=chance(r, 0.4), rope_parameters=p), t


def gemma(r):
    c, d, t = base(r)
    c |= dict(hidden_act=r.choice(["gelu", "gelu_pytorch_tanh"]), attention_bias=chance(r, 0.3))
    return "gemma", c | dict(rope_parameters=rope(r, d, t)), t


def gemma_windows(r):
    c, d, t = base(r, activation="hidden_activation")
    c |= dict(attention_bias=chance(r, 0.3), query_pre_attn_scalar=r.choice([d, 256, 24, 7, 1]),
              sliding_window=window(r, t), **some(r, layer_types=mix(r, c, SLIDING, FULL)))
    return c, d, t


def gemma2(r):
    c, d, t = gemma_windows(r)
    return "gemma2", c | dict(attn_logit_softcapping=r.choice([50.0, 5.0, 1.5, None]), rope_parameters=rope(r, d, t),
                              final_logit_softcapping=r.choice([30.0, 3.0, None])), t


def gemma3(r):
    c, d, t = gemma_windows(r)
    ropes = {FULL: rope(r, d, t), SLIDING: rope(r, d, t, kinds=["default", "default", "linear", "yarn"])}
    if "layer_types" not in c:
        c |= some(r, sliding_window_pattern=r.randint(1, 4))
    return "gemma3_text", c | dict(final_logit_softcapping=r.choice([None, None, 7.0]), rope_parameters=ropes,
                                   attn_logit_softcapping=r.choice([None, None, 5.0])), t


def gemma4(r):
    c, d, t = base(r, activation="hidden_activation")
    c["pad_token_id"] = 0  # which the class around it needs
    layers = c["num_hidden_layers"] = r.randint(2, 6)
    types = [*mix(r, c, SLIDING, FULL)[:-1], FULL]
    first = max(types.index(kind) for kind in set(types)) + 1  # from here on each kind has a layer before it
    shared = r.randint(0, layers - first) if chance(r, 0.6) else 0
    wide = r.choice([4, 8, 12, 16])
    ropes = {FULL: dict(rope_type="proportional", rope_theta=r.choice([1e6, 500.0]),
                        partial_rotary_factor=r.choice([0.25, 0.5, 1.0])),
             SLIDING: dict(rope_type="default", rope_theta=r.choice([1e4, 50.0]))}
    equal = chance(r, 0.4)
    c |= dict(layer_types=types, num_kv_shared_layers=shared, global_head_dim=wide, sliding_window=window(r, t),
              attention_k_eq_v=equal, rope_parameters=ropes, use_double_wide_mlp=chance(r, 0.5),
              hidden_size_per_layer_input=r.choice([5, 8] if shared else [0, 5, 8]),  # which the class needs to share
              vocab_size_per_layer_input=c["vocab_size"] + r.choice([0, 0, 3]),
              final_logit_softcapping=r.choice([None, 7.0]), attention_bias=chance(r, 0.3))
    if equal and chance(r, 0.7):
        c["num_global_key_value_heads"] = r.choice(divisors(c["num_attention_heads"]))
    if not shared and chance(r, 0.3):
        c.pop("layer_types")
    if chance(r, 0.4):
        number = r.randint(2, 6)
        c |= dict(enable_moe_block=True, num_experts=number, top_k_experts=r.randint(1, number),
                  moe_intermediate_size=r.randint(10, 30))
    return "gemma4_text", c, t


def phi3(r):
    c, d, t = base(r, own_head_dim=None)
    kinds = ["default"] if "head_dim" in c else ["default", "longrope"]  # whose factors its class counts without the key
    p = rope(r, d, t, partial=[1.0, *PARTIAL], kinds=kinds)
    original = p.pop("original_max_position_embeddings", 16)
    return "phi3", c | dict(sliding_window=r.choice([None, window(r, t)]), original_max_position_embeddings=original,
                            rope_parameters=p), t


def olmo2(r):
    c, d, t = base(r, own_head_dim=None)
    return "olmo2", c | dict(attention_bias=chance(r, 0.4), rope_parameters=rope(r, d, t)), t


def olmo3(r):
    c, d, t = base(r, own_head_dim=None)
    theta = r.choice([500.0, 500000.0])
    ropes = {FULL: rope(r, d, t, theta=[theta]), SLIDING: rope(r, d, t, kinds=["default", "default", "linear"], theta=[theta])}
    return "olmo3", c | dict(attention_bias=chance(r, 0.4), sliding_window=window(r, t), rope_parameters=ropes,
                             **some(r, layer_types=mix(r, c, SLIDING, FULL))), t


def hybrid(r):
    """What Qwen3-Next and Qwen3.5 share."""
    c, d, t = base(r)
    d = c["head_dim"] = r.choice([8, 16, 24, 32])
    t = r.choice([t, t, 70, 130])  # the authors' code takes 64 positions at once
    keys = r.randint(1, 3)
    c |= dict(linear_num_key_heads=keys, linear_num_value_heads=keys * r.randint(1, 3), attention_bias=chance(r, 0.3),
              linear_key_head_dim=r.randint(1, 9), linear_value_head_dim=r.randint(1, 9),
              linear_conv_kernel_dim=r.randint(1, 5), max_position_embeddings=r.choice([64, 256]),
              rope_parameters=without_share(r, rope(r, d, t, partial=[0.25, 0.25, 0.5, 1.0]), d, 0.25))
    types = dict(layer_types=mix(r, c, LINEAR, FULL)) if chance(r, 0.6) else dict(full_attention_interval=r.randint(1, 4))
    return c | types, t


def qwen3_5(r):
    c, t = hybrid(r)
    if chance(r, 0.5):
        c["rope_parameters"] |= dict(mrope_section=[1, 1, 0], mrope_interleaved=True)
    return "qwen3_5_text", c, t


def lfm2(r):
    c, d, t = base(r, own_head_dim=False)
    c["norm_eps"] = c.pop("rms_norm_eps")
    c.pop("hidden_act")
    c |= dict(conv_bias=chance(r, 0.5), conv_L_cache=r.randint(1, 5), block_multiple_of=r.choice([4, 8, 256]),
              block_auto_adjust_ff_dim=chance(r, 0.7), block_ffn_dim_multiplier=r.choice([1.0, 1.3, 0.7]),
              intermediate_size=r.randint(20, 90), rope_parameters=rope(r, d, t), **some(r, block_ff_dim=r.randint(20, 90)))
    layers = c["num_hidden_layers"]
    if chance(r, 0.6):
        return "lfm2", c | dict(layer_types=mix(r, c, CONV, FULL)), t
    return "lfm2", c | dict(full_attn_idxs=sorted(r.sample(range(layers), r.randint(0, layers)))), t


def glm4(r):
    c, d, t = base(r)
    d = c["head_dim"] = r.choice([d, d, 9, 13])
    p = without_share(r, rope(r, d, t, partial=PARTIAL), d, 0.5)
    return "glm4", c | dict(attention_bias=chance(r, 0.5), rope_parameters=p), t


def multipliers(r):
    """Of the Granites."""
    return dict(embedding_multiplier=r.choice([1.0, 12, 0.3]), residual_multiplier=r.choice([1.0, 0.22, 2]),
                attention_multiplier=r.choice([1.0, 0.0078125, 0.3]), logits_scaling=r.choice([1.0, 8, 0.5]))


def granite(r):
    c, d, t = base(r, own_head_dim=None)
    return "granite", c | multipliers(r) | dict(attention_bias=chance(r, 0.4), mlp_bias=chance(r, 0.4),
                                                rope_parameters=rope(r, d, t)), t


def granitemoehybrid(r):
    c, d, t = base(r, own_head_dim=None)
    number = r.choice([0, 0, r.randint(1, 6)])
    return "granitemoehybrid", c | multipliers(r) | dict(
        layer_types=[FULL] * c["num_hidden_layers"], position_embedding_type=r.choice([None, "rope", "rope", "nope"]),
        attention_bias=chance(r, 0.4), shared_intermediate_size=r.randint(1, 60), mamba_n_heads=1,
        num_local_experts=number, num_experts_per_tok=r.randint(1, max(number, 1)), rope_parameters=rope(r, d, t)), t


def smollm3(r):
    c, d, t = base(r, own_head_dim=None)
    slides = chance(r, 0.5)
    c |= dict(attention_bias=chance(r, 0.4), mlp_bias=chance(r, 0.4), use_sliding_window=slides,
              sliding_window=r.choice([None, window(r, t), window(r, t)]), rope_parameters=rope(r, d, t))
    c |= dict(no_rope_layers=mix(r, c, 0, 1)) if chance(r, 0.5) else dict(no_rope_layer_interval=r.randint(1, 4))
    if slides and c["sliding_window"]:
        c |= some(r, layer_types=mix(r, c, FULL, SLIDING))
    return "smollm3", c, t


def ernie4_5(r):
    c, d, t = base(r)
    return "ernie4_5", c | dict(use_bias=chance(r, 0.4), rope_parameters=rope(r, d, t)), t


def hunyuan_v1_dense(r):
    c, d, t = base(r)
    p = rope(r, d, t)
    if p["rope_type"] == "dynamic" and chance(r, 0.7):
        p["alpha"] = r.choice([1000.0, 4.0, 0.0])
    return "hunyuan_v1_dense", c | dict(attention_bias=chance(r, 0.4), rope_parameters=p), t


def exaone4(r):
    c, d, t = base(r, own_head_dim=None)
    c |= dict(rope_parameters=rope(r, d, t), sliding_window=r.choice([None, window(r, t), window(r, t)]))
    kinds = [FULL, SLIDING] if c["sliding_window"] else [FULL]
    if c["sliding_window"] and chance(r, 0.5):
        return "exaone4", c | dict(sliding_window_pattern=r.randint(1, 4)), t
    return "exaone4", c | dict(layer_types=mix(r, c, *kinds)), t


def cohere2(r):
    c, d, t = base(r, own_head_dim=None)
    c["layer_norm_eps"] = c.pop("rms_norm_eps")
    types = dict(layer_types=mix(r, c, FULL, SLIDING)) if chance(r, 0.5) else dict(sliding_window_pattern=r.randint(1, 4))
    return "cohere2", c | types | dict(attention_bias=chance(r, 0.4), logit_scale=r.choice([1.0, 0.0625, 2.0]),
                                       sliding_window=window(r, t), rope_parameters=rope(r, d, t)), t


def seed_oss(r):
    c, d, t = base(r)
    return "seed_oss", c | some(r, attention_bias=False) | dict(
        attention_out_bias=chance(r, 0.4), mlp_bias=chance(r, 0.4), rope_parameters=rope(r, d, t)), t
