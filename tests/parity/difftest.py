"""Random tiny models of every family: the perplexity of achilles-audit against transformers', both in f64.

    make difftest                                     40 valid configs of each family
    python tests/parity/difftest.py [FAMILY...] [--seed S] [--first I] [--count N] [--binary PATH] [--keep FOLDER]

For each config a checkpoint is saved by save_pretrained, with weights in a random dtype, and `achilles-audit perplexity
--dtype f64` is held against transformers' own classes with every cast to float32 promoted to float64. The NLL has to be
within 1e-8 nats, or the config refused with a message. Needs fixtures/requirements.txt.
"""

import argparse
import collections
import copy
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "fixtures")]

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.initialization import no_init_weights

from configs import FAMILIES, RENAMED, WRAPPERS
from reference import Promote, default_dtype, nll

ALLOWED = 1e-8  # nats
ALL = [*FAMILIES, *WRAPPERS, *RENAMED]
DTYPES = [torch.float32] * 3 + [torch.float16, torch.bfloat16, torch.float64]
GAINS = {"q_proj": 1.5, "k_proj": 1.5, "qkv_proj": 1.5, "gate": 3.0, "router": 3.0, "proj": 3.0, "lm_head": 2.0}


def one_plus(name, model_type):
    families = ("gemma", "qwen3_5", "qwen3_next")
    return model_type.startswith(families) and not model_type.startswith("gemma4") and ".linear_attn." not in name


def fill(model, r, tied):
    """Weights loud enough that a wrong sign, window or scale shows, some with a large row."""
    draw = torch.Generator().manual_seed(r.randrange(1 << 30))
    model_type = model.config.get_text_config().model_type
    stored = [b for b in model.named_buffers() if b[0].endswith(("layer_scalar", "correction_bias"))]
    for name, p in [(name, p) for name, p in [*model.named_parameters(), *stored] if p.numel()]:
        module = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
        w = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        if name.endswith("A_log"):
            w = 0.7 * w - 1.2
        elif re.search(r"norm(_\d)?$|layernorm$", module):
            w = 0.3 * w + (0.0 if one_plus(name, model_type) else 1.0)
        elif module in ("scale", "per_expert_scale", "layer_scalar"):
            w = 0.3 * w + 1.0
        elif name.endswith("correction_bias"):
            w = (0.3 * w).float()  # which transformers keeps in f32
        elif name.endswith(("bias", "sinks")):
            w = 0.3 * w
        elif "embed_tokens" in module:
            w = (0.25 if tied or "gemma" in model_type else 1.0) * w
        else:
            w = GAINS.get(module, 1.2) / math.sqrt(p.shape[-1]) * w
            if w.dim() >= 2 and r.random() < 0.2:
                w[..., r.randrange(w.shape[-2]), :] *= r.choice([6.0, 15.0])
        p.data.copy_(w.to(p.dtype))


def configured(family, r):
    """A config, its text's part and a length of text."""
    if family not in WRAPPERS:
        model_type, text, length = {**FAMILIES, **RENAMED}[family](r)
        return AutoConfig.for_model(model_type, **copy.deepcopy(text)), length
    of_text, model_type, more, vision = WRAPPERS[family]
    text_type, text, length = of_text(r)
    text["tie_word_embeddings"] = tied = model_type.startswith("gemma") or text["tie_word_embeddings"]
    if "out_hidden_size" in vision:
        vision = {**vision, "out_hidden_size": text["hidden_size"]}
    config = AutoConfig.for_model(model_type, text_config={**copy.deepcopy(text), "model_type": text_type},
                                  vision_config=dict(vision), tie_word_embeddings=tied, **more)
    return config, length


def loader(config):
    alone = config.model_type == config.get_text_config().model_type
    return AutoModelForCausalLM if alone else AutoModelForImageTextToText


def save(family, r, folder):
    """Writes a checkpoint; returns the text."""
    config, length = configured(family, r)
    config._attn_implementation, config._experts_implementation = "eager", "eager"
    with default_dtype(torch.float64):
        model = loader(config).from_config(config)
    text = config.get_text_config()
    fill(model, r, config.tie_word_embeddings)
    dtype = r.choice(DTYPES)
    model.to(dtype).save_pretrained(folder, max_shard_size="30KB" if r.random() < 0.3 else "5GB")
    respell(folder / "config.json", config, text, r)
    vocabulary = {f"t{i}": i for i in range(text.vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}}))
    return [r.randrange(text.vocab_size) for _ in range(length)]


