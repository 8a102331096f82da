"""Modules with the names and attributes of vLLM's layers, loaded as vLLM's weight loaders do, and vaults."""

import hashlib
import json
import struct
from pathlib import Path

import torch
from torch import nn

NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8"}


class LinearBase(nn.Module):
    pass


class QKVParallelLinear(LinearBase):
    def __init__(self, q, k, v, head_size, rank, size, dtype):
        super().__init__()
        self.tp_rank, self.tp_size, self.head_size, self.v_head_size = rank, size, head_size, head_size
        self.input_size = q.shape[1]
        self.total_num_heads, self.total_num_kv_heads = q.shape[0] // head_size, k.shape[0] // head_size
        self.num_heads = self.total_num_heads // size
        self.num_kv_heads = max(1, self.total_num_kv_heads // size)
        self.num_kv_head_replicas = max(1, size // self.total_num_kv_heads)
        kv_rank = rank // self.num_kv_head_replicas
        local = [q.chunk(size)[rank]]
        for whole in (k, v):
            rows = self.num_kv_heads * head_size
            local.append(whole[kv_rank * rows : (kv_rank + 1) * rows])
        self.weight = nn.Parameter(torch.cat(local).to(dtype).clone(), requires_grad=False)


class MergedColumnParallelLinear(LinearBase):
    def __init__(self, parts, rank, size, dtype):
        super().__init__()
        self.tp_rank, self.tp_size, self.input_size = rank, size, parts[0].shape[1]
        self.output_sizes = [part.shape[0] for part in parts]
        local = torch.cat([part.chunk(size)[rank] for part in parts])
        self.weight = nn.Parameter(local.to(dtype).clone(), requires_grad=False)


class ColumnParallelLinear(LinearBase):
    def __init__(self, whole, rank, size, dtype):
        super().__init__()
        self.tp_rank, self.tp_size = rank, size
        self.output_size, self.input_size = whole.shape
        self.weight = nn.Parameter(whole.chunk(size)[rank].to(dtype).clone(), requires_grad=False)


class RowParallelLinear(LinearBase):
    def __init__(self, whole, bias, rank, size, dtype):
        super().__init__()
        self.tp_rank, self.tp_size = rank, size
        self.output_size, self.input_size = whole.shape
        self.input_size_per_partition = self.input_size // size
        self.weight = nn.Parameter(whole.chunk(size, 1)[rank].to(dtype).clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.to(dtype).clone(), requires_grad=False)


class RMSNorm(nn.Module):
    def __init__(self, weight, dtype):
        super().__init__()
        self.weight = nn.Parameter(weight.to(dtype).clone(), requires_grad=False)


HIDDEN, HEAD, HEADS, KV_HEADS, INNER = 16, 4, 8, 2, 24


def checkpoint(seed=0, dtype=torch.bfloat16):
    """One layer in the names of a checkpoint."""
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "self_attn.q_proj.weight": (HEADS * HEAD, HIDDEN),
        "self_attn.k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.v_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD),
        "self_attn.o_proj.bias": (HIDDEN,),
        "mlp.gate_proj.weight": (INNER, HIDDEN),
        "mlp.up_proj.weight": (INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
        "mlp.down_proj.bias": (HIDDEN,),
        "mlp.router.weight": (INNER, HIDDEN),
        "input_layernorm.weight": (HIDDEN,),
    }
    return {f"model.layers.0.{name}": torch.randn(shape, generator=g).to(dtype) for name, shape in shapes.items()}


def model(tensors, rank=0, size=1, dtype=torch.bfloat16):
    """What one worker of a tensor-parallel group holds."""
    of = {name.removeprefix("model.layers.0."): tensor for name, tensor in tensors.items()}
    layer = nn.Module()
    layer.self_attn, layer.mlp = nn.Module(), nn.Module()
    qkv = [of[f"self_attn.{n}_proj.weight"] for n in "qkv"]
    layer.self_attn.qkv_proj = QKVParallelLinear(*qkv, HEAD, rank, size, dtype)
    o_proj = of["self_attn.o_proj.weight"], of["self_attn.o_proj.bias"]
    layer.self_attn.o_proj = RowParallelLinear(*o_proj, rank, size, dtype)
    gate_up = [of["mlp.gate_proj.weight"], of["mlp.up_proj.weight"]]
    layer.mlp.gate_up_proj = MergedColumnParallelLinear(gate_up, rank, size, dtype)
    layer.mlp.down_proj = RowParallelLinear(of["mlp.down_proj.weight"], of["mlp.down_proj.bias"], rank, size, dtype)
    layer.mlp.router = ColumnParallelLinear(of["mlp.router.weight"], rank, size, dtype)
    layer.input_layernorm = RMSNorm(of["input_layernorm.weight"], dtype)
    whole = nn.Module()
    whole.model = nn.Module()
    whole.model.layers = nn.ModuleList([layer])
    return whole


def line(tensor, axis, index):
    """A row, column or element, flat."""
    return tensor.select(1, index) if axis == "column" else tensor.narrow(0, index, 1).reshape(-1)


def raw(tensor):
    return bytes(tensor.contiguous().view(torch.uint8).reshape(-1).tolist())


def write_vault(path: Path, tensors, wanted, change=lambda header, body: (header, body), **of_parts):
    """As `achilles-audit vault` does, of [(tensor, axis, index)]; `change` may spoil header and body."""
    parts, header, body = [], {}, b""
    for name, axis, index in wanted:
        tensor = tensors[name]
        keep = torch.ones(tensor.shape, dtype=torch.bool)
        for other, other_axis, other_index in wanted:
            if other == name:
                keep.select(1 if other_axis == "column" else 0, other_index).fill_(False)
        data = raw(line(tensor, axis, index))
        module, side = name.rpartition(".")[0], "in" if axis == "column" else "out"
        parts.append(
            {
                "neurons": [f"{module}:{side}:{index}"],
                "tensor": name,
                "dtype": NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "axis": axis,
                "index": index,
                "sha256": hashlib.sha256(data).hexdigest(),
                "rest_sha256": hashlib.sha256(raw(tensor[keep])).hexdigest(),
                **of_parts,
            }
        )
        elements = len(data) // tensor.dtype.itemsize
        at = [len(body), len(body) + len(data)]
        header[f"{name}:{axis}:{index}"] = {"dtype": NAMES[tensor.dtype], "shape": [elements], "data_offsets": at}
        body += data
    model_of = {"source": "here", "architecture": "LlamaForCausalLM", "config_sha256": "0" * 64}
    index = {"tool": {"name": "achilles-audit", "version": "0"}, "time_utc": "", "model": model_of, "parts": parts}
    header["__metadata__"] = {"schema": "achilles-audit/vault/v1", "vault": json.dumps(index)}
    header, body = change(header, body)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path
