"""Times `fingerprint` beside sha256sum on all cores and beside model_signing's hashing, alternating, in one run.

    python benches/fingerprint_speed.py target/release/achilles-audit [--gib 4] [--runs 5] [--python PY]

Makes bfloat16 shards of random weights in a folder of its own, reads them once so that all start from the same page
cache, and prints ratios of wall-clock time with minimum, median and maximum, and the peak memory of `fingerprint`.
PY is a Python with `model-signing` installed; without it that comparison is left out. Needs xargs and sha256sum.
"""
import argparse, json, os, resource, statistics, struct, subprocess, sys, tempfile, time

HASH = "import sys; from model_signing import hashing; hashing.Config().hash(sys.argv[1])"


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, out = f"{folder}/model", f"{folder}/f.json"
        os.mkdir(model)
        make(model, args.gib, args.shards)
        jobs = {
            "fingerprint": [args.binary, "fingerprint", model, "-o", out, "--progress", "none"],
            "sha256sum": ["sh", "-c", f"ls {model}/* | xargs -P {os.cpu_count()} -n 1 sha256sum > /dev/null"],
        }
        if args.python:
            jobs["model_signing"] = [args.python, "-c", HASH, model]
        seconds, peak = {name: [] for name in jobs}, 0
        subprocess.run(["sh", "-c", f"cat {model}/* > /dev/null"], check=True)
        for _ in range(args.runs):
            for name, command in jobs.items():
                start = time.perf_counter()
                process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                seconds[name].append(time.perf_counter() - start)
                assert status == 0, name
                if name == "fingerprint":
                    peak = max(peak, usage.ru_maxrss)
        size = sum(os.path.getsize(f"{model}/{f}") for f in os.listdir(model))
        print(f"{size / 1e9:.2f} GB in {args.shards} files, {os.cpu_count()} cores, {args.runs} alternating runs")
        for name, runs in seconds.items():
            low, mid, high = min(runs), statistics.median(runs), max(runs)
            print(f"{name:14} {low:6.2f} / {mid:6.2f} / {high:6.2f} s   {size / mid / 1e9:.2f} GB/s")
        for name in list(jobs)[1:]:
            ratios = sorted(a / b for a, b in zip(seconds["fingerprint"], seconds[name]))
            print(f"fingerprint / {name}: {ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}")
        print(f"peak memory of fingerprint {peak / 1024:.0f} MiB; document {os.path.getsize(out) / 1e6:.1f} MB")


main()
