"""How the time of `locate` grows with samples, tokens, layers, width and the length of the prefix.

    cargo build --release --locked
    python benches/growth.py MODEL --tokenizer tokenizer.json --plot growth.svg [--tool target/release/achilles-audit]

MODEL serves for samples and tokens, generated checkpoints (`benches/gpu/generate.py`), which do not collapse, for the
rest. Each point is the least of --runs runs, all points in turn. Prints the seconds of each stage and the slope in
log-log between the last two points, and plots them. Needs torch, safetensors and matplotlib.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = "the river ran past the old mill and the children counted stones along its bank while evening came on slowly "


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--plot", required=True)
    parser.add_argument("--tool", default="target/release/achilles-audit")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--longest", type=int, default=1024, help="tokens; 4096 take some minutes a run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        def generated(shape):
            path = f"{folder}/{shape}"
            if not os.path.exists(path):
                subprocess.run([sys.executable, f"{HERE}/gpu/generate.py", shape, path, "--tokenizer",
                                options.tokenizer, "--device", "cpu"], check=True, stdout=subprocess.DEVNULL)
            return path

        def text(tokens):
            # About one token a word of these.
            path = f"{folder}/{tokens}.txt"
            with open(path, "w", encoding="utf-8") as file:
                file.write(" ".join((WORDS * (tokens // 10)).split()[:tokens]))
            return ["--text-file", path]

        one = ["--samples", "8", "--max-neurons", "1"]
        lengths = [length for length in (64, 256, 1024, 4096) if length <= options.longest]
        series = {
            "samples": ("importance", {k: [options.model, "--samples", str(k)] for k in (8, 16, 32, 64, 100)}),
            "tokens": ("importance", {t: [options.model, *one, *text(t)] for t in lengths}),
            "layers": ("importance", {n: [generated(f"512x{n}"), *one] for n in (4, 8, 16, 32)}),
            "width": ("importance", {h: [generated(f"{h}x4"), *one] for h in (256, 512, 1024, 2048)}),
            "prefix": ("search", {n: [generated("512x8"), "--ranking", "magnitude", "--max-neurons", str(n)]
                                  for n in (8, 32, 128)}),
        }
        best = {}
        for _ in range(options.runs):
            for name, (stage, points) in series.items():
                for x, command in points.items():
                    command = [options.tool, "--progress", "none", "locate", *command, "--format", "json"]
                    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                    at = found["settings"]["tokens"] if name == "tokens" else x
                    seconds = found["timing_s"][stage]
                    best[name, x] = min(best.get((name, x), (seconds, at)), (seconds, at))
        figure, axes = plt.subplots(1, len(series), figsize=(3 * len(series), 3), constrained_layout=True)
        print("| growing | stage | seconds | slope at the end |")
        print("|---|---|---|---|")
        for axis, (name, (stage, points)) in zip(axes, series.items()):
            curve = sorted((at, seconds) for seconds, at in (best[name, x] for x in points))
            (x0, y0), (x1, y1) = curve[-2:]
            slope = math.log(y1 / y0) / math.log(x1 / x0)
            print(f"| {name} | {stage} | " + ", ".join(f"{x}: {y:.2f}" for x, y in curve) + f" | {slope:.2f} |")
            axis.loglog(*zip(*curve), "o-", base=2)
            axis.set(title=f"{stage}, slope {slope:.2f}", xlabel=name, ylabel="seconds")
        figure.savefig(options.plot, metadata={"Date": None, "Creator": None})


main()
