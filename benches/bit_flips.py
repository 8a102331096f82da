"""Random single bit flips in a critical row and column, before and after hardening: bit_flips.py BASE HARDENED LAYER CHANNEL

Needs torch and transformers. Of row CHANNEL of layer LAYER's down_proj, and of the column that meets it in its largest
weight, as bf16 holds them, one exponent bit of one weight is flipped: 2,000 times for each model, the same flips. A flip
changes one output of one projection, so that many are computed side by side. Prints how many cost more than --epsilon
(log10 of the perplexity ratio, over the same model without a flip), quantiles, and what each flip costs of the weight in
which row and column meet.
"""

import argparse
import math
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = ("Water boils at a lower temperature on a high mountain because the air pressure there is lower than at sea level.")


def flipped(value, bit):
    """A bf16 with one of its exponent's bits (0 the lowest) flipped, as f32."""
    bits = torch.tensor(value, dtype=torch.bfloat16).view(torch.int16).item() & 0xFFFF
    changed = bits ^ (1 << (7 + bit))
    return torch.tensor(changed - (1 << 16) if changed >= 1 << 15 else changed, dtype=torch.int16).view(torch.bfloat16).float().item()


@torch.no_grad()
def damages(path, layer, flips, batch):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(path)(TEXT, return_tensors="pt").input_ids
    layers, down = model.model.layers, model.model.layers[layer].mlp.down_proj
    seen = {}
    hook = layers[layer].register_forward_pre_hook(lambda m, i, k: seen.update(x=i[0], k=k), with_kwargs=True)
    inner = down.register_forward_pre_hook(lambda m, i: seen.update(a=i[0]))
    nll = lambda logits: -logits[:, :-1].double().log_softmax(-1).gather(2, ids[:, 1:, None].expand(len(logits), -1, 1)).mean((1, 2))
    base = nll(model(ids, use_cache=False).logits).item()
    hook.remove(), inner.remove()
    found = []
    for at in range(0, len(flips), batch):
        some = flips[at:at + batch]
        rows, columns = torch.tensor([f[0] for f in some]), torch.tensor([f[1] for f in some])
        weights = down.weight[rows, columns]
        delta = torch.tensor([flipped(w.item(), f[2]) - w.item() for w, f in zip(weights, some)])

        def change(m, i, o):
            o = o.clone()
            o[torch.arange(len(some)), :, rows] += delta[:, None] * seen["a"][0, :, columns].T
            return o

        hook = down.register_forward_hook(change)
        x = seen["x"].expand(len(some), -1, -1)
        for each in layers[layer:]:
            x = each(x, **seen["k"])
            x = x[0] if isinstance(x, tuple) else x
        hook.remove()
        for value in nll(model.lm_head(model.model.norm(x))).tolist():
            found.append((value - base) / math.log(10) if math.isfinite(value) else math.inf)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("hardened")
    parser.add_argument("layer", type=int)
    parser.add_argument("channel", type=int)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epsilon", type=float, default=1.0)
    args = parser.parse_args()
    weight = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).model.layers[args.layer].mlp.down_proj.weight
    column = weight[args.channel].abs().argmax().item()
    rng, (outputs, inputs) = random.Random(args.seed), weight.shape
    flips = []
    for at in range(args.flips):
        bit = rng.randrange(8)
        flips.append((args.channel, rng.randrange(inputs), bit) if at % 2 == 0 else (rng.randrange(outputs), column, bit))
    flips += [(args.channel, column, bit) for bit in range(8)]
    for name, path in [("base", args.base), ("hardened", args.hardened)]:
        found = damages(path, args.layer, flips, args.batch)
        for where, some in [("row", found[:args.flips:2]), ("column", found[1:args.flips:2]), ("where they meet", found[args.flips:])]:
            if where == "where they meet":
                print(f"{name}, {where}, bit by bit from the lowest: {' '.join(f'{d:.3f}' for d in some)}", flush=True)
                continue
            if not some:
                continue
            some = sorted(some)
            cost = sum(d > args.epsilon for d in some)
            print(f"{name}, {where}: {cost} of {len(some)} flips collapse; median {some[len(some) // 2]:.4f}, largest {some[-1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
