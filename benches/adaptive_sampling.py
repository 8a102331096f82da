#!/usr/bin/env python3
"""How often `--samples auto` gives another critical set than `--samples 100`, and how many samples it draws.

    cargo build --release --locked
    python3 benches/adaptive_sampling.py [MODEL …] [--planted 200] [--seed 0] [--tool target/release/achilles-audit]

Runs `locate` both ways on each MODEL and on random tiny models with planted neurons: decoders of random weights, of
which some rows of down_proj are larger by random factors, so that the search needs prefixes of all lengths. Prints a
line for each model that differs, the share of equal sets and a histogram of the samples drawn.
"""

import argparse
import collections
import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 128
# The tiny tokenizer makes a token of each letter.
TEXT = "A spare part is what you carry for the day on which the part that holds all the others breaks."


def floats(chance, count, deviation):
    return [chance.gauss(0, deviation) for _ in range(count)]


def planted(folder, seed):
    """A llama of random weights and shape with some rows of down_proj scaled up."""
    chance = random.Random(seed)
    hidden, mlp, layers = chance.choice([32, 64]), chance.choice([64, 96]), chance.choice([2, 3, 4])
    heads = 4
    tensors = {"model.embed_tokens.weight": ([VOCABULARY, hidden], floats(chance, VOCABULARY * hidden, 1.0)),
               "model.norm.weight": ([hidden], [1.0] * hidden),
               "lm_head.weight": ([VOCABULARY, hidden], floats(chance, VOCABULARY * hidden, 0.3))}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"] = ([hidden], [1.0] * hidden)
        tensors[at + "post_attention_layernorm.weight"] = ([hidden], [1.0] * hidden)
        for name in ["q", "k", "v", "o"]:
            tensors[f"{at}self_attn.{name}_proj.weight"] = ([hidden, hidden], floats(chance, hidden**2, hidden**-0.5))
        for name in ["gate", "up"]:
            tensors[f"{at}mlp.{name}_proj.weight"] = ([mlp, hidden], floats(chance, mlp * hidden, hidden**-0.5))
        tensors[f"{at}mlp.down_proj.weight"] = ([hidden, mlp], floats(chance, hidden * mlp, mlp**-0.5))
    for _ in range(chance.randrange(1, 9)):
        shape, values = tensors[f"model.layers.{chance.randrange(layers)}.mlp.down_proj.weight"]
        row, factor = chance.randrange(hidden), 2 ** chance.uniform(1, 6)
        values[row * mlp : (row + 1) * mlp] = [factor * v for v in values[row * mlp : (row + 1) * mlp]]
    header, data, at = {}, [], 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(values)]}
        data.append(struct.pack(f"<{len(values)}f", *values))
        at += 4 * len(values)
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
    (folder / "tokenizer.json").write_bytes((ROOT / "fixtures/tokenizer.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": mlp,
        "num_attention_heads": heads, "num_key_value_heads": heads, "num_hidden_layers": layers,
        "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "float32",
        "hidden_act": "silu", "max_position_embeddings": 512}))


def locate(tool, model, samples, more):
    command = [tool, "--progress", "none", "locate", str(model), "--samples", samples, "--format", "json", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{model}: {done.stderr}")
    found = json.loads(done.stdout)
    critical, n = found["critical_set"], found["prefix"]["n"]
    return {"set": sorted(critical["neurons"]) if critical else None, "n": n,
            "prefix": [entry["neuron"] for entry in found["ranking"][:n]],
            "used": found["settings"]["samples_used"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--planted", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tool", default="target/release/achilles-audit")
    options = parser.parse_args()
    histogram, lengths, equal, prefixes = collections.Counter(), collections.Counter(), 0, 0
    total = 0

    def compare(name, model, more):
        nonlocal equal, prefixes, total
        auto, every = (locate(options.tool, model, samples, more) for samples in ["auto", "100"])
        total += 1
        equal += auto["set"] == every["set"]
        prefixes += set(auto["prefix"]) == set(every["prefix"])
        histogram[auto["used"]] += 1
        lengths[every["n"] if every["set"] else "none"] += 1
        if auto["set"] != every["set"] or name in options.models:
            print(f"{name}: {auto['used']} samples, {auto['set']}; 100: {every['set']}", flush=True)

    for model in options.models:
        compare(model, model, [])
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.planted):
            folder = Path(place) / str(number)
            planted(folder, options.seed * 1_000_003 + number)
            chance = random.Random(number)
            epsilon = 10 ** chance.uniform(-2.5, -0.5)
            compare(f"planted {number}", folder, ["--epsilon", f"{epsilon:.5f}", "--max-neurons", "40", "--text", TEXT])
    print(f"{total} models: the same critical set in {equal}, the same prefix in {prefixes}")
    print("samples drawn:", ", ".join(f"{used}: {count}" for used, count in sorted(histogram.items())))
    print("prefixes:", ", ".join(f"{n}: {count}" for n, count in sorted(lengths.items(), key=str)))


main()
