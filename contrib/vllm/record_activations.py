"""Records the norms of activations in vLLM, for `achilles-audit monitor check --activations`.

    python contrib/vllm/record_activations.py MODEL --baseline baseline.json --prompts FILE... -o dump.jsonl [--dtype float32]

vLLM merges q, k and v, gate and up, and the addition of the residual with the norm after it; what is left of the
baseline's sites as modules of their own are the outputs of `self_attn.o_proj` and `mlp.down_proj`, and these are recorded.
Runs in process and eagerly, without prefix caching and with one prompt at a time, so that every position passes the hooks.
"""

import argparse
import json
import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; the default is nearly all of the memory
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else the model is in another process

from vllm import LLM, SamplingParams  # reads the environment when imported

SAME = (".self_attn.o_proj:out", ".mlp.down_proj:out")


class Recorder:
    """Writes one line a prompt, site and position."""

    def __init__(self, file):
        self.file, self.prompt, self.positions = file, 0, 0

    def add(self, site, x):
        """x: (positions, channels); what vLLM runs to warm up, and its padding, are no positions of the prompt."""
        x = x.detach()[: self.positions].float().abs()
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
    parser = argparse.ArgumentParser(description="Norms of activations from vLLM, as JSON Lines.")
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("--baseline", required=True, help="what `achilles-audit monitor record` wrote")
    parser.add_argument("--prompts", nargs="+", required=True, metavar="FILE")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    parser.add_argument("--dtype", default="auto", help="of the arithmetic; auto follows the checkpoint")
    args = parser.parse_args()
    with open(args.baseline, encoding="utf-8") as file:
        baseline = json.load(file)
    length = baseline["settings"]["max_tokens"]
    sites = {p["site"] for p in baseline["sites"] if p["site"].endswith(SAME)}
    llm = LLM(model=args.model, dtype=args.dtype, max_model_len=length + 1, enforce_eager=True,
              enable_prefix_caching=False, max_num_batched_tokens=max(length + 1, 2048))
    tokenizer = llm.get_tokenizer()
    with open(args.output, "w", encoding="utf-8") as file:
        recorder = Recorder(file)

        def watch(model):
            for path, module in model.named_modules():
                if f"{path}:out" in sites:
                    site = f"{path}:out"
                    # A linear layer gives its output and a bias that is not added yet.
                    module.register_forward_hook(lambda _m, _i, out, site=site: recorder.add(
                        site, out[0] if isinstance(out, tuple) else out))
                    found.append(site)

        found = []
        llm.apply_model(watch)
        print(f"{len(found)} of {len(baseline['sites'])} sites of the baseline are recorded")
        for number, text in enumerate(prompts(args.prompts)):
            ids = tokenizer(text).input_ids[:length]
            recorder.prompt, recorder.positions = number, len(ids)
            # One new token: it is chosen from the prompt's last position and never passes the layers itself.
            llm.generate({"prompt_token_ids": ids}, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)


if __name__ == "__main__":  # vLLM's workers import this file
    main()
