"""Random configs of the families with experts, as `dense.py` has them of the others."""

from draw import (FULL, KINDS, PARTIAL, SLIDING, base, chance, experts, groups, growth, latent, mix, rope, rope_of_images,
                  rope_of_latent, some, some_layers, window, without_share)
from dense import hybrid, multipliers


def mixtral(r):
    c, d, t = base(r)
    c |= experts(r, "num_local_experts") | dict(sliding_window=r.choice([None, window(r, t)]), rope_parameters=rope(r, d, t))
    c.pop("moe_intermediate_size")
    return "mixtral", c, t


def qwen3_moe(r):
    c, d, t = base(r)
    return "qwen3_moe", c | experts(r) | dict(
        attention_bias=chance(r, 0.3), use_sliding_window=chance(r, 0.4), sliding_window=window(r, t),
        norm_topk_prob=chance(r, 0.5), decoder_sparse_step=r.choice([1, 1, 2]), mlp_only_layers=some_layers(r, c),
        rope_parameters=rope(r, d, t)), t


def qwen3_vl_moe(r):
    c, d, t = base(r)
    return "qwen3_vl_moe_text", c | experts(r) | dict(
        attention_bias=chance(r, 0.3), decoder_sparse_step=r.choice([1, 1, 2]), mlp_only_layers=some_layers(r, c),
        rope_parameters=rope_of_images(r, d, t, mrope_interleaved=True), **some(r, norm_topk_prob=True),
        **some(r, moe_intermediate_size=r.choice([c["hidden_size"], max(c["hidden_size"] // 2, 1)]))), t


def qwen3_5_moe(r):
    c, t = hybrid(r)
    c.pop("intermediate_size")
    return "qwen3_5_moe_text", c | experts(r) | dict(shared_expert_intermediate_size=r.randint(8, 30)), t


def qwen3_next(r):
    c, t = hybrid(r)
    return "qwen3_next", c | experts(r) | dict(
        shared_expert_intermediate_size=r.randint(8, 30), norm_topk_prob=chance(r, 0.5),
        decoder_sparse_step=r.choice([1, 1, 2]), mlp_only_layers=some_layers(r, c)), t


def gpt_oss(r):
    c, d, t = base(r)
    c |= experts(r, "num_local_experts")
    c.pop("moe_intermediate_size")
    return "gpt_oss", c | dict(
        attention_bias=chance(r, 0.7), swiglu_limit=r.choice([7.0, 1.0, 0.3]), swiglu_alpha=r.choice([1.702, 1.0, 0.0]),
        sliding_window=window(r, t), rope_parameters=rope(r, d, t), **some(r, layer_types=mix(r, c, FULL, SLIDING)),
        **some(r, intermediate_size=r.choice([c["hidden_size"], max(c["hidden_size"] // 2, 1)]))), t


def deepseek_v3(r):
    c, _, turned, t = latent(r)
    return "deepseek_v3", c | groups(r) | dict(
        first_k_dense_replace=r.randint(0, c["num_hidden_layers"]), rope_interleave=chance(r, 0.7),
        rope_parameters=rope_of_latent(r, turned, t)), t


def deepseek_v2(r):
    c, plain, turned, t = latent(r)
    c |= dict(qk_nope_head_dim=2 * plain, kv_lora_rank=2 * c["kv_lora_rank"])  # its class turns them as complex numbers
    c |= groups(r, smallest=1) | dict(
        first_k_dense_replace=r.randint(0, c["num_hidden_layers"]), mlp_bias=chance(r, 0.3),
        rope_parameters=rope_of_latent(r, turned, t), topk_method="group_limited_greedy")
    c.pop("norm_topk_prob")
    if chance(r, 0.4):
        c["topk_method"] = "greedy"
        c |= some(r, n_group=None, topk_group=None)
    return "deepseek_v2", c, t


def glm4_moe_lite(r):
    c, _, turned, t = latent(r)
    return "glm4_moe_lite", c | groups(r) | dict(
        rope_interleave=chance(r, 0.7), rope_parameters=rope_of_latent(r, turned, t),
        **some(r, mlp_layer_types=mix(r, c, "dense", "sparse"))), t


def mistral4(r):
    c, plain, turned, t = latent(r)
    kinds = [kind for kind in KINDS if kind != "default"]  # which its class turns other channels by
    p = rope_of_latent(r, turned, t, kinds=kinds if turned > 2 else ["linear", "yarn", "llama3", "longrope"])
    if int((plain + turned) * (turned / (plain + turned))) != turned:
        c["qk_nope_head_dim"] = plain = turned
    p["partial_rotary_factor"] = turned / (plain + turned)
    return "mistral4", c | groups(r) | dict(
        first_k_dense_replace=r.randint(0, c["num_hidden_layers"]), rope_interleave=chance(r, 0.7),
        rope_parameters=growth(r, p, t)), t


def glm4_moe(r):
    c, d, t = base(r, own_head_dim=None)
    return "glm4_moe", c | groups(r) | dict(
        attention_bias=chance(r, 0.4), use_qk_norm=chance(r, 0.5),
        rope_parameters=without_share(r, rope(r, d, t, partial=PARTIAL), d, 0.5),
        first_k_dense_replace=r.randint(0, c["num_hidden_layers"])), t


def granite(r):
    """What Granite's mixtures have in common."""
    c, d, t = base(r, own_head_dim=None)
    c |= experts(r, "num_local_experts") | multipliers(r)
    c.pop("moe_intermediate_size")
    return c | dict(attention_bias=chance(r, 0.4), rope_parameters=rope(r, d, t)), t


def granitemoe(r):
    c, t = granite(r)
    return "granitemoe", c, t


def granitemoeshared(r):
    c, t = granite(r)
    return "granitemoeshared", c | dict(shared_intermediate_size=r.choice([0, r.randint(1, 60), r.randint(1, 60)])), t


def minimax_m2(r):
    c, d, t = base(r)
    c |= experts(r, "num_local_experts")
    c.pop("moe_intermediate_size")
    p = rope(r, d, t, partial=PARTIAL)
    if p["rope_type"] != "longrope" and chance(r, 0.5):  # as published configs say it
        c["rotary_dim"] = int(d * p.pop("partial_rotary_factor"))
    return "minimax_m2", c | dict(rope_parameters=p), t
