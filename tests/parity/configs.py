"""Random configs of every family: what `difftest.py` draws from. Nothing here computes.

A function a family; it is given a random generator and returns a config in transformers' own keys. Sizes are tiny, and
whatever a class of transformers reads is drawn, in combinations that nobody publishes.
"""

FULL, SLIDING, LINEAR, CONV = "full_attention", "sliding_attention", "linear_attention", "conv"
KINDS = ["default", "default", "linear", "dynamic", "yarn", "yarn", "llama3", "longrope"]
ACTIVATIONS = ["silu"] * 6 + ["gelu", "gelu_pytorch_tanh", "gelu_pytorch_tanh", "swish"]


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def rope(r, head_dim, text, partial=None, kinds=KINDS, theta=(10000.0, 500.0, 50.0, 1e6)):
    """`rope_parameters` of heads of `head_dim` channels; `partial` are the shares of them that may be rotated."""
    p = {"rope_type": r.choice(kinds), "rope_theta": r.choice(theta)}
    if partial:
        p["partial_rotary_factor"] = r.choice([f for f in partial if int(head_dim * f) and int(head_dim * f) % 2 == 0])
    kind, length = p["rope_type"], r.choice([8, 16, text - 1, text, text + 1, 64])
    if kind == "linear":
        p["factor"] = r.choice([1.0, 1.5, 2.0, 8.0])
    elif kind == "dynamic":
        p["factor"] = r.choice([1.0, 2.0, 3.3])
    elif kind == "yarn":
        p |= dict(factor=r.choice([2.0, 4.0, 32.0, 2.5]), original_max_position_embeddings=length)
        for key, values in dict(attention_factor=[0.8, 1.25], beta_fast=[16.0, 4.0], beta_slow=[2.0, 0.25],
                                mscale=[0.707], mscale_all_dim=[0.707, 0.0]).items():
            if r.random() < 0.25:
                p[key] = r.choice(values)
    elif kind == "llama3":
        p |= dict(factor=r.choice([2.0, 8.0]), low_freq_factor=r.choice([1.0, 0.5]),
                  high_freq_factor=r.choice([4.0, 2.0]), original_max_position_embeddings=length)
    elif kind == "longrope":
        pairs = int(head_dim * p.get("partial_rotary_factor", 1.0)) // 2
        p |= dict(short_factor=[round(r.uniform(1, 2), 3) for _ in range(pairs)],
                  long_factor=[round(r.uniform(1, 20), 3) for _ in range(pairs)],
                  original_max_position_embeddings=length, factor=r.choice([1.0, 2.0, 16.0]))
    return p


