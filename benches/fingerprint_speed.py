"""Times `fingerprint` beside sha256sum on all cores and beside model_signing's hashing, alternating, in one run.

    python benches/fingerprint_speed.py target/release/achilles-audit [--gib 4.7] [--runs 5] [--python PY]

Makes bfloat16 weights of a 7B model's shapes in a folder of its own, once in several shards and once in one file, reads
them once so that all start from the same page cache, and prints wall-clock seconds, ratios run by run with minimum,
median and maximum beside what is asked of the median, seconds of all cores, and the peak memory of `fingerprint`.
PY is a Python with `model-signing`; without it this one is taken where `make oms` has put the package into target/oms.
What it takes to start is in its time and printed beside it. Needs xargs and sha256sum.
"""
import argparse, json, os, statistics, struct, subprocess, sys, tempfile, time
from pathlib import Path

HASH = "import sys; from model_signing import hashing; hashing.Config().hash(sys.argv[1])"
ASKED = {"sha256sum": 0.9, "model_signing": 1.1}
OMS = Path(__file__).parent.parent / "target/oms"


def make(folder, gib, shards):
    """Decoder layers of a 7B model's shape, as many as fill the shards."""
    shapes = [("mlp.down_proj", [4096, 11008]), ("mlp.gate_proj", [11008, 4096]), ("mlp.up_proj", [11008, 4096]),
              ("self_attn.q_proj", [4096, 4096]), ("self_attn.o_proj", [4096, 4096])]
    block, layer = os.urandom(1 << 24), 0
    for shard in range(shards):
        header, at = {}, 0
        while at < gib * 2**30 / shards:
            for name, shape in shapes:
                size = 2 * shape[0] * shape[1]
                header[f"model.layers.{layer}.{name}.weight"] = {
                    "dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
                at += size
            layer += 1
        text = json.dumps(header).encode()
        with open(f"{folder}/model-{shard + 1:05}-of-{shards:05}.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            while at > 0:
                # Exponents of random bytes would be those of no weight: keep magnitudes between 2⁻¹⁶ and 2.
                piece = bytearray(block[: min(at, len(block))])
                piece[1::2] = bytes(0x37 + b % 8 | b & 0x80 for b in range(256)) * (len(piece) // 512) + bytes(
                    0x3C for _ in range((len(piece) // 2) % 256))
                file.write(piece)
                at -= len(piece)


def spread(values):
    return " / ".join(f"{value:6.2f}" for value in (min(values), statistics.median(values), max(values)))


def measure(binary, python, folder, gib, shards, runs):
    model, out = f"{folder}/model", f"{folder}/f.json"
    os.mkdir(model)
    make(model, gib, shards)
    jobs = {
        "fingerprint": [binary, "fingerprint", model, "-o", out, "--progress", "none"],
        "sha256sum": ["sh", "-c", f"ls {model}/* | xargs -P {os.cpu_count()} -n 1 sha256sum > /dev/null"],
    }
    if python:
        jobs["model_signing"] = [*python, "-c", HASH, model]
        jobs["its start"] = [*python, "-c", "from model_signing import hashing"]
    seconds, cores, peak = {name: [] for name in jobs}, {name: [] for name in jobs}, 0
    subprocess.run(["sh", "-c", f"cat {model}/* > /dev/null"], check=True)
    for _ in range(runs):
        for name, command in jobs.items():
            start = time.perf_counter()
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds[name].append(time.perf_counter() - start)
            cores[name].append(usage.ru_utime + usage.ru_stime)
            assert status == 0, name
            if name == "fingerprint":
                peak = max(peak, usage.ru_maxrss)
    size = sum(os.path.getsize(f"{model}/{f}") for f in os.listdir(model))
    load = os.getloadavg()[0]
    print(f"\n{size / 1e9:.2f} GB in {shards} files, {os.cpu_count()} cores, {runs} alternating runs, load {load:.1f}")
    for name in jobs:
        print(f"{name:14} {spread(seconds[name])} s   all cores together {spread(cores[name])} s")
    for name, asked in ASKED.items():
        if name in jobs:
            ratios = [a / b for a, b in zip(seconds["fingerprint"], seconds[name])]
            print(f"fingerprint / {name:13} {spread(ratios)}   (asked: at most {asked})")
    print(f"peak memory of fingerprint {peak / 1024:.0f} MiB; document {os.path.getsize(out) / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--gib", type=float, default=4.7)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python")
    args = parser.parse_args()
    python = [args.python] if args.python else None
    if python is None and (OMS / "model_signing").is_dir():
        python = ["env", f"PYTHONPATH={OMS.resolve()}", sys.executable]
    for shards in (args.shards, 1):
        with tempfile.TemporaryDirectory() as folder:
            measure(args.binary, python, folder, args.gib, shards, args.runs)


main()
