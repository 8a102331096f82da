#!/usr/bin/env python3
"""Asks real vLLM what tiny models of each family compute before neurons are masked in their weights, and after.

    cargo build --release --locked
    python3 benches/families_served.py [FAMILY...] --python PY [--tool target/release/achilles-audit]

Run with the packages of fixtures/requirements.txt; PY is a Python with vLLM installed, for a CPU or a GPU. Each family
is the fixture of that name, random weights and all, but with the widths below, as vLLM's kernels have none for heads of
16 channels. The neurons are those of the fixture's cases that lie at outputs and inputs of modules: all of them are
masked at once. Prints for either folder the NLL of 32 random tokens by vLLM in f32 and by transformers, or what vLLM
does not serve.
"""

import argparse
import copy
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parent.parent / "fixtures"))

import numpy
import torch
from transformers import logging

import make
from families import FIXTURES
from reference import nll, run, take_apart

HIDDEN, HEADS, HEAD = 128, 4, 32
# What else is wide where a config has the key, at any depth.
WIDTHS = dict(hidden_size=HIDDEN, num_attention_heads=HEADS, head_dim=HEAD, global_head_dim=2 * HEAD,
              intermediate_size=96, moe_intermediate_size=64, shared_expert_intermediate_size=64,
              shared_intermediate_size=96, linear_key_head_dim=128, linear_value_head_dim=128,
              hidden_size_per_layer_input=32, q_lora_rank=48, kv_lora_rank=512, qk_nope_head_dim=128,
              qk_rope_head_dim=64, v_head_dim=128, max_position_embeddings=64, mamba_n_heads=8, mamba_d_head=32,
              out_hidden_size=HIDDEN)
