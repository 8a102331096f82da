#!/usr/bin/env python3
"""Time and memory of `lint` and `fingerprint` on an FP8 checkpoint beside as many bytes of bf16, alternating, in one run.

    cargo build --release --locked
    python3 benches/packed_cost.py FOLDER [--tool target/release/achilles-audit] [--gb 5] [--runs 3]

Makes both in FOLDER (which needs twice as much space, and is left as it was): decoder layers of an 8B model's shape, a
shard each, codes of FP8 with scales of blocks of 128 by 128 in the one, bf16 in the other. Reads them once, so that all
start from the same page cache, and prints minimum, median and maximum of the seconds that pass and of those of the
processors, and the largest resident memory, the file's pages in it apart (Linux).
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN, MLP, KV, VOCABULARY, BLOCK = 4096, 14336, 1024, 32000, 128
LINEAR = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN), "self_attn.v_proj": (KV, HIDDEN),
          "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (MLP, HIDDEN), "mlp.up_proj": (MLP, HIDDEN),
          "mlp.down_proj": (HIDDEN, MLP)}
PIECE = 1 << 24
chance = random.Random(1)
RANDOM = chance.randbytes(PIECE)
# What is written: codes and numbers as trained weights have them, without NaN and floods of denormal numbers.
CODES = RANDOM.translate(bytes((b & 0x80) | 0x20 + (b & 0x7F) % 0x5F for b in range(256)))
BF16 = bytes(b if at % 2 == 0 else 0x38 + b % 4 | b & 0x80 for at, b in enumerate(RANDOM))
SCALES = bytes(at for n in range(PIECE // 4) for at in (RANDOM[4 * n], RANDOM[4 * n + 1], 0x80 + RANDOM[4 * n + 2] % 64, 0x38))


def layer(number, packed):
    at = f"model.layers.{number}."
    for name, (rows, columns) in LINEAR.items():
        if packed:
            yield f"{at}{name}.weight", "F8_E4M3", (rows, columns), 1, CODES
            yield f"{at}{name}.weight_scale_inv", "F32", (-(-rows // BLOCK), -(-columns // BLOCK)), 4, SCALES
        else:
            yield f"{at}{name}.weight", "BF16", (rows, columns), 2, BF16
    for name in ["input_layernorm", "post_attention_layernorm"]:
        yield f"{at}{name}.weight", "BF16", (HIDDEN,), 2, BF16


def shard(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, width, _ in tensors:
        size = width * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, _, _, _, source in tensors:
            begin, end = header[name]["data_offsets"]
            left = end - begin
            while left > 0:
                # Each tensor begins elsewhere, lest two be equal.
                start = 4 * chance.randrange(PIECE // 8)
                left -= file.write(source[start : start + min(left, PIECE // 2)])
    return list(header)[1:], at


def make(folder, size, packed):
    folder.mkdir()
    one = [("model.embed_tokens.weight", "BF16", (VOCABULARY, HIDDEN), 2, BF16), ("model.norm.weight", "BF16", (HIDDEN,), 2, BF16)]
    written, shards, tensors = 0, [], one
    while written < size:
        path = folder / f"model-{len(shards) + 1}.safetensors"
        names, length = shard(path, tensors)
        shards.append((path.name, names))
        written += length
        tensors = list(layer(len(shards) - 1, packed))
    layers = len(shards) - 1
    index = {"metadata": {"total_size": written}, "weight_map": {n: file for file, names in shards for n in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MLP,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": layers, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    }
    if packed:
        config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                                         "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config))
    return written, layers


def run(command):
    """Seconds, seconds of processors, and MiB of the largest resident memory: all, and what is not pages of files."""
    started, own = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                own = max(own, int(line.split()[1]))
        time.sleep(0.02)
    # lint has findings: there is no tokenizer.
    assert os.waitstatus_to_exitcode(status) in (0, 1), command
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, own / 1024


def three(values):
    return f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tool", default="target/release/achilles-audit")
    parser.add_argument("--gb", type=float, default=5)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        models = {"FP8": place / "fp8", "bf16": place / "bf16"}
        for name, folder in models.items():
            size, layers = make(folder, options.gb * 1e9, name == "FP8")
            print(f"{name}: {size / 1e9:.2f} GB, {layers} layers", flush=True)
            subprocess.run(f"cat {folder}/* > /dev/null", shell=True, check=True)
        jobs = {(command, name): [options.tool, "--progress", "none", command, folder]
                for command in ["lint", "fingerprint"] for name, folder in models.items()}
        found = {job: [] for job in jobs}
        for _ in range(options.runs):
            for job, command in jobs.items():
                found[job].append(run(command))
                print(*job, *(f"{value:.1f}" for value in found[job][-1]), file=sys.stderr, flush=True)
        load = ", ".join(f"{l:.1f}" for l in os.getloadavg())
        print(f"{os.cpu_count()} cores, {options.runs} runs, load at the end {load}\n")
        print("| command | weights | seconds (min / median / max) | of processors | largest memory | without pages of files |")
        print("|---|---|---|---|---|---|")
        for (command, name), runs in found.items():
            seconds, processors, memory, own = zip(*runs)
            cells = [three(seconds), three(processors), f"{max(memory):.0f} MiB", f"{max(own):.0f} MiB"]
            print(f"| `{command}` | {name} | " + " | ".join(cells) + " |")
    finally:
        shutil.rmtree(place)


main()
