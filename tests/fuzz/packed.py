"""Writes the seeds of the fuzzer's reader of packed weights: packed.py, from the repository's root.

Each is one packed module of a fixture in fixtures/packed, and the fixture's config as text in the header's metadata,
where changes of headers reach it.
"""

import json
import pathlib

FORMS = [
    "fp8_block", "fp8_block_e8m0", "ct_fp8_channel", "ct_int8_asym", "ct_w4a16_asym", "ct_w4a16_actorder", "ct_w3a16",
    "ct_nvfp4", "ct_mxfp4", "modelopt_nvfp4", "mxfp4_gpt_oss", "gptq_4bit_desc_act", "gptq_3bit", "awq_gemm",
    "bnb_nf4_nested", "bnb_fp4", "bnb_int8",
]  # fmt: skip

for form in FORMS:
    fixture = pathlib.Path("fixtures/packed", form)
    stored = (fixture / "model.safetensors").read_bytes()
    length = int.from_bytes(stored[:8], "little")
    header, data = {"__metadata__": {"config": json.dumps(json.loads((fixture / "config.json").read_text()))}}, b""
    for name, tensor in json.loads(stored[8 : 8 + length]).items():
        if "layers.0." in name and "down_proj" in name:
            begin, end = tensor["data_offsets"]
            header[name] = tensor | {"data_offsets": [len(data), len(data) + end - begin]}
            data += stored[8 + length + begin : 8 + length + end]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path("tests/fuzz/packed", f"{form}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