# What vLLM 0.32 does not compute on a CPU, or otherwise than transformers, and stays out: windows in some layers of
# Qwen2, one position more in Cohere2's windows, ERNIE's biases, a limit of gpt-oss's experts other than the published
# one, the growth of Ministral 3's queries, plain rotation in latent attention. Experts in one tensor are not square,
# lest they be taken for transposed ones.
YARN = FIXTURES["deepseek_v3"].config["rope_parameters"]
LEFT_OUT = {
    "qwen2": dict(use_sliding_window=False, sliding_window=None, layer_types=["full_attention"] * 3),
    "qwen2_vl": dict(use_sliding_window=False, sliding_window=None, layer_types=["full_attention"] * 2),
    "cohere2": dict(sliding_window=48),
    "ernie4_5": dict(use_bias=False),
    "gpt_oss": dict(swiglu_limit=7.0),
    "deepseek_v2": dict(rope_parameters=YARN),
    "glm4_moe_lite": dict(rope_parameters=YARN),
    "lfm2": dict(conv_bias=False, conv_L_cache=3),
    "ministral3": dict(rope_parameters={**FIXTURES["ministral3"].config["rope_parameters"],
                                        "original_max_position_embeddings": 64}),
    "qwen3_vl_moe": dict(moe_intermediate_size=32),
    "mistral4": dict(qk_nope_head_dim=64, head_dim=128),
}
# What published configs say and vLLM reads, but transformers 5 does not write.
SAID = {
    "deepseek_v3": dict(topk_method="noaux_tc", scoring_func="sigmoid"),
    "kimi_k25": dict(topk_method="noaux_tc", scoring_func="sigmoid"),
    "glm4_moe_lite": dict(topk_method="noaux_tc", scoring_func="sigmoid", first_k_dense_replace=1),
    "minimax_m2": dict(rotary_dim=HEAD // 2, scoring_func="sigmoid", use_qk_norm=True, use_routing_bias=True),
    "lfm2": dict(conv_dim=HIDDEN, block_dim=HIDDEN),
    "qwen3_vl_moe": dict(norm_topk_prob=True),
}
HALF = ("qwen3_5", "qwen3_5_moe", "qwen3_next")  # whose delta nets vLLM has in bf16 only
# Whose queries and keys reach vLLM's kernel for CPUs as [tokens, heads, size], while it reads [tokens, heads * size]:
# there its rotation in torch is taken, which reads both.
ROTATED_BY_TORCH = ("lfm2",)
CASES = ("down-out-zero", "down-in-zero", "dense-down-out", "expert-down-out", "expert-down-in", "shared-down-out",
         "v-out-zero", "v-part-zero", "kv-up-value", "o-out-zero", "o-out-set", "o-in-scale", "delta-out", "delta-in",
         "conv-out-zero", "conv-out-in")
TOKENS = numpy.random.default_rng(13).integers(3, 90, 32).tolist()
ASK = """
import gc, json, sys
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
tokens = json.loads(sys.argv[1])
for family, dtype, more, *folders in json.loads(sys.argv[2]):
    said = {"family": family, "vllm": []}
    try:
        for folder in folders:
            llm = LLM(model=folder, dtype=dtype, max_model_len=64, max_num_seqs=2, enforce_eager=True,
                      skip_tokenizer_init=True, enable_prefix_caching=False, **more)
            asked = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
            at = llm.generate({"prompt_token_ids": tokens}, asked, use_tqdm=False)[0].prompt_logprobs
            said["vllm"].append(-sum(p[token].logprob for p, token in zip(at[1:], tokens[1:])) / (len(tokens) - 1))
            llm = None
    except Exception as e:
        said["why"] = f"{type(e).__name__}: {e}"
    llm = None
    gc.collect()
    cleanup_dist_env_and_memory()
    print("SAID " + json.dumps(said), flush=True)
"""


def widened(name):
    """The fixture with widths that vLLM has kernels for; what its cases name stays where it was."""
    fixture = FIXTURES[name]
    config = wide(copy.deepcopy(fixture.config)) | LEFT_OUT.get(name, {})
    if config.get("num_key_value_heads", HEADS) not in (1, 2, HEADS):
        config["num_key_value_heads"] = 2
    inside = copy.deepcopy(fixture.inside)
    if inside:
        vision = inside.get("vision_config")
        if "out_hidden_size" in vision:
            vision["out_hidden_size"] = HIDDEN
        elif fixture.inside["model_type"] == "qwen2_vl":
            vision["hidden_size"] = HIDDEN
    return dataclasses.replace(fixture, config=config, inside=inside)


def wide(config):
    for key, value in config.items():
        if key in WIDTHS and value:
            config[key] = WIDTHS[key]
    ropes = config["rope_parameters"]
    for rope in ropes.values() if "full_attention" in ropes else [ropes]:
        turned = int(HEAD * rope.get("partial_rotary_factor", 1.0)) // 2
        if "mrope_section" in rope:
            rope["mrope_section"] = [turned - 2 * (turned // 4), turned // 4, turned // 4]
        for key in ("short_factor", "long_factor"):
            if key in rope:
                at, known = numpy.linspace(0, 1, turned), numpy.linspace(0, 1, len(rope[key]))
                rope[key] = numpy.interp(at, known, rope[key]).tolist()
    return config


def neurons(fixture):
    """Those of the cases that tell of modules' outputs and inputs."""
    texts = [text for case in CASES for text in fixture.cases.get(case, ())]
    return list(dict.fromkeys(text.split()[0] for text in texts))


def by_transformers(fixture, folder, masked, dtype):
    model, rename = make.load(folder, dtype), make.published_name(fixture.model_type)
    if masked and make.expert_names(fixture):
        take_apart(model, make.expert_names(fixture))
    changes = [make.parsed(f"{neuron} zero") for neuron in masked]
    return nll(run(model, TOKENS, changes, rename)[0].float(), TOKENS)


def prepared(name, place, tool):
    """Folders of the family's model as it is and lesioned, and what transformers computes from them."""
    fixture, dtype = widened(name), torch.bfloat16 if name in HALF else torch.float32
    base, lesioned = place / name, place / f"{name}-lesioned"
    base.mkdir()
    make.write_checkpoint(fixture, base)
    for other in ("config.v4.json", "config.nested.json"):
        (base / other).unlink(missing_ok=True)
    picked = neurons(fixture)
    options = [word for neuron in picked for word in ("--neuron", neuron)]
    done = subprocess.run([tool, "--progress", "none", "patch", base, "-o", lesioned, *options],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()}")
    for folder in (base, lesioned):
        config = json.loads((folder / "config.json").read_text())
        config.get("text_config", config).update(SAID.get(name, {}))
        (folder / "config.json").write_text(json.dumps(config))
    figures = [by_transformers(fixture, *which, dtype) for which in ((base, ()), (base, picked), (lesioned, ()))]
    more = {"language_model_only": True} if fixture.inside else {}
    if name in ROTATED_BY_TORCH:
        more["compilation_config"] = {"custom_ops": ["-rotary_embedding"]}
    return [name, str(dtype).removeprefix("torch."), more, str(base), str(lesioned)], dict(
        zip(("base", "hooked", "lesioned"), figures), neurons=picked)


def by_vllm(python, asked):
    """What it says of each family; where it dies of one, another process goes on with the next."""
    while asked:
        settings = {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1",
                    "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        process = subprocess.Popen([python, "-c", ASK, json.dumps(TOKENS), json.dumps(asked)], stdout=subprocess.PIPE,
                                   text=True, env=os.environ | settings)
        for line in process.stdout:
            if line.startswith("SAID "):
                yield json.loads(line.removeprefix("SAID "))
                asked = asked[1:]
        if process.wait() and asked:
            yield {"family": asked[0][0], "vllm": [], "why": f"vLLM ended with {process.returncode}"}
            asked = asked[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="of fixtures/; all if none is named")
    parser.add_argument("--python", required=True)
    parser.add_argument("--tool", default="target/release/achilles-audit")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        asked, figures = [], {}
        for name in options.families or FIXTURES:
            question, figures[name] = prepared(name, Path(place), options.tool)
            asked.append(question)
            print(json.dumps({"family": name, **figures[name]}), file=sys.stderr, flush=True)
        for said in by_vllm(options.python, asked):
            own = figures[said["family"]]
            row = [f"{own[key]:.6f}" for key in ("base", "hooked", "lesioned")] + [f"{x:.6f}" for x in said["vllm"]]
            print(" | ".join([said["family"], *row, *said.get("why", "").splitlines()[:1]]), flush=True)


if __name__ == "__main__":
    main()
