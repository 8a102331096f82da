#!/usr/bin/env python3
"""Whether `locate --ignore-list llm-compressor` leaves just the modules alone that hold the critical set.

    pip install torch transformers compressed-tensors
    python benches/ignore_list.py MODEL... [--tool target/release/achilles-audit] [-- OPTIONS OF LOCATE]

Matches the printed entries against the model as transformers builds it, by compressed-tensors' own code (which is
llm-compressor's), and prints the linear modules that stay as they are.
"""

import json
import subprocess
import sys

import torch
import transformers
from compressed_tensors.utils import match_named_modules


def locate(tool, model, *options):
    command = [tool, "--progress", "none", "locate", model, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    ours, more = sys.argv[1:], []
    if "--" in ours:
        at = ours.index("--")
        ours, more = ours[:at], ours[at + 1 :]
    tool = "target/release/achilles-audit"
    if "--tool" in ours:
        at = ours.index("--tool")
        tool = ours[at + 1]
        del ours[at : at + 2]
    for path in ours:
        entries = json.loads(locate(tool, path, "--ignore-list", "llm-compressor", *more).removeprefix("ignore: "))
        critical = json.loads(locate(tool, path, "--format", "json", *more))["critical_set"] or {"neurons": []}
        modules = {neuron.rsplit(":", 2)[0] for neuron in critical["neurons"]}
        config = transformers.AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            model = getattr(transformers, config.architectures[0])._from_config(config)
        linear = {name for name, _ in match_named_modules(model, ["Linear"])}
        left = linear - {name for name, _ in match_named_modules(model, ["Linear"], ignore=entries)}
        print(f"{path}: {json.dumps(entries)} leaves {len(left)} of {len(linear)} linear modules alone: {sorted(left)}")
        print("  those of the critical set" if left == modules & linear else f"  NOT those of the critical set: {modules}")


main()