def base(r, own_head_dim=True, activation="hidden_act"):
    """Sizes that all have. Without `own_head_dim`, heads divide the hidden size."""
    heads = r.choice([1, 2, 3, 4, 6])
    head_dim = r.choice([4, 6, 8, 10, 12, 16])
    text = r.randint(18, 40)
    hidden = heads * r.randint(20 // heads, 64 // heads) if r.random() < 0.7 else r.randint(20, 64)
    c = dict(hidden_size=hidden if own_head_dim else heads * head_dim, intermediate_size=r.randint(20, 90),
             num_hidden_layers=r.randint(2, 4), num_attention_heads=heads, num_key_value_heads=r.choice(divisors(heads)),
             vocab_size=r.randint(50, 150), max_position_embeddings=r.choice([16, text, 64, 512]),
             rms_norm_eps=r.choice([1e-5, 1e-6, 1e-3, 0.02]), tie_word_embeddings=r.random() < 0.5,
             bos_token_id=1, eos_token_id=2, pad_token_id=None)
    if own_head_dim:
        c["head_dim"] = head_dim
    c[activation] = r.choice(ACTIVATIONS)
    return c, head_dim, text


def mix(r, c, *kinds):
    return [r.choice(kinds) for _ in range(c["num_hidden_layers"])]


def window(r, text):
    return r.choice([1, 2, 3, 5, 8, 13, text, text + 5])


def llama(r):
    c, d, t = base(r)
    return "llama", c | dict(attention_bias=r.random() < 0.4, mlp_bias=r.random() < 0.4, rope_parameters=rope(r, d, t)), t


def mistral(r):
    c, d, t = base(r)
    return "mistral", c | dict(sliding_window=r.choice([None, window(r, t)]), rope_parameters=rope(r, d, t)), t


def qwen2(r):
    c, d, t = base(r, own_head_dim=False)
    return "qwen2", c | windows_of_qwen(r, c, t) | dict(rope_parameters=rope(r, d, t)), t


def qwen3(r):
    c, d, t = base(r)
    c |= windows_of_qwen(r, c, t) | dict(attention_bias=r.random() < 0.4, rope_parameters=rope(r, d, t))
    return "qwen3", c, t


def windows_of_qwen(r, c, text):
    slides = r.random() < 0.6
    types = mix(r, c, FULL, SLIDING) if slides else [FULL] * c["num_hidden_layers"]
    more = dict(layer_types=types) if r.random() < 0.5 else {}
    return dict(use_sliding_window=slides, sliding_window=window(r, text), max_window_layers=r.choice([0, 1, 28])) | more


def qwen3_moe(r):
    c, d, t = base(r)
    layers = c["num_hidden_layers"]
    return "qwen3_moe", c | experts(r) | dict(
        attention_bias=r.random() < 0.3, use_sliding_window=r.random() < 0.4, sliding_window=window(r, t),
        norm_topk_prob=r.random() < 0.5, decoder_sparse_step=r.choice([1, 1, 2]),
        mlp_only_layers=sorted(r.sample(range(layers), r.choice([0, 0, 1]))), rope_parameters=rope(r, d, t)), t


def experts(r, count="num_experts"):
    number = r.randint(2, 6)
    return {count: number, "num_experts_per_tok": r.randint(1, number), "moe_intermediate_size": r.randint(10, 30)}


def mixtral(r):
    c, d, t = base(r)
    c |= experts(r, "num_local_experts") | dict(sliding_window=r.choice([None, window(r, t)]), rope_parameters=rope(r, d, t))
    c.pop("moe_intermediate_size")
    return "mixtral", c, t


def gemma(r):
    c, d, t = base(r)
    c |= dict(hidden_act=r.choice(["gelu", "gelu_pytorch_tanh"]), attention_bias=r.random() < 0.3)
    return "gemma", c | dict(rope_parameters=rope(r, d, t)), t


def gemma_windows(r):
    c, d, t = base(r, activation="hidden_activation")
    c |= dict(attention_bias=r.random() < 0.3, query_pre_attn_scalar=r.choice([d, 256, 24, 7]),
              sliding_window=window(r, t), layer_types=mix(r, c, SLIDING, FULL))
    return c, d, t


def gemma2(r):
    c, d, t = gemma_windows(r)
    return "gemma2", c | dict(attn_logit_softcapping=r.choice([50.0, 5.0, 1.5, None]), rope_parameters=rope(r, d, t),
                              final_logit_softcapping=r.choice([30.0, 3.0, None])), t


def gemma3(r):
    c, d, t = gemma_windows(r)
    ropes = {FULL: rope(r, d, t), SLIDING: rope(r, d, t, kinds=["default"])}
    return "gemma3_text", c | dict(final_logit_softcapping=r.choice([None, 7.0]), rope_parameters=ropes), t


def phi3(r):
    c, d, t = base(r, own_head_dim=False)
    p = rope(r, d, t, partial=[1.0, 1.0, 0.75, 0.5], kinds=["default", "longrope"])
    original = p.pop("original_max_position_embeddings", 16)
    return "phi3", c | dict(sliding_window=r.choice([None, window(r, t)]), original_max_position_embeddings=original,
                            rope_parameters=p), t


def olmo2(r):
    c, d, t = base(r, own_head_dim=False)
    return "olmo2", c | dict(attention_bias=r.random() < 0.4, rope_parameters=rope(r, d, t)), t


def hybrid(r):
    """What Qwen3-Next and Qwen3.5 share."""
    c, d, t = base(r)
    d = c["head_dim"] = r.choice([8, 16, 24, 32])
    t = r.choice([t, t, 70, 130])  # the authors' code takes 64 positions at once
    keys = r.randint(1, 3)
    c |= dict(linear_num_key_heads=keys, linear_num_value_heads=keys * r.randint(1, 3), attention_bias=r.random() < 0.3,
              linear_key_head_dim=r.randint(2, 9), linear_value_head_dim=r.randint(2, 9),
              linear_conv_kernel_dim=r.randint(2, 5), max_position_embeddings=r.choice([64, 256]),
              rope_parameters=rope(r, d, t, partial=[0.25, 0.25, 0.5, 1.0]))
    types = dict(layer_types=mix(r, c, LINEAR, FULL)) if r.random() < 0.6 else dict(full_attention_interval=r.randint(1, 4))
    return c | types, t


def qwen3_5(r):
    c, t = hybrid(r)
    if r.random() < 0.5:
        c["rope_parameters"] |= dict(mrope_section=[1, 1, 0], mrope_interleaved=True)
    return "qwen3_5_text", c, t


def qwen3_5_moe(r):
    c, t = hybrid(r)
    c.pop("intermediate_size")
    return "qwen3_5_moe_text", c | experts(r) | dict(shared_expert_intermediate_size=r.randint(8, 30)), t


def qwen3_next(r):
    c, t = hybrid(r)
    layers = c["num_hidden_layers"]
    return "qwen3_next", c | experts(r) | dict(
        shared_expert_intermediate_size=r.randint(8, 30), norm_topk_prob=r.random() < 0.5,
        decoder_sparse_step=r.choice([1, 1, 2]), mlp_only_layers=sorted(r.sample(range(layers), r.choice([0, 0, 1])))), t


def gemma4(r):
    c, d, t = base(r, activation="hidden_activation")
    c["pad_token_id"] = 0  # which the class around it needs
    layers = c["num_hidden_layers"] = r.randint(2, 6)
    types = [*mix(r, c, SLIDING, FULL)[:-1], FULL]
    first = max(types.index(kind) for kind in set(types)) + 1  # from here on each kind has a layer before it
    shared = r.randint(0, layers - first) if r.random() < 0.6 else 0
    wide = r.choice([4, 8, 12, 16])
    ropes = {FULL: dict(rope_type="proportional", rope_theta=r.choice([1e6, 500.0]),
                        partial_rotary_factor=r.choice([0.25, 0.5, 1.0])),
             SLIDING: dict(rope_type="default", rope_theta=r.choice([1e4, 50.0]))}
    equal = r.random() < 0.4
    c |= dict(layer_types=types, num_kv_shared_layers=shared, global_head_dim=wide, sliding_window=window(r, t),
              attention_k_eq_v=equal, rope_parameters=ropes, use_double_wide_mlp=r.random() < 0.5,
              hidden_size_per_layer_input=r.choice([5, 8] if shared else [0, 5, 8]),  # which the class needs to share vocab_size_per_layer_input=c["vocab_size"],
              final_logit_softcapping=r.choice([None, 7.0]), attention_bias=r.random() < 0.3)
    if equal:
        c["num_global_key_value_heads"] = r.choice(divisors(c["num_attention_heads"]))
    if r.random() < 0.4:
        number = r.randint(2, 6)
        c |= dict(enable_moe_block=True, num_experts=number, top_k_experts=r.randint(1, number),
                  moe_intermediate_size=r.randint(10, 30))
    return "gemma4_text", c, t


def lfm2(r):
    c, d, t = base(r, own_head_dim=False)
    c["norm_eps"] = c.pop("rms_norm_eps")
    c.pop("hidden_act")
    c |= dict(conv_bias=r.random() < 0.5, conv_L_cache=r.randint(2, 5), block_multiple_of=r.choice([4, 8, 256]),
              block_auto_adjust_ff_dim=r.random() < 0.7, block_ffn_dim_multiplier=r.choice([1.0, 1.3, 0.7]),
              rope_parameters=rope(r, d, t))
    layers = c["num_hidden_layers"]
    if r.random() < 0.6:
        return "lfm2", c | dict(layer_types=mix(r, c, CONV, FULL)), t
    return "lfm2", c | dict(full_attn_idxs=sorted(r.sample(range(layers), r.randint(0, layers)))), t


FAMILIES = dict(llama=llama, mistral=mistral, qwen2=qwen2, qwen3=qwen3, gemma=gemma, gemma2=gemma2, gemma3=gemma3, phi3=phi3,
                olmo2=olmo2, mixtral=mixtral, qwen3_moe=qwen3_moe, qwen3_5=qwen3_5, qwen3_5_moe=qwen3_5_moe,
                qwen3_next=qwen3_next, gemma4=gemma4, lfm2=lfm2)

# A model around a text model: the family whose text model it is, its model_type, and what else its config has.
WRAPPERS = {
    "gemma3_wrapper": (gemma3, "gemma3", dict(mm_tokens_per_image=4), dict(
        model_type="siglip_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, image_size=8, patch_size=4)),
    "qwen3_5_wrapper": (qwen3_5, "qwen3_5", {}, dict(
        depth=1, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, out_hidden_size=20,
        num_position_embeddings=16)),
    "qwen3_5_moe_wrapper": (qwen3_5_moe, "qwen3_5_moe", {}, dict(
        depth=1, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, out_hidden_size=20,
        num_position_embeddings=16)),
    "gemma4_wrapper": (gemma4, "gemma4", {}, dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, patch_size=4, position_embedding_size=64)),
}
