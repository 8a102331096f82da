"""Types of elements, shapes and names that few files have."""

import json
import struct

import st


def build(d):
    c, t = st.llama_config(), st.llama()
    odd = {
        "extra.i64scalar": ("I64", [], struct.pack("<q", 7)),
        "extra.i32": st.raw("I32", [4]),
        "extra.scalar": ("F32", [], st.f32([1.5])),
        "extra.none": ("F32", [0], b""),
        **t,
        "extra.no-rows": ("BF16", [0, 64], b""),
        "extra." + "verylong." * 100 + "weight": st.normal([2, 2]),
        "extra.f8e4": st.fp8([4, 16]),
        "extra.f8e5": st.raw("F8_E5M2", [4, 16], 0x30),
        "extra.u8": st.raw("U8", [8, 8]),
        "extra.e8m0": st.raw("F8_E8M0", [4, 2], 120),
        "extra.e8m0nan": st.raw("F8_E8M0", [4, 2], 0xff),
        "extra.f4": st.raw("F4", [4, 16]),
        "extra.bool": ("BOOL", [5], b"\1\0\1\1\0"),
    }
    st.folder(d / "odd", c, odd)
    st.folder(d / "long-name", c, {**t, "a" * 1100: st.normal([2, 2])})
    p = st.folder(d / "unknown-dtype")
    header, data = st.split((p / "model.safetensors").read_bytes())
    header = json.loads(header)
    header["model.layers.0.q"] = {"dtype": "F8_E4M3FNUZ", "shape": [4], "data_offsets": [len(data), len(data) + 4]}
    st.write(p / "model.safetensors", st.with_header(json.dumps(header).encode(), data + b"1234"))
