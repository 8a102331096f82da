"""Makes a registry of tiny checkpoints from the repository's fixtures, some of them faulty.

python benches/make_registry.py OUT [--models 1000] [--faulty 200]

OUT then holds a folder for each, `models.txt`, their list, and `faults.json`, what is wrong with which (null: nothing).
The same numbers give the same bytes.
"""

import argparse
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
# Families that lint has nothing to say against.
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "phi3", "olmo2", "granite", "smollm3")
SEED = 5


class Weights:
    """A safetensors file of F32 tensors, to be changed in place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = bytearray(path.read_bytes())
        (length,) = struct.unpack_from("<Q", self.bytes)
        self.start = 8 + length
        self.tensors = json.loads(self.bytes[8 : self.start])

    def matrix(self, ending: str) -> tuple[int, int, int]:
        """Where the first tensor of such a name begins, its rows and its columns."""
        name = next(name for name in sorted(self.tensors) if name.endswith(ending))
        tensor = self.tensors[name]
        assert tensor["dtype"] == "F32", name
        rows, columns = tensor["shape"]
        return self.start + tensor["data_offsets"][0], rows, columns

    def put(self, at: int, value: float) -> None:
        struct.pack_into("<f", self.bytes, at, value)

    def save(self) -> None:
        self.path.write_bytes(self.bytes)


OUT_MATRIX = "o_proj.weight"


def own_bytes(folder: Path, number: int) -> None:
    """Makes the weights like no other's: the last bits of one value are the number."""
    weights = Weights(folder / "model.safetensors")
    at, _, _ = weights.matrix(OUT_MATRIX)
    (bits,) = struct.unpack_from("<I", weights.bytes, at)
    struct.pack_into("<I", weights.bytes, at, bits & ~0xFFF | number & 0xFFF)
    weights.save()


def zero_row(folder: Path) -> None:
    """A neuron that was masked."""
    weights = Weights(folder / "model.safetensors")
    at, rows, columns = weights.matrix(OUT_MATRIX)
    first = at + rows // 2 * columns * 4
    weights.bytes[first : first + columns * 4] = bytes(columns * 4)
    weights.save()


def zero_column(folder: Path) -> None:
    weights = Weights(folder / "model.safetensors")
    at, rows, columns = weights.matrix(OUT_MATRIX)
    for row in range(rows):
        weights.put(at + (row * columns + 3) * 4, 0.0)
    weights.save()


def not_a_number(folder: Path) -> None:
    weights = Weights(folder / "model.safetensors")
    weights.put(weights.matrix(OUT_MATRIX)[0] + 20, float("nan"))
    weights.save()


def infinite(folder: Path) -> None:
    weights = Weights(folder / "model.safetensors")
    weights.put(weights.matrix(OUT_MATRIX)[0] + 20, float("inf"))
    weights.save()


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def trailing_bytes(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"left over")


def broken_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:-20])


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def other_width(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["intermediate_size"] += 8
    path.write_text(json.dumps(config))


def pickled(folder: Path) -> None:
    """A pickle that would run a harmless command."""
    (folder / "extra.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def own_code(folder: Path) -> None:
    (folder / "modeling_own.py").write_text("print('loaded')\n")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


FAULTS: tuple[Callable[[Path], None], ...] = (
    zero_row,
    zero_column,
    not_a_number,
    infinite,
    truncated,
    trailing_bytes,
    broken_config,
    no_config,
    other_width,
    pickled,
    own_code,
    empty,
)


def make(out: Path, models: int, faulty: int) -> None:
    """Writes the registry."""
    if out.exists():
        shutil.rmtree(out)
    is_faulty = [at < faulty for at in range(models)]
    random.Random(SEED).shuffle(is_faulty)
    faults: dict[str, str | None] = {}
    made = 0
    for number in range(models):
        family = FAMILIES[number % len(FAMILIES)]
        folder = out / f"{family}-{number:04}"
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(FIXTURES / family / name, folder / name)
        shutil.copyfile(FIXTURES / "tokenizer.json", folder / "tokenizer.json")
        own_bytes(folder, number)
        fault = FAULTS[made % len(FAULTS)] if is_faulty[number] else None
        if fault:
            fault(folder)
            made += 1
        faults[str(folder)] = fault.__name__ if fault else None
    (out / "models.txt").write_text("# made by make_registry.py\n" + "".join(f"{folder}\n" for folder in faults))
    (out / "faults.json").write_text(json.dumps(faults, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--faulty", type=int, default=200)
    given = parser.parse_args()
    make(given.out, given.models, given.faulty)
