"""Packed weights, each form sound and with what is seen to go wrong in it."""

import json
import struct

import st

LAYER = "model.layers.1."
GATE = LAYER + "mlp.gate_proj."


def config(settings=None, **more):
    c = st.llama_config(hidden=128, inter=256, layers=3, **more)
    return c if settings is None else {**c, "quantization_config": settings}


def scale(shape, value=2e-4, dtype="F32"):
    return st.ones(shape, dtype, value)


def block_scales(shape):
    """Positive E4M3 bytes."""
    return ("F8_E4M3", list(shape), bytes(0x30 + b % 0x4e for b in st.rng.randbytes(st.count(shape))))


# What each form makes of a matrix of `rows` and `columns`, by the ends of names.

def fp8_blocks(rows, columns, name):
    return {"weight": st.fp8([rows, columns]),
            "weight_scale_inv": scale([-(-rows // 128), -(-columns // 128)])}


def fp8_tensor(rows, columns, name):
    return {"weight": st.fp8([rows, columns]), "weight_scale": scale([]), "input_scale": scale([], 0.03)}


def fp8_channel(rows, columns, name):
    return {"weight": st.fp8([rows, columns]), "weight_scale": scale([rows, 1], dtype="BF16")}


def int8(rows, columns, name):
    return {"weight": st.raw("I8", [rows, columns]), "weight_scale": scale([rows, 1], 1e-3, "BF16")}


def int4(rows, columns, name):
    return {"weight_packed": st.raw("I32", [rows, columns // 8]), "weight_scale": scale([rows, columns // 128], 1e-3, "BF16"),
            "weight_shape": ("I64", [2], struct.pack("<qq", rows, columns))}


def nvfp4(rows, columns, name):
    return {"weight": st.raw("U8", [rows, columns // 2]), "weight_scale": block_scales([rows, columns // 16]),
            "weight_scale_2": scale([], 1e-4), "input_scale": scale([], 0.01)}


def nvfp4_packed(rows, columns, name):
    return {"weight_packed": st.raw("U8", [rows, columns // 2]), "weight_scale": block_scales([rows, columns // 16]),
            "weight_global_scale": scale([1], 9000.0), "input_global_scale": scale([1], 50.0)}


def gptq(rows, columns, name):
    groups = struct.pack(f"<{columns}i", *[at // 128 for at in range(columns)])
    return {"qweight": st.raw("I32", [columns // 8, rows]), "qzeros": st.raw("I32", [columns // 128, rows // 8]),
            "scales": scale([columns // 128, rows], 1e-3, "F16"), "g_idx": ("I32", [columns], groups)}


def awq(rows, columns, name):
    return {"qweight": st.raw("I32", [columns, rows // 8]), "qzeros": st.raw("I32", [columns // 128, rows // 8]),
            "scales": scale([columns // 128, rows], 1e-3, "F16")}


def bnb4(rows, columns, name):
    blocks = rows * columns // 64
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns],
                        "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.04}).encode()
    return {"weight": st.raw("U8", [rows * columns // 2, 1]), "weight.absmax": st.raw("U8", [blocks]),
            "weight.nested_absmax": scale([-(-blocks // 256)], 0.01), "weight.nested_quant_map": st.normal([256], 0.5, "F32"),
            "weight.quant_map": st.normal([16], 0.5, "F32"),
            "weight.quant_state.bitsandbytes__nf4": ("U8", [len(state)], state)}


def bnb8(rows, columns, name):
    return {"weight": st.raw("I8", [rows, columns]), "SCB": scale([rows], 0.2), "weight_format": ("U8", [], b"\0")}


def packed(form, left=()):
    """A llama whose projections are in a form, but for those whose names hold one of `left`."""
    out = {}
    for name, tensor in st.llama(config()).items():
        if not st.is_linear(name) or any(part in name for part in left):
            out[name] = tensor
            continue
        module = name[:-len("weight")]
        out |= {module + end: part for end, part in form(*tensor[1], name).items()}
    # Wide elements first, so that all of them begin where they should.
    return dict(sorted(out.items(), key=lambda item: -st.SIZES[item[1][0]]))


def compressed(form, bits, kind="int", **more):
    weights = {"num_bits": bits, "type": kind, "strategy": "channel", **more}
    return {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head", "re:.*visual.*"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128],
       "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}
INT4 = compressed("pack-quantized", 4, group_size=128, strategy="group")
NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head", "*visual*"]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
SOUND = {
    "fp8-blocks": (FP8, fp8_blocks),
    "fp8-tensor": ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"type": "float", "num_bits": 8}},
                   fp8_tensor),
    "fp8-channel": (compressed("float-quantized", 8, "float"), fp8_channel),
    "int8": (compressed("int-quantized", 8), int8),
    "int4": (INT4, int4),
    "nvfp4": (NVFP4, nvfp4),
    "nvfp4-packed": (compressed("nvfp4-pack-quantized", 4, "float", group_size=16), nvfp4_packed),
    "gptq": (GPTQ, gptq),
    "awq": (AWQ, awq),
    "bnb4": (BNB, bnb4),
    "bnb8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bnb8),
}


def build(d):
    made = {}
    for name, (settings, form) in SOUND.items():
        made[name] = packed(form)
        if name == "fp8-tensor":
            for layer in range(3):
                made[name] |= {f"model.layers.{layer}.self_attn.{end}": scale([1], 0.1) for end in ("k_scale", "v_scale")}
        st.folder(d / name, config(settings), made[name])
    # Packers of old gave every module a bias.
    biases = {name.replace("qweight", "bias"): st.zeros([t[1][1]], "F16") for name, t in made["gptq"].items() if "qweight" in name}
    st.folder(d / "gptq-biases", config(GPTQ), {**made["gptq"], **biases})
    st.folder(d / "method-unknown", config({"quant_method": "quip"}), made["int8"])
    # Of a file that was cut short that is told, not what lacks its scales for it.
    for name in ("fp8-blocks", "gptq"):
        cut = st.folder(d / f"{name}-cut", config(SOUND[name][0]), made[name]) / "model.safetensors"
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    left_out(d)
    broken(d, made)
    deepseek(d)
    kimi(d)
    experts_of_gpt_oss(d)
    mistral(d)


def left_out(d):
    """Modules that the config names as not packed, in each tool's way."""
    first, attention = ("model.layers.0.",), ("self_attn",)
    st.folder(d / "awq-left-out", config({**AWQ, "modules_to_not_convert": ["model.layers.0."]}), packed(awq, first))
    st.folder(d / "gptq-left-out", config({**GPTQ, "dynamic": {"-:.*\\.layers\\.0\\..*": {}}}), packed(gptq, first))
    st.folder(d / "nvfp4-left-out", config({**NVFP4, "exclude_modules": ["*self_attn*", "lm_head"]}), packed(nvfp4, attention))
    st.folder(d / "int4-left-out", config({**INT4, "ignore": ["lm_head", "re:.*layers\\.0\\..*"]}), packed(int4, first))
    st.folder(d / "bnb4-left-out", config(BNB), packed(bnb4, first))
    st.folder(d / "fp8-left-out", config({**FP8, "modules_to_not_convert": ["model.layers.0"]}), packed(fp8_blocks, first))
    # And not named: the weight of one layer is no code.
    st.folder(d / "int4-one-dense", config(INT4), packed(int4, (GATE,)))
    st.folder(d / "fp8-one-dense", config(FP8), packed(fp8_blocks, (GATE,)))
    # Packed all the same.
    ignoring = {**INT4, "ignore": ["lm_head", GATE[:-1]]}
    st.folder(d / "int4-ignored", config(ignoring), packed(int4))
    ignoring = {**NVFP4, "exclude_modules": ["lm_head", "*layers.1.mlp*"]}
    st.folder(d / "nvfp4-ignored", config(ignoring), packed(nvfp4))


def broken(d, made):
    def case(name, of, change, settings="own"):
        tensors = dict(made[of])
        change(tensors)
        st.folder(d / name, config(SOUND[of][0] if settings == "own" else settings), tensors)

    def filled(end, value):
        def change(t):
            dtype, shape, _ = t[GATE + end]
            t[GATE + end] = st.ones(shape, dtype, value)
        return change

    def bytes_of(end, byte):
        def change(t):
            dtype, shape, data = t[GATE + end]
            t[GATE + end] = (dtype, shape, bytes([byte]) * len(data))
        return change

    def without(*ends):
        return lambda t: [t.pop(GATE + end) for end in ends]

    def renamed(end, other):
        def change(t):
            for layer in range(3):
                module = f"model.layers.{layer}.mlp.gate_proj."
                t[module + other] = t.pop(module + end)
        return change

    case("fp8-no-config", "fp8-blocks", lambda t: None, None)
    case("int8-no-config", "int8", lambda t: None, None)
    case("int4-no-config", "int4", lambda t: None, None)
    case("fp8-scale-missing", "fp8-blocks", without("weight_scale_inv"))
    case("fp8-scale-renamed", "fp8-blocks", renamed("weight_scale_inv", "weight_scale"))
    case("fp8-scale-zero", "fp8-blocks", filled("weight_scale_inv", 0.0))
    case("fp8-scale-negative", "fp8-channel", filled("weight_scale", -1e-4))
    case("fp8-scale-nan", "fp8-blocks", filled("weight_scale_inv", float("nan")))
    case("fp8-scale-far", "fp8-blocks", filled("weight_scale_inv", 0.5))
    case("fp8-nan-codes", "fp8-blocks", bytes_of("weight", 0x7f))
    case("fp8-no-input-scale", "fp8-tensor", without("input_scale"))
    case("fp8-input-scale-zero", "fp8-tensor", filled("input_scale", 0.0))
    case("fp8-config-of-floats", "fp8-channel", lambda t: t.update(st.llama(config())) or
         [t.pop(name) for name in list(t) if name.endswith("_scale")])
    case("fp8-config-of-int8", "fp8-channel", lambda t: None, SOUND["int8"][0])
    case("fp8-scales-of-another-tool", "fp8-blocks", lambda t: [t.update({name.removesuffix("_inv"): t.pop(name)})
         for name in list(t) if name.endswith("_inv")])
    case("fp8-static-without-input-scales", "fp8-blocks", lambda t: None, {**FP8, "activation_scheme": "static"})
    case("int4-outside-targets", "int4", lambda t: None, {**INT4, "config_groups": {"group_0": {
         **INT4["config_groups"]["group_0"], "targets": ["re:.*self_attn.*"]}}})
    case("gptq-groups-of-other-size", "gptq", lambda t: None, {**GPTQ, "group_size": 64})
    case("gptq-unordered-groups-missing", "gptq", lambda t: [t.pop(name) for name in list(t) if name.endswith("g_idx")],
         {**GPTQ, "desc_act": True})
    channel = made["fp8-channel"][GATE + "weight_scale"]
    case("fp8-one-scale-large", "fp8-channel", lambda t: t.update({GATE + "weight_scale":
         st.patched(channel, 2 * 7, st.bf16([0.2]))}))
    cache = LAYER + "self_attn.k_scale"
    case("fp8-cache-scale-zero", "fp8-tensor", lambda t: t.update({cache: st.ones([1], "F32", 0.0)}))
    case("fp8-cache-scale-missing", "fp8-tensor", lambda t: t.pop(cache))
    case("int8-codes-missing", "int8", without("weight"))
    case("int8-zero-codes", "int8", bytes_of("weight", 0))
    case("int4-scale-nan", "int4", filled("weight_scale", float("nan")))
    case("int4-shape-missing", "int4", without("weight_shape"))
    case("int4-codes-missing", "int4", without("weight_packed"))
    case("int4-erased", "int4", bytes_of("weight_packed", 0))
    # Eight less eight: all zero once unpacked.
    case("int4-zeros", "int4", bytes_of("weight_packed", 0x88))
    case("int4-row-of-zeros", "int4", lambda t: t.update({GATE + "weight_packed":
         st.patched(t[GATE + "weight_packed"], 5 * 64, b"\x88" * 64)}))
    case("nvfp4-codes-alone", "nvfp4", without("weight_scale", "weight_scale_2", "input_scale"))
    case("nvfp4-second-scale-missing", "nvfp4", without("weight_scale_2"))
    case("nvfp4-scales-differ", "nvfp4", filled("weight_scale_2", 2e-4))
    case("nvfp4-global-scale-infinite", "nvfp4-packed", filled("weight_global_scale", float("inf")))
    case("gptq-scales-missing", "gptq", without("scales"))
    case("gptq-zeros-missing", "gptq", without("qzeros"))
    case("gptq-groups-missing", "gptq", without("g_idx"))
    case("awq-codes-missing", "awq", without("qweight"))
    case("bnb4-state-missing", "bnb4", without("weight.quant_state.bitsandbytes__nf4", "weight.quant_map"))
    case("bnb8-scale-missing", "bnb8", without("SCB"))
    case("bnb8-scale-zero", "bnb8", filled("SCB", 0.0))


def experts_of_gpt_oss(d):
    c = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 64, "num_hidden_layers": 3,
         "num_local_experts": 4, "intermediate_size": 64, "vocab_size": 320,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
         "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}}
    t = {"model.embed_tokens.weight": st.normal([320, 64]), "lm_head.weight": st.normal([320, 64]),
         "model.norm.weight": st.ones([64])}
    for layer in range(3):
        p = f"model.layers.{layer}."
        for name in "qkvo":
            t |= {f"{p}self_attn.{name}_proj.weight": st.normal([64, 64]), f"{p}self_attn.{name}_proj.bias": st.normal([64])}
        t |= {p + "self_attn.sinks": st.normal([4]), p + "mlp.router.weight": st.normal([4, 64]),
              p + "mlp.router.bias": st.normal([4])}
        for name, rows in (("gate_up_proj", 128), ("down_proj", 64)):
            e = f"{p}mlp.experts.{name}_"
            t |= {e + "blocks": st.raw("U8", [4, rows, 2, 16]), e + "scales": st.raw("U8", [4, rows, 2], 120),
                  e + "bias": st.normal([4, rows])}
        t |= {p + "input_layernorm.weight": st.ones([64]), p + "post_attention_layernorm.weight": st.ones([64])}
    t = dict(sorted(t.items(), key=lambda item: -st.SIZES[item[1][0]]))
    scales = LAYER + "mlp.experts.gate_up_proj_scales"
    st.folder(d / "mxfp4", c, t)
    st.folder(d / "mxfp4-scales-zero", c, {**t, scales: st.raw("U8", [4, 128, 2], 0)})
    st.folder(d / "mxfp4-scales-nan", c, {**t, scales: st.raw("U8", [4, 128, 2], 255)})
    st.folder(d / "mxfp4-scales-missing", c, {name: v for name, v in t.items() if name != scales})
    st.folder(d / "mxfp4-no-config", {k: v for k, v in c.items() if k != "quantization_config"}, t)


def mistral(d):
    """A wrapper with a text model in FP8 whose vision tower is not packed, as its makers write it."""
    text = {**config(), "model_type": "ministral3", "architectures": None}
    settings = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None,
                "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"]}
    c = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": text,
         "vision_config": {"model_type": "pixtral", "hidden_size": 32, "num_hidden_layers": 3},
         "quantization_config": settings, "torch_dtype": "bfloat16"}

    def static(rows, columns, name):
        return {"weight": st.fp8([rows, columns]), "weight_scale_inv": scale([], 2e-4, "BF16"),
                "activation_scale": scale([], 0.02, "BF16")}

    t = {"language_model." + name: tensor for name, tensor in packed(static).items()}
    for layer in range(3):
        p = f"vision_tower.transformer.layers.{layer}."
        t |= {f"{p}feed_forward.{name}_proj.weight": st.normal([32, 32]) for name in ("gate", "up", "down")}
        t |= {p + "attention_norm.weight": st.ones([32])}
    t = dict(sorted(t.items(), key=lambda item: -st.SIZES[item[1][0]]))
    st.folder(d / "fp8-in-a-wrapper", c, t)
    missing = "language_model." + GATE + "weight_scale_inv"
    st.folder(d / "fp8-in-a-wrapper-scale-missing", c, {name: v for name, v in t.items() if name != missing})
    st.folder(d / "fp8-in-a-wrapper-vision-norm-zero", c,
              {**t, "vision_tower.transformer.layers.1.attention_norm.weight": st.zeros([32])})


def rounded(t):
    """Tensors in an order in which all begin where they should."""
    return dict(sorted(t.items(), key=lambda item: -st.SIZES[item[1][0]]))


def latent_layer(p, form, experts):
    """A layer of DeepSeek V3: latent attention, an MLP or experts."""
    matrices = {"self_attn.q_a_proj": (48, 128), "self_attn.q_b_proj": (96, 48), "self_attn.kv_a_proj_with_mqa": (40, 128),
                "self_attn.kv_b_proj": (128, 32), "self_attn.o_proj": (128, 64)}
    mlps = [f"mlp.experts.{e}." for e in range(experts)] + ["mlp.shared_experts."] if experts else ["mlp."]
    for mlp in mlps:
        matrices |= {mlp + "gate_proj": (64, 128), mlp + "up_proj": (64, 128), mlp + "down_proj": (128, 64)}
    t = {}
    for name, (rows, columns) in matrices.items():
        parts = form(rows, columns, p + name) or {"weight": st.normal([rows, columns])}
        t |= {f"{p}{name}.{end}": part for end, part in parts.items()}
    t |= {p + name + ".weight": st.ones([n]) for name, n in (("input_layernorm", 128), ("post_attention_layernorm", 128),
          ("self_attn.q_a_layernorm", 48), ("self_attn.kv_a_layernorm", 32))}
    if experts:
        t |= {p + "mlp.gate.weight": st.normal([experts, 128]),
              p + "mlp.gate.e_score_correction_bias": st.normal([experts], dtype="F32")}
    return t


def latent_model(form, prefix=""):
    t = {prefix + "model.embed_tokens.weight": st.normal([320, 128]), prefix + "model.norm.weight": st.ones([128]),
         prefix + "lm_head.weight": st.normal([320, 128])}
    for layer in range(4):
        t |= latent_layer(f"{prefix}model.layers.{layer}.", form, 4 if layer else 0)
    return t


def deepseek(d):
    """FP8 in blocks that need not divide the matrix, a dense first layer, and one that predicts further."""
    c = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 128, "vocab_size": 320,
         "num_hidden_layers": 4, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1, "n_routed_experts": 4,
         "quantization_config": {key: FP8[key] for key in ("quant_method", "activation_scheme", "fmt", "weight_block_size")}}
    t = latent_model(fp8_blocks)
    p = "model.layers.4."
    t |= latent_layer(p, fp8_blocks, 4)
    t |= {p + "eh_proj.weight": st.normal([128, 256]), p + "enorm.weight": st.ones([128]), p + "hnorm.weight": st.ones([128]),
          p + "embed_tokens.weight": st.normal([320, 128]), p + "shared_head.norm.weight": st.ones([128]),
          p + "shared_head.head.weight": st.normal([320, 128])}
    st.folder(d / "deepseek", c, rounded(t))
    expert = "model.layers.2.mlp.experts.3.up_proj.weight"
    lost = {name: v for name, v in t.items() if not name.startswith(expert)}
    st.folder(d / "deepseek-expert-short", c, rounded(lost))
    st.folder(d / "deepseek-scale-missing", c, rounded({name: v for name, v in t.items() if name != expert + "_scale_inv"}))
    # The layer that predicts further is often left as it was.
    dense = latent_layer(p, lambda rows, columns, name: None, 4)
    kept = {name: v for name, v in t.items() if not name.startswith(p) or "head" in name or "norm" in name}
    st.folder(d / "deepseek-last-layer-dense", c, rounded({**kept, **dense}))


def kimi(d):
    """A wrapper whose text model's experts are packed, by the settings of the text model."""
    def form(rows, columns, name):
        if ".experts." not in name:
            return None
        return {"weight_packed": st.raw("I32", [rows, columns // 8]), "weight_scale": scale([rows, columns // 32], 1e-3, "BF16"),
                "weight_shape": ("I32", [2], struct.pack("<ii", rows, columns))}

    settings = {**compressed("pack-quantized", 4, group_size=32, strategy="group"),
                "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]}
    text = {"model_type": "kimi_k9", "num_hidden_layers": 4, "vocab_size": 320, "quantization_config": settings}
    c = {"architectures": ["KimiK9ForConditionalGeneration"], "model_type": "kimi_k9_vl", "text_config": text,
         "vision_config": {"hidden_size": 32}}
    t = latent_model(form, "language_model.")
    t |= {f"vision_tower.encoder.blocks.{n}.{name}.weight": st.normal([32, 32]) for n in range(3) for name in ("wqkv", "wo")}
    st.folder(d / "kimi", c, rounded(t))
    codes = "language_model.model.layers.2.mlp.experts.1.up_proj.weight_packed"
    st.folder(d / "kimi-codes-missing", c, rounded({name: v for name, v in t.items() if name != codes}))
