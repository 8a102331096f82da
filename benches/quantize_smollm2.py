#!/usr/bin/env python3
"""Quantizes a model folder in the forms of docs/packed.md, by rounding to the nearest, with compressed-tensors' own code.

    pip install torch safetensors compressed-tensors==0.20.0
    python benches/quantize_smollm2.py MODEL OUT

Makes OUT/fp8-blocks (as DeepSeek and Qwen publish), OUT/fp8-channels and OUT/int8-channels (activations quantized as they
come, a scale a token: what llm-compressor calls FP8_DYNAMIC and W8A8) and OUT/w4a16 (groups of 64).
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

BLOCK, GROUP = 128, 64
# The weights' form and settings; the names are those of the folders.
FORMS = {
    "fp8-channels": ("float-quantized", dict(num_bits=8, type="float", strategy="channel", symmetric=True)),
    "int8-channels": ("int-quantized", dict(num_bits=8, type="int", strategy="channel", symmetric=True)),
    "w4a16": ("pack-quantized", dict(num_bits=4, type="int", strategy="group", group_size=GROUP, symmetric=True)),
}


def blocks(weight):
    """FP8 codes, and the scale of each block of 128 by 128."""
    rows, columns = weight.shape
    high, wide = -(-rows // BLOCK), -(-columns // BLOCK)
    padded = torch.zeros(high * BLOCK, wide * BLOCK)
    padded[:rows, :columns] = weight
    tiles = padded.view(high, BLOCK, wide, BLOCK)
    scale = tiles.abs().amax(dim=(1, 3)).clamp(min=1e-12) / 448
    codes = (tiles / scale[:, None, :, None]).view_as(padded)[:rows, :columns].to(torch.float8_e4m3fn)
    return {"weight": codes.contiguous(), "weight_scale_inv": scale}


def compressed(weight, form, settings):
    args = QuantizationArgs(**settings)
    tiles = weight.view(weight.shape[0], -1, GROUP if settings["strategy"] == "group" else weight.shape[1])
    most = {("float", 8): 448.0, ("int", 8): 127.0, ("int", 4): 7.5}[settings["type"], settings["num_bits"]]
    scale = (tiles.abs().amax(-1).clamp(min=1e-12) / most).to(torch.bfloat16)
    state = {"weight": weight.to(torch.bfloat16), "weight_scale": scale}
    compressor = BaseCompressor.get_value_from_registry(form)
    return compressor.compress(state, QuantizationScheme(targets=["Linear"], weights=args))


def main():
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    weights, config = load_file(model / "model.safetensors"), json.loads((model / "config.json").read_text())
    for name in ["fp8-blocks", *FORMS]:
        folder = out / name
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        if name == "fp8-blocks":
            how = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [BLOCK] * 2}
        else:
            form, settings = FORMS[name]
            activations = dict(num_bits=8, type=settings["type"], strategy="token", dynamic=True, symmetric=True)
            group = {"targets": ["Linear"], "weights": settings, "output_activations": None,
                     "input_activations": activations if settings["num_bits"] == 8 else None}
            how = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
                   "ignore": ["lm_head"], "quantization_status": "compressed"}
        tensors = {}
        for weight, value in weights.items():
            if not weight.endswith("_proj.weight"):
                tensors[weight] = value
                continue
            packed = blocks(value.float()) if name == "fp8-blocks" else compressed(value.float(), *FORMS[name])
            start = weight.removesuffix("weight")
            tensors |= {start + end: part.contiguous() for end, part in packed.items() if part is not None}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": how}, indent=2))
        print(folder)


main()
