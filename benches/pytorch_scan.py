"""The paper's two stages in plain PyTorch: what the published method costs without this tool.

    python benches/pytorch_scan.py MODEL [--device cuda] [--dtype bfloat16] [--samples 100]

Forward hooks on the modules that the published code hooks, one forward pass a sample, then one a prefix, channels
ranked by their largest importance over positions. Prints one JSON object: the prefix and the seconds of each part.
Needs torch and transformers (fixtures/requirements.txt).
"""
import argparse
import json
import math
import pathlib
import re
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HOOKED = ("mlp", "ffn", "feed_forward", "attention", "self_attn")
SOURCE = pathlib.Path(__file__).parent.parent / "src/evaluate/text.rs"


def reference_text():
    """The paper's text, as the tool has it: lines that end in a backslash go on in the next."""
    text = re.search(r'REFERENCE_TEXT: &str = "(.*?)";', SOURCE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    return re.sub(r"\\\n\s*", "", text).replace('\\"', '"')


def rows(output, positions):
    """(positions, channels) of one text, also of a norm that sees heads."""
    output = output[0]
    if output.dim() == 3:
        output = output if output.shape[0] == positions else output.transpose(0, 1)
        output = output.flatten(1)
    return output


def masked(output, positions, channels):
    output = output.clone()
    if output.dim() == 3:
        output[..., channels] = 0
        return output
    width = output.shape[-1]
    for channel in channels:
        head, at = divmod(channel, width)
        if output.shape[1] == positions:
            output[:, :, head, at] = 0
        else:
            output[:, head, :, at] = 0
    return output


class Scan:
    def __init__(self, model, tokens):
        self.model, self.tokens, self.positions = model, tokens, tokens.shape[1]
        named = model.named_modules()
        self.modules = {n: m for n, m in named if any(k in n.lower() for k in HOOKED) and not list(m.children())}

    def seen(self, **inputs):
        """What each module puts out, in f32."""
        seen = {}

        def keep(name):
            def hook(_, __, output):
                if isinstance(output, torch.Tensor):
                    seen[name] = rows(output.detach().float(), self.positions)
            return hook

        hooks = [module.register_forward_hook(keep(name)) for name, module in self.modules.items()]
        self.model(**inputs, use_cache=False)
        for hook in hooks:
            hook.remove()
        return seen

    def ranking(self, samples, alpha, keep):
        embeddings = self.model.get_input_embeddings()(self.tokens)
        clean = self.seen(input_ids=self.tokens)
        sums = {name: torch.zeros_like(x) for name, x in clean.items()}
        for _ in range(samples):
            noisy = self.seen(inputs_embeds=embeddings + alpha * torch.randn_like(embeddings))
            for name, x in clean.items():
                sums[name] += (x - noisy[name]).abs()
        entries = []
        for name, sum in sums.items():
            values, channels = sum.amax(0).topk(min(keep, sum.shape[1]))
            entries += [(v / samples, name, c) for v, c in zip(values.tolist(), channels.tolist())]
        return sorted(entries, key=lambda e: (-e[0], e[1], e[2]))[:keep]

    def nll(self, entries):
        channels = {}
        for _, name, channel in entries:
            channels.setdefault(name, []).append(channel)
        hooks = [self.modules[name].register_forward_hook(
            lambda _, __, output, of=of: masked(output, self.positions, of)) for name, of in channels.items()]
        logits = self.model(input_ids=self.tokens, use_cache=False).logits[0, :-1].float()
        for hook in hooks:
            hook.remove()
        return torch.nn.functional.cross_entropy(logits, self.tokens[0, 1:]).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=5.0)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--max-neurons", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--tokens", type=int, help="random tokens, so many, in place of the paper's text")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    dtype = getattr(torch, options.dtype)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(options.device).eval()
    if options.tokens:
        tokens = torch.randint(model.config.get_text_config().vocab_size, (1, options.tokens))
    else:
        tokens = AutoTokenizer.from_pretrained(options.model)(reference_text(), return_tensors="pt").input_ids
    scan = Scan(model, tokens.to(options.device))
    loaded = time.perf_counter()
    with torch.no_grad():
        ranking = scan.ranking(options.samples, options.alpha, options.max_neurons)
        ranked = time.perf_counter()
        base = scan.nll([])
        prefix, curve = None, []
        while prefix is None and len(curve) < len(ranking):
            curve.append(scan.nll(ranking[:len(curve) + 1]))
            if (curve[-1] - base) / math.log(10) >= options.epsilon:
                prefix = len(curve)
    print(json.dumps({
        "prefix": [f"{name}:out:{channel}" for _, name, channel in ranking[:prefix or 0]],
        "base_nll_nats": base,
        "curve_nll_nats": curve,
        "positions": scan.positions,
        "seconds": {"load": loaded - started, "importance": ranked - loaded, "search": time.perf_counter() - ranked},
    }))


main()
