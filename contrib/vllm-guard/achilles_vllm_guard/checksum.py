"""Sums over all parameters of a model, in blocks, to notice that memory changed anywhere.

A sum proves nothing against someone who chooses what to change; it notices what happens.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

BLOCK_BYTES = 4 << 20
FACTOR = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed word
MUTABLE = re.compile(r"(^|\.)_(q|k|v|prob)_scale$|(^|\.)kv_cache")
"""Buffers of attention that vLLM itself writes while it serves."""


@dataclass(eq=False)
class Block:
    """Up to `BLOCK_BYTES` of one tensor, and their sum when it was taken."""

    tensor: str
    start: int
    size: int
    expected: int | None = None


@dataclass(frozen=True)
class Changed:
    """A block whose sum is not what it was."""

    block: Block
    of: int
    """Bytes of the whole tensor."""
    found: int


class Checksums:
    """Sums of all of a model's parameters, and of its buffers of numbers that serving leaves alone."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.at, self.rounds = model, 0, 0
        self.weights: dict[torch.device, torch.Tensor] = {}
        self.tensors = dict(_tensors(model))
        self.blocks = [
            Block(name, start, min(BLOCK_BYTES, tensor.numel() * tensor.element_size() - start))
            for name, tensor in self.tensors.items()
            for start in range(0, tensor.numel() * tensor.element_size(), BLOCK_BYTES)
        ]
        for block in self.blocks:
            block.expected = self.sum(block)

    @property
    def bytes(self) -> int:
        """How much is watched."""
        return sum(block.size for block in self.blocks)

    def next(self) -> Changed | None:
        """Sums the next block of the round."""
        block = self.blocks[self.at]
        self.at += 1
        if self.at == len(self.blocks):
            self.at, self.rounds = 0, self.rounds + 1
        return self.compare(block)

    def compare(self, block: Block) -> Changed | None:
        """Whether a block is what it was."""
        found = self.sum(block)
        if found == block.expected:
            return None
        of = self.tensors[block.tensor]
        return Changed(block, of.numel() * of.element_size(), found)

    def again(self, changed: Changed) -> Changed | None:
        """Whether it still is changed."""
        return self.compare(changed.block)

    def accept(self, changed: Changed) -> None:
        """From now on the block is expected to be as it was found, so that a change is told once."""
        changed.block.expected = changed.found

    def sum(self, block: Block) -> int:
        """Σ word · odd factor of its place, modulo 2^64: one flipped bit always changes it, and swapped words do."""
        data = _bytes(self.tensors[block.tensor])[block.start : block.start + block.size]
        if tail := -block.size % 8:
            data = torch.nn.functional.pad(data, (0, tail))
        if data.storage_offset() % 8 or data.data_ptr() % 8:
            data = data.clone()
        words = data.view(torch.int64)
        return int((words * self._weights(words.device)[: words.numel()]).sum())

    def _weights(self, device: torch.device) -> torch.Tensor:
        if device not in self.weights:
            self.weights[device] = (torch.arange(BLOCK_BYTES // 8, device=device) * FACTOR) | 1
        return self.weights[device]


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    seen = set()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if not MUTABLE.search(name))
    for name, tensor in (*model.named_parameters(), *buffers):
        place = (tensor.data_ptr(), tensor.numel() * tensor.element_size())
        if tensor.numel() and not tensor.is_meta and place not in seen:
            seen.add(place)
            yield name, tensor.detach()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """All bytes of a tensor, in the order of memory: a transposed weight is not copied."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1).view(torch.uint8)
