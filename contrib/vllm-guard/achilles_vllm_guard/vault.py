"""Reads a vault (schema `achilles-audit/vault/v1`) strictly: a safetensors file whose every byte is accounted for."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .settings import GuardError

SCHEMA = "achilles-audit/vault/v1"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}
AXES = ("row", "column", "element")
LARGEST_HEADER = 100_000_000
LARGEST_FILE = 4 << 30


class BadVault(GuardError):
    """The vault is not one, is damaged, or belongs to another model."""


@dataclass(frozen=True)
class Part:
    """One row, column or element of one stored tensor, and what it held."""

    neurons: tuple[str, ...]
    tensor: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    axis: str
    index: int
    packed: str | None
    """The packing's name, where the tensor holds codes or scales."""
    rest_sha256: str
    values: torch.Tensor
    """(elements,), in the checkpoint's dtype; bytes where it is packed."""

    @property
    def name(self) -> str:
        """The neuron as the tool writes it for short, and where in the file it lies."""
        neurons = ", ".join(short(neuron) for neuron in self.neurons)
        return f"{neurons}: {self.axis} {self.index} of {self.tensor}"


@dataclass(frozen=True)
class Vault:
    """What a file that was found sound says of itself."""

    path: Path
    source: str
    config_sha256: str
    parts: tuple[Part, ...]


def short(neuron: str) -> str:
    """`L11.mlp.down_proj:out:507` for `model.layers.11.mlp.down_proj:out:507`."""
    rest = neuron.removeprefix("model.layers.")
    return f"L{rest}" if rest != neuron else neuron


def read(path: Path) -> Vault:
    """Reads and checks a vault. `BadVault` has one line that says what is wrong."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadVault(f"{path}: is larger than any vault")
        data = path.read_bytes()
    except OSError as error:
        raise BadVault(f"{path}: {error.strerror}") from None
    try:
        return _parse(path, data)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadVault(f"{path}: is not a vault as `achilles-audit vault` writes it: {error!r}") from None


def _parse(path: Path, data: bytes) -> Vault:
    header, body = _header(data)
    metadata = header.pop("__metadata__")
    if metadata["schema"] != SCHEMA:
        raise ValueError(f"its schema is {metadata['schema']!r}, expected {SCHEMA!r}")
    index = _json(metadata["vault"])
    kept, at = {}, 0
    for key, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = tensor["data_offsets"]
        (elements,) = tensor["shape"]
        dtype = DTYPES[tensor["dtype"]]
        if start != at or end - start != elements * dtype.itemsize or not 0 < end - start <= len(body) - start:
            raise ValueError(f"{key!r} does not lie where it has to")
        kept[key], at = (dtype, body[start:end]), end
    if at != len(body):
        raise ValueError("bytes belong to no tensor")
    parts = tuple(_part(path, part, kept) for part in index["parts"])
    if kept:
        raise ValueError(f"{next(iter(kept))!r} is none of its parts")
    if not parts:
        raise ValueError("it keeps nothing")
    return Vault(path, str(index["model"]["source"]), str(index["model"]["config_sha256"]), parts)


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(LARGEST_HEADER, len(data) - 8) or data[8:9] != b"{":
        raise ValueError("it is no safetensors file")
    return _json(data[8 : 8 + size].decode("utf-8")), data[8 + size :]


def _json(text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a key is there twice")
        return value

    value = json.loads(text, object_pairs_hook=once)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def _part(path: Path, part: dict[str, Any], kept: dict[str, tuple[torch.dtype, bytes]]) -> Part:
    tensor, axis, index = part["tensor"], part["axis"], part["index"]
    packed = part.get("packed")
    lies_alone = packed is None or any(stored["name"] == tensor for stored in packed["stored"])
    key = f"{tensor if lies_alone else packed['weight']}:{axis}:{index}"
    dtype, data = kept.pop(key)
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise BadVault(f"{path}: its part {key} is not what it was written with: the file is damaged")
    shape = tuple(part["shape"])
    if axis not in AXES or not all(isinstance(n, int) and n > 0 for n in (*shape, index + 1)):
        raise ValueError(f"{key!r} is no row, column or element")
    elements = len(data) // dtype.itemsize
    if packed is None and (dtype != DTYPES[part["dtype"]] or _elements(shape, axis, index) != elements):
        raise ValueError(f"{key!r} does not fit its tensor's shape {list(shape)}")
    values = torch.frombuffer(bytearray(data), dtype=dtype)
    neurons = tuple(str(neuron) for neuron in part["neurons"])
    return Part(neurons, tensor, dtype, shape, axis, index, packed and packed["format"], part["rest_sha256"], values)


def _elements(shape: tuple[int, ...], axis: str, index: int) -> int | None:
    """How many elements a row, column or element of a tensor has; None where there is no such."""
    if axis == "element":
        return 1 if len(shape) == 1 and index < shape[0] else None
    if len(shape) < 2:
        return None
    *stack, rows, columns = shape
    matrices = 1
    for n in stack:
        matrices *= n
    own, other = (rows, columns) if axis == "row" else (columns, rows)
    return other if index < own * matrices else None
