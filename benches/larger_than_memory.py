#!/usr/bin/env python3
"""A Llama checkpoint of random weights in bf16, of any size, and what scanning it under a limit of memory takes.

    python benches/larger_than_memory.py make FOLDER --gigabytes 16
    python benches/larger_than_memory.py run BINARY FOLDER --limit 4GB [locate's options]

`make` needs numpy alone, and takes the tokenizer of another model (`--tokenizer`, by default what `make model` fetched).
`run` locates in a cgroup (v1, as root) whose memory is limited, page cache included, with the page cache of the files dropped
before, and prints the peak of anonymous memory, major faults, and bytes that were read from the disk over bytes of the
model. Random weights do not collapse: cap `--max-neurons`. Where no cgroup can be made, memory is not limited and only
sampled, which is said.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

GROUP = Path("/sys/fs/cgroup/memory/achilles-audit-bench")


def shapes(hidden, mlp, heads, key_heads, layers, vocabulary):
    """Name and shape of every tensor, file by file: one for each layer, one for what is outside."""
    keys = hidden // heads * key_heads
    yield {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (hidden, hidden),
            f"{at}.self_attn.k_proj.weight": (keys, hidden),
            f"{at}.self_attn.v_proj.weight": (keys, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, hidden),
            f"{at}.mlp.gate_proj.weight": (mlp, hidden),
            f"{at}.mlp.up_proj.weight": (mlp, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, mlp),
        }


def values(shape, pool, rng):
    """bf16 of a normal distribution with σ = 0.02, or ones for a norm; drawn from a pool, which is as good here."""
    if len(shape) == 1:
        return np.full(shape, 0x3F80, dtype="<u2")
    count = int(np.prod(shape))
    start = int(rng.integers(0, len(pool) - 1))
    return np.resize(np.roll(pool, -start), count)


def write(path, tensors, pool, rng):
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            values(shape, pool, rng).tofile(file)
    return at


def make(folder, gigabytes, tokenizer):
    folder.mkdir(parents=True)
    vocabulary, hidden, mlp, heads, key_heads = 128256, 4096, 14336, 32, 8
    outside = 2 * 2 * vocabulary * hidden
    layer = 2 * (2 * hidden * hidden + 2 * hidden * hidden // heads * key_heads + 3 * hidden * mlp)
    layers = max(1, round((gigabytes * 1e9 - outside) / layer))
    rng = np.random.default_rng(1)
    pool = (rng.standard_normal(1 << 22).astype("<f4") * 0.02).view("<u4") >> 16
    pool = pool.astype("<u2")
    files = list(shapes(hidden, mlp, heads, key_heads, layers, vocabulary))
    index, total = {}, 0
    for at, tensors in enumerate(files, 1):
        name = f"model-{at:05}-of-{len(files):05}.safetensors"
        total += write(folder / name, tensors, pool, rng)
        index.update(dict.fromkeys(tensors, name))
    index = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    for file in Path(tokenizer).glob("tokenizer*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    print(f"{folder}: {layers} layers, {total / 1e9:.2f} GB")


def size(text):
    number, unit = re.fullmatch(r"([\d.]+)(GB|GiB|MB|MiB)", text).groups()
    return int(float(number) * {"GB": 1e9, "GiB": 1 << 30, "MB": 1e6, "MiB": 1 << 20}[unit])


def limited(limit):
    """A command that moves itself into the group and goes on as the program; none where there is no group to be had."""
    try:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as e:
        print(f"no cgroup ({e}): memory is sampled, not limited")
        return []
    return ["sh", "-c", f'echo $$ > {GROUP}/cgroup.procs; exec "$@"', "sh"]


def status(process, key):
    try:
        text = Path(f"/proc/{process}/status").read_text()
        return int(re.search(rf"^{key}:\s+(\d+) kB", text, re.M).group(1)) << 10
    except (OSError, AttributeError):
        return 0


def read_bytes(process):
    try:
        return int(re.search(r"^read_bytes: (\d+)", Path(f"/proc/{process}/io").read_text(), re.M).group(1))
    except (OSError, AttributeError):
        return 0


def run(binary, folder, limit, options):
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [*limited(limit), binary, "--progress", "json", "locate", str(folder), "--format", "json", *options]
    started, peak, read, stages = time.time(), 0, 0, []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def follow():
        for line in process.stderr:
            stage = json.loads(line)["stage"] if line.startswith("{") else print(line, end="")
            if stage and (not stages or stages[-1][0] != stage):
                stages.append((stage, time.time() - started, read))

    following = threading.Thread(target=follow)
    following.start()
    while process.poll() is None:
        peak = max(peak, status(process.pid, "RssAnon"))
        read = max(read, read_bytes(process.pid))
        time.sleep(0.02)
    seconds = time.time() - started
    out = process.stdout.read()
    following.join()
    if process.returncode:
        sys.exit(f"exit code {process.returncode}")
    result = json.loads(out)
    print(f"{weights / 1e9:.2f} GB of weights, limit {limit / 1e9:.2f} GB: {seconds:.1f} s")
    print(f"peak of anonymous memory {peak / 1e9:.2f} GB; read {read / 1e9:.2f} GB, {read / weights:.3f} of the model")
    for (name, from_s, before), (_, to_s, after) in zip(stages, [*stages[1:], ("", seconds, read)]):
        print(f"  {name:40} {to_s - from_s:8.1f} s  {(after - before) / weights:6.3f} of the model")
    print("prefix", result["prefix"]["n"], "timing", result["timing_s"])
    if (GROUP / "memory.max_usage_in_bytes").exists():
        print("of the group:", (GROUP / "memory.max_usage_in_bytes").read_text().strip(), "bytes at most,",
              (GROUP / "memory.failcnt").read_text().strip(), "times at the limit")
        GROUP.rmdir()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_subparsers(dest="which", required=True)
    making = which.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--gigabytes", type=float, default=16)
    making.add_argument("--tokenizer", default="models/smollm2-135m-instruct")
    running = which.add_parser("run")
    running.add_argument("binary")
    running.add_argument("folder", type=Path)
    running.add_argument("--limit", type=size, default=size("4GB"))
    args, options = parser.parse_known_args()
    if args.which == "make":
        make(args.folder, args.gigabytes, args.tokenizer)
    else:
        run(args.binary, args.folder, args.limit, options)


if __name__ == "__main__":
    main()
