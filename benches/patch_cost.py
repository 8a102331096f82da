#!/usr/bin/env python3
"""What a patch of one row of a 4 GB checkpoint costs, beside `cp -r`.

    cargo build --release --locked
    python3 benches/patch_cost.py target/release/achilles-audit FOLDER

Makes two checkpoints in FOLDER (which needs three times 4 GB, and is left empty): one shard of 4 GB, and a shard a
layer. Each way of patching is run ROUNDS times, in turn, by chance, with `cp -r` and with `cp -r` followed by fsync of
every file, which is what a patch to a new folder does. Prints seconds (min, median, max), the ratios of medians to
both, and the largest resident memory, which is not told below that of this script.
"""

import json
import os
import random
import shutil
import statistics
import sys
import time

ROUNDS = 7
HIDDEN, MLP, LAYERS, VOCABULARY = 4096, 14336, 8, 32000
NEURON = "L5.mlp.down_proj:out:507"


def tensors():
    yield "model.embed_tokens.weight", [VOCABULARY, HIDDEN], 0
    for n in range(LAYERS):
        at = f"model.layers.{n}."
        for name, shape in [
            ("self_attn.q_proj", [HIDDEN, HIDDEN]), ("self_attn.k_proj", [HIDDEN, HIDDEN]),
            ("self_attn.v_proj", [HIDDEN, HIDDEN]), ("self_attn.o_proj", [HIDDEN, HIDDEN]),
            ("mlp.gate_proj", [MLP, HIDDEN]), ("mlp.up_proj", [MLP, HIDDEN]), ("mlp.down_proj", [HIDDEN, MLP]),
            ("input_layernorm", [HIDDEN]), ("post_attention_layernorm", [HIDDEN]),
        ]:
            yield f"{at}{name}.weight", shape, n + 1
    yield "model.norm.weight", [HIDDEN], LAYERS


def elements(shape):
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def make(folder, sharded):
    """A bf16 llama with a tied head; random values around 0.01."""
    os.mkdir(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MLP,
        "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    }
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file)
    chance = random.Random(1)
    block = bytes(b if at % 2 == 0 else 0x3C for at, b in enumerate(chance.randbytes(1 << 22)))
    names = [f"model-{n + 1:05}-of-{LAYERS + 1:05}.safetensors" for n in range(LAYERS + 1)]
    if not sharded:
        names = ["model.safetensors"] * len(names)
    for name in dict.fromkeys(names):
        header, at = {}, 0
        for tensor, shape, shard in tensors():
            if names[shard] == name:
                end = at + 2 * elements(shape)
                header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
                at = end
        text = json.dumps(header).encode()
        with open(f"{folder}/{name}", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            while at > 0:
                at -= file.write(block[: min(at, len(block))])
            file.flush()
            os.fsync(file.fileno())
    if sharded:
        index = {"metadata": {}, "weight_map": {tensor: names[shard] for tensor, _, shard in tensors()}}
        with open(f"{folder}/model.safetensors.index.json", "w") as file:
            json.dump(index, file)
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def run(command):
    """Seconds and KiB of the largest resident memory of a command that goes well."""
    started = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0, command
    return seconds, usage.ru_maxrss


def main():
    binary, folder = os.path.abspath(sys.argv[1]), os.path.join(sys.argv[2], "patch-cost")
    os.mkdir(folder)
    try:
        for sharded in [True, False]:
            model, out = f"{folder}/model", f"{folder}/out"
            size = make(model, sharded)
            what = f"{LAYERS + 1} shards" if sharded else "1 shard"
            print(f"\n{size / 1e9:.2f} GB in {what}, one row of {2 * MLP} bytes, {ROUNDS} rounds", flush=True)
            measure(binary, model, out)
            shutil.rmtree(model)
    finally:
        shutil.rmtree(folder)


def measure(binary, model, out):
    patch = [binary, "patch", model, "--neuron", NEURON]
    ways = {
        "cp -r": ["cp", "-r", model, out],
        "cp -r, fsync": ["sh", "-c", f"cp -r {model} {out} && sync {out}/* {out}"],
        "patch -o": [*patch, "-o", out],
        "patch -o --link": [*patch, "-o", out, "--link"],
        "patch --in-place": [*patch, "--in-place"],
        "unpatch": [binary, "unpatch", model],
    }
    found = {name: [] for name in ways}
    chance = random.Random(2)
    for _ in range(ROUNDS):
        # What is patched in place has to be put back next.
        turns = [[name] for name in list(ways)[:4]] + [["patch --in-place", "unpatch"]]
        chance.shuffle(turns)
        for name in sum(turns, []):
            os.sync()
            time.sleep(1)
            found[name].append(run(ways[name]))
            shutil.rmtree(out, ignore_errors=True)
    base = statistics.median(seconds for seconds, _ in found["cp -r"])
    synced = statistics.median(seconds for seconds, _ in found["cp -r, fsync"])
    print(f"{'':18}{'min':>8}{'median':>8}{'max':>8}  / cp -r  / with fsync    memory")
    for name, runs in found.items():
        seconds = [s for s, _ in runs]
        median = statistics.median(seconds)
        memory = max(kib for _, kib in runs) / 1024
        print(f"{name:18}{min(seconds):7.2f}s{median:7.2f}s{max(seconds):7.2f}s{median / base:9.3f}{median / synced:14.3f}"
              f"{memory:7.0f} MiB", flush=True)


main()
