"""A spare for a critical row in plain PyTorch, to hold `achilles-audit harden` against: hardening_pytorch.py MODEL LAYER CHANNEL

Needs torch and transformers. The method of docs/hardening.md from the states themselves, not from sums, on the corpus
`kinds`; rows and columns rounded to bf16. Prints the neurons that are overwritten, and the damage (log10 of the perplexity ratio)
over all tokens of the texts kept out: the healthy model's, and with rows lost.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("layer", type=int)
parser.add_argument("channel", type=int)
parser.add_argument("--spares", type=int, default=1)
parser.add_argument("--ridge", type=float, default=1e-2)
parser.add_argument("--gain", type=float, default=200.0)
args = parser.parse_args()
torch.set_grad_enabled(False)
torch.set_flush_denormal(True)

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(args.model)
layers = model.model.layers
lines = (Path(__file__).parent.parent / "data/corpora/kinds.jsonl").read_text().splitlines()
texts = [tokenizer(json.loads(line)["text"], return_tensors="pt").input_ids for line in lines]
source = (Path(__file__).parent.parent / "src/evaluate/text.rs").read_text()
reference = source.split('REFERENCE_TEXT: &str = "')[1].split('";')[0].replace("\\\n", "")
fit = [t for i, t in enumerate(texts) if i % 4 != 3]
judge = [t for i, t in enumerate(texts) if i % 4 == 3] + [tokenizer(reference, return_tensors="pt").input_ids]
firsts = {int(i) for t in fit for i in t[0]} | set(tokenizer.added_tokens_decoder)
firsts |= {at * model.config.vocab_size // 256 for at in range(256)}
firsts = torch.tensor(sorted(firsts))[:, None]


def lost(rows):
    """Hooks that zero outputs of down_proj."""
    def zero(channel):
        def hook(module, inputs, output):
            output = output.clone()
            output[..., channel] = 0
            return output
        return hook
    return [layers[layer].mlp.down_proj.register_forward_hook(zero(channel)) for layer, channel in rows]


def nll(rows=()):
    hooks, sum_, count = lost(rows), 0.0, 0
    for ids in judge:
        logits = model(ids).logits[0, :-1].double().log_softmax(-1)
        sum_ -= logits[range(ids.shape[1] - 1), ids[0, 1:]].sum().item()
        count += ids.shape[1] - 1
    [hook.remove() for hook in hooks]
    return sum_ / count


def states(layer, rows):
    """What goes into the MLP, its intermediate neurons, and the stream after the layer: of firsts, and of the rest."""
    seen = {"x": [], "a": [], "after": []}
    hooks = lost(rows) + [
        layers[layer].mlp.register_forward_pre_hook(lambda m, i: seen["x"].append(i[0])),
        layers[layer].mlp.down_proj.register_forward_pre_hook(lambda m, i: seen["a"].append(i[0])),
        layers[layer].register_forward_hook(lambda m, i, o: seen["after"].append(o[0] if isinstance(o, tuple) else o)),
    ]
    model.model(firsts)
    [model.model(ids) for ids in fit]
    [hook.remove() for hook in hooks]
    first = {key: values[0][:, 0].double() for key, values in seen.items()}
    rest = {key: torch.cat([value[0, 1:] for value in values[1:]]).double() for key, values in seen.items()}
    whole = torch.cat([value.flatten(0, 1) for value in seen["a"]]).double().pow(2).mean(0).sqrt().float()
    return first, rest, whole


def ridge(parts, targets):
    """parts: (states, weight); one target each."""
    gram = sum(weight * x.T @ x for x, weight in parts)
    right = sum(weight * target * x.sum(0) for (x, weight), target in zip(parts, targets))
    return torch.linalg.solve(gram + args.ridge * gram.diagonal().mean() * torch.eye(len(gram)), right)


base = nll()
damage = lambda rows=(): (nll(rows) - base) / math.log(10)
rows, taken = [(args.layer, args.channel)], {}
print(f"as it is, row lost: damage {damage(rows):.4f}")
for layer in range(args.layer + 1, args.layer + 1 + args.spares):
    (f, r, used), (fl, rl, _) = states(layer, []), states(layer, rows)
    lacking = (f["after"] - fl["after"]).norm(dim=1)
    sinks = lacking >= lacking.sort().values[len(lacking) // 2] / 2
    others = torch.cat([r["x"], f["x"][~sinks], fl["x"][~sinks]])
    count = len(others) + len(rl["x"])
    mlp = layers[layer].mlp
    used = used * mlp.down_proj.weight.norm(dim=0)
    used[taken.get(layer, [])] = math.inf
    neurons = used.sort().indices[:2].tolist()
    for neuron, weight, gate, up in [
        (neurons[0], count / sinks.sum(), [-1, 1, -0.3, -0.3], [0, 1, 0, 0]),
        (neurons[1], count / sinks.sum() / 2, [-1, -1, -1, 1], [0, 0, 0, 1]),
    ]:
        parts = [(f["x"][sinks], weight), (fl["x"][sinks], weight), (others, 1), (rl["x"], 1)]
        mlp.gate_proj.weight[neuron] = (args.gain * ridge(parts, gate)).bfloat16().float()
        mlp.up_proj.weight[neuron] = (args.gain * ridge(parts, up)).bfloat16().float()
        mlp.down_proj.weight[:, neuron] = 0
    (f, r, _), (fl, rl, _) = states(layer, []), states(layer, rows)
    first, rest = (f["after"] - fl["after"])[sinks], r["after"] - rl["after"]
    a, b = fl["a"][sinks, neurons[0]], rl["a"][:, neurons[1]]
    mlp.down_proj.weight[:, neurons[0]] = (first.mean(0) / a.mean()).bfloat16().float()
    mlp.down_proj.weight[:, neurons[1]] = (b @ rest / (b @ b)).bfloat16().float()
    print(f"spare in layer {layer}, neurons {neurons}: healthy {damage():+.5f}, row lost {damage(rows[:1]):.4f}, "
          f"all but the last {damage(rows):.4f}", flush=True)
    rows.append((layer, args.channel))
print(f"all lost: damage {damage(rows):.4f}")
