#!/usr/bin/env python3
"""Masks a neuron in a GGUF of each type that llama.cpp quantizes to, asks llama.cpp before, after and once it is undone.

    pip install llama-cpp-python gguf
    python benches/llama_cpp_patch.py MODEL.gguf --tool target/release/achilles-audit \\
        [--types Q8_0 Q4_K_M] [--text TEXT] [-o FILE.md]

For each type: the file is quantized anew (requantized where MODEL.gguf is itself quantized, so the perplexities tell of
the mask and not of the type), patched in place, and undone. gguf-py then has to find a row of zeros and every other value
as it was; the file has to be the one that it was, by its SHA-256.
"""

import argparse
import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

PROMPT = "The capital of France is"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tool", default="achilles-audit")
    parser.add_argument("--types", nargs="*", default=["Q8_0", "Q4_0", "Q5_1", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS", "F16"])
    parser.add_argument("--neuron", default="L11.mlp.down_proj:out:507")
    parser.add_argument("--tensor", default="blk.11.ffn_down.weight", help="what the file calls the neuron's weight")
    parser.add_argument("--text", help="what perplexities are of; the tool's own text by default")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def quantized(model, to, name):
    """The model in another type, by llama.cpp's own quantizer."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + name)
    params.allow_requantize, params.nthread = True, 1
    code = llama_cpp.llama_model_quantize(str(model).encode(), str(to).encode(), ctypes.byref(params))
    assert code == 0, f"{name}: llama_model_quantize gave {code}"


def answer(path):
    """What llama.cpp says next, greedily."""
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, seed=0, verbose=False)
    text = model.create_completion(PROMPT, max_tokens=16, temperature=0)["choices"][0]["text"]
    model.close()
    return text


def values(path):
    return {t.name: (t.tensor_type.name, dequantize(t.data, t.tensor_type)) for t in GGUFReader(path).tensors}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    options = arguments()
    tool = lambda *args: subprocess.run([options.tool, *map(str, args)], check=True, capture_output=True, text=True).stdout
    text = ["--text", options.text] if options.text else []
    channel = int(options.neuron.rsplit(":", 1)[1])

    def perplexity(path):
        return json.loads(tool("perplexity", path, *text, "--format", "json"))["base"]["perplexity"]

    lines = ["| file | type of the row | bytes that changed | perplexity | masked | llama.cpp | masked | undone |", "|---|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as place:
        for name in [None, *options.types]:
            path = Path(place) / f"{name or options.model.stem}.gguf"
            if name is None:
                shutil.copy(options.model, path)
            else:
                quantized(options.model, path, name)
            digest, before, bytes_before = sha256(path), values(path), np.fromfile(path, np.uint8)
            said, perplexities = [answer(path)], [perplexity(path)]
            tool("patch", path, "--in-place", "--neuron", options.neuron)
            said.append(answer(path))
            perplexities.append(perplexity(path))
            changed = int((np.fromfile(path, np.uint8) != bytes_before).sum())
            for tensor, (_, now) in values(path).items():
                was = before[tensor][1]
                if tensor == options.tensor:
                    assert not now[channel].any(), f"{path.name}: row {channel} is not zero"
                    now, was = (np.delete(rows, channel, axis=0) for rows in (now, was))
                assert (now.view(np.uint8) == was.view(np.uint8)).all(), f"{path.name}: {tensor} differs elsewhere"
            tool("unpatch", path)
            said.append(answer(path))
            assert sha256(path) == digest, f"{path.name}: not the file that it was"
            assert said[0] == said[2] != said[1], said
            shown = [s.replace("\n", "⏎").replace("|", "¦") for s in said]
            row = [path.stem, before[options.tensor][0], changed, *(f"{p:.4g}" for p in perplexities), *(f"`{s}`" for s in shown)]
            lines.append("| " + " | ".join(map(str, row)) + " |")
            print(lines[-1], file=sys.stderr, flush=True)
            path.unlink()
    result = "\n".join(lines) + "\n"
    options.output.write_text(result) if options.output else print(result, end="")


if __name__ == "__main__":
    main()
