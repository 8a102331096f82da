"""Parts of random configs, drawn: what the families in `dense.py` and `mixtures.py` are put together from."""

FULL, SLIDING, LINEAR, CONV = "full_attention", "sliding_attention", "linear_attention", "conv"
KINDS = ["default", "default", "linear", "dynamic", "yarn", "yarn", "llama3", "longrope"]
ACTIVATIONS = ["silu"] * 6 + ["gelu", "gelu_pytorch_tanh", "gelu_pytorch_tanh", "gelu_new", "swish"]
PARTIAL = [0.25, 0.5, 0.5, 0.75, 1.0]


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def chance(r, probability):
    return r.random() < probability


def rope(r, head_dim, text, partial=None, kinds=KINDS, theta=(10000.0, 500.0, 50.0, 1e6)):
    """`rope_parameters` of heads of `head_dim` channels; `partial` are the shares of them that may be rotated."""
    p = {"rope_type": r.choice(kinds), "rope_theta": r.choice(theta)}
    if partial:
        p["partial_rotary_factor"] = r.choice([f for f in partial if int(head_dim * f) and int(head_dim * f) % 2 == 0])
    rotated = int(head_dim * p.get("partial_rotary_factor", 1.0))
    if rotated == 2 and p["rope_type"] == "dynamic":  # which divides by the rotated channels less 2
        p["rope_type"] = "default"
    kind, length = p["rope_type"], r.choice([8, 16, max(text - 1, 2), text, text + 1, 64])
    if kind == "linear":
        p["factor"] = r.choice([1.0, 1.5, 2.0, 8.0, 0.5])
    elif kind == "dynamic":
        p["factor"] = r.choice([1.0, 2.0, 3.3])
    elif kind == "yarn":
        p |= dict(factor=r.choice([2.0, 4.0, 32.0, 2.5, 1.0, None]), original_max_position_embeddings=length)
        for key, values in dict(attention_factor=[0.8, 1.25], beta_fast=[16.0, 4.0], beta_slow=[2.0, 0.25],
                                mscale=[0.707], mscale_all_dim=[0.707, 0.0], truncate=[True, False]).items():
            if chance(r, 0.25):
                p[key] = r.choice(values)
    elif kind == "llama3":
        p |= dict(factor=r.choice([2.0, 8.0]), low_freq_factor=r.choice([1.0, 0.5]),
                  high_freq_factor=r.choice([4.0, 2.0]), original_max_position_embeddings=length)
    elif kind == "longrope":
        p |= dict(short_factor=[round(r.uniform(1, 2), 3) for _ in range(rotated // 2)],
                  long_factor=[round(r.uniform(1, 20), 3) for _ in range(rotated // 2)],
                  original_max_position_embeddings=length, factor=r.choice([1.0, 2.0, 16.0]))
        if chance(r, 0.3):
            p.pop("factor")
        if chance(r, 0.3):
            p["attention_factor"] = r.choice([0.8, 1.25])
    return p


def without_share(r, p, head_dim, share):
    """`rope_parameters` that may leave the share of channels that is rotated to the class."""
    rotated = int(head_dim * share)
    if p["rope_type"] == "longrope" or rotated % 2 or rotated <= 2 or chance(r, 0.7):
        return p
    return {key: value for key, value in p.items() if key != "partial_rotary_factor"}


def rope_of_images(r, head_dim, text, **more):
    """`rope_parameters` with the pairs of channels divided among time, height and width."""
    p = rope(r, head_dim, text, kinds=[kind for kind in KINDS if kind != "longrope"])
    pairs = head_dim // 2
    time = r.randint(0, pairs)
    height = r.randint(0, pairs - time)
    return p | dict(mrope_section=[time, height, pairs - time - height], **more)


def base(r, own_head_dim=True, activation="hidden_act"):
    """Sizes that all have. Heads divide the hidden size, unless `own_head_dim`, which may be left to chance (None): of
    classes that have no such key and read it where it is there."""
    own_head_dim = chance(r, 0.4) if own_head_dim is None else own_head_dim
    heads = r.choice([1, 2, 3, 4, 6])
    head_dim = r.choice([2, 4, 6, 8, 10, 12, 16])
    text = r.choice([2, *(r.randint(18, 40) for _ in range(15))])
    hidden = heads * r.randint(20 // heads, 64 // heads) if chance(r, 0.7) else r.randint(20, 64)
    c = dict(hidden_size=hidden if own_head_dim else heads * head_dim,
             intermediate_size=r.choice([1, *(r.randint(20, 90) for _ in range(6))]),
             num_hidden_layers=r.randint(1, 4), num_attention_heads=heads, num_key_value_heads=r.choice(divisors(heads)),
             vocab_size=r.randint(50, 150), max_position_embeddings=r.choice([4, 16, text, 64, 512]),
             rms_norm_eps=r.choice([1e-5, 1e-6, 1e-3, 0.02, 0.0]), tie_word_embeddings=chance(r, 0.5),
             bos_token_id=1, eos_token_id=2, pad_token_id=None)
    if own_head_dim:
        c["head_dim"] = head_dim
    c[activation] = r.choice(ACTIVATIONS)
    return c, head_dim, text


def mix(r, c, *kinds):
    return [r.choice(kinds) for _ in range(c["num_hidden_layers"])]


def window(r, text):
    return r.choice([1, 2, 3, 5, 8, 13, text, text + 5])


def some(r, **values):
    """These keys, or none of them."""
    return values if chance(r, 0.5) else {}


def some_layers(r, c):
    layers = range(c["num_hidden_layers"])
    return sorted(r.sample(layers, r.randint(0, min(2, len(layers)))))


def windows_of_qwen(r, c, text):
    slides = chance(r, 0.6)
    types = mix(r, c, FULL, SLIDING) if slides else [FULL] * c["num_hidden_layers"]
    return dict(use_sliding_window=slides, sliding_window=window(r, text), max_window_layers=r.choice([0, 1, 28]),
                **some(r, layer_types=types))


def experts(r, count="num_experts"):
    number = r.randint(1, 6)
    return {count: number, "num_experts_per_tok": r.randint(1, number), "moe_intermediate_size": r.randint(1, 30)}


def groups(r, smallest=2):
    """Experts of which some groups of at least `smallest` are chosen from."""
    size, number = r.randint(smallest, 4), r.choice([1, 1, 2, 3, 4])
    kept = r.randint(1, number)
    return dict(n_routed_experts=size * number, n_group=number, topk_group=kept,
                num_experts_per_tok=r.randint(1, size * kept), moe_intermediate_size=r.randint(1, 24),
                n_shared_experts=r.choice([1, 1, 2, 3, 0]), routed_scaling_factor=r.choice([1.0, 2.5, 0.3]),
                norm_topk_prob=chance(r, 0.6))


def latent(r):
    """Sizes with latent attention, whose width of heads is the sum of two."""
    c, _, t = base(r, own_head_dim=False)
    plain, turned = r.randint(1, 12), r.choice([2, 4, 6, 8, 16])
    c |= dict(num_key_value_heads=c["num_attention_heads"], q_lora_rank=r.choice([None, 1, r.randint(4, 24)]),
              kv_lora_rank=r.choice([1, r.randint(4, 24)]), qk_nope_head_dim=plain, qk_rope_head_dim=turned,
              v_head_dim=r.randint(1, 16), attention_bias=chance(r, 0.3))
    return c, plain, turned, t


def rope_of_latent(r, turned, text, **more):
    """`rope_parameters` with what latent attention is scaled by, for which the classes need a factor."""
    p = rope(r, turned, text, **more)
    if p.get("factor", 1.0) is None:
        p["factor"] = 2.0
    if "factor" in p and chance(r, 0.3):
        p["mscale_all_dim"] = r.choice([1.0, 0.707])
    return p


def growth(r, p, text):
    """`rope_parameters` by which queries grow, too."""
    original = p.get("original_max_position_embeddings", r.choice([4, 8, 16, text, 64]))
    return p | dict(llama_4_scaling_beta=r.choice([0.1, 0.3, 1.0]), original_max_position_embeddings=original)
