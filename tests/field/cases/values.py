"""Values: NaN and zeros where they break a model, and where they are usual."""

import st

MLP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def build(d):
    t = st.llama()
    broken = {**t, MLP: st.patched(t[MLP], 600, b"\xc0\x7f" * 40)}
    key = "model.layers.1.self_attn.k_proj.weight"
    st.shards(st.folder(d / "nan-in-a-shard"), {**broken, key: st.patched(t[key], 64, b"\x80\xff")}, 3)
    variants = {
        "nan-norm": {NORM: st.patched(t[NORM], 4, b"\xc0\x7f")},
        "zero-norm": {NORM: st.zeroed(t[NORM])},
        "zero-matrix": {MLP: st.zeroed(t[MLP])},
        "zero-layers": {k: st.zeroed(v) for k, v in t.items() if "layers" in k},
        "padded-vocabulary": {k: st.patched(t[k], 258 * 128, bytes(62 * 128))
                              for k in ("model.embed_tokens.weight", "lm_head.weight")},
        "negative-zeros": {k: st.patched(t[k], 5 * 256, b"\0\x80" * 128)
                           for k in ["model.layers.0.mlp.down_proj.weight"]},
        "pruned-neurons": pruned(t),
        "columns-of-zeros": {k: every_other_zero(v) for k, v in t.items() if st.is_linear(k)},
    }
    for name, changed in variants.items():
        st.folder(d / name, None, {**t, **changed})
    bitnet = {**st.llama_config(), "architectures": ["BitNetForCausalLM"], "model_type": "bitnet",
              "quantization_config": {"quant_method": "bitnet"}}
    st.folder(d / "packed-zeros", bitnet, packed_zeros(t))


def pruned(t):
    """Every fourth neuron of the MLPs gone from all three matrices."""
    changed = {}
    for layer in range(2):
        p = f"model.layers.{layer}.mlp."
        for row in range(0, 128, 4):
            for name in ("gate_proj.weight", "up_proj.weight"):
                changed[p + name] = st.patched(changed.get(p + name, t[p + name]), row * 128, bytes(128))
        down = bytearray(t[p + "down_proj.weight"][2])
        for row in range(64):
            for column in range(0, 128, 4):
                at = (row * 128 + column) * 2
                down[at:at + 2] = b"\0\0"
        changed[p + "down_proj.weight"] = ("BF16", [64, 128], bytes(down))
    return changed


def every_other_zero(tensor):
    dtype, shape, old = tensor
    new = bytearray(old)
    new[0::4] = new[1::4] = bytes(len(old) // 4)
    return (dtype, shape, bytes(new))


def packed_zeros(t):
    out = {}
    for name, tensor in t.items():
        out[name] = tensor
        if st.is_linear(name):
            rows, columns = tensor[1]
            out |= {name: st.zeros([rows // 4, columns], "U8"), name + "_scale": st.ones([1])}
    return out
