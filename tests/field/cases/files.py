"""Weights in two forms, headers at the edge of the format, tensors that share bytes."""

import json

import st


def build(d):
    consolidated(d)
    headers(d)
    st.folder(d / "f32-norms", None, {k: as_f32(v) if "norm" in k else v for k, v in st.llama().items()})
    p = st.folder(d / "aliases")
    header, data = st.split((p / "model.safetensors").read_bytes())
    header = json.loads(header)
    header["lm_head.weight"]["data_offsets"] = header["model.embed_tokens.weight"]["data_offsets"]
    st.write(p / "model.safetensors", st.with_header(json.dumps(header).encode(), data[:-320 * 64 * 2]))


def as_f32(tensor):
    _, shape, data = tensor
    return ("F32", shape, b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))


def consolidated(d):
    def native(name):
        for hub, own in (("model.layers", "layers"), ("self_attn.q_proj", "attention.wq"),
                         ("mlp.gate_proj", "feed_forward.w1")):
            name = name.replace(hub, own)
        return name

    t = {native(k): v for k, v in st.llama().items()}
    p = st.folder(d / "consolidated-too")
    st.shards(p, st.llama(), 2)
    st.save(p / "consolidated.safetensors", t)
    st.dump(p / "params.json", {"dim": 64, "n_layers": 2})
    p = st.folder(d / "consolidated-alone")
    (p / "model.safetensors").unlink()
    st.save(p / "consolidated.safetensors", t)
    st.dump(p / "params.json", {"dim": 64})


def headers(d):
    p = st.folder(d / "tensor-called-metadata")
    header = json.dumps({"__metadata__": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    st.write(p / "model.safetensors", st.with_header(header, b"12345678"))
    # Old versions wrote this where there were no tensors.
    p = st.folder(d / "old-and-empty")
    st.write(p / "model.safetensors", st.with_header(b'{},"__metadata__":{"key":"value"}}   ', b""))
    p = st.folder(d / "header-of-100000-bytes")
    header, data = st.split((p / "model.safetensors").read_bytes())
    st.write(p / "model.safetensors", st.with_header(header.ljust(100_000), data))
