#!/usr/bin/env python3
"""How well the rankings that take one pass, one and a half or none agree with noise at K = 100.

    cargo build --release --locked
    python3 benches/screening.py MODEL … [--tool target/release/achilles-audit] [--rankings magnitude gradient …]

Prints a row for each model and ranking: how many of the first 10 of the ranking are among the first 10 by noise, both
prefixes, both critical sets, what they have in common and their damage, and the seconds that ranking alone took and that
all took, each beside noise's.
"""

import argparse
import json
import subprocess

RANKINGS = ["magnitude", "gradient", "super-weight", "magnitude-signed", "weights", "random"]


def locate(tool, model, how):
    command = [tool, "--progress", "none", "locate", model, "--format", "json", *how]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    critical, timing = found["critical_set"], found["timing_s"]
    return {"first": {entry["neuron"] for entry in found["ranking"][:10]},
            "set": set(critical["neurons"]) if critical else set(), "n": found["prefix"]["n"],
            "damage": f"{critical['damage']:.2f}" if critical else "none",
            "seconds": f"{timing['importance']:.0f}, {sum(timing.values()):.0f}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--tool", default="target/release/achilles-audit")
    parser.add_argument("--rankings", nargs="+", default=RANKINGS, choices=RANKINGS)
    options = parser.parse_args()
    print("| model | ranking | common in the first 10 | prefix | critical set | common with noise's | damage | ranking, all (s) |")
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models:
        noise = locate(options.tool, model, ["--samples", "100"])
        for ranking, how in [("noise", None)] + [(ranking, ["--ranking", ranking]) for ranking in options.rankings]:
            other = locate(options.tool, model, how) if how else noise
            print(f"| {model} | {ranking} | {len(noise['first'] & other['first'])} | {other['n']} | {len(other['set'])} | "
                  f"{len(noise['set'] & other['set'])} | {other['damage']} | {other['seconds']} |", flush=True)


main()
