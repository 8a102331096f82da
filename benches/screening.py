#!/usr/bin/env python3
"""How well `--ranking magnitude`, one pass, agrees with noise at K = 100.

    cargo build --release --locked
    python3 benches/screening.py MODEL … [--tool target/release/achilles-audit]

Prints a row for each model: how many of the first 10 of the one ranking are among the first 10 of the other, both
prefixes and critical sets, and the seconds that both took.
"""

import argparse
import json
import subprocess


def locate(tool, model, how):
    command = [tool, "--progress", "none", "locate", model, "--format", "json", *how]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    critical = found["critical_set"]
    return {"first": [entry["neuron"] for entry in found["ranking"][:10]],
            "set": sorted(critical["neurons"]) if critical else [], "n": found["prefix"]["n"],
            "seconds": sum(found["timing_s"].values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--tool", default="target/release/achilles-audit")
    options = parser.parse_args()
    print("| model | common in the first 10 | prefix: noise, magnitude | critical set: noise, magnitude, common | seconds |")
    print("|---|---|---|---|---|")
    for model in options.models:
        noise = locate(options.tool, model, ["--samples", "100"])
        magnitude = locate(options.tool, model, ["--ranking", "magnitude"])
        common = len(set(noise["first"]) & set(magnitude["first"]))
        shared = len(set(noise["set"]) & set(magnitude["set"]))
        print(f"| {model} | {common} | {noise['n']}, {magnitude['n']} | {len(noise['set'])}, {len(magnitude['set'])}, "
              f"{shared} | {noise['seconds']:.0f}, {magnitude['seconds']:.0f} |", flush=True)


main()
