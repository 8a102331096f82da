"""Asks vLLM for the greedy continuation of each prompt; prints one JSON line a prompt.

    python contrib/vllm/generate.py [--dtype float32] [--tokens 24] MODEL PROMPT...
"""

import argparse
import json
import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; the default is nearly all of the memory

from vllm import LLM, SamplingParams  # reads the environment when imported


def main():
    parser = argparse.ArgumentParser(description="Greedy continuations from vLLM, one JSON line a prompt.")
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("prompts", metavar="PROMPT", nargs="+")
    parser.add_argument("--dtype", default="auto", help="of the arithmetic; auto follows the checkpoint")
    parser.add_argument("--tokens", type=int, default=24, help="at most so many new ones")
    args = parser.parse_args()
    # Eager: compiling takes longer than a few short answers.
    llm = LLM(model=args.model, dtype=args.dtype, max_model_len=512, enforce_eager=True)
    answers = llm.generate(args.prompts, SamplingParams(temperature=0, max_tokens=args.tokens), use_tqdm=False)
    for answer in answers:
        print(json.dumps({"prompt": answer.prompt, "text": answer.outputs[0].text}), flush=True)


if __name__ == "__main__":  # vLLM's workers import this file
    main()
