"""Times `locate` beside plain PyTorch on one model, alternating, in one run.

    cargo build --release --locked
    python benches/speed.py MODEL [--tool target/release/achilles-audit] [--runs 3] [--jobs exact,default,magnitude]
                            [--device cuda:0 --dtype bf16] [--max-neurons 200]

Whole processes: start, loading and all. PyTorch is `benches/pytorch_scan.py` at K = 100. Prints seconds and ratios
with minimum, median and maximum, and of each of our jobs the share of its floor: the floating-point operations of its
passes over the rate at which PyTorch multiplies matrices of this model's shape on this device, measured between the
runs. Minimization is not in the floor. Needs torch and transformers (fixtures/requirements.txt).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from transformers import AutoConfig

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = {
    "exact": ["--samples", "100"],
    "default": [],
    "magnitude": ["--ranking", "magnitude"],
    "gradient": ["--ranking", "gradient"],
}


def shape(model):
    """Floating-point operations of a position in the layers' matrices and in the head, and of a pair of positions in
    attention, of a model like Llama."""
    config = AutoConfig.from_pretrained(model).get_text_config()
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    width = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = width * config.num_attention_heads, width * config.num_key_value_heads
    matrices = layers * (hidden * (2 * queries + 2 * keys) + 3 * hidden * wide)
    return 2 * matrices, 2 * hidden * config.vocab_size, 4 * layers * queries, (hidden, wide)


def rate(device, dtype, hidden, wide):
    """Floating-point operations a second."""
    a = torch.randn(1024, hidden, device=device, dtype=dtype)
    b = torch.randn(wide, hidden, device=device, dtype=dtype)

    def once(times):
        started = time.perf_counter()
        for _ in range(times):
            a @ b.t()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    times = max(1, int(0.5 / max(once(2) / 2, 1e-6)))
    return times * 2 * 1024 * hidden * wide / min(once(times) for _ in range(3))


def timed(command):
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, json.loads(done.stdout)


def spread(values):
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tool", default="target/release/achilles-audit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", default="exact,default,magnitude")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16", "f16"])
    parser.add_argument("--max-neurons", type=int, default=200)
    options = parser.parse_args()
    torch_device = options.device.partition(":")[0]
    torch_dtype = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[options.dtype]
    most = ["--max-neurons", str(options.max_neurons)]
    pytorch = [sys.executable, f"{HERE}/pytorch_scan.py", options.model, "--device", torch_device, "--dtype", torch_dtype]
    commands = {"PyTorch, K = 100": pytorch + most}
    for job in options.jobs.split(","):
        commands[job] = [options.tool, "--progress", "none", "locate", options.model, "--format", "json", "--device",
                         options.device, "--dtype", options.dtype, *most, *JOBS[job]]
    seconds, results, rates = {name: [] for name in commands}, {}, []
    per_position, head, pairs, (hidden, wide) = shape(options.model)
    for _ in range(options.runs):
        rates.append(rate(torch_device, getattr(torch, torch_dtype), hidden, wide))
        for name, command in commands.items():
            took, results[name] = timed(command)
            seconds[name].append(took)
    reference, *ours = commands
    print(f"{options.model}: {options.device}, {options.dtype}, {os.cpu_count()} cores, {options.runs} alternating runs; "
          f"matrix products {spread([r / 1e9 for r in rates])} GFLOP/s")
    print("| | seconds | PyTorch's over it | floor, seconds | its share | samples | prefix, critical set |")
    print("|---|---|---|---|---|---|---|")
    print(f"| {reference} | {spread(seconds[reference])} | | | | 100 | {len(results[reference]['prefix'])} |")
    for name in ours:
        found = results[name]
        samples = found["settings"].get("samples_used") or 0
        tokens, prefix = found["settings"]["tokens"], found["prefix"]["n"]
        row = tokens * per_position + tokens * (tokens + 1) // 2 * pairs
        floor = ((samples + 1 + prefix) * row + (1 + prefix) * (tokens - 1) * head) / statistics.median(rates)
        times = [a / b for a, b in zip(seconds[reference], seconds[name])]
        share = [floor / s for s in seconds[name]]
        neurons = [entry["neuron"] for entry in found["ranking"][:prefix]] if found["prefix"]["collapsed"] else []
        same = "as PyTorch" if neurons == results[reference]["prefix"] else "another"
        critical = len((found["critical_set"] or {"neurons": []})["neurons"])
        print(f"| {name} | {spread(seconds[name])} | {spread(times)} | {floor:.2f} | {spread(share)} | {samples} | "
              f"{prefix} ({same}), {critical} |")


main()
