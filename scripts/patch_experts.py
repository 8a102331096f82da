#!/usr/bin/env python3
"""Holds patches of experts against transformers: what a neuron of one is in the file, however a family stores them.

    pip install -r fixtures/requirements.txt
    python scripts/patch_experts.py target/debug/achilles-audit

Tiny mixtures with random weights are saved as transformers saves them and patched. In down(act(gate(x)) * up(x)), all
three of gate, up and activation give 0 where one of them is masked, and twice the up projection is twice the
activation: the logits have to be equal, bit for bit. gpt-oss adds 1 to its up projection, so there only a masked gate is
a masked activation. Afterwards `unpatch` has to give the original file.
"""

import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
FOUR = {"num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 24}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 4}
FAMILIES = {
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", FOUR),
    "MixtralForCausalLM": ("MixtralConfig", LOCAL),
    "GptOssForCausalLM": ("GptOssConfig", {**LOCAL, "layer_types": ["full_attention"] * 2}),
    "Llama4ForCausalLM": (
        "Llama4TextConfig",
        {**LOCAL, "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 1},
    ),
    "Qwen3_5MoeForCausalLM": (
        "Qwen3_5MoeTextConfig",
        {**FOUR, "shared_expert_intermediate_size": 24, "layer_types": ["full_attention"] * 2},
    ),
    "Qwen3VLMoeTextModel": ("Qwen3VLMoeTextConfig", FOUR),
}


def output(model):
    with torch.no_grad():
        found = model(torch.arange(3, 20)[None])
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def check(tool, name, folder):
    config, settings = FAMILIES[name]
    family = getattr(transformers, name)
    torch.manual_seed(0)
    model = family(getattr(transformers, config)(**{**COMMON, **settings})).eval().float()
    for tensor_name, tensor in model.named_parameters():
        if tensor.dim() > 1 or tensor_name.endswith("bias"):
            tensor.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    original = file.read_bytes()
    stored = next(key for key in sorted(safe_open(file, "pt").keys()) if ".experts." in key)
    experts = stored[: stored.index(".experts.") + len(".experts")]
    gate, up = ("w1", "w3") if stored.endswith(".w1.weight") else ("gate_proj", "up_proj")

    def patched(module, beta):
        neuron = f"{experts}.2.{module}:out:5"
        command = [tool, "patch", folder, "--neuron", neuron, "--beta", str(beta), "--in-place"]
        subprocess.run(command, check=True, capture_output=True)
        found = output(family.from_pretrained(folder).eval().float())
        subprocess.run([tool, "unpatch", folder], check=True, capture_output=True)
        assert file.read_bytes() == original, neuron
        return found

    masked, doubled = patched("act_fn", 0), patched("act_fn", 2)
    assert not torch.equal(masked, output(model)), name
    assert torch.equal(masked, patched(gate, 0)), name
    assert not torch.equal(doubled, patched(gate, 2)), name
    is_plain = name != "GptOssForCausalLM"
    assert torch.equal(masked, patched(up, 0)) == is_plain, name
    assert torch.equal(doubled, patched(up, 2)) == is_plain, name
    print(f"{name}: {stored} and others agree")


if __name__ == "__main__":
    for family_name in FAMILIES:
        with tempfile.TemporaryDirectory() as place:
            check(sys.argv[1], family_name, pathlib.Path(place))
