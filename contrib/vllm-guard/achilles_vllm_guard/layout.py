"""Where a tensor of the checkpoint lies in a model that vLLM has loaded: merged modules and tensor-parallel slices.

The arithmetic is that of the weight loaders in `vllm/model_executor/layers/linear.py`. Only classes that are named here
are trusted to load so; of any other the reason why it is not guarded is returned.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .vault import BadVault, Part

MERGED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
"""What nearly all models merge; a model's own `packed_modules_mapping` counts before it."""
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Run:
    """Rows or columns `source..source + length` of the checkpoint lie at `local..local + length` of the parameter."""

    source: int
    local: int
    length: int


@dataclass(frozen=True)
class Held:
    """What this process holds of one tensor of the checkpoint."""

    module: torch.nn.Module
    attribute: str
    path: str
    """Of the parameter, as vLLM names it."""
    shape: tuple[int, ...]
    """Of the whole tensor in the checkpoint."""
    rows: tuple[Run, ...]
    columns: tuple[Run, ...]
    """Empty for a vector."""

    def parameter(self) -> torch.Tensor:
        """Looked up anew each time: a reload may have put another in its place."""
        return getattr(self.module, self.attribute).detach()

    def is_whole(self) -> bool:
        """Whether nothing of the tensor lies in other processes alone."""
        lengths = [sum(run.length for run in runs) for runs in (self.rows, self.columns) if runs]
        return lengths == list(self.shape)

    def whole(self) -> torch.Tensor:
        """The tensor as the checkpoint has it, where `is_whole`."""
        value = self.parameter()
        for dim, runs in enumerate((self.rows, self.columns)):
            if runs:
                ordered = sorted(runs, key=lambda run: run.source)
                value = torch.cat([value.narrow(dim, run.local, run.length) for run in ordered], dim)
        return value


@dataclass(frozen=True)
class Slice:
    """The elements of a part that this process holds: `source..source + length` of the part's values."""

    held: Held
    axis: str
    local: int
    run: Run

    def view(self) -> torch.Tensor:
        """(length,), the live elements; writing to it writes to the model."""
        value = self.held.parameter()
        if self.axis == "column":
            return value.select(1, self.local).narrow(0, self.run.local, self.run.length)
        line = value.select(0, self.local) if self.axis == "row" else value
        return line.narrow(0, self.run.local, self.run.length)


@dataclass(frozen=True)
class Unguarded:
    """Why a tensor cannot be watched where vLLM keeps it."""

    reason: str


@dataclass(frozen=True)
class Elsewhere:
    """The module is on another stage of a pipeline."""


def slices(part: Part, held: Held) -> list[Slice]:
    """None where other processes hold the whole part."""
    if part.axis == "element":
        at = _local(held.rows, part.index)
        return [] if at is None else [Slice(held, "element", 0, Run(0, at, 1))]
    own, other = (held.rows, held.columns) if part.axis == "row" else (held.columns, held.rows)
    at = _local(own, part.index)
    return [] if at is None else [Slice(held, part.axis, at, run) for run in other]


def find(model: torch.nn.Module, part: Part) -> Held | Unguarded | Elsewhere:
    """Where the part's tensor lies. `BadVault` where the model has it in another shape."""
    if part.packed is not None:
        return Unguarded(f"it is packed ({part.packed}), and vLLM lays packed weights out anew")
    if len(part.shape) > 2:
        return Unguarded("it is a stack of matrices, which vLLM lays out anew for its kernels")
    modules = dict(model.named_modules())
    path, attribute = part.tensor.rsplit(".", 1)
    for candidate, shard in _candidates(modules, path):
        module = modules.get(candidate)
        if module is None:
            continue
        if type(module).__name__ == "PPMissingLayer":
            return Elsewhere()
        inner = getattr(module, "base_layer", module)  # LoRA wraps a layer
        if not isinstance(getattr(inner, attribute, None), torch.Tensor):
            return Unguarded(f"{candidate} ({type(inner).__name__}) has no {attribute!r} of its own in vLLM")
        return _held(inner, attribute, f"{candidate}.{attribute}", shard, part)
    if any(type(module).__name__ == "PPMissingLayer" for module in modules.values()):
        return Elsewhere()
    return Unguarded(f"{type(model).__name__} has no module of that name in vLLM")


def merged_names(path: str) -> Iterator[str]:
    """The names that a module's weight may be held under."""
    yield path
    parent, _, leaf = path.rpartition(".")
    for merged, leaves in MERGED.items():
        if leaf in leaves:
            yield f"{parent}.{merged}"


def _candidates(modules: dict[str, torch.nn.Module], path: str) -> Iterator[tuple[str, int | None]]:
    mapping = dict(MERGED)
    for module in modules.values():
        own = getattr(module, "packed_modules_mapping", None)
        if isinstance(own, dict):
            mapping.update(own)
    # As it is, and within a multimodal model.
    for base in (path, f"language_model.{path}", f"model.language_model.{path.removeprefix('model.')}"):
        yield base, None
        parent, _, leaf = base.rpartition(".")
        for merged, leaves in mapping.items():
            if leaf in leaves and leaf != merged:
                yield f"{parent}.{merged}", leaves.index(leaf)


