"""The list of models."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from achilles_fleet.refused import Refused

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = (".gguf", ".safetensors")


@dataclass(frozen=True)
class Model:
    """A line of the list: its text, and the absolute path or hub id that it means."""

    name: str
    target: str
    is_hub: bool

    @property
    def is_pinned(self) -> bool:
        """Whether it is a hub id that names a commit."""
        return self.is_hub and bool(_COMMIT.fullmatch(self.target.partition("@")[2]))


def model_of(name: str) -> Model:
    """As achilles-audit takes it: what exists here is a path, else `org/name[@revision]` is a hub id, else a path."""
    looks_like_a_path = name.startswith((".", "/", "~")) or name.endswith("/") or name.lower().endswith(_FILE)
    if not os.path.exists(name) and not looks_like_a_path and _HUB_ID.fullmatch(name):
        return Model(name, name, True)
    return Model(name, os.path.abspath(name), False)


def read_models(path: Path) -> list[Model]:
    """The models of a list, one a line; lines that begin with # are comments."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; expected a list of models, one a line") from None
    except UnicodeDecodeError:
        raise Refused(f"{path}: is not text in UTF-8; expected a list of models, one a line") from None
    seen: dict[str, int] = {}
    models = []
    for number, name in _lines(text):
        if "\0" in name:
            raise Refused(f"{path}, line {number}: holds a NUL")
        model = model_of(name)
        if model.target in seen:
            raise Refused(f"{path}, line {number}: {name} is there twice, first in line {seen[model.target]}")
        seen[model.target] = number
        models.append(model)
    if not models:
        raise Refused(f"{path}: names no model; expected one a line")
    return models


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines, which also ends a line at characters that a file's name may hold.
    for number, line in enumerate(text.split("\n"), 1):
        name = line.strip()
        if name and not name.startswith("#"):
            yield number, name
