"""Writes small checkpoints. Python's standard library alone."""

import functools
import json
import pathlib
import random
import shutil
import struct

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1,
         "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "F4": 0.5}
rng = random.Random(1)


def count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def f16(values):
    return struct.pack(f"<{len(values)}e", *values)


def bf16(values):
    as_f32 = f32(values)
    out = bytearray(len(as_f32) // 2)
    out[0::2], out[1::2] = as_f32[2::4], as_f32[3::4]
    return bytes(out)


PACK = {"BF16": bf16, "F16": f16, "F32": f32}


def normal(shape, scale=0.05, dtype="BF16"):
    """(dtype, shape, bytes) of a random tensor."""
    return (dtype, list(shape), PACK[dtype]([rng.gauss(0, scale) for _ in range(count(shape))]))


def ones(shape, dtype="BF16", value=1.0):
    return (dtype, list(shape), PACK[dtype]([value] * count(shape)))


def zeros(shape, dtype="BF16"):
    return (dtype, list(shape), bytes(int(count(shape) * SIZES[dtype])))


def raw(dtype, shape, fill=None):
    """Random bytes, or `fill` everywhere."""
    n = int(count(shape) * SIZES[dtype])
    return (dtype, list(shape), rng.randbytes(n) if fill is None else bytes([fill]) * n)


def fp8(shape):
    """Random E4M3 bytes, none of them NaN."""
    return ("F8_E4M3", list(shape), bytes(b if b & 0x7f != 0x7f else 0x30 for b in rng.randbytes(count(shape))))


def patched(tensor, at, data):
    """The tensor with `data` at byte `at`."""
    dtype, shape, old = tensor
    return (dtype, shape, old[:at] + data + old[at + len(data):])


def zeroed(tensor):
    dtype, shape, old = tensor
    return (dtype, shape, bytes(len(old)))


def safetensors(tensors, metadata={"format": "pt"}):
    header, at, blobs = {}, 0, []
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
        blobs.append(data)
    text = json.dumps(header, ensure_ascii=False).encode()
    return with_header(text + b" " * (-len(text) % 8), b"".join(blobs))


def with_header(header, data):
    """A file of this header, whatever it says."""
    return struct.pack("<Q", len(header)) + header + data


def split(file):
    """Header and data of a safetensors file."""
    n = struct.unpack("<Q", file[:8])[0]
    return file[8:8 + n], file[8 + n:]


def save(path, tensors):
    write(path, safetensors(tensors))


def write(path, data):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def dump(path, value):
    write(path, json.dumps(value, indent=1, ensure_ascii=False))


def fresh(path):
    path = pathlib.Path(path)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def llama_config(hidden=64, inter=128, layers=2, heads=4, kv=2, vocab=320, **more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
            "intermediate_size": inter, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv, "vocab_size": vocab, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "max_position_embeddings": 512, "tie_word_embeddings": False,
            "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1, "attention_bias": False,
            "mlp_bias": False, **more}


def llama(config=None):
    """A llama's tensors, in BF16; the same ones for the same shapes."""
    c = config or llama_config()
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "vocab_size"]
    return dict(_llama(*(c[key] for key in sizes), bool(c.get("tie_word_embeddings"))))


@functools.cache
def _llama(hidden, inter, layers, heads, kv, vocab, tied):
    kv = hidden // heads * kv
    shapes = {"model.embed_tokens.weight": [vocab, hidden]}
    for layer in range(layers):
        p = f"model.layers.{layer}."
        shapes |= {p + "input_layernorm.weight": [hidden], p + "self_attn.q_proj.weight": [hidden, hidden],
                   p + "self_attn.k_proj.weight": [kv, hidden], p + "self_attn.v_proj.weight": [kv, hidden],
                   p + "self_attn.o_proj.weight": [hidden, hidden], p + "post_attention_layernorm.weight": [hidden],
                   p + "mlp.gate_proj.weight": [inter, hidden], p + "mlp.up_proj.weight": [inter, hidden],
                   p + "mlp.down_proj.weight": [hidden, inter]}
    shapes["model.norm.weight"] = [hidden]
    if not tied:
        shapes["lm_head.weight"] = [vocab, hidden]
    return {name: ones(s) if "norm" in name else normal(s) for name, s in shapes.items()}


def is_linear(name):
    return name.endswith("_proj.weight")


def bytes_to_unicode():
    """GPT-2's printable stand-ins for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(others)}


def tokenizer(extra=()):
    """A tokenizer of bytes; `extra` are further (id, token)."""
    vocab = {"<s>": 0, "</s>": 1}
    for _, token in sorted(bytes_to_unicode().items()):
        vocab[token] = len(vocab)
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, t in [(0, "<s>"), (1, "</s>"), *extra]]
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {**byte_level, "add_prefix_space": False}, "post_processor": None,
            "decoder": {**byte_level, "add_prefix_space": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                      "merges": []}}


TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                    "model_max_length": 512}


def folder(path, config=None, tensors=None, tok=True):
    """A llama's folder, sound unless told otherwise."""
    path = fresh(path)
    config = config or llama_config()
    dump(path / "config.json", config)
    if tok:
        dump(path / "tokenizer.json", tokenizer())
        dump(path / "tokenizer_config.json", TOKENIZER_CONFIG)
    save(path / "model.safetensors", llama(config) if tensors is None else tensors)
    return path


def shards(path, tensors, n):
    """Writes tensors as `n` files and an index, in place of the one file."""
    (pathlib.Path(path) / "model.safetensors").unlink(missing_ok=True)
    items, weight_map = list(tensors.items()), {}
    size = -(-len(items) // n)
    for k in range(n):
        name = f"model-{k + 1:05}-of-{n:05}.safetensors"
        part = dict(items[k * size:(k + 1) * size])
        save(pathlib.Path(path) / name, part)
        weight_map |= {tensor: name for tensor in part}
    total = sum(len(t[2]) for t in tensors.values())
    dump(pathlib.Path(path) / "model.safetensors.index.json",
         {"metadata": {"total_size": total}, "weight_map": weight_map})