def _held(module: torch.nn.Module, attribute: str, path: str, shard: int | None, part: Part) -> Held | Unguarded:
    parameter, kind = getattr(module, attribute), type(module).__name__
    if getattr(module, "achilles_packed", False) or parameter.numel() == 0:
        return Unguarded(f"vLLM keeps {path} in a layout of its kernels ({kind})")
    if parameter.dtype not in FLOATS:
        return Unguarded(f"vLLM keeps {path} as {parameter.dtype}")
    segments = _segments(module, kind)
    if segments is None and _is_linear(module):
        return Unguarded(f"how {kind} slices {path} is not known")
    if segments is None:
        # Norms and the like, which every process holds whole.
        _same_shape(path, tuple(parameter.shape), part)
        runs = [(Run(0, 0, n),) for n in part.shape]
        return Held(module, attribute, path, part.shape, runs[0], runs[1] if len(runs) > 1 else ())
    if shard is not None and shard >= len(segments):
        return Unguarded(f"{path} merges other modules than its name says")
    own = segments if shard is None else [segments[shard]]
    columns = [_columns(module, kind)] if len(part.shape) == 2 else []
    _same_shape(path, (sum(segment.total for segment in own), *[segment.total for segment in columns]), part)
    local = (sum(segment.run.length for segment in segments), *[segment.run.length for segment in columns])
    # A vocabulary is padded at its end.
    padded = kind in VOCABULARIES and parameter.shape[0] >= local[0]
    if tuple(parameter.shape[1:]) != local[1:] or not (padded or parameter.shape[0] == local[0]):
        return Unguarded(f"vLLM keeps {path} as {list(parameter.shape)}, which is no slice of {list(part.shape)}")
    first = own[0].start
    rows = tuple(Run(run.source - first, run.local, run.length) for run in (segment.run for segment in own))
    return Held(module, attribute, path, part.shape, rows, tuple(segment.run for segment in columns))


def _same_shape(path: str, shape: tuple[int, ...], part: Part) -> None:
    if shape != part.shape:
        problem = f"is {list(part.shape)} in the vault, {path} in the model {list(shape)}"
        raise BadVault(f"{part.tensor} {problem}: this is another model's vault")


@dataclass(frozen=True)
class _Segment:
    """One of the tensors that a parameter is merged of: `total` rows from `start` of all, and the run held here."""

    start: int
    total: int
    run: Run


VOCABULARIES = ("VocabParallelEmbedding", "ParallelLMHead")
COLUMN_PARALLEL = ("ColumnParallelLinear", "MergedColumnParallelLinear", "QKVParallelLinear")


def _is_linear(module: torch.nn.Module) -> bool:
    return any(base.__name__ in ("LinearBase", *VOCABULARIES) for base in type(module).__mro__)


def _segments(module: torch.nn.Module, kind: str) -> list[_Segment] | None:
    """Of the rows; none of a class that is not known. Sources count from the start of all of them."""
    if kind == "QKVParallelLinear":
        ranks = (module.tp_rank, *[module.tp_rank // module.num_kv_head_replicas] * 2)
        heads = [(module.total_num_heads, module.num_heads), *[(module.total_num_kv_heads, module.num_kv_heads)] * 2]
        sizes = (module.head_size, module.head_size, getattr(module, "v_head_size", module.head_size))
        shares = [(t * size, n * size, rank) for (t, n), size, rank in zip(heads, sizes, ranks, strict=True)]
    elif kind in ("ColumnParallelLinear", "MergedColumnParallelLinear"):
        outputs = module.output_sizes if kind == "MergedColumnParallelLinear" else [module.output_size]
        shares = [(n, n // module.tp_size, module.tp_rank) for n in outputs]
    elif kind in ("RowParallelLinear", "ReplicatedLinear"):
        shares = [(module.output_size, module.output_size, 0)]
    elif kind in VOCABULARIES:
        own = module.shard_indices
        length = own.num_org_elements
        return [_Segment(0, module.org_vocab_size, Run(own.org_vocab_start_index, 0, length))]
    else:
        return None
    segments, start, local = [], 0, 0
    for total, length, rank in shares:
        segments.append(_Segment(start, total, Run(start + rank * length, local, length)))
        start, local = start + total, local + length
    return segments


def _columns(module: torch.nn.Module, kind: str) -> _Segment:
    if kind in VOCABULARIES:
        return _Segment(0, module.embedding_dim, Run(0, 0, module.embedding_dim))
    if kind != "RowParallelLinear":
        return _Segment(0, module.input_size, Run(0, 0, module.input_size))
    length = module.input_size_per_partition
    return _Segment(0, module.input_size, Run(module.tp_rank * length, 0, length))


def _local(runs: tuple[Run, ...], index: int) -> int | None:
    for run in runs:
        if run.source <= index < run.source + run.length:
            return run.local + index - run.source
    return None
