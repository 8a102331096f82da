#!/usr/bin/env python3
"""What quantizing does to a model's predictions and to its critical set: the first table of docs/packed.md.

    cargo build --release --locked
    python3 benches/packed_table.py ORIGINAL VARIANT... [--tool target/release/achilles-audit] [--samples 100]

Runs `compare ORIGINAL ORIGINAL VARIANT...` once, all with the same settings, and prints a row for each: the original
beside itself shows what no difference looks like.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("original")
parser.add_argument("variants", nargs="+", metavar="variant")
parser.add_argument("--samples", default="100", help="K")
parser.add_argument("--tool", default="target/release/achilles-audit")
parser.add_argument("--keep", type=Path, metavar="FILE", help="write what `compare` says to this file")
options = parser.parse_args()

models = [options.original, *options.variants]
command = [options.tool, "--progress", "none", "compare", options.original, *models]
done = subprocess.run([*command, "--samples", options.samples, "--format", "json"], capture_output=True, text=True)
if done.returncode:
    sys.exit(done.stderr)
if options.keep:
    options.keep.write_text(done.stdout)
result = json.loads(done.stdout)


def named(neurons):
    return ", ".join(f"`{n.replace('model.layers.', 'L')}`" for n in neurons)


print("| model | perplexity | critical set | damage | damage of the original's set | KL, mean | KL, 99th percentile | top-1 agreement |")
print("|---|---|---|---|---|---|---|---|")
for model, variant in zip(models, result["variants"], strict=True):
    located, compared = variant["located"], variant["compared"]
    own, divergence = located["critical_set"], compared["divergence"]
    row = [Path(model).name, f"{located['base']['perplexity']:.2f}"]
    row += [named(own["neurons"]), f"{own['damage']:.2f}"] if own else ["none", "-"]
    row += [f"{compared['transfer']['base_on_variant']['damage']:.2f}"]
    row += [f"{divergence['kl_mean_nats']:.4f}", f"{divergence['kl_p99_nats']:.4f}", f"{divergence['top1_agreement']:.1%}"]
    print("| " + " | ".join(row) + " |")
