"""`perplexity --corpus` held against PyTorch: the paper's protocol as its published code computes it, and rolling windows
by lm-evaluation-harness itself, with and without a mask.

    python benches/perplexity_reference.py MODEL [--binary target/release/achilles-audit]
        [--neuron L11.mlp.down_proj:out:507 ...] [--context 256] [--max-samples N]

Prints a line for each corpus, protocol and set of neurons, and fails where one is further than 1e-4 apart. Needs torch
and transformers (fixtures/requirements.txt) and `pip install lm_eval==0.4.13 accelerate`.
"""
import argparse
import json
import math
import pathlib
import re
import subprocess
import sys

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).parent.parent
CORPORA = ROOT / "data/corpora"
MOST = 1e-4


def texts(name):
    if name == "kinds":
        return [json.loads(line)["text"] for line in (CORPORA / "kinds.jsonl").read_text(encoding="utf-8").splitlines()]
    return (CORPORA / "sample.txt").read_text(encoding="utf-8").strip().split("\n\n")


def mask(model, neurons):
    """Hooks that zero the neurons, such as L11.mlp.down_proj:out:507."""
    hooks = []
    for neuron in neurons:
        module, side, channel = neuron.rsplit(":", 2)
        module = model.get_submodule(re.sub(r"^L(\d+)\.", r"model.layers.\1.", module))
        channel = int(channel)

        def out(_, __, output, channel=channel):
            output = output.clone()
            output[..., channel] = 0
            return output

        def into(_, inputs, channel=channel):
            x = inputs[0].clone()
            x[..., channel] = 0
            return (x, *inputs[1:])

        hooks.append(module.register_forward_hook(out) if side == "out" else module.register_forward_pre_hook(into))
    return hooks


@torch.no_grad()
def paper(model, tokenizer, samples, context):
    """compute_perplexity_on_dataset of the published code."""
    total, tokens = 0.0, 0
    for text in samples:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=context).input_ids
        if ids.shape[1] < 2:
            continue
        total += model(ids, labels=ids).loss.item() * ids.shape[1]
        tokens += ids.shape[1]
    return {"perplexity": math.exp(total / tokens)}


def rolling(model, tokenizer, samples, context):
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=context)
    requests = [Instance("loglikelihood_rolling", {}, (text,), at) for at, text in enumerate(samples)]
    found = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    words = list(zip(found, [len(re.split(r"\s+", text)) for text in samples]))
    of_bytes = list(zip(found, [len(text.encode("utf-8")) for text in samples]))
    return {
        "word_perplexity": weighted_perplexity(words),
        "byte_perplexity": weighted_perplexity(of_bytes),
        "bits_per_byte": bits_per_byte(of_bytes),
    }


def measured(args, corpus, protocol, neurons):
    command = [args.binary, "perplexity", args.model, "--corpus", corpus, "--protocol", protocol, "--format", "json"]
    command += ["--context", str(args.context)] if protocol == "rolling" else []
    command += ["--max-samples", str(args.max_samples)] if args.max_samples else []
    command += [part for neuron in neurons for part in ("--neuron", neuron)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["corpora"][0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--binary", default=str(ROOT / "target/release/achilles-audit"))
    parser.add_argument("--neuron", action="append", default=[])
    parser.add_argument("--context", type=int, default=256, help="of rolling windows")
    parser.add_argument("--max-samples", type=int)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    worst = 0.0
    for corpus in ("sample", "kinds"):
        for protocol in ("paper", "rolling"):
            found = measured(args, corpus, protocol, args.neuron)
            samples = [text.strip() for text in texts(corpus)] if protocol == "paper" else texts(corpus)
            samples = [text for text in samples if protocol == "rolling" or len(text) > 50][: args.max_samples]
            for state, neurons in [("base", []), ("changed", args.neuron)]:
                if found[state] is None:
                    continue
                hooks = mask(model, neurons)
                compute = paper if protocol == "paper" else rolling
                expected = compute(model, tokenizer, samples, 512 if protocol == "paper" else args.context)
                for hook in hooks:
                    hook.remove()
                for name, value in expected.items():
                    apart = abs(found[state][name] / value - 1)
                    worst = max(worst, apart)
                    print(f"{corpus} {protocol} {state}: {name} {found[state][name]:.8g}, PyTorch {value:.8g}, "
                          f"apart {apart:.1e}", flush=True)
    sys.exit(f"{worst:.1e} is more than {MOST}" if worst > MOST else 0)


if __name__ == "__main__":
    main()
