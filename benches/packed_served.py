#!/usr/bin/env python3
"""Asks real vLLM before a neuron is masked in packed weights, after, and after the mask is undone.

    cargo build --release --locked
    python3 benches/packed_served.py MODEL... --neuron L11.mlp.down_proj:out:507 --python PY [--tool target/release/achilles-audit]

PY is a Python with vLLM installed, for a CPU or a GPU. Each model folder is copied, and the copy patched and unpatched.
Prints the greedy continuations, or the reason that vLLM gives for not serving the form.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", nargs="+", metavar="model", type=Path)
parser.add_argument("--neuron", required=True, help="a critical one")
parser.add_argument("--python", required=True)
parser.add_argument("--prompt", default="The capital of France is")
parser.add_argument("--tool", default="target/release/achilles-audit")
options = parser.parse_args()
GENERATE = Path(__file__).parent.parent / "contrib/vllm/generate.py"


def tool(*arguments):
    subprocess.run([options.tool, "--progress", "none", *map(str, arguments)], check=True, capture_output=True)


def answer(model):
    """The continuation; none, and why, where vLLM does not start."""
    done = subprocess.run([options.python, GENERATE, model, options.prompt], capture_output=True, text=True,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"})
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            return json.loads(line)["text"], None
    # The first error is the cause; those after it tell that a worker has ended.
    said = [re.sub(r"^.*\] ", "", line) for line in (done.stdout + done.stderr).splitlines()]
    at = next((at for at, line in enumerate(said) if re.match(r"\w*Error: ", line)), len(said) - 1)
    return None, "\n".join(said[at : at + 3])


for model in options.models:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / model.name
        shutil.copytree(model, copy)
        for state, change in [
            ("as it is", None),
            ("masked", ("patch", copy, "--in-place", "--neuron", options.neuron)),
            ("undone", ("unpatch", copy)),
        ]:
            if change:
                tool(*change)
            text, why = answer(copy)
            print(f"{model.name}, {state}: {json.dumps(text) if text is not None else why}", flush=True)
            if text is None:
                break