def respell(path, config, text, r):
    """Leaves out some keys that say what the class assumes anyway; RoPE, or a whole text model, may be spelled as
    transformers 4 did."""
    written = json.loads(path.read_text())
    inside, was_qwen2 = written.get("text_config", written), written["model_type"] in ("qwen2_vl", "qwen2_5_vl")
    for part, of in [(inside, text)] if inside is written else [(inside, text), (written, config)]:
        defaults = type(of)().to_dict()
        for key in [key for key in part if not key.endswith(("model_type", "architectures", "_config"))]:
            if part[key] == defaults.get(key, ...) and r.random() < 0.3:
                part.pop(key)
    rope = inside.get("rope_parameters", {})
    if "rope_type" in rope and r.random() < 0.2:
        inside.pop("rope_parameters")
        inside |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        if was_qwen2 and rope["rope_type"] == "default" and r.random() < 0.5:
            rope["type"] = "mrope"
            rope.pop("rope_type")
        if rope != {"rope_type": "default"}:
            inside["rope_scaling"] = rope
    elif (text.model_type in ("gemma3_text", "olmo3") and rope and rope["sliding_attention"]["rope_type"] == "default"
          and r.random() < 0.3):
        full, sliding = rope["full_attention"], rope["sliding_attention"]
        inside.pop("rope_parameters")
        inside["rope_theta"] = full.pop("rope_theta")
        if text.model_type == "gemma3_text":
            inside["rope_local_base_freq"] = sliding["rope_theta"]
        if full != {"rope_type": "default"}:
            inside["rope_scaling"] = full
    if rope.get("rope_type") in ("yarn", "llama3", "longrope") and r.random() < 0.1:
        inside |= {key: rope.pop(key) for key in ("original_max_position_embeddings",) if key in rope}
    if was_qwen2 and r.random() < 0.4:
        written = {**written.pop("text_config"), **written}
    path.write_text(json.dumps(written, indent=1))


def rename(family, folder):
    """Makes a DeepSeek-V3 a Kimi, as its authors publish that."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | dict(model_type="kimi_k2")
    if family == "kimi_k25":
        tied = config.get("tie_word_embeddings", False)
        config = dict(model_type="kimi_k25", architectures=["KimiK25ForConditionalGeneration"], text_config=config,
                      vision_config=dict(vt_hidden_size=16), media_placeholder_token_id=9, tie_word_embeddings=tied,
                      ignore_index=-100, use_unified_vision_chunk=True, video_placeholder="<|video|>")
        for shard in folder.glob("*.safetensors"):
            save_file({f"language_model.{name}": tensor for name, tensor in load_file(shard).items()}, shard)
        for index in folder.glob("*.index.json"):
            index.write_text(re.sub(r'"(model\.|lm_head\.)', r'"language_model.\1', index.read_text()))
    path.write_text(json.dumps(config, indent=1))


def theirs(folder, tokens):
    """NLL by transformers in true f64."""
    config = AutoConfig.from_pretrained(folder)
    loaded, report = loader(config).from_pretrained(folder, dtype=torch.float64, attn_implementation="eager",
                                                    experts_implementation="eager", output_loading_info=True)
    assert not any(report.values()), report
    with Promote(), default_dtype(torch.float64), no_init_weights():
        loaded.config._attn_implementation = loaded.config._experts_implementation = "eager"
        model = type(loaded)(copy.deepcopy(loaded.config)).eval()
        model.load_state_dict(loaded.state_dict())
        model.tie_weights()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    assert logits.dtype == torch.float64
    return nll(logits, tokens)


def ours(binary, folder, tokens, r):
    """NLL by achilles-audit, or why it refuses."""
    text = " ".join(f"t{t}" for t in tokens)
    command = [binary, "perplexity", str(folder), "--text", text, "--format", "json", "--dtype", "f64", "--device", "cpu",
               "--progress", "none", *(["--weights", "stream"] if r.random() < 0.3 else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)["base"]["nll_nats"], None
    assert done.returncode == 2 and "panicked" not in done.stderr, done.stderr
    return None, re.sub(r"\d+(\.\d+)?", "N", re.sub(r"^.*?: .*?: ", "", done.stderr.strip().splitlines()[-1]))


def family_results(family, options, folder):
    """Largest difference, how many were compared, refusals by reason, and what went wrong."""
    worst, compared, refused, wrong = 0.0, 0, collections.Counter(), []
    for index in range(options.first, options.first + 4 * options.count):
        if compared == options.count:
            break
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        r = random.Random(f"{family}/{options.seed}/{index}")
        try:
            tokens = save(family, r, folder)
        except StrictDataclassError:  # transformers itself refuses it
            continue
        exact = theirs(folder, tokens)
        if family in RENAMED:
            rename(family, folder)
        found, why = ours(options.binary, folder, tokens, r)
        if why and (math.isnan(exact) or "overflows" not in why):  # 0 / 0, where a config has no epsilon
            refused[why] += 1
            continue
        compared += 1
        difference = abs((found or math.nan) - exact)
        if not difference <= ALLOWED:
            wrong.append((index, difference))
        worst = max(worst, difference)
    return worst, compared, refused, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(ALL))
    parser.add_argument("--seed", type=int, default=0, help="what configs are drawn by")
    parser.add_argument("--first", type=int, default=0, help="the first of the configs drawn by the seed")
    parser.add_argument("--count", type=int, default=40, help="valid configs of each family")
    parser.add_argument("--binary", default=str(ROOT / "target/debug/achilles-audit"))
    parser.add_argument("--keep", type=Path, help="a folder where the last checkpoint of each family stays")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failed = False
    for family in options.families or ALL:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (options.keep or Path(scratch)) / family
            worst, compared, refused, wrong = family_results(family, options, folder)
        print(f"{family:20} {compared} compared, largest difference {worst:.1e}, {refused.total()} refused", flush=True)
        for why, times in refused.most_common():
            print(f"    {times} refused: {why[:200]}")
        for index, difference in wrong:
            print(f"    --seed {options.seed} --first {index}: differs by {difference:.3g}")
        failed |= bool(wrong) or compared < options.count
    if failed:
        sys.exit("an NLL differs by more than 1e-8, or too few configs were valid")


if __name__ == "__main__":
    main()
