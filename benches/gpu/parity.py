"""Holds a device against the CPU on the fixtures, family by family.

    python benches/gpu/parity.py BINARY [FIXTURE …] --device cuda:0

Runs `locate` in f32, bf16 and f16 on both and compares the NLL of the text, the importance of the first 20 channels,
and the damage of prefixes. Fails where f32 differs by more than 1e-4 of a figure, or half precision by more than 5e-2.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

FIXTURES = pathlib.Path(__file__).parent.parent.parent / "fixtures"
TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on."
SETTINGS = ["--samples", "8", "--max-neurons", "5", "--format", "json", "--text", TEXT]
ALLOWED = {"f32": 1e-4, "bf16": 5e-2, "f16": 5e-2}


def located(binary, model, device, dtype):
    command = [binary, "--progress", "none", "locate", model, "--device", device, "--dtype", dtype, *SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def differences(one, other):
    """The largest differences, in shares of the larger figure."""
    def share(a, b):
        return abs(a - b) / max(abs(a), abs(b), 1e-3)

    importance = {entry["neuron"]: entry["importance"] for entry in other["ranking"]}
    common = [(entry["importance"], importance[entry["neuron"]]) for entry in one["ranking"][:20]
              if entry["neuron"] in importance]
    curves = zip(one["prefix"]["curve_nll_nats"], other["prefix"]["curve_nll_nats"])
    same = [entry["neuron"] for entry in one["ranking"][:5]] == [entry["neuron"] for entry in other["ranking"][:5]]
    return {"NLL": share(one["base"]["nll_nats"], other["base"]["nll_nats"]),
            "importance": max([share(*pair) for pair in common], default=1.0),
            # Prefixes of other neurons are others.
            "curve": max([share(*pair) for pair in curves], default=0.0) if same else 0.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("fixtures", nargs="*", metavar="FIXTURE")
    parser.add_argument("--device", required=True)
    options = parser.parse_args()
    folders = options.fixtures or sorted(p.parent.name for p in FIXTURES.glob("*/model.safetensors"))
    failed = 0
    for name in folders:
        with tempfile.TemporaryDirectory() as model:
            for file in ("config.json", "model.safetensors"):
                shutil.copy(FIXTURES / name / file, model)
            own = FIXTURES / name / "tokenizer.json"
            shutil.copy(own if os.path.exists(own) else FIXTURES / "tokenizer.json", model)
            for dtype, allowed in ALLOWED.items():
                try:
                    found = differences(*[located(options.binary, model, d, dtype) for d in ("cpu", options.device)])
                except RuntimeError as error:
                    print(f"{name} {dtype}: {error}")
                    failed += 1
                    continue
                told = ", ".join(f"{what} {value:.1e}" for what, value in found.items())
                verdict = "ok" if max(found.values()) <= allowed else "FAILED"
                failed += verdict == "FAILED"
                print(f"{name} {dtype}: {told}: {verdict}", flush=True)
    sys.exit(f"{failed} failed" if failed else 0)


main()
