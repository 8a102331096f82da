#!/usr/bin/env python3
"""Masks neurons in packed weights and undoes it: the tables of lesions in docs/packed.md and docs/integrity.md.

    cargo build --release --locked
    python3 benches/packed_lesions.py MODEL... --neuron L11.mlp.down_proj:out:507 [--lesions 50] [--seed 0]

Of each model (a folder or a .gguf file, which is copied first) it prints: perplexity as it is, with the neuron masked
by `patch`, and after `unpatch`, and whether the SHA-256 of all its files is then what it was; then, of as many random
masks of a row and of a column as --lesions says, in linear modules of the layers drawn at random with their index, how
many `verify` (against the fingerprint of before) and `diff` (against the original) name: that neuron, no other, and
nothing else that changed. Each mask is undone before the next, and the digest is compared again at the end.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", nargs="+", metavar="model")
parser.add_argument("--neuron", required=True, help="a critical one")
parser.add_argument("--lesions", type=int, default=50, help="of each side; 0 leaves them out")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tool", default="target/release/achilles-audit")
options = parser.parse_args()


def tool(*arguments, code=0):
    done = subprocess.run([options.tool, "--progress", "none", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{arguments}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def perplexity(model):
    return json.loads(tool("perplexity", model, "--format", "json"))["base"]["perplexity"]


def digest(model):
    """Of the names and the bytes of all files."""
    found = hashlib.sha256()
    for path in sorted(model.rglob("*")) if model.is_dir() else [model]:
        if path.is_file():
            found.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def weights(fingerprint):
    """The packed linear weights, and their shapes as they are decoded."""
    return {weight["name"]: weight["shape"] for weight in fingerprint["weights"] if weight["name"].endswith("_proj.weight")}


def lines(document):
    """The neurons that a document names, and the weights that it says changed."""
    changes = [d for d in json.loads(document)["result"]["differences"] if d["kind"] == "tensor-changed"]
    return [line.get("neuron") for change in changes for line in change["lines"]], [c["name"] for c in changes]


def lesions(original, copy, place):
    fingerprint = place / "fingerprint.json"
    tool("fingerprint", original, "-o", fingerprint)
    shapes = weights(json.loads(fingerprint.read_text()))
    chance = random.Random(options.seed)
    for side, axis in [("out", 0), ("in", 1)]:
        named = {"verify": 0, "diff": 0}
        for _ in range(options.lesions):
            weight = chance.choice(sorted(shapes))
            neuron = f"{weight.removesuffix('.weight')}:{side}:{chance.randrange(shapes[weight][axis])}"
            tool("patch", copy, "--in-place", "--neuron", neuron)
            answers = {
                "verify": tool("verify", copy, fingerprint, "--format", "json", code=1),
                "diff": tool("diff", original, copy, "--format", "json", code=1),
            }
            for command, answer in answers.items():
                found, changed = lines(answer)
                right = changed == [weight] and found == [neuron]
                named[command] += right
                if not right:
                    print(f"{command} {original.name} {neuron}: {found} {changed}", file=sys.stderr)
            tool("unpatch", copy)
        yield f"{named['verify']} of {options.lesions}", f"{named['diff']} of {options.lesions}"


undone, told = [], []
for model in map(Path, options.models):
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / model.name
        shutil.copytree(model, copy) if model.is_dir() else shutil.copy(model, copy)
        before = digest(copy)
        row = [model.name, f"{perplexity(copy):.2f}"]
        tool("patch", copy, "--in-place", "--neuron", options.neuron)
        assert digest(copy) != before
        row.append(f"{perplexity(copy):.3g}")
        tool("unpatch", copy)
        row.append(f"{perplexity(copy):.2f}")
        cells = [cell for side in lesions(model, copy, Path(place)) for cell in side] if options.lesions else []
        same = digest(copy) == before == digest(model)
        undone.append([*row, "equal" if same else "NOT EQUAL", before[:16]])
        told.append([model.name, *cells])
        print(undone[-1], told[-1], file=sys.stderr, flush=True)

print("| model | perplexity | masked | undone | SHA-256 before and after | |")
print("|---|---|---|---|---|---|")
for row in undone:
    print("| " + " | ".join(row) + " |")
if options.lesions:
    print("\n| model | rows, `verify` | rows, `diff` | columns, `verify` | columns, `diff` |")
    print("|---|---|---|---|---|")
    for row in told:
        print("| " + " | ".join(row) + " |")
