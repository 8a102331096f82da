"""Records the norms of activations in transformers, for `achilles-audit monitor check --activations`.

    python record_activations.py MODEL --baseline baseline.json --prompts FILE... -o dump.jsonl [--dtype float32]

The sites and the length that prompts are cut to are those of the baseline. A text file has one prompt a line; a .jsonl
file one {"text": ...} a line. In a server of your own, keep `Recorder` and call `add` with each layer's output.
"""

import argparse
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Recorder:
    """Writes one line a prompt, site and position."""

    def __init__(self, file):
        self.file, self.prompt = file, 0

    def add(self, site, x):
        """x: (positions, channels), in any dtype; positions count from the start of the prompt."""
        x = x.detach().float().abs()
        nan, inf = x.isnan().sum(-1).tolist(), x.isinf().sum(-1).tolist()
        l2, (largest, channel) = x.norm(dim=-1).tolist(), (t.tolist() for t in x.max(dim=-1))
        for at in range(x.shape[0]):
            line = {"prompt": self.prompt, "site": site, "position": at}
            if nan[at] or inf[at]:
                line.update(l2=None, max_abs=None, channel=None, nan=nan[at], inf=inf[at])
            else:
                line.update(l2=l2[at], max_abs=largest[at], channel=channel[at])
            self.file.write(json.dumps(line) + "\n")


def prompts(paths):
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in filter(str.strip, file):
                yield json.loads(line)["text"] if path.endswith(".jsonl") else line.strip()


def main():
    parser = argparse.ArgumentParser(description="Norms of activations from transformers, as JSON Lines.")
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("--baseline", required=True, help="what `achilles-audit monitor record` wrote")
    parser.add_argument("--prompts", nargs="+", required=True, metavar="FILE")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    parser.add_argument("--dtype", default="float32", help="of the arithmetic; auto follows the checkpoint")
    args = parser.parse_args()
    with open(args.baseline, encoding="utf-8") as file:
        baseline = json.load(file)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).eval()
    with open(args.output, "w", encoding="utf-8") as file:
        recorder = Recorder(file)
        modules = dict(model.named_modules())
        missing = []
        for site in (profile["site"] for profile in baseline["sites"]):
            module = modules.get(site.removesuffix(":out"))
            if module is None:
                missing.append(site)
                continue

            def hook(_module, _inputs, output, site=site):
                recorder.add(site, output[0].flatten(1))  # of a batch of one; q/k norms have a heads axis

            module.register_forward_hook(hook)
        if missing:
            print(f"{len(missing)} sites are no module here and are left out, such as {missing[0]}", file=sys.stderr)
        for number, text in enumerate(prompts(args.prompts)):
            recorder.prompt = number
            ids = tokenizer(text, return_tensors="pt").input_ids[:, : baseline["settings"]["max_tokens"]]
            with torch.inference_mode():
                model(ids.to(model.device))


if __name__ == "__main__":
    main()
