"""Architectures of which nothing is known but that their layers and experts are alike: sound ones of several kinds of
layers, and one out of line."""

import st


def layer(prefix, h=32, i=64, attention="full", experts=0, head=32):
    shapes = {"input_layernorm.weight": [h], "post_attention_layernorm.weight": [h]}
    if attention == "linear":
        shapes |= {"linear_attn.in_proj_qkvz.weight": [4 * h, h], "linear_attn.in_proj_ba.weight": [8, h],
                   "linear_attn.conv1d.weight": [3 * h, 1, 4], "linear_attn.A_log": [4], "linear_attn.dt_bias": [4],
                   "linear_attn.norm.weight": [8], "linear_attn.out_proj.weight": [h, h]}
    else:
        shapes |= {"self_attn.q_proj.weight": [2 * head, h], "self_attn.k_proj.weight": [head, h],
                   "self_attn.v_proj.weight": [head, h], "self_attn.o_proj.weight": [h, 2 * head],
                   "self_attn.q_norm.weight": [head // 2], "self_attn.k_norm.weight": [head // 2]}
    mlps = [f"mlp.experts.{e}." for e in range(experts)] + ["mlp.shared_expert."] if experts else ["mlp."]
    for mlp in mlps:
        shapes |= {mlp + "gate_proj.weight": [i, h], mlp + "up_proj.weight": [i, h], mlp + "down_proj.weight": [h, i]}
    if experts:
        shapes |= {"mlp.gate.weight": [experts, h], "mlp.gate.e_score_correction_bias": [experts]}
    return {prefix + name: st.ones(s) if "norm" in name else st.normal(s) for name, s in shapes.items()}


def model(layers, prefix="model."):
    t = {prefix + "embed_tokens.weight": st.normal([320, 32]), prefix + "norm.weight": st.ones([32]),
         "lm_head.weight": st.normal([320, 32])}
    for n, kind in enumerate(layers):
        t |= layer(f"{prefix}layers.{n}.", **kind)
    return t


def config(name, layers, **more):
    return {"architectures": [name + "ForCausalLM"], "model_type": name.lower(), "hidden_size": 32, "vocab_size": 320,
            "num_hidden_layers": layers, "torch_dtype": "bfloat16", **more}


MOE, LINEAR = {"experts": 4}, {"attention": "linear", "experts": 4}


def build(d):
    sound(d)
    # One out of line.
    c, t = config("Novel", 4), model([MOE] * 4)
    up = "model.layers.2.mlp.experts.1.up_proj.weight"
    change(d, "expert-short", c, t, remove=[up])
    change(d, "expert-missing", c, t, remove=[name for name in t if name.startswith("model.layers.2.mlp.experts.1.")])
    change(d, "projection-missing", c, t, remove=["model.layers.1.self_attn.o_proj.weight"])
    change(d, "projection-renamed", c, t, remove=["model.layers.1.self_attn.o_proj.weight"],
           add={"model.layers.1.self_attn.out.weight": st.normal([32, 64])})
    change(d, "norm-missing", c, t, remove=["model.layers.3.post_attention_layernorm.weight"])
    change(d, "layer-missing", c, t, remove=[name for name in t if name.startswith("model.layers.2.")])
    change(d, "last-layer-missing", config("Novel", 5), t)
    change(d, "expert-transposed", c, t, add={up: st.normal([32, 64])})
    change(d, "norm-too-long", c, t, add={"model.layers.3.input_layernorm.weight": st.ones([64])})
    change(d, "norm-zero", c, t, add={"model.layers.3.input_layernorm.weight": st.zeros([32])})
    change(d, "last-norm-zero", c, t, add={"model.norm.weight": st.zeros([32])})
    change(d, "expert-of-one-value", c, t, add={up: st.ones([64, 32], value=0.25)})
    change(d, "expert-of-another-dtype", c, t, add={up: st.normal([64, 32], dtype="F32")})
    two = model([MOE] * 2)
    change(d, "transposed-of-two", config("Novel", 2), two, add={"model.layers.1.mlp.experts.1.up_proj.weight": st.normal([32, 64])})
    blocks = vision()
    wrapper = {**config("Other", 4), "text_config": {"model_type": "other_text", "num_hidden_layers": 4}, "vision_config": {}}
    text = {"model.language_model." + name.removeprefix("model."): v for name, v in t.items()}
    st.folder(d / "vision", wrapper, {**text, **blocks})
    change(d, "vision-block-short", wrapper, {**text, **blocks}, remove=["model.visual.blocks.1.mlp.fc2.weight"])


def change(d, name, c, t, remove=(), add={}):
    st.folder(d / name, c, {**{k: v for k, v in t.items() if k not in remove}, **add})


def sound(d):
    st.folder(d / "alike", config("Novel", 4), model([MOE] * 4))
    st.folder(d / "dense-first", config("Novel", 4), model([{}] + [MOE] * 3))
    st.folder(d / "dense-first-of-two", config("Novel", 2), model([{}, MOE]))
    predicts = model([{}] + [MOE] * 3)
    p = "model.layers.4."
    predicts |= layer(p, **MOE) | {p + "eh_proj.weight": st.normal([32, 64]), p + "enorm.weight": st.ones([32]),
                                   p + "hnorm.weight": st.ones([32]), p + "shared_head.norm.weight": st.ones([32])}
    st.folder(d / "predicts-further", config("Novel", 4, num_nextn_predict_layers=1), predicts)
    types = ["linear_attention"] * 3 + ["full_attention"]
    st.folder(d / "hybrid", config("Novel", 8, layer_types=types * 2), model(([LINEAR] * 3 + [MOE]) * 2))
    st.folder(d / "hybrid-of-four", config("Novel", 4), model([LINEAR] * 3 + [MOE]))
    # Norms that multiply by 1 + w, as they begin.
    zero = {name: st.zeros(v[1]) if "layernorm" in name or name == "model.norm.weight" else v
            for name, v in model([LINEAR] * 3 + [MOE]).items()}
    st.folder(d / "norms-around-zero", config("Novel", 4), zero)
    # Global layers with wider heads, whose values are their keys.
    gemma = model([{}, {}, {"head": 64}] * 2)
    for n in (2, 5):
        del gemma[f"model.layers.{n}.self_attn.v_proj.weight"]
    st.folder(d / "keys-as-values", config("Novel", 6, layer_types=["sliding_attention"] * 2 + ["full_attention"]), gemma)
    one = model([{}, {}, {"head": 64}])
    del one["model.layers.2.self_attn.v_proj.weight"]
    st.folder(d / "keys-as-values-of-three",
              config("Novel", 3, layer_types=["sliding_attention"] * 2 + ["full_attention"]), one)
    widths = model([{"i": 32 * (n + 1)} for n in range(4)])
    st.folder(d / "widths-differ", config("Novel", 4), widths)
    st.folder(d / "one-wider", config("Novel", 4), model([{}, {}, {"i": 128}, {}]))
    # The first layer reads what a norm has gone through already.
    normed = model([{}] * 4)
    del normed["model.layers.0.input_layernorm.weight"]
    st.folder(d / "first-without-norm", config("Novel", 4), normed)
    # A layer without its MLP, and one without attention.
    pruned = {name: v for name, v in model([{}] * 6).items()
              if not name.startswith(("model.layers.2.mlp", "model.layers.2.post", "model.layers.4.self", "model.layers.4.input"))}
    st.folder(d / "layers-cut-by-design", config("Novel", 6), pruned)
    # The last layers take keys and values from those before them.
    shared = {name: v for name, v in model([{}] * 4).items()
              if not name.startswith("model.layers.3.self_attn.") or ".k_" not in name and ".v_" not in name}
    st.folder(d / "shared-keys", config("Novel", 4, num_kv_shared_layers=1), shared)
    # Blocks over images, each in its own way.
    mobile = {f"vision_tower.blocks.1.{b}.{conv}.{part}": st.normal([8, 8, 1, 1]) if part == "conv.weight" else st.ones([8])
              for b in range(4) for conv in ("dw_start", "pw_exp", "dw_mid", "pw_proj") for part in ("conv.weight", "bn.weight")
              if (b, conv) != (2, "dw_start")}
    st.folder(d / "mobile-blocks", config("Novel", 4), {**model([{}] * 4), **mobile})
    encoder(d)
    # Parts of a sequence are numbered as well.
    sequence = {"proj.0.weight": st.normal([32, 32]), "proj.0.bias": st.normal([32]), "proj.2.weight": st.normal([32, 32]),
                "proj.2.bias": st.normal([32]), "proj.4.weight": st.normal([32, 32])}
    stages = {f"stages.{s}.blocks.{b}.conv{c}.weight": st.normal([8, 4 if (s, b, c) == (0, 0, 1) else 8, 3, 3])
              for s in range(2) for b in range(3) for c in (1, 2)}
    st.folder(d / "sequences-and-stages", config("Novel", 4), {**model([{}] * 4), **sequence, **stages})


def vision():
    t = {"model.visual.patch_embed.proj.weight": st.normal([32, 3, 2, 4, 4]), "model.visual.pos_embed.weight": st.normal([16, 32])}
    for n in range(3):
        p = f"model.visual.blocks.{n}."
        for name, rows, columns in (("attn.qkv", 96, 32), ("attn.proj", 32, 32), ("mlp.fc1", 64, 32), ("mlp.fc2", 32, 64)):
            t |= {p + name + ".weight": st.normal([rows, columns]), p + name + ".bias": st.zeros([rows])}
        for name in ("norm1", "norm2"):
            t |= {p + name + ".weight": st.ones([32]), p + name + ".bias": st.zeros([32])}
    return t


def encoder(d):
    c = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 64, "intermediate_size": 128,
         "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320, "max_position_embeddings": 512,
         "type_vocab_size": 2, "torch_dtype": "float32"}
    normal = lambda shape: st.normal(shape, dtype="F32")
    t = {"embeddings.word_embeddings.weight": normal([320, 64]), "embeddings.position_embeddings.weight": normal([512, 64]),
         "embeddings.token_type_embeddings.weight": st.zeros([2, 64], "F32"),
         "embeddings.LayerNorm.weight": st.ones([64], "F32"), "embeddings.LayerNorm.bias": normal([64])}
    for n in range(2):
        for name, rows, columns in (("attention.self.query", 64, 64), ("attention.self.key", 64, 64),
                                    ("attention.self.value", 64, 64), ("attention.output.dense", 64, 64),
                                    ("intermediate.dense", 128, 64), ("output.dense", 64, 128)):
            t |= {f"encoder.layer.{n}.{name}.weight": normal([rows, columns]), f"encoder.layer.{n}.{name}.bias": normal([rows])}
    st.folder(d / "encoder", c, t)
