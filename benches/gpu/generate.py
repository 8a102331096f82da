"""Writes a checkpoint of a published model's shape with random bfloat16 weights, to time with.

    python benches/gpu/generate.py SHAPE DIR --tokenizer tokenizer.json [--layers N]

SHAPE is one of those below, or HIDDENxLAYERS: with heads of 64, an MLP three times as wide and a vocabulary of 49,152.
--layers takes fewer of its layers. The weights are normal with the usual standard
deviation of 0.02, so that activations stay finite; nothing else is meant by them. Needs torch and safetensors.
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

SHAPES = {  # hidden, intermediate, layers, query heads, key heads, width of a head, vocabulary
    "llama-1b": (2048, 8192, 16, 32, 8, 64, 128256),
    "llama-8b": (4096, 14336, 32, 32, 8, 128, 128256),
    "llama-70b": (8192, 28672, 80, 64, 8, 128, 128256),
}


def plain(shape):
    hidden, layers = map(int, shape.split("x"))
    return hidden, 3 * hidden, layers, hidden // 64, hidden // 64, 64, 49152


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("folder")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    hidden, wide, layers, heads, key_heads, width, vocabulary = SHAPES.get(options.shape) or plain(options.shape)
    layers = options.layers or layers
    os.makedirs(options.folder)
    shutil.copy(options.tokenizer, f"{options.folder}/tokenizer.json")
    random = torch.Generator(options.device).manual_seed(0)

    def normal(*shape):
        values = torch.empty(shape, dtype=torch.bfloat16, device=options.device).normal_(0, 0.02, generator=random)
        return values.cpu()

    def layer():
        matrices = {"self_attn.q_proj": (heads * width, hidden), "self_attn.k_proj": (key_heads * width, hidden),
                    "self_attn.v_proj": (key_heads * width, hidden), "self_attn.o_proj": (hidden, heads * width),
                    "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide)}
        norms = ["input_layernorm", "post_attention_layernorm"]
        return {name: normal(*shape) for name, shape in matrices.items()} | {name: ones() for name in norms}

    def ones():
        return torch.ones(hidden, dtype=torch.bfloat16)

    files, total = {}, 0

    def save(name, tensors):
        nonlocal total
        save_file(tensors, f"{options.folder}/{name}", metadata={"format": "pt"})
        files.update(dict.fromkeys(tensors, name))
        total += sum(tensor.numel() * 2 for tensor in tensors.values())

    of = layers + 1
    for index in range(layers):
        tensors = {f"model.layers.{index}.{name}.weight": tensor for name, tensor in layer().items()}
        save(f"model-{index + 1:05}-of-{of:05}.safetensors", tensors)
    rest = {"model.embed_tokens.weight": normal(vocabulary, hidden), "model.norm.weight": ones(),
            "lm_head.weight": normal(vocabulary, hidden)}
    save(f"model-{of:05}-of-{of:05}.safetensors", rest)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "head_dim": width,
              "intermediate_size": wide, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": key_heads, "vocab_size": vocabulary, "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": False,
              "torch_dtype": "bfloat16"}
    with open(f"{options.folder}/config.json", "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    with open(f"{options.folder}/model.safetensors.index.json", "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": files}, file, indent=1)
    print(f"{options.folder}: {total / 1e9:.1f} GB, {layers} layers")


main()
